"""ADE20K scene parsing (ADEChallengeData2016), as published.

``images/{training,validation}/ADE_train_00000001.jpg`` and ``annotations/<split>/<same>.png`` of 0
(other) and 1 to 150. Instances are there where ``annotations_instance`` was unpacked beside them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sceneloom.maps import OnUnknown
from sceneloom.schema import LabelSchema
from sceneloom_training.data.folders import (
    check_folder,
    check_partners,
    check_split,
    find_files,
    has_folder,
    not_empty,
)
from sceneloom_training.data.pictures import PICTURE_SUFFIXES, read_picture
from sceneloom_training.data.sample import InstanceMap, LabelMap, check_same_size
from sceneloom_training.data.triples import TripleDataSet

FOLDERS = {"train": "training", "val": "validation"}
"""Split -> name of its folders."""
_PNG = (".png",)


class Ade20kDataSet(TripleDataSet):
    """ADE20K, whose instance maps are colour pictures."""

    def read_instances(self, path: Path, label_map: LabelMap, label_file: Path) -> InstanceMap:
        """Read an instance map: red is the class, green the number of the instance.

        Returns:
            int32 [H, W]: ``red * 256 + green`` for things, which is at least 256. Where there is no
            thing (red 0) it is the label map's channel, so that walls and floors have boundaries
            as they have in the instance maps of Cityscapes.
        """
        red, green, _ = np.moveaxis(read_picture(path).astype(np.int32), -1, 0)
        check_same_size(label_map, label_file, red, path)
        return np.where(red > 0, red * 256 + green, label_map).astype(np.int32)


def open_ade20k(
    root: Path, split: str, *, schema: LabelSchema, unknown: OnUnknown, instances: bool
) -> Ade20kDataSet:
    """Open a split; keys are ``ADE_train_00000001``.

    Args:
        root: the folder that holds ``images`` and ``annotations``.
        split: ``train`` or ``val``.
        schema: the label schema of the annotations.
        unknown: what to do with label ids that the schema does not have.
        instances: read ``annotations_instance`` where it is there.

    Raises:
        DataSetError: no such split, a folder is missing or empty, or a file has no partner.
    """
    check_split(split, tuple(FOLDERS), "ade20k")
    check_folder(root, "the folder ADEChallengeData2016")
    photo_folder = check_folder(root / "images" / FOLDERS[split], "photographs")
    label_folder = check_folder(root / "annotations" / FOLDERS[split], "label maps")
    instance_folder = root / "annotations_instance" / FOLDERS[split]
    photos = find_files(photo_folder, PICTURE_SUFFIXES, ending="")
    not_empty(photos, "ADE_train_00000001.jpg and so on")
    labels = find_files(label_folder, _PNG, ending="")
    check_partners(photos, labels)
    found = None
    if instances and has_folder(instance_folder.parent):
        check_folder(instance_folder, "instance maps, as annotations_instance is there")
        found = find_files(instance_folder, _PNG, ending="")
        check_partners(photos, found)
    return Ade20kDataSet.of(photos, labels, found, schema=schema, unknown=unknown)
