"""Padding a map to the size that a network sees, and cropping its picture back."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass(frozen=True)
class Padding:
    """Rows added at the bottom and columns added at the right, by edge replication."""

    bottom: int = 0
    """Rows."""
    right: int = 0
    """Columns."""

    def __bool__(self) -> bool:
        """Whether anything is added."""
        return bool(self.bottom or self.right)

    def pad(self, pixel_map: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Pad a map [H, W] to [H + bottom, W + right]; the same array if nothing is added."""
        if not self:
            return pixel_map
        return np.pad(pixel_map, ((0, self.bottom), (0, self.right)), mode="edge")

    def crop(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Crop an image [H + bottom, W + right, C] back to [H, W, C]."""
        return image[: image.shape[0] - self.bottom, : image.shape[1] - self.right]
