"""Shadows on the ground, on house fronts and under things.

Every upright shape is put back into metres by its plane, slid along the light down to the level of
the road, and projected again.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from sceneloom_streets import ids
from sceneloom_streets.camera import NEAR, cut
from sceneloom_streets.scene import Scene, Shape

Floats = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]
Starts = npt.NDArray[np.int_]

GROUND_LABELS = frozenset({ids.ROAD, ids.SIDEWALK, ids.PARKING, ids.TERRAIN, ids.GROUND})
VEHICLE_LABELS = frozenset({ids.CAR, ids.TRUCK, ids.BUS})
_TURNED = frozenset({ids.VEGETATION, ids.PERSON, ids.RIDER, ids.POLE})
"""Cut-outs that face the camera but stand for round bodies: their shadow faces the sun."""
_BUILT = frozenset({ids.BUILDING, ids.WALL, ids.FENCE})
_TOUCHING = VEHICLE_LABELS | _TURNED | _BUILT | {ids.BICYCLE, ids.MOTORCYCLE, ids.STATIC}
_TALL = frozenset({ids.BUILDING, ids.VEGETATION})
_SHADED = _TOUCHING - _TALL
_SHADE_SIZE = (256, 1024)
"""Height and width of the raster of `shaded_shares`, at any size of the picture."""
_FURTHEST = 120.0
_FEET = 0.55
"""Metres over the road below which a thing darkens the ground."""
_NEAR_BY = 14.0
_REACH = 20.0
"""Metres along the street within which a house across it casts its shadow on a front."""


class _Front(NamedTuple):
    thing: int
    across: float
    """Metres to the right of the camera."""
    ahead: float
    """Metres ahead of the camera, of its middle."""
    eaves: float
    """Metres above the road."""


def ground_shadows(scene: Scene, to_sun: Floats, height: int, width: int) -> tuple[Floats, Floats]:
    """Shadow of the sun and contact shadow on a picture of road, float32 [H, W], 0 (light) to 1.

    `to_sun` is the unit vector (right, up, ahead) towards the sun.
    """
    step = 2 if height >= 512 else 1
    rows, columns = -(-height // step), -(-width // step)
    shapes = [shape for shape in scene.shapes if _casts(shape)]
    world, starts = to_world(scene, shapes)
    cast = np.zeros((rows, columns), np.uint8)
    fallen = _cast_on_road(_facing_sun(shapes, world, starts, to_sun), to_sun, scene.camera_height)
    _fill(cast, scene, fallen, starts, width / step)
    near, far = np.zeros_like(cast), np.zeros_like(cast)
    for canvas, low, high in ((near, 0.0, _NEAR_BY), (far, _NEAR_BY, _FURTHEST / 2)):
        # The footprints: all of a vehicle, the feet and posts of the others.
        parts = []
        for i, shape in enumerate(shapes):
            if shape.label in _TOUCHING and low <= shape.distance < high:
                part = world[starts[i] : starts[i + 1]]
                if shape.label not in VEHICLE_LABELS:
                    part = part[part[:, 1] < _FEET - scene.camera_height]
                if len(part) >= 2:
                    parts.append(part)
        points = np.concatenate(parts) if parts else np.empty((0, 3))
        points[:, 1] = -scene.camera_height
        ends = np.cumsum([0, *(len(part) for part in parts)])
        _fill(canvas, scene, points, ends, width / step)
    soft = _blurred(cast, 0.0016 * height / step)
    contact = np.maximum(
        _blurred(near, 0.009 * height / step), _blurred(far, 0.003 * height / step)
    )
    # What lies under a car is darker than a blurred outline alone would have it.
    contact = np.minimum(contact * np.float32(1.25), 1)
    if step > 1:
        soft, contact = (
            np.asarray(cv2.resize(image, (width, height)), np.float32) for image in (soft, contact)
        )
    return soft, contact


def shaded_shares(scene: Scene, to_sun: Floats) -> dict[int, float]:
    """Share of the sun, 0 to 1, that houses and trees take from each visible thing."""
    rows, columns = _SHADE_SIZE
    casting = [s for s in scene.shapes if _casts(s) and s.label in _TALL]
    if not casting:
        return {}
    world, starts = to_world(scene, casting)
    canvas = np.zeros((rows, columns), np.uint8)
    fallen = _cast_on_road(_facing_sun(casting, world, starts, to_sun), to_sun, scene.camera_height)
    _fill(canvas, scene, fallen, starts, columns)
    canvas = np.asarray(cv2.blur(canvas, (9, 5)), np.uint8)
    sums: dict[int, tuple[float, int]] = {}
    for shape in scene.shapes:
        if shape.label not in _SHADED or not _casts(shape):
            continue
        middle = float(shape.outline[0, 0] + shape.outline[len(shape.outline) // 2, 0]) / 2
        column = int(middle * rows + columns / 2)
        row = int((scene.horizon + scene.camera_height * scene.focal / shape.distance) * rows)
        if 0 <= column < columns and 0 <= row < rows:
            total, count = sums.get(shape.thing, (0.0, 0))
            sums[shape.thing] = total + float(canvas[row, column]) / 255, count + 1
    return {thing: total / count for thing, (total, count) in sums.items()}


def shadow_lines(scene: Scene, to_sun: Floats) -> dict[int, float]:
    """Metres above the road of the shadow that the opposite houses cast on each house's front."""
    shapes = [s for s in scene.shapes if s.kind == "facade" and is_front(s) and s.distance < 90]
    world, starts = to_world(scene, shapes)
    fronts = []
    for i, shape in enumerate(shapes):
        corners = world[starts[i] : starts[i + 1]]
        eaves = float(corners[:, 1].max()) + scene.camera_height
        across, ahead = float(corners[:, 0].mean()), float(corners[:, 2].mean())
        fronts.append(_Front(shape.thing, across, ahead, min(eaves, 40.0)))
    side = float(np.sign(to_sun[0]))
    casting = [front for front in fronts if np.sign(front.across) == side]
    flat = abs(float(to_sun[0]))
    if flat < 0.05 or not casting:
        return {}
    lines = {}
    for front in fronts:
        if np.sign(front.across) == side:
            continue
        # Where the ray from this front to the sun crosses the other row, by each of its houses.
        hits = [
            (abs(front.ahead + abs(c.across - front.across) * to_sun[2] / flat - c.ahead), c)
            for c in casting
        ]
        gap, opposite = min(hits, key=lambda hit: hit[0])
        if gap < _REACH:
            drop = abs(opposite.across - front.across) / flat * float(to_sun[1])
            lines[front.thing] = opposite.eaves - drop
    return {thing: line for thing, line in lines.items() if line > 0}


