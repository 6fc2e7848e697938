"""NYU depth v2, as published: one HDF5 file, ``nyu_depth_v2_labeled.mat``, with ``images`` [N, 3,
W, H], ``labels`` and ``instances`` [N, W, H], transposed as MATLAB writes arrays. A table beside it
maps its 894 classes to the 40 of the benchmark. Every read opens the file: an open one is not safe
in forked workers.
"""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sceneloom.errors import DataSetError, ImageReadError, UnknownLabelError, require
from sceneloom.maps import OnUnknown
from sceneloom.schema import LabelSchema
from sceneloom.text import counted
from sceneloom_training.data.folders import check_folder
from sceneloom_training.data.sample import DataSet, Sample, label_channels

FILE = "nyu_depth_v2_labeled.mat"
_ARRAYS = ("images", "labels", "instances")
_HDF5_ERRORS = (OSError, KeyError, ValueError, RuntimeError)  # what h5py makes of damaged files
_INSTANCES_PER_CLASS = 256  # instance numbers are 8-bit in the file


@dataclasses.dataclass(kw_only=True, eq=False)
class NyuDataSet(DataSet):
    """Samples of the HDF5 file. Keys are the publisher's numbers, such as ``0001``."""

    schema: LabelSchema
    path: Path
    classes40: npt.NDArray[np.uint8]
    """Table of `read_classes40`."""

    def read(self, index: int) -> Sample:
        """Read one sample. An instance id is ``class * 256 + number``, of the 894 classes."""
        import h5py

        name = f"{self.path}, sample {self.keys[index]}"
        try:
            with h5py.File(self.path, "r") as file:
                position = int(self.keys[index]) - 1
                photo, labels, instances = (file[key][position] for key in _ARRAYS)
        except _HDF5_ERRORS as error:
            raise ImageReadError(f"{name}: truncated or damaged ({error})") from None
        photo = np.ascontiguousarray(photo.transpose(2, 1, 0))
        labels, instances = np.ascontiguousarray(labels.T), np.ascontiguousarray(instances.T)
        if labels.size and int(labels.max()) >= len(self.classes40):
            most = int(labels.max())
            raise UnknownLabelError(
                f"{name}: has the class {most}; the table of 40 classes has 1 to "
                f"{len(self.classes40) - 1}",
                {most: int((labels == most).sum())},
            )
        label_map = label_channels(
            self.classes40[labels], self.schema, unknown=self.unknown, name=name
        )
        instance_map = None
        if self.has_instances:
            instance_map = labels.astype(np.int32) * _INSTANCES_PER_CLASS + instances
        return Sample(photo=photo, label_map=label_map, instance_map=instance_map)


def open_nyu(
    root: Path, split: str, *, schema: LabelSchema, unknown: OnUnknown, instances: bool
) -> NyuDataSet:
    """Open a split. ``train`` and ``test`` need ``splits.mat``."""
    check_folder(root, f"the folder that holds {FILE}")
    require(("h5py", "scipy"), extra="train", purpose="reading NYU depth v2")
    import h5py

    path = root / FILE
    if not path.is_file():
        raise DataSetError(f"{path}: no such file; expected the publisher's labelled data set")
    try:
        with h5py.File(path, "r") as file:
            found = {
                key: (file[key].shape, file[key].dtype)
                for key in _ARRAYS
                if isinstance(file.get(key), h5py.Dataset)
            }
    except _HDF5_ERRORS as error:
        raise ImageReadError(f"{path}: truncated, damaged or no HDF5 file ({error})") from None
    shapes: list[tuple[int, ...]] = [found[key][0] if key in found else () for key in _ARRAYS]
    images, labels, instance_maps = shapes
    if not (
        set(found) == set(_ARRAYS)
        and len(images) == 4
        and images[0] > 0
        and images[1] == 3
        and labels == instance_maps == (images[0], *images[2:])
        and found["images"][1] == found["instances"][1] == np.uint8
        and found["labels"][1].kind == "u"
    ):
        there = ", ".join(f"{key} {dtype} {list(shape)}" for key, (shape, dtype) in found.items())
        raise DataSetError(
            f"{path}: has {there or 'none of its arrays'}; expected images uint8 [N, 3, W, H], "
            "labels uint16 [N, W, H] and instances uint8 [N, W, H]"
        )
    count = int(found["images"][0][0])
    numbers = range(1, count + 1) if split == "all" else read_split(root, split, count)
    return NyuDataSet(
        keys=[f"{number:04d}" for number in numbers],
        path=path,
        classes40=read_classes40(root),
        schema=schema,
        unknown=unknown,
        has_instances=instances,
    )


CLASSES = 894
SPLITS_FILE = "splits.mat"
MAPPING_MAT = "classMapping40.mat"
MAPPING_CSV = "nyu40_mapping.csv"
_HEADER = ["id", "nyu40"]


def read_split(root: Path, split: str, count: int) -> list[int]:
    """Read the numbers, from 1, of a split's samples. Raises DataSetError."""
    path = root / SPLITS_FILE
    if not path.is_file():
        raise DataSetError(f"{path}: no such file; the split {split!r} needs it, 'all' does not")
    numbers = sorted({int(number) for number in _whole_numbers(path, f"{split}Ndxs")})
    if not numbers or numbers[0] < 1 or numbers[-1] > count:
        raise DataSetError(f"{path}: {split}Ndxs are no sample numbers from 1 to {count}")
    return numbers


def read_classes40(root: Path) -> npt.NDArray[np.uint8]:
    """Read the table of 40 classes, uint8 [895], with 0 for unlabelled. Raises DataSetError."""
    if (root / MAPPING_MAT).is_file():
        path = root / MAPPING_MAT
        classes = _whole_numbers(path, "mapClass")
    elif (root / MAPPING_CSV).is_file():
        path = root / MAPPING_CSV
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                header, *lines = list(csv.reader(file)) or [[]]
            pairs = {int(number): int(of_40) for number, of_40 in lines}
        except (OSError, ValueError) as error:
            raise DataSetError(f"{path}: not lines of two whole numbers ({error})") from None
        if header != _HEADER or sorted(pairs) != list(range(1, len(lines) + 1)):
            raise DataSetError(
                f"{path}: expected the line {','.join(_HEADER)}, then one line for each class"
            )
        classes = np.array([pairs[number] for number in sorted(pairs)], np.int64)
    else:
        raise DataSetError(
            f"{root}: no table of 40 classes; expected {MAPPING_MAT} or {MAPPING_CSV}"
        )
    if len(classes) != CLASSES or classes.min() < 0 or classes.max() > 40:
        raise DataSetError(
            f"{path}: the table has {counted(len(classes), 'row')}, with classes from "
            f"{classes.min(initial=0)} to {classes.max(initial=0)}; expected {CLASSES} rows, with "
            "classes from 0 to 40"
        )
    return np.concatenate([[0], classes]).astype(np.uint8)


def _whole_numbers(path: Path, key: str) -> npt.NDArray[np.int64]:
    """A vector of a MATLAB v5 file, int64 [N]."""
    import scipy.io

    try:
        found: Any = scipy.io.loadmat(str(path), variable_names=[key])
        values = np.asarray(found[key])
    except KeyError:
        raise DataSetError(f"{path}: holds no array {key}") from None
    except Exception as error:  # the reader raises nearly anything on damaged files
        raise DataSetError(f"{path}: not readable as a MATLAB v5 file ({error})") from None
    if values.dtype.kind not in "iuf" or not np.array_equal(values, np.floor(values)):
        raise DataSetError(f"{path}: {key} are not whole numbers")
    return values.astype(np.int64).ravel()
