"""Label map and instance map of a scene, painted at any size."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from sceneloom.errors import InputError
from sceneloom_streets import ids
from sceneloom_streets.camera import HALF_FRAME
from sceneloom_streets.scene import Scene, Shape

StreetLabels: TypeAlias = Literal["cityscapes", "cityscapes-markings", "cityscapes-details"]
"""Label schema of a street's maps: Cityscapes' classes; lane markings too; all parts too."""
MARKINGS = ("lane-line", "zebra")
"""Kinds of details that are painted on the road."""
_PARTS = {
    "lane-line": ids.LANE_MARKING,
    "zebra": ids.LANE_MARKING,
    "kerb": ids.KERB,
    "kerbstone": ids.KERB,
    "window": ids.WINDOW,
    "door": ids.DOOR,
    "shop-window": ids.SHOP_WINDOW,
    "roof": ids.ROOF,
    "far-roof": ids.ROOF,
    "trunk": ids.TRUNK,
}
"""Kind of a shape -> label of the part that it is."""
_PARTS_OF_COUNTED = {
    "glass": ids.VEHICLE_GLASS,
    "wheel": ids.WHEEL,
    "tyre": ids.WHEEL,
    "head-lamp": ids.HEAD_LAMP,
    "rear-lamp": ids.REAR_LAMP,
    "plate": ids.LICENSE_PLATE,
    "head": ids.HEAD,
    "torso": ids.UPPER_CLOTHES,
    "arm": ids.UPPER_CLOTHES,
    "legs": ids.LOWER_CLOTHES,
}
"""The same for vehicles and people, by what follows the first hyphen of their kinds."""
MIN_SIDE = 16
MAX_SIDE = 16384
SUBPIXEL_BITS = 6
"""Fractional bits of the corners for `cv2.fillPoly`."""


def paint_labels(
    scene: Scene, height: int, width: int, *, labels: StreetLabels = "cityscapes"
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Paint a scene's maps, without anti-aliasing; sizes and errors are those of `check_size`.

    Wider pictures show more to the sides.

    Returns:
        Label map uint8 [H, W] of ids of the schema `labels`, and instance map int32 [H, W]:
        ``label * 1000 + n`` with Cityscapes' label for counted things (people, riders, vehicles;
        with details houses too), the label elsewhere.
    """
    check_size(height, width)
    if labels == "cityscapes-details":
        return _paint_details(scene, height, width)
    # One 16-bit canvas is filled instead of two maps: instance values tell the labels.
    canvas = np.zeros((height, width), np.uint16)
    for shape in scene.shapes:
        if not shape.detail:
            fill(canvas, shape, shape.value)
        elif labels == "cityscapes-markings" and shape.kind in MARKINGS:
            fill(canvas, shape, ids.LANE_MARKING)
    values = np.arange(1 << 16)
    of_value = np.where(values >= ids.INSTANCE_DIVISOR, values // ids.INSTANCE_DIVISOR, values)
    return np.minimum(of_value, 255).astype(np.uint8)[canvas], canvas.astype(np.int32)


def _paint_details(
    scene: Scene, height: int, width: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """The maps with a label for each part, and a number for each house."""
    shapes = scene.shapes
    assert len(shapes) < 1 << 16, len(shapes)
    whole, canvas = np.zeros((2, height, width), np.uint16)
    for number, shape in enumerate(shapes):
        fill(canvas, shape, number)
        if not shape.detail:
            fill(whole, shape, number)
    # A filled outline includes all pixels on it, so a detail may reach a pixel too far.
    values = np.array([shape.value for shape in shapes], np.int32)
    np.copyto(canvas, whole, where=values[canvas] != values[whole])
    houses: dict[int, int] = {}
    for number, shape in enumerate(shapes):
        if shape.label == ids.BUILDING:
            house = houses.setdefault(shape.thing, len(houses))
            values[number] = ids.BUILDING * ids.INSTANCE_DIVISOR + house % ids.INSTANCE_DIVISOR
    labels = []
    for shape in shapes:
        part = _PARTS.get(shape.kind)
        if shape.label in ids.COUNTED:
            part = _PARTS_OF_COUNTED.get(shape.kind.partition("-")[2])
        labels.append(part or shape.label)
    return np.array(labels, np.uint8)[canvas], values[canvas]


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
