"""The tables beside NYU's file: which samples are of which split, and its 894 classes as 40.

``splits.mat`` (MATLAB v5) is the publisher's, with the sample numbers ``trainNdxs`` and
``testNdxs``, from 1. The classes come from one of two files: ``classMapping40.mat`` (MATLAB v5, of
Gupta et al. 2013) with the array ``mapClass`` [1, 894] of classes 1 to 40, or
``nyu40_mapping.csv``::

    id,nyu40
    1,40
    2,40

with one line for each class of the file.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sceneloom.errors import DataSetError
from sceneloom.text import counted

CLASSES = 894
SPLITS_FILE = "splits.mat"
MAPPING_MAT = "classMapping40.mat"
MAPPING_CSV = "nyu40_mapping.csv"
_HEADER = ["id", "nyu40"]


def read_split(root: Path, split: str, count: int) -> list[int]:
    """Read the sample numbers of a split, from 1, in order.

    Args:
        root: the folder that holds ``splits.mat``.
        split: ``train`` or ``test``.
        count: number of samples that there are.

    Raises:
        DataSetError: the file is missing, damaged or not the publisher's.
    """
    path = root / SPLITS_FILE
    if not path.is_file():
        raise DataSetError(f"{path}: no such file; the split {split!r} needs it, 'all' does not")
    numbers = sorted({int(number) for number in _whole_numbers(path, f"{split}Ndxs")})
    if not numbers or numbers[0] < 1 or numbers[-1] > count:
        raise DataSetError(
            f"{path}: {split}Ndxs are no sample numbers from 1 to {count}, which the data set has"
        )
    return numbers


def read_classes40(root: Path) -> npt.NDArray[np.uint8]:
    """Read the table of 40 classes that lies in `root`.

    Returns:
        class of the file -> class of 40, uint8 [895]; 0 is unlabelled and stays it.

    Raises:
        DataSetError: there is no such table, or it is not one of 894 classes.
    """
    if (root / MAPPING_MAT).is_file():
        path = root / MAPPING_MAT
        classes = _whole_numbers(path, "mapClass")
    elif (root / MAPPING_CSV).is_file():
        path = root / MAPPING_CSV
        classes = _read_csv(path)
    else:
        raise DataSetError(
            f"{root}: holds no table of 40 classes; expected {MAPPING_MAT} or {MAPPING_CSV}"
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


def _read_csv(path: Path) -> npt.NDArray[np.int64]:
    """Class of 40 of each class, int64 [894]."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *lines = list(csv.reader(file)) or [[]]
        pairs = {int(number): int(of_40) for number, of_40 in lines}
    except (OSError, ValueError) as error:
        raise DataSetError(f"{path}: not lines of two whole numbers ({error})") from None
    if header != _HEADER or sorted(pairs) != list(range(1, len(lines) + 1)):
        raise DataSetError(
            f"{path}: expected the line {','.join(_HEADER)}, then one line for each class from 1"
        )
    return np.array([pairs[number] for number in sorted(pairs)], np.int64)