def is_front(shape: Shape) -> bool:
    """Whether a shape is part of a house's upright side along the street."""
    return shape.label == ids.BUILDING and shape.plane is not None and abs(shape.plane[0]) > 0.7


def to_world(scene: Scene, shapes: Sequence[Shape]) -> tuple[Points, Starts]:
    """Corners of all shapes in metres right of, above and ahead of the camera, float64 [N, 3].

    Returns them with the first index of each shape, and N at the end.
    """
    counts = [len(shape.outline) for shape in shapes]
    starts = np.cumsum([0, *counts])
    if not counts:
        return np.empty((0, 3)), starts
    outline = np.concatenate([shape.outline for shape in shapes]).astype(np.float64)
    planes = [shape.plane or (0.0, 0.0, -1.0, -shape.distance) for shape in shapes]
    plane = np.repeat(np.array(planes), counts, axis=0)
    ray = np.ones((len(outline), 3))
    ray[:, 0] = (outline[:, 0] - scene.vanishing_x) / scene.focal
    ray[:, 1] = (scene.horizon - outline[:, 1]) / scene.focal
    ahead = plane[:, 3] / np.minimum((ray * plane[:, :3]).sum(axis=1), -1e-6)
    return ray * np.clip(ahead, NEAR, 1000.0)[:, None], starts


def _casts(shape: Shape) -> bool:
    """Whether a shape is upright and near enough to cast a shadow."""
    upright = shape.label not in GROUND_LABELS and shape.label not in (ids.SKY, ids.EGO_VEHICLE)
    near = shape.distance < _FURTHEST and not shape.kind.startswith("far-")
    return upright and near and not shape.detail


def _facing_sun(shapes: Sequence[Shape], world: Points, starts: Starts, to_sun: Floats) -> Points:
    """The corners, with each cut-out turned about the upright axis of its thing to face the sun."""
    axes: dict[int, float] = {}
    middles = np.empty(len(shapes))
    for i, shape in enumerate(shapes):
        round_body = shape.label in _TURNED and shape.kind != "hedge"
        middles[i] = np.nan
        if round_body:
            first = starts[i], starts[i + 1]
            middles[i] = axes.setdefault(shape.thing, float(world[slice(*first), 0].mean()))
    centre = np.repeat(middles, np.diff(starts))
    turned = np.isfinite(centre)
    flat = max(float(np.hypot(to_sun[0], to_sun[2])), 1e-6)
    off = np.where(turned, world[:, 0] - centre, 0)
    out = world.copy()
    across = abs(float(to_sun[2])) / flat
    out[:, 0] = np.where(turned, centre + off * across, world[:, 0])
    out[:, 2] -= off * float(to_sun[0]) / flat * (1.0 if to_sun[2] >= 0 else -1.0)
    return out


def _cast_on_road(world: Points, to_sun: Floats, camera_height: float) -> Points:
    """Points slid along the light down to the road."""
    tall = np.maximum(world[:, 1] + camera_height, 0)
    out: Points = world - (tall / float(to_sun[1]))[:, None] * to_sun.astype(np.float64)
    out[:, 1] = -camera_height
    return out


def _fill(
    canvas: npt.NDArray[np.uint8], scene: Scene, world: Points, starts: Starts, width: float
) -> None:
    """Fill polygons on the road, given in metres."""
    if len(starts) < 2:
        return
    pixels = _to_pixels(scene, world, canvas.shape[0], width)
    behind = np.minimum.reduceat(world[:, 2], starts[:-1]) < NEAR
    for i, (a, b) in enumerate(itertools.pairwise(starts.tolist())):
        corners = pixels[a:b]
        if behind[i]:
            ahead = cut(world[a:b], world[a:b, 2] - NEAR)
            if len(ahead) < 3:
                continue
            corners = _to_pixels(scene, ahead, canvas.shape[0], width)
        cv2.fillPoly(canvas, [corners], (255,), cv2.LINE_8, 4)


def _to_pixels(scene: Scene, world: Points, rows: int, width: float) -> npt.NDArray[np.int32]:
    """Corners for `cv2.fillPoly` with four bits below the pixel, int32 [N, 2]."""
    scale = scene.focal / np.maximum(world[:, 2], NEAR)
    x = (scene.vanishing_x + world[:, 0] * scale) * rows + width / 2 - 0.5
    y = (scene.horizon - world[:, 1] * scale) * rows - 0.5
    corners = np.clip(np.column_stack([x, y]), -30000, 30000) * 16
    return np.asarray(np.rint(corners), np.int32)


def _blurred(mask: npt.NDArray[np.uint8], sigma: float) -> Floats:
    blurred = cv2.GaussianBlur(mask, (0, 0), max(sigma, 0.3))
    return np.asarray(blurred.astype(np.float32) / np.float32(255))
