"""ADE20K scene parsing (ADEChallengeData2016), as published.

``images/{training,validation}/ADE_train_00000001.jpg`` and ``annotations/<split>/<same>.png`` of 0
(other) and 1 to 150; instances where ``annotations_instance`` is unpacked beside them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sceneloom.maps import PICTURE_SUFFIXES, InstanceMap, LabelMap, OnUnknown
from sceneloom.photographs import read_picture
from sceneloom.schema import LabelSchema
from sceneloom_training.data import folders
from sceneloom_training.data.sample import check_same_size

FOLDERS = {"train": "training", "val": "validation"}
_PNG = (".png",)


class Ade20kDataSet(folders.TripleDataSet):
    """ADE20K, whose instance maps are colour pictures."""

    def read_instances(
        self, path: Path, label_map: LabelMap | None, label_file: Path
    ) -> InstanceMap:
        """Read an instance map, int32 [H, W]: ``red * 256 + green`` (class, number) for things, and
        the label map's channel where red is 0: walls and floors get boundaries, as in Cityscapes.
        """
        red, green, _ = np.moveaxis(read_picture(path).astype(np.int32), -1, 0)
        if label_map is None:
            return np.asarray(red)
        check_same_size(label_map, label_file, red, path)
        return np.where(red > 0, red * 256 + green, label_map).astype(np.int32)


def open_ade20k(
    root: Path, split: str, *, schema: LabelSchema, unknown: OnUnknown, instances: bool
) -> Ade20kDataSet:
    """Open train or val, with keys such as ``ADE_train_00000001``."""
    folders.check_folder(root, "the folder ADEChallengeData2016")
    photo_folder = folders.check_folder(root / "images" / FOLDERS[split], "photographs")
    label_folder = folders.check_folder(root / "annotations" / FOLDERS[split], "label maps")
    photos = folders.find_files(
        photo_folder, PICTURE_SUFFIXES, ending="", expected="ADE_train_00000001.jpg and so on"
    )
    labels = folders.find_files(label_folder, _PNG, ending="")
    found, instance_root = None, root / "annotations_instance"
    if instances and folders.has_folder(instance_root):
        expected = "instance maps, as annotations_instance is there"
        folder = folders.check_folder(instance_root / FOLDERS[split], expected)
        found = folders.find_files(folder, _PNG, ending="")
    return Ade20kDataSet.of(photos, labels, found, schema=schema, unknown=unknown)
