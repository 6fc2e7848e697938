"""Cityscapes, as published: ``leftImg8bit/<split>/<city>`` with ``gtFine/<split>/<city>``, or with
the coarse polygons of ``gtCoarse/<split>/<city>``. Photographs are PNG or JPEG.

The schema ``cityscapes19`` reads train ids (``_labelTrainIds.png``, by the publisher's
csCreateTrainIdLabelImgs), every other schema label ids (``_labelIds.png``). The test split has
ignored ids only.
"""

from __future__ import annotations

from pathlib import Path

from sceneloom.maps import OnUnknown
from sceneloom.schema import LabelSchema
from sceneloom_training.data.folders import TripleDataSet, check_folder, find_files

FOLDERS = {
    "train": ("train", "gtFine"),
    "val": ("val", "gtFine"),
    "test": ("test", "gtFine"),
    "train_extra": ("train_extra", "gtCoarse"),
    "train_coarse": ("train", "gtCoarse"),
    "val_coarse": ("val", "gtCoarse"),
}
"""Split -> folder of the photographs and of the maps."""
_PHOTOS = (".png", ".jpg", ".jpeg")
_PNG = (".png",)
_NAME = "<city>/<city>_<sequence>_<frame>"


def open_cityscapes(
    root: Path, split: str, *, schema: LabelSchema, unknown: OnUnknown, instances: bool
) -> TripleDataSet:
    """Open a split, with keys ``<city>/<city>_<sequence>_<frame>``."""
    folder, maps = FOLDERS[split]
    package = "trainextra" if split == "train_extra" else "trainvaltest"
    check_folder(root, f"the folder that holds leftImg8bit and {maps}")
    photo_folder = check_folder(
        root / "leftImg8bit" / folder, f"photographs (leftImg8bit_{package})"
    )
    map_package = "gtFine_trainvaltest" if maps == "gtFine" else maps
    map_folder = check_folder(root / maps / folder, f"label maps ({map_package})")
    ending = "_leftImg8bit"
    photos = find_files(
        photo_folder, _PHOTOS, ending=ending, expected=f"{_NAME}{ending}.png, or .jpg"
    )
    ending, made = f"_{maps}_labelIds", ""
    if schema.name == "cityscapes19":
        ending, made = f"_{maps}_labelTrainIds", "; csCreateTrainIdLabelImgs makes them"
    labels = find_files(map_folder, _PNG, ending=ending, expected=f"{_NAME}{ending}.png{made}")
    found = None
    if instances:
        ending = f"_{maps}_instanceIds"
        found = find_files(map_folder, _PNG, ending=ending, expected=f"{_NAME}{ending}.png")
    return TripleDataSet.of(photos, labels, found, schema=schema, unknown=unknown)
