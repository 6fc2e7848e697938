"""CelebAMask-HQ, as published: one photograph of 1024x1024 and one mask of 512x512 per part.

``CelebA-HQ-img/<i>.jpg`` and ``CelebAMask-HQ-mask-anno/<i // 2000>/<i, five digits>_<part>.png``;
a part without a file is not in the picture. The label map is painted in the order of the
publisher's own list (g_mask.py), later parts over earlier ones, and is then enlarged to the
photograph by nearest neighbour, so that training sees the photograph's own pixels. The split
follows ``CelebA-HQ-to-CelebA-mapping.txt``, as the publisher's g_partition.py does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sceneloom.errors import DataSetError, SizeError
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
from sceneloom_training.data.geometry import resize_nearest
from sceneloom_training.data.pictures import read_mask, read_picture
from sceneloom_training.data.sample import DataSet, LabelMap, Sample, check_same_size

PARTS = (
    *("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear"),
    *("mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth"),
)
"""In painting order; the label id of a part is its position plus one, 0 is the background."""
SPLITS = ("train", "val", "test", "all")
MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
_LINE = re.compile(r"([0-9]{1,9})\s+([0-9]{1,9})\s+\S+")
_FIRST_VAL, _FIRST_TEST = 162771, 182638  # numbers in CelebA, from 0


class CelebAMaskDataSet(DataSet):
    """Faces; keys are the five digits of the masks' names."""

    schema: LabelSchema
    has_instances = False

    def __init__(
        self,
        photos: Sequence[Path],
        parts: Sequence[Mapping[int, Path]],
        keys: Sequence[str],
        *,
        schema: LabelSchema,
        unknown: OnUnknown,
    ) -> None:
        """Take the photograph and the masks (label id -> file) of each sample."""
        self.photos = tuple(photos)
        self.parts = tuple(parts)
        self.keys = tuple(keys)
        self.schema = schema
        self.unknown: OnUnknown = unknown

    def files_of_one_size(self, index: int) -> tuple[Path, ...]:
        """The photograph alone: masks are of half its size; see `DataSet.files_of_one_size`."""
        return (self.photos[index],)

    def read(self, index: int) -> Sample:
        """Read one face; see `DataSet.read`."""
        photo = read_picture(self.photos[index])
        ids, file = _paint(self.parts[index])
        (height, width), (rows, columns) = photo.shape[:2], ids.shape
        if height * columns != width * rows:
            raise SizeError(
                f"{self.photos[index]} is {width}x{height} and {file} is {columns}x{rows}, which "
                "is not of the same shape"
            )
        label_map = label_channels(ids, self.schema, unknown=self.unknown, name=str(file))
        return Sample(photo=photo, label_map=resize_nearest(label_map, height, width))


def open_celebamask(
    root: Path, split: str, *, schema: LabelSchema, unknown: OnUnknown
) -> CelebAMaskDataSet:
    """Open a split.

    Args:
        root: the folder that holds ``CelebA-HQ-img`` and ``CelebAMask-HQ-mask-anno``.
        split: one of `SPLITS`; all but ``all`` need the publisher's mapping to CelebA.
        schema: the label schema of the 19 classes.
        unknown: what to do with label ids that the schema does not have.

    Raises:
        DataSetError: no such split, a folder or the mapping is missing, a file's name is none of
            the publisher's, or a photograph has no mask or a mask no photograph.
    """
    check_split(split, SPLITS, "celebamask")
    check_folder(root, "the folder CelebAMask-HQ")
    photo_folder = check_folder(root / "CelebA-HQ-img", "photographs")
    mask_folder = check_folder(root / "CelebAMask-HQ-mask-anno", "masks")
    found = not_empty(find_files(photo_folder, (".jpg",), ending=""), "0.jpg, 1.jpg")
    photos = _by_number(found)
    masks = find_files(mask_folder, (".png",), ending="")
    parts = _by_part(masks)
    for number in sorted(set(photos) ^ set(parts)):
        file = photos.get(number) or next(iter(parts[number].values()))
        folder = mask_folder if number in photos else photo_folder
        other = "" if number in photos else of_another_kind(str(number), found)
        raise DataSetError(
            f"{file}: has no partner; expected a file of {number} in {folder}{other}"
        )
    numbers = sorted(photos) if split == "all" else _of_split(root, split, sorted(photos))
    data = CelebAMaskDataSet(
        [photos[number] for number in numbers],
        [parts[number] for number in numbers],
        [f"{number:05d}" for number in numbers],
        schema=schema,
        unknown=unknown,
    )
    data.left_out = unused(found, masks)
    return data


def _by_number(found: Found) -> dict[int, Path]:
    """Number of the photograph -> its file."""
    photos: dict[int, Path] = {}
    for path in found.files.values():
        number = _number(path)
        if number in photos:
            raise DataSetError(f"{path} and {photos[number]} are photographs of the same number")
        photos[number] = path
    return photos


def _number(photo: Path) -> int:
    if not re.fullmatch("0|[1-9][0-9]{0,4}", photo.stem):
        raise DataSetError(f"{photo}: is not named as the publisher does (0.jpg, 1.jpg, ...)")
    return int(photo.stem)


def _by_part(masks: Found) -> dict[int, dict[int, Path]]:
    """Number of the photograph -> label id -> mask."""
    found: dict[int, dict[int, Path]] = {}
    for path in masks.files.values():
        match = re.fullmatch("([0-9]{5})_([a-z_]+)", path.stem)
        if match is None or match[2] not in PARTS:
            raise DataSetError(
                f"{path}: is not named as the publisher does (00000_<part>.png); parts are "
                f"{', '.join(PARTS)}"
            )
        of_photo = found.setdefault(int(match[1]), {})
        label_id = PARTS.index(match[2]) + 1
        if label_id in of_photo:
            raise DataSetError(f"{path} and {of_photo[label_id]} are the same part of one face")
        of_photo[label_id] = path
    return found


def _of_split(root: Path, split: str, numbers: Sequence[int]) -> list[int]:
    """The numbers that are of a split, by the number of the original picture in CelebA."""
    path = root / MAPPING
    in_celeba: dict[int, int] = {}
    for line in read_lines(path, f"the split {split!r} needs it, 'all' does not"):
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        number = int(match[1])
        if in_celeba.setdefault(number, int(match[2])) != int(match[2]):
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
        raise DataSetError(f"{path}: none of the photographs that are there is of {split!r}")
    return chosen


def _paint(parts: Mapping[int, Path]) -> tuple[LabelMap, Path]:
    """Label ids, uint8 [H, W] at the masks' size, and a mask to name in errors."""
    ids: LabelMap | None = None
    first = next(iter(parts.values()))
    for label_id, path in sorted(parts.items()):
        mask = read_mask(path)
        if ids is None:
            ids, first = np.zeros(mask.shape, np.uint8), path
        check_same_size(ids, first, mask, path)
        ids[mask != 0] = label_id
    assert ids is not None
    return ids, first
