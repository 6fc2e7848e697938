"""The street as a canyon: how far up a row of houses lies in the shadow of the row across it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sceneloom_training.scenes import ids
from sceneloom_training.scenes.scene import Scene, Shape
from sceneloom_training.scenes.shadows import to_world

Floats = npt.NDArray[np.float32]

_REACH = 20.0
"""Metres along the street within which a house across it is taken to be the one that matters."""


class _Front(NamedTuple):
    thing: int
    across: float
    """Metres to the right of the camera."""
    ahead: float
    """Metres ahead of the camera, of its middle."""
    eaves: float
    """Metres above the road."""


def shadow_lines(scene: Scene, to_sun: Floats) -> dict[int, float]:
    """Height up to which each house's front lies in shadow.

    Args:
        scene: the street.
        to_sun: unit vector towards the sun (right, up, ahead).

    Returns:
        metres above the road for each thing that is a house along the street, lit from across it.
    """
    fronts = _fronts(scene)
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


def _fronts(scene: Scene) -> list[_Front]:
    shapes = [s for s in scene.shapes if s.kind == "facade" and is_front(s) and s.distance < 90]
    world, starts = to_world(scene, shapes)
    out = []
    for i, shape in enumerate(shapes):
        corners = world[starts[i] : starts[i + 1]]
        eaves = float(corners[:, 1].max()) + scene.camera_height
        across, ahead = float(corners[:, 0].mean()), float(corners[:, 2].mean())
        out.append(_Front(shape.thing, across, ahead, min(eaves, 40.0)))
    return out
