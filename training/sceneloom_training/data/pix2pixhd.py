"""pix2pixHD's own layout: ``<root>/train_label``, ``train_inst`` (optional) and ``train_img``.

Files belong together by name, without their endings and those of publishers
(``aachen_000000_000019_gtFine_labelIds.png``, ``aachen_000000_000019_leftImg8bit.png``). The
published reader pairs by sorted order, which one missing file shifts for all that follow. A split
is any start of the folders' names.
"""

from __future__ import annotations

from pathlib import Path

from sceneloom.maps import MAP_SUFFIXES, PICTURE_SUFFIXES, OnUnknown
from sceneloom.schema import LabelSchema
from sceneloom_training.data import folders


def open_pix2pixhd(
    root: Path, split: str, *, schema: LabelSchema, unknown: OnUnknown, instances: bool
) -> folders.TripleDataSet:
    """Open ``<split>_label``, ``<split>_img``, ``<split>_inst``."""
    label_folder = folders.split_folder(
        root,
        split,
        {"_label": "label maps", "_img": "photographs", "_inst": "instance maps, optional"},
    )
    photo_folder = folders.check_folder(
        root / f"{split}_img", "the photographs that belong to the label maps"
    )
    expected = f"label maps: {', '.join(MAP_SUFFIXES)}"
    labels = folders.find_files(label_folder, MAP_SUFFIXES, expected=expected)
    photos = folders.find_files(photo_folder, PICTURE_SUFFIXES)
    found = None
    if instances and folders.has_folder(root / f"{split}_inst"):
        found = folders.find_files(root / f"{split}_inst", MAP_SUFFIXES)
    return folders.TripleDataSet.of(photos, labels, found, schema=schema, unknown=unknown)
