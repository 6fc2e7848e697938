"""Cityscapes, as published: ``leftImg8bit/<split>/<city>`` and ``gtFine/<split>/<city>``.

The schema ``cityscapes19`` reads the files of train ids (``_labelTrainIds.png``), which the
publisher's csCreateTrainIdLabelImgs makes; every other schema reads those of label ids
(``_labelIds.png``). Instance maps are the same for both. The label maps of the test split hold
nothing but ignored ids: they are not published.
"""

from __future__ import annotations

from pathlib import Path

from sceneloom.maps import OnUnknown
from sceneloom.schema import LabelSchema
from sceneloom_training.data.folders import (
    Found,
    TripleDataSet,
    check_folder,
    check_partners,
    check_split,
    find_files,
    not_empty,
)

SPLITS = ("train", "val", "test")
_PNG = (".png",)


def open_cityscapes(
    root: Path, split: str, *, schema: LabelSchema, unknown: OnUnknown, instances: bool
) -> TripleDataSet:
    """Open a split; keys are ``<city>/<city>_<sequence>_<frame>``. Raises as `open_data_set`."""
    check_split(split, SPLITS, "cityscapes")
    check_folder(root, "the folder that holds leftImg8bit and gtFine")
    photo_folder = check_folder(
        root / "leftImg8bit" / split, "photographs (leftImg8bit_trainvaltest)"
    )
    map_folder = check_folder(root / "gtFine" / split, "label maps (gtFine_trainvaltest)")
    photos = find_files(photo_folder, _PNG, ending="_leftImg8bit")
    not_empty(photos, "<city>/<city>_<sequence>_<frame>_leftImg8bit.png")
    labels = _find_maps(
        map_folder, "labelTrainIds" if schema.name == "cityscapes19" else "labelIds"
    )
    check_partners(photos, labels)
    found = None
    if instances:
        found = _find_maps(map_folder, "instanceIds")
        check_partners(photos, found)
    return TripleDataSet.of(photos, labels, found, schema=schema, unknown=unknown)


def _find_maps(folder: Path, kind: str) -> Found:
    ending = f"_gtFine_{kind}"
    found = find_files(folder, _PNG, ending=ending)
    made = "; csCreateTrainIdLabelImgs makes them" if kind == "labelTrainIds" else ""
    not_empty(found, f"<city>/<city>_<sequence>_<frame>{ending}.png{made}")
    return found
