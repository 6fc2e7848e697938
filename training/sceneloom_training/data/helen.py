"""Helen with the soft masks of Smith et al. (CVPR 2013), as published.

``images/<id>.jpg`` and ``labels/<id>/<id>_lbl00.png`` to ``_lbl10.png``, one grey mask per class;
where masks overlap the largest value wins, and of equal ones the first. The splits are the
publisher's lists ``exemplars.txt`` (train), ``tuning.txt`` and ``testing.txt``, with lines such as
``1 , 100032540_1``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sceneloom.errors import DataSetError
from sceneloom.file_tree import LeftOut
from sceneloom.maps import OnUnknown
from sceneloom.schema import LabelSchema
from sceneloom_training.data.channels import label_channels
from sceneloom_training.data.folders import (
    Found,
    check_folder,
    check_split,
    find_files,
    not_empty,
    of_another_kind,
    read_lines,
    unused,
)
from sceneloom_training.data.pictures import read_mask, read_picture
from sceneloom_training.data.sample import DataSet, LabelMap, Photo, Sample, check_same_size

CLASSES = 11
_NUMBERS = frozenset(f"{number:02d}" for number in range(CLASSES))
_NO_MASK_OF_A_FACE = "of no photograph or no class"
LISTS = {"train": "exemplars.txt", "tuning": "tuning.txt", "test": "testing.txt"}
"""Split -> the publisher's list of its pictures."""


class HelenDataSet(DataSet):
    """Faces; keys are the publisher's ids."""

    schema: LabelSchema
    has_instances = False

    def __init__(
        self,
        keys: Sequence[str],
        photos: Mapping[str, Path],
        masks: Mapping[str, Sequence[Path]],
        *,
        schema: LabelSchema,
        unknown: OnUnknown,
    ) -> None:
        """Take the ids, sorted, and photograph and masks of each."""
        self.keys = tuple(keys)
        self.photos = [photos[key] for key in keys]
        self.masks = [tuple(masks[key]) for key in keys]
        self.schema = schema
        self.unknown: OnUnknown = unknown

    def files_of_one_size(self, index: int) -> tuple[Path, ...]:
        """See `DataSet.files_of_one_size`."""
        return self.photos[index], *self.masks[index]

    def read(self, index: int) -> Sample:
        """Read one face; see `DataSet.read`."""
        path, masks = self.photos[index], self.masks[index]
        photo = read_picture(path)
        ids = _strongest(masks, photo, path)
        label_map = label_channels(
            ids, self.schema, unknown=self.unknown, name=str(masks[0].parent)
        )
        return Sample(photo=photo, label_map=label_map)


def open_helen(root: Path, split: str, *, schema: LabelSchema, unknown: OnUnknown) -> HelenDataSet:
    """Open a split.

    Args:
        root: the folder that holds ``images``, ``labels`` and the lists.
        split: ``train`` (the exemplars), ``tuning``, ``test`` or ``all``, which needs no list.
        schema: the label schema of the 11 classes.
        unknown: what to do with label ids that the schema does not have.

    Raises:
        DataSetError: no such split, a folder, list, picture or mask is missing, or a list is empty.
    """
    check_split(split, (*LISTS, "all"), "helen")
    check_folder(root, "the folder that holds images and labels")
    folder = check_folder(root / "images", "photographs")
    check_folder(root / "labels", "a folder of masks for each photograph")
    photos = not_empty(find_files(folder, (".jpg",), ending=""), "<id>.jpg")
    masks = find_files(root / "labels", (".png",), ending="")
    keys = sorted(photos.files) if split == "all" else _listed(root, split)
    of_face: dict[str, list[Path]] = {}
    for key in keys:
        if key not in photos.files:
            raise DataSetError(
                f"{folder / key}.jpg: no such file; {split} has the face {key}"
                f"{of_another_kind(key, photos)}"
            )
        names = [f"{key}/{key}_lbl{number:02d}" for number in range(CLASSES)]
        for name in names:
            if name not in masks.files:
                raise DataSetError(
                    f"{root / 'labels' / name}.png: no such file; {split} has the face {key}"
                )
        of_face[key] = [masks.files[name] for name in names]
    data = HelenDataSet(keys, photos.files, of_face, schema=schema, unknown=unknown)
    extra = [path for name, path in masks.files.items() if not _is_mask(name, photos)]
    data.left_out = (
        *unused(photos, masks),
        *(LeftOut(reason=_NO_MASK_OF_A_FACE, name=str(path)) for path in extra),
    )
    return data


def _is_mask(name: str, photos: Found) -> bool:
    """Whether a mask's name is a class of a photograph's, of this split or another."""
    folder, _, stem = name.rpartition("/")
    face, _, number = stem.rpartition("_lbl")
    return folder == face in photos.files and number in _NUMBERS


def _listed(root: Path, split: str) -> list[str]:
    """Ids of a list, sorted."""
    path = root / LISTS[split]
    keys = set()
    for line in read_lines(path, f"the split {split!r} needs it, 'all' does not"):
        number, comma, key = (part.strip() for part in line.partition(","))
        if not (number.isdecimal() and comma and key):
            raise DataSetError(f"{path}: the line {line!r} is not like '1 , 100032540_1'")
        keys.add(key)
    if not keys:
        raise DataSetError(f"{path}: lists no faces")
    return sorted(keys)


def _strongest(masks: Sequence[Path], photo: Photo, photo_file: Path) -> LabelMap:
    """Number of the mask with the largest value at each pixel, uint8 [H, W]."""
    ids = np.zeros(photo.shape[:2], np.uint8)
    largest = np.zeros(photo.shape[:2], np.uint8)
    for number, path in enumerate(masks):
        mask = read_mask(path)
        check_same_size(photo, photo_file, mask, path)
        stronger = mask > largest
        ids[stronger] = number
        largest[stronger] = mask[stronger]
    return ids
