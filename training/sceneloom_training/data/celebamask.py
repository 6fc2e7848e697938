"""CelebAMask-HQ, as published: one photograph of 1024x1024 and one mask of 512x512 per part.

``CelebA-HQ-img/<i>.jpg`` and ``CelebAMask-HQ-mask-anno/<i // 2000>/<i, five digits>_<part>.png``.
Parts are painted in the order of the publisher's g_mask.py, later ones over earlier ones, and
enlarged by nearest neighbour. ``CelebA-HQ-to-CelebA-mapping.txt`` decides the split, as in
g_partition.py.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sceneloom.errors import DataSetError, SizeError
from sceneloom.maps import LabelMap, OnUnknown
from sceneloom.photographs import read_picture
from sceneloom.schema import LabelSchema
from sceneloom_training.data import folders
from sceneloom_training.data.geometry import resize_nearest
from sceneloom_training.data.pictures import read_mask
from sceneloom_training.data.sample import DataSet, Sample, check_same_size, label_channels

PARTS = (
    *("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear"),
    *("mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth"),
)
"""In painting order. The label id of a part is its position plus one; 0 is the background."""
MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
_LINE = re.compile(r"([0-9]{1,9})\s+([0-9]{1,9})\s+\S+")
_FIRST_VAL, _FIRST_TEST = 162771, 182638  # numbers in CelebA, from 0


@dataclasses.dataclass(kw_only=True, eq=False)
class CelebAMaskDataSet(DataSet):
    """Faces, with the five digits of their masks' names as keys."""

    schema: LabelSchema
    photos: Sequence[Path]
    parts: Sequence[Mapping[int, Path]]
    """Label id -> mask, of each photograph."""

    def files_of_one_size(self, index: int) -> tuple[Path, ...]:
        """The photograph alone: masks have half its size. See `DataSet.files_of_one_size`."""
        return (self.photos[index],)

    def read(self, index: int) -> Sample:
        """Read one face. See `DataSet.read`."""
        photo = read_picture(self.photos[index])
        masks = [(part, path, read_mask(path)) for part, path in sorted(self.parts[index].items())]
        _, file, first = masks[0]
        ids: LabelMap = np.zeros_like(first)
        for label_id, path, mask in masks:
            check_same_size(ids, file, mask, path)
            ids[mask != 0] = label_id
        (height, width), (rows, columns) = photo.shape[:2], ids.shape
        if height * columns != width * rows:
            raise SizeError(
                f"{self.photos[index]} is {width}x{height} and {file} is {columns}x{rows}"
            )
        label_map = label_channels(ids, self.schema, unknown=self.unknown, name=str(file))
        return Sample(photo=photo, label_map=resize_nearest(label_map, height, width))


def open_celebamask(
    root: Path, split: str, *, schema: LabelSchema, unknown: OnUnknown, instances: bool
) -> CelebAMaskDataSet:
    """Open a split, without instance maps. ``all`` needs no mapping to CelebA."""
    folders.check_folder(root, "the folder CelebAMask-HQ")
    photo_folder = folders.check_folder(root / "CelebA-HQ-img", "photographs")
    mask_folder = folders.check_folder(root / "CelebAMask-HQ-mask-anno", "masks")
    found = folders.find_files(photo_folder, (".jpg",), ending="", expected="0.jpg, 1.jpg")
    photos: dict[int, Path] = {}
    for path in found.files.values():
        if not re.fullmatch("0|[1-9][0-9]{0,4}", path.stem):
            raise DataSetError(f"{path}: is not named as the publisher does (0.jpg, 1.jpg, ...)")
        other = photos.setdefault(int(path.stem), path)
        if other != path:
            raise DataSetError(f"{path} and {other} are photographs of the same number")
    masks = folders.find_files(mask_folder, (".png",), ending="")
    parts: dict[int, dict[int, Path]] = {}
    for path in masks.files.values():
        match = re.fullmatch("([0-9]{5})_([a-z_]+)", path.stem)
        if match is None or match[2] not in PARTS:
            raise DataSetError(
                f"{path}: is not named as the publisher does (00000_<part>.png); parts are "
                f"{', '.join(PARTS)}"
            )
        of_photo = parts.setdefault(int(match[1]), {})
        other = of_photo.setdefault(PARTS.index(match[2]) + 1, path)
        if other != path:
            raise DataSetError(f"{path} and {other} are the same part of one face")
    incomplete: dict[str, str] = {}
    for number in sorted(set(photos) ^ set(parts)):
        file = photos.get(number) or next(iter(parts[number].values()))
        folder = mask_folder if number in photos else photo_folder
        hint = "" if number in photos else folders.of_another_kind(str(number), found)
        incomplete[f"{number:05d}"] = (
            f"{file}: has no partner; expected a file of {number} in {folder}{hint}"
        )
    complete = sorted(set(photos) & set(parts))
    numbers = complete if split == "all" else _of_split(root, split, complete)
    return CelebAMaskDataSet(
        keys=[f"{number:05d}" for number in numbers],
        photos=[photos[number] for number in numbers],
        parts=[parts[number] for number in numbers],
        schema=schema,
        unknown=unknown,
        left_out=folders.unused(found, masks),
        incomplete=incomplete,
    )


def _of_split(root: Path, split: str, numbers: Sequence[int]) -> list[int]:
    """The numbers of a split, by the number of the original picture in CelebA."""
    path = root / MAPPING
    in_celeba: dict[int, int] = {}
    for line in folders.read_lines(path, f"the split {split!r} needs it, 'all' does not"):
        if match := _LINE.fullmatch(line):
            number, original = int(match[1]), int(match[2])
            if in_celeba.setdefault(number, original) != original:
                raise DataSetError(f"{path}: has two different lines for {number}; remove one")
    missing = [number for number in numbers if number not in in_celeba]
    if missing:
        raise DataSetError(f"{path}: has no line of idx, orig_idx and orig_file for {missing[0]}")
    first, end = {
        "train": (0, _FIRST_VAL),
        "val": (_FIRST_VAL, _FIRST_TEST),
        "test": (_FIRST_TEST, 1 << 31),
    }[split]
    chosen = [number for number in numbers if first <= in_celeba[number] < end]
    if not chosen:
        raise DataSetError(f"{path}: none of the photographs is of {split!r}")
    return chosen
