"""Tiny data sets that the tests write themselves, file by file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

Save = Callable[[Path, npt.NDArray[Any]], Path]


@pytest.fixture
def save() -> Save:
    """Writes an array ([H, W] or [H, W, 3]) as the kind of picture that the path ends with."""

    def write(path: Path, values: npt.NDArray[Any]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)
        return path

    return write


@pytest.fixture
def photo() -> Callable[..., npt.NDArray[np.uint8]]:
    """Makes a photograph uint8 [H, W, 3] in which no two pixels are equal."""

    def make(height: int = 6, width: int = 8, seed: int = 0) -> npt.NDArray[np.uint8]:
        y, x = np.mgrid[:height, :width]
        return np.stack([y * 9, x * 9, np.full_like(x, seed)], axis=-1).astype(np.uint8)

    return make
