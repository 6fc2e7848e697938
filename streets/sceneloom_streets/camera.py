"""The camera: polygons in metres become shapes in image heights.

A pinhole camera without roll. Small pitch and yaw move the vanishing point; the street's bend moves
points sideways by a parabola. Both keep uprights upright.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from sceneloom_streets.ids import COUNTED
from sceneloom_streets.scene import Shape
from sceneloom_streets.solids import Points, Thing

NEAR = 0.6
"""Near plane in metres: nothing closer is shown."""
HALF_FRAME = 2.0
"""Widest half frame, in image heights, that shapes are kept for: an aspect ratio of 4:1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Camera:
    """Position of the camera and course of the street before it."""

    focal: float
    """Focal length in image heights."""
    height: float
    """Metres above the road."""
    horizon: float
    """Height of the horizon, in image heights from the top edge."""
    vanishing_x: float
    """Vanishing point of the straight street, in image heights to the right of the image centre."""
    bend: float
    """Curvature of the street in 1/metres, positive to the right."""

    def world(self, points: Points) -> Points:
        """Street coordinates (t, y, s) to metres right, up and ahead of the camera, [N, 3]."""
        bent = points.copy()
        bent[:, 0] += 0.5 * self.bend * np.square(np.maximum(points[:, 2], 0))
        bent[:, 1] -= self.height
        return bent

    def image(self, world: Points) -> Points:
        """Metres [N, 3], all ahead of the camera, to image heights [N, 2]."""
        scale = self.focal / world[:, 2]
        return np.column_stack(
            [self.vanishing_x + world[:, 0] * scale, self.horizon - world[:, 1] * scale]
        )


def project(camera: Camera, things: Sequence[Thing]) -> list[Shape]:
    """Faces of the things as shapes, back to front, hidden ones included.

    `Shape.thing`, and `Shape.instance` for counted labels, are indices into `things`.
    """
    owned = [(i, face) for i, thing in enumerate(things) for face in thing.faces]
    owned.sort(key=lambda x: -(things[x[0]].order if x[1].order is None else x[1].order))
    faces = [face for _, face in owned]
    starts = np.cumsum([0] + [len(face.points) for face in faces])
    following = np.arange(1, starts[-1] + 1)
    following[starts[1:] - 1] = starts[:-1]
    world = camera.world(np.concatenate([face.points for face in faces]))
    near = np.minimum.reduceat(world[:, 2], starts[:-1]) < NEAR
    far = np.maximum.reduceat(world[:, 2], starts[:-1])
    image = camera.image(np.maximum(world, [-np.inf, -np.inf, NEAR]))
    low, high = np.minimum.reduceat(image, starts[:-1]), np.maximum.reduceat(image, starts[:-1])
    outside = (low[:, 0] > HALF_FRAME) | (high[:, 0] < -HALF_FRAME)
    outside |= (low[:, 1] > 1) | (high[:, 1] < 0)
    huge = (np.abs(low) > 4).any(axis=1) | (np.abs(high) > 4).any(axis=1)
    # Twice the signed area of each polygon: positive if its outside faces the camera.
    x, y = image[:, 0], image[:, 1]
    areas = np.add.reduceat(x[following] * y - x * y[following], starts[:-1])
    hidden = (areas <= 0) & ~near
    # The plane (a, b, c, d) of each polygon by Newell's method.
    normals = np.add.reduceat(np.cross(world, world[following]), starts[:-1])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    means = np.add.reduceat(world, starts[:-1]) / np.diff(starts)[:, None]
    offsets = (normals * means).sum(axis=1)
    away = np.where(offsets > 0, -1.0, 1.0)
    planes = (np.column_stack([normals, offsets]) * away[:, None]).tolist()
    shapes = []
    for i, (owner, face) in enumerate(owned):
        if (outside[i] and not near[i]) or far[i] <= NEAR or (face.solid and hidden[i]):
            continue
        piece = slice(starts[i], starts[i + 1])
        outline = image[piece]
        if near[i] or huge[i]:
            outline = _cut_to_view(camera, world[piece])
            (x, y), (next_x, next_y) = outline.T, np.roll(outline, -1, axis=0).T
            if len(outline) < 3 or (face.solid and (next_x * y - x * next_y).sum() <= 0):
                continue
        a, b, c, d = planes[i]
        shapes.append(
            Shape(
                label=face.label,
                kind=face.kind,
                outline=outline.astype(np.float32),
                distance=max(float(world[piece, 2].mean()), NEAR),
                thing=owner,
                # A plane through the camera is seen edge-on and tells nothing of depth.
                plane=(a, b, c, d) if d < -0.02 else None,
                instance=owner if face.label in COUNTED else None,
                detail=face.detail,
            )
        )
    return shapes


def _cut_to_view(camera: Camera, world: Points) -> Points:
    """Cut a polygon at the near plane and a little outside the widest frame: [M, 2], M may be 0."""
    world = cut(world, world[:, 2] - NEAR)
    if len(world) < 3:
        return np.empty((0, 2))
    outline = camera.image(world)
    for axis, low, high in ((0, -HALF_FRAME - 1, HALF_FRAME + 1), (1, -1.0, 2.0)):
        outline = cut(outline, outline[:, axis] - low)
        outline = cut(outline, high - outline[:, axis])
    return outline


def cut(points: Points, inside: Points) -> Points:
    """The part of a polygon with `inside`, a number per corner, from 0 up (Sutherland-Hodgman)."""
    out = []
    for i in range(len(points)):
        a, b = inside[i - 1], inside[i]
        if (a >= 0) != (b >= 0):
            out.append(points[i - 1] + (points[i] - points[i - 1]) * (a / (a - b)))
        if b >= 0:
            out.append(points[i])
    return np.array(out) if out else points[:0]
