"""Label map and instance map of a scene, painted at any size."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sceneloom.errors import InputError
from sceneloom_streets.camera import HALF_FRAME
from sceneloom_streets.ids import INSTANCE_DIVISOR, LANE_MARKING
from sceneloom_streets.scene import Scene, Shape

MARKINGS = ("lane-line", "zebra")
"""Kinds of details that are painted on the road."""
MIN_SIDE = 16
MAX_SIDE = 16384
SUBPIXEL_BITS = 6
"""Fractional bits of the corners for `cv2.fillPoly`."""


def paint_labels(
    scene: Scene, height: int, width: int, *, markings: bool = False
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Paint a scene's maps, without anti-aliasing; sizes and errors are those of `check_size`.

    Wider pictures show more to the sides. `markings` labels lane lines and zebra crossings as
    `LANE_MARKING`.

    Returns:
        Label map uint8 [H, W] of Cityscapes ids, and instance map int32 [H, W]: ``label * 1000 +
        n`` for counted things (people, riders, vehicles), the label elsewhere.
    """
    check_size(height, width)
    # One 16-bit canvas is filled instead of two maps: instance values tell the labels.
    canvas = np.zeros((height, width), np.uint16)
    for shape in scene.shapes:
        if not shape.detail:
            fill(canvas, shape, shape.value)
        elif markings and shape.kind in MARKINGS:
            fill(canvas, shape, LANE_MARKING)
    values = np.arange(1 << 16)
    labels = np.where(values >= INSTANCE_DIVISOR, values // INSTANCE_DIVISOR, values)
    return np.minimum(labels, 255).astype(np.uint8)[canvas], canvas.astype(np.int32)


def fill(canvas: npt.NDArray[Any], shape: Shape, value: float) -> None:
    """Set the pixels of `canvas` [H, W] within or on a shape's outline to `value`, in place."""
    height, width = canvas.shape
    corners = to_corners(shape.outline, height, width)
    cv2.fillPoly(canvas, [corners], (value,), cv2.LINE_8, SUBPIXEL_BITS)


def to_corners(outline: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[np.int32]:
    """Outlines in image heights [N, 2] as corners for `cv2.fillPoly`, int32 [N, 2]."""
    pixels = outline.astype(np.float32) * height + np.array([width / 2 - 0.5, -0.5], np.float32)
    return np.asarray(np.rint(pixels * (1 << SUBPIXEL_BITS)), np.int32)


def check_size(height: int, width: int) -> None:
    """Raise InputError unless both sides are 16 to 16384 and the width at most 4 heights."""
    for name, side in (("height", height), ("width", width)):
        if isinstance(side, bool) or not isinstance(side, int | np.integer):
            raise InputError(f"{name} is {side!r}; it is a whole number of pixels")
        if not MIN_SIDE <= side <= MAX_SIDE:
            raise InputError(f"{name} is {side}; a scene has {MIN_SIDE} to {MAX_SIDE} pixels")
    widest = int(2 * HALF_FRAME * height)
    if width > widest:
        raise InputError(
            f"{width}x{height} is too wide: at height {height} a scene has at most {widest} columns"
        )
