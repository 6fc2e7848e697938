"""Helen with the soft masks of Smith et al. (CVPR 2013), as published.

``images/<id>.jpg`` and ``labels/<id>/<id>_lbl00.png`` to ``_lbl10.png``, one grey mask per class.
The largest value wins, and of equal ones the first. ``exemplars.txt`` (train), ``tuning.txt`` and
``testing.txt`` list the splits in lines such as ``1 , 100032540_1``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sceneloom.errors import DataSetError
from sceneloom.files import LeftOut
from sceneloom.maps import OnUnknown
from sceneloom.photographs import read_picture
from sceneloom.schema import LabelSchema
from sceneloom_training.data import folders
from sceneloom_training.data.pictures import read_mask
from sceneloom_training.data.sample import DataSet, Sample, check_same_size, label_channels

CLASSES = 11
_NUMBERS = frozenset(f"{number:02d}" for number in range(CLASSES))
_NO_MASK_OF_A_FACE = "of no photograph or no class"
LISTS = {"train": "exemplars.txt", "tuning": "tuning.txt", "test": "testing.txt"}


@dataclasses.dataclass(kw_only=True, eq=False)
class HelenDataSet(DataSet):
    """Faces, with the publisher's ids as keys."""

    schema: LabelSchema
    files: Sequence[tuple[Path, ...]]
    """Photograph and masks of each face."""

    def files_of_one_size(self, index: int) -> tuple[Path, ...]:
        """See `DataSet.files_of_one_size`."""
        return self.files[index]

    def read(self, index: int) -> Sample:
        """Read one face. See `DataSet.read`."""
        path, *masks = self.files[index]
        photo = read_picture(path)
        # The mask with the largest value at a pixel wins.
        ids = np.zeros(photo.shape[:2], np.uint8)
        largest = np.zeros(photo.shape[:2], np.uint8)
        for number, file in enumerate(masks):
            mask = read_mask(file)
            check_same_size(photo, path, mask, file)
            stronger = mask > largest
            ids[stronger] = number
            largest[stronger] = mask[stronger]
        label_map = label_channels(
            ids, self.schema, unknown=self.unknown, name=str(masks[0].parent)
        )
        return Sample(photo=photo, label_map=label_map)


def open_helen(
    root: Path, split: str, *, schema: LabelSchema, unknown: OnUnknown, instances: bool
) -> HelenDataSet:
    """Open a split, without instance maps. ``all`` needs no list of faces."""
    folders.check_folder(root, "the folder that holds images and labels")
    folder = folders.check_folder(root / "images", "photographs")
    folders.check_folder(root / "labels", "a folder of masks for each photograph")
    photos = folders.find_files(folder, (".jpg",), ending="", expected="<id>.jpg")
    masks = folders.find_files(root / "labels", (".png",), ending="")
    keys = sorted(photos.files)
    if split != "all":
        path, listed = root / LISTS[split], set()
        for line in folders.read_lines(path, f"the split {split!r} needs it, 'all' does not"):
            number, comma, name = (part.strip() for part in line.partition(","))
            if not (number.isdecimal() and comma and name):
                raise DataSetError(f"{path}: the line {line!r} is not like '1 , 100032540_1'")
            listed.add(name)
        if not listed:
            raise DataSetError(f"{path}: lists no faces")
        keys = sorted(listed)
    files: dict[str, tuple[Path, ...]] = {}
    incomplete: dict[str, str] = {}
    for key in keys:
        names = [f"{key}/{key}_lbl{number:02d}" for number in range(CLASSES)]
        missing = [
            f"{root}/labels/{name}.png: no such file; {split} has the face {key}"
            for name in names
            if name not in masks.files
        ]
        if key not in photos.files:
            missing.insert(
                0,
                f"{folder / key}.jpg: no such file; {split} has the face {key}"
                f"{folders.of_another_kind(key, photos)}",
            )
        if missing:
            incomplete[key] = "; ".join(missing)
        else:
            files[key] = (photos.files[key], *(masks.files[name] for name in names))
    left_out = list(folders.unused(photos, masks))
    for name, path in masks.files.items():
        face_folder, _, stem = name.rpartition("/")
        face, _, number = stem.rpartition("_lbl")
        if not (face_folder == face in photos.files and number in _NUMBERS):
            left_out.append(LeftOut(reason=_NO_MASK_OF_A_FACE, name=str(path)))
    return HelenDataSet(
        keys=list(files),
        files=list(files.values()),
        schema=schema,
        unknown=unknown,
        left_out=left_out,
        incomplete=incomplete,
    )
