"""CamVid as the tutorial of SegNet lays it out: photographs in ``train``, ``val`` and ``test``, and
label maps of 12 ids with equal names in ``trainannot``, ``valannot`` and ``testannot``. It has no
instance maps; `data.boundaries` of components takes each component of a label as an instance.
"""

from __future__ import annotations

from pathlib import Path

from sceneloom.maps import PICTURE_SUFFIXES, OnUnknown
from sceneloom.schema import LabelSchema
from sceneloom_training.data import folders

SPLITS = ("train", "val", "test")


def open_camvid(
    root: Path, split: str, *, schema: LabelSchema, unknown: OnUnknown, instances: bool
) -> folders.TripleDataSet:
    """Open a split, with keys such as ``0001TP_006690``. `instances` changes nothing."""
    folders.check_folder(root, f"the folder with {split} (photographs) and {split}annot")
    photo_folder = folders.check_folder(root / split, "photographs")
    label_folder = folders.check_folder(root / f"{split}annot", "label maps")
    expected = "0001TP_006690.png and so on"
    photos = folders.find_files(photo_folder, PICTURE_SUFFIXES, ending="", expected=expected)
    labels = folders.find_files(label_folder, (".png",), ending="", expected=expected)
    return folders.TripleDataSet.of(photos, labels, None, schema=schema, unknown=unknown)
