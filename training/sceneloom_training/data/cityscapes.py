"""Cityscapes, as published: ``leftImg8bit/<split>/<city>`` and ``gtFine/<split>/<city>``.

The schema ``cityscapes19`` reads train ids (``_labelTrainIds.png``, by the publisher's
csCreateTrainIdLabelImgs), every other schema label ids (``_labelIds.png``). The test split has
ignored ids only.
"""

from __future__ import annotations

from pathlib import Path

from sceneloom.maps import OnUnknown
from sceneloom.schema import LabelSchema
from sceneloom_training.data.folders import TripleDataSet, check_folder, find_files

_PNG = (".png",)
_NAME = "<city>/<city>_<sequence>_<frame>"


def open_cityscapes(
    root: Path, split: str, *, schema: LabelSchema, unknown: OnUnknown, instances: bool
) -> TripleDataSet:
    """Open a split, with keys ``<city>/<city>_<sequence>_<frame>``."""
    check_folder(root, "the folder that holds leftImg8bit and gtFine")
    photo_folder = check_folder(
        root / "leftImg8bit" / split, "photographs (leftImg8bit_trainvaltest)"
    )
    map_folder = check_folder(root / "gtFine" / split, "label maps (gtFine_trainvaltest)")
    ending = "_leftImg8bit"
    photos = find_files(photo_folder, _PNG, ending=ending, expected=f"{_NAME}{ending}.png")
    ending, made = "_gtFine_labelIds", ""
    if schema.name == "cityscapes19":
        ending, made = "_gtFine_labelTrainIds", "; csCreateTrainIdLabelImgs makes them"
    labels = find_files(map_folder, _PNG, ending=ending, expected=f"{_NAME}{ending}.png{made}")
    found = None
    if instances:
        ending = "_gtFine_instanceIds"
        found = find_files(map_folder, _PNG, ending=ending, expected=f"{_NAME}{ending}.png")
    return TripleDataSet.of(photos, labels, found, schema=schema, unknown=unknown)
