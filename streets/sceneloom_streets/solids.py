"""Faces and things in street coordinates, and constructors of faces.

Street coordinates (t, y, s) are metres to the right of the camera, above the road, and ahead along
the street, which may bend.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Face:
    """A flat polygon in street coordinates."""

    label: int
    """Cityscapes label id."""
    kind: str
    """Key to the material."""
    points: Points
    """Corners (t, y, s) in metres, float64 [N, 3]."""
    detail: bool = False
    """True if it lies within other faces of its thing and does not change the label map."""
    solid: bool = False
    """True for the side of a closed body: seen from behind, it is hidden."""
    order: float | None = None
    """Painting order in place of the thing's, for pieces of long things."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Thing:
    """Faces that belong together and are painted in one go."""

    order: float
    """Painting order, from large to small: metres ahead of the far end."""
    faces: tuple[Face, ...]
    """In painting order."""


def flat(label: int, kind: str, outline: Sequence[tuple[float, float]], y: float = 0.0) -> Face:
    """A level polygon at height `y`; `outline` holds (t, s) corners."""
    t_s = np.asarray(outline, np.float64)
    return Face(
        label=label,
        kind=kind,
        points=np.column_stack([t_s[:, 0], np.full(len(t_s), y), t_s[:, 1]]),
    )


def upright(
    label: int,
    kind: str,
    outline: Iterable[tuple[float, float]] | Points,
    *,
    t: float,
    s: float,
    turn: float = 0.0,
    detail: bool = False,
) -> Face:
    """A cut-out standing at (t, s) with (u, y) corners, u metres from its middle, at the angle
    `turn`, in radians, to the image plane.
    """
    u_y = np.asarray(outline if isinstance(outline, np.ndarray) else list(outline), np.float64)
    points = np.column_stack(
        [t + u_y[:, 0] * np.cos(turn), u_y[:, 1], s + u_y[:, 0] * np.sin(turn)]
    )
    return Face(label=label, kind=kind, points=points, detail=detail)


def along(
    label: int, kind: str, *, t: float, s: tuple[float, float], y: tuple[float, float]
) -> Face:
    """A vertical rectangle that runs along the street at the offset `t`."""
    (s0, s1), (y0, y1) = s, y
    corners = [(t, y0, s0), (t, y0, s1), (t, y1, s1), (t, y1, s0)]
    return Face(label=label, kind=kind, points=np.array(corners, np.float64))


def across(
    label: int, kind: str, *, s: float, t: tuple[float, float], y: tuple[float, float]
) -> Face:
    """A vertical rectangle that faces the camera at the distance `s`."""
    (t0, t1), (y0, y1) = t, y
    corners = [(t0, y0, s), (t1, y0, s), (t1, y1, s), (t0, y1, s)]
    return Face(label=label, kind=kind, points=np.array(corners, np.float64))


def pieces(s: tuple[float, float]) -> list[tuple[float, float]]:
    """Cut a stretch of the street into pieces that look about equally long from the camera."""
    low = max(s[0], 0.8)
    count = max(1, int(np.log(max(s[1] / low, 1.0)) / 0.16) + 1)
    edges = np.geomspace(low, max(s[1], low + 0.1), count + 1).tolist()
    return list(itertools.pairwise(edges))


def bar(
    start: tuple[float, float], end: tuple[float, float], width: float, end_width: float = 0.0
) -> list[tuple[float, float]]:
    """Corners of a straight bar between two points of a plane; `end_width` 0 means even."""
    (x0, y0), (x1, y1) = start, end
    length = float(np.hypot(x1 - x0, y1 - y0)) or 1.0
    nx, ny = -(y1 - y0) / length / 2, (x1 - x0) / length / 2
    w0, w1 = width, end_width or width
    return [
        (x0 + nx * w0, y0 + ny * w0),
        (x1 + nx * w1, y1 + ny * w1),
        (x1 - nx * w1, y1 - ny * w1),
        (x0 - nx * w0, y0 - ny * w0),
    ]


def disc(
    centre: tuple[float, float], radius: float, radius_y: float = 0.0, corners: int = 14
) -> list[tuple[float, float]]:
    """Corners of a regular polygon around `centre`; `radius_y` 0 means a circle."""
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    x = centre[0] + radius * np.cos(angles)
    y = centre[1] + (radius_y or radius) * np.sin(angles)
    return list(zip(x.tolist(), y.tolist(), strict=True))
