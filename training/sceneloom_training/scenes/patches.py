"""From shapes to patches: what a photograph shows within a shape's outline.

A window gets its frame and panes, a traffic light its lamps, a head its hair. Patches keep their
shape's place in the order, and what would reach beyond their thing is cut off when they are
painted, so the label map knows nothing of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sceneloom_training.scenes.camera import cut
from sceneloom_training.scenes.materials import VEHICLES, material_name
from sceneloom_training.scenes.scene import Scene, Shape

Floats = npt.NDArray[np.float32]
Draws = npt.NDArray[np.float64]
Piece = tuple[str, npt.NDArray[Any]]
"""Material and outline of one patch."""

_LEAST_PIXELS = 3.5
"""Shapes that are smaller than this up or across, in pixels, are left without patches."""
DRAWS = 12
"""Random numbers per shape."""


class Patch(NamedTuple):
    """One polygon of one material."""

    outline: npt.NDArray[Any]
    """Polygon [N, 2] in image heights, as `Shape.outline`."""
    material: str
    """Key into `materials.MATERIALS`."""
    shape: int
    """Index of the shape that it belongs to."""
    part: int
    """0 for the shape itself, then the number of the patch within it."""


def patches_of(scene: Scene, draws: Draws, *, height: int, lamps: float) -> Iterator[Patch]:
    """All patches of a scene, back to front.

    Args:
        scene: what to photograph.
        draws: random numbers 0..1 of each shape, [number of shapes, DRAWS].
        height: pixels of the picture: what is too small for patches gets none.
        lamps: how much lit windows stand out, 0..1; it also tells how many are lit.
    """
    least = _LEAST_PIXELS / height
    paved = False
    starts = np.cumsum([0] + [len(shape.outline) for shape in scene.shapes])[:-1]
    corners = np.concatenate([shape.outline for shape in scene.shapes])
    size = np.maximum.reduceat(corners, starts) - np.minimum.reduceat(corners, starts)
    large = (size.min(axis=1) >= least).tolist()
    for i, shape in enumerate(scene.shapes):
        name = material_name(shape.kind, shape.label)
        if name == "facade" and _thing_draw(draws, shape) > 0.68:
            name = "facade-brick"
        yield Patch(shape.outline, name, i, 0)
        if shape.kind == "road" and not paved:
            paved = True
            pieces = list(_mended(scene, draws[i]))
        elif large[i]:
            pieces = list(_pieces(shape, name, draws[i], lamps))
        else:
            continue
        for part, (material, outline) in enumerate(pieces, start=1):
            if len(outline) >= 3:
                yield Patch(outline, material, i, part)


def _thing_draw(draws: Draws, shape: Shape) -> float:
    """A number 0..1 that all shapes of a thing share."""
    return float(draws[shape.thing % len(draws), DRAWS - 1])


def _pieces(shape: Shape, name: str, draws: Draws, lamps: float) -> Iterator[Piece]:
    outline = shape.outline
    if name in _ROUNDISH:
        yield from _ROUNDISH[name](outline, draws)
    elif len(outline) == 4 and name in ("window", "shop-window"):
        lit = draws[0] < 0.6 * lamps**1.5
        yield from (_shop if name == "shop-window" else _window)(outline, draws, lit)
    elif len(outline) == 4 and name in _SQUARE:
        yield from _SQUARE[name](outline, draws)
    elif name == "glass" and len(outline) == 4 and shape.kind.split("-")[0] in VEHICLES:
        yield "glass", quad(outline, 0.05, 0.95, 0.1, 0.94)


def quad(corners: npt.NDArray[Any], u0: float, u1: float, v0: float, v1: float) -> npt.NDArray[Any]:
    """The part from u0 to u1 along and v0 to v1 up a quadrilateral [4, 2], with its perspective.

    Corners run from the lower start to the lower end, the upper end and the upper start.
    """
    a, b, c, d = np.asarray(corners, np.float64)
    # The homography of the unit square (Heckbert 1989, section 2.2).
    (dx1, dy1), (dx2, dy2), (sx, sy) = b - c, d - c, a - b + c - d
    area = dx1 * dy2 - dx2 * dy1
    g, h = 0.0, 0.0
    if abs(area) > 1e-12:
        g, h = (sx * dy2 - dx2 * sy) / area, (dx1 * sy - sx * dy1) / area
    out = []
    for u, v in ((u0, v0), (u1, v0), (u1, v1), (u0, v1)):
        weight = max(g * u + h * v + 1, 1e-3)
        out.append((a + (b - a + g * b) * u + (d - a + h * d) * v) / weight)
    return np.array(out)


def _window(outline: Floats, draws: Draws, lit: bool) -> Iterator[Piece]:
    glass = "lit-pane" if lit else "pane"
    wings = [(0.08, 0.92)] if draws[2] < 0.3 else [(0.07, 0.47), (0.53, 0.93)]
    for u0, u1 in wings:
        yield glass, quad(outline, u0, u1, 0.06, 0.94)
    if draws[3] < 0.25:
        yield "cornice", quad(outline, 0.05, 0.95, 1 - 0.6 * draws[4], 0.96)  # a blind


def _shop(outline: Floats, draws: Draws, lit: bool) -> Iterator[Piece]:
    yield "lit-pane" if lit else "shop-pane", quad(outline, 0.03, 0.97, 0.05, 0.76)
    if draws[2] < 0.7:
        yield "shop-sign", quad(outline, 0.0, 1.0, 0.78, 1.0)
        yield "sign-white", quad(outline, 0.2, 0.8, 0.85, 0.93)
    if draws[3] < 0.4:
        yield "poster", quad(outline, 0.1 + 0.4 * draws[4], 0.3 + 0.4 * draws[4], 0.2, 0.5)


def _door(outline: Floats, draws: Draws) -> Iterator[Piece]:
    if draws[2] < 0.7:
        yield "pane", quad(outline, 0.2, 0.8, 0.45, 0.93)
    yield "shut-line", quad(outline, 0.0, 1.0, 0.0, 0.03)


def _facade(outline: Floats, draws: Draws) -> Iterator[Piece]:
    if draws[2] < 0.6:
        yield "plinth", quad(outline, 0, 1, 0, 0.02 + 0.05 * draws[3])
    if draws[4] < 0.6:
        yield "cornice", quad(outline, 0, 1, 0.975 - 0.02 * draws[5], 1)
    if draws[6] < 0.3:
        yield "cornice", quad(outline, 0, 1, 0.3, 0.312)


def _coping(outline: Floats, _: Draws) -> Iterator[Piece]:
    yield "coping", quad(outline, 0, 1, 0.92, 1)


def _plate(outline: Floats, draws: Draws) -> Iterator[Piece]:
    if draws[4] < 0.75:
        grown = np.array([2.4 + 2 * draws[5], 1.5 + draws[6]], np.float32)
        yield "trim", _shrunk(outline, grown)
        yield "plate", outline
    middle = 0.3 + 0.2 * float(draws[2])
    yield "sign-black", quad(outline, 0.12, middle, 0.28, 0.72)
    yield "sign-black", quad(outline, middle + 0.06, 0.9, 0.28, 0.72)


def _head_lamp(outline: Floats, draws: Draws) -> Iterator[Piece]:
    yield "reflector", quad(outline, 0.0, 1.0, 0.0, 0.3 + 0.2 * draws[2])
    if draws[3] < 0.5:
        yield "indicator", quad(outline, 0.0, 0.15, 0.0, 1.0)


def _rear_lamp(outline: Floats, draws: Draws) -> Iterator[Piece]:
    yield "indicator", quad(outline, 0.1, 0.9, 0.1, 0.3 + 0.2 * draws[2])


def _board(outline: Floats, draws: Draws) -> Iterator[Piece]:
    # Boards run from left to right through their middle, so their corners start at the top.
    low, high = outline.min(axis=0), outline.max(axis=0)
    box = np.array([(low[0], high[1]), high, (high[0], low[1]), low])
    for row in range(2 + int(draws[2] * 2)):
        v = 0.8 - 0.26 * row
        yield "sign-white", quad(box, 0.1, 0.4 + 0.5 * draws[3 + row], v - 0.06, v + 0.06)


def _wheel(outline: Floats, _: Draws) -> Iterator[Piece]:
    if len(outline) > 8:
        yield "rim", _shrunk(outline, 0.64)
        yield "shut-line", _shrunk(outline, 0.3)
        yield "rim", _shrunk(outline, 0.2)


def _hair(outline: Floats, draws: Draws) -> Iterator[Piece]:
    if len(outline) > 4:
        top, tall = outline[:, 1].min(), np.ptp(outline[:, 1])
        line = top + tall * (0.3 + 0.4 * draws[2])
        helmet = draws[3] < 0.1
        yield "helmet" if helmet else "hair", cut(outline.astype(np.float64), line - outline[:, 1])


def _lamps(outline: Floats, draws: Draws) -> Iterator[Piece]:
    low, high = outline.min(axis=0), outline.max(axis=0)
    middle, tall = (low + high) / 2, high[1] - low[1]
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    disc = np.column_stack([np.cos(angles), np.sin(angles)]) * min(
        0.13 * tall, 0.4 * np.ptp(outline[:, 0])
    )
    lit = 0 if draws[2] < 0.45 else 2 if draws[2] < 0.9 else 1
    for i, name in enumerate(("lamp-red", "lamp-amber", "lamp-green")):
        centre = np.array([middle[0], low[1] + tall * (0.19 + 0.31 * i)])
        yield name if i == lit else "lamp-off", disc + centre


def _sign(outline: Floats, draws: Draws) -> Iterator[Piece]:
    corners, blue = len(outline), draws[2] < 0.4
    high, wide = np.ptp(outline[:, 1]), np.ptp(outline[:, 0])
    if corners == 3 or (corners > 8 and not blue):
        yield "sign-red", outline
        yield "sign-white", _shrunk(outline, 0.62 if corners == 3 else 0.7)
        yield "sign-black", _shrunk(outline, 0.2)
    elif corners == 4 and high > 1.2 * wide * 0.9 and abs(outline[0, 1] - outline[2, 1]) < high / 4:
        yield "sign-white", outline
        yield "sign-yellow", _shrunk(outline, 0.74)
    elif corners == 4 and wide > 1.4 * high:
        yield "sign-white", outline
        yield "sign-black", _shrunk(outline, np.array([0.7, 0.25], np.float32))
    else:
        yield "sign-blue", outline
        yield "sign-white", _shrunk(outline, np.array([0.3, 0.55], np.float32))


def _poster(outline: Floats, draws: Draws) -> Iterator[Piece]:
    if len(outline) == 4:
        a, b, c, d = outline
        yield "poster", quad(np.array([a, d, c, b]), 0.15, 0.8, 0.25, 0.5 + 0.4 * draws[2])


def _shrunk(outline: Floats, share: float | Floats) -> npt.NDArray[Any]:
    middle = (outline.min(axis=0) + outline.max(axis=0)) / 2
    return np.asarray(middle + (outline - middle) * share)


def _mended(scene: Scene, draws: Draws) -> Iterator[Piece]:
    """Rectangles of newer or older asphalt along the street, and covers of manholes."""
    rng = np.random.default_rng(int(draws[0] * 2**32))
    for _ in range(int(rng.integers(0, 9))):
        t, s = float(rng.uniform(-6, 4)), float(rng.uniform(2.5, 30))
        wide, long = float(rng.uniform(0.4, 2.6)), float(rng.uniform(0.8, 14))
        t_s = np.array([(t, s), (t + wide, s), (t + wide, s + long), (t, s + long)])
        yield "patch", _on_road(scene, t_s)
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    disc = np.column_stack([np.cos(angles), np.sin(angles)]) * 0.32
    for _ in range(int(rng.integers(0, 5))):
        middle = rng.uniform(-5, 4), rng.uniform(3, 25)
        yield "patch", _on_road(scene, disc * 1.25 + middle)
        yield "drain", _on_road(scene, disc + middle)


def _on_road(scene: Scene, t_s: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Metres to the right and ahead along the street [N, 2], as an outline."""
    x = t_s[:, 0] + 0.5 * scene.bend * t_s[:, 1] ** 2
    scale = scene.focal / t_s[:, 1]
    return np.column_stack(
        [scene.vanishing_x + x * scale, scene.horizon + scene.camera_height * scale]
    )


_ROUNDISH: dict[str, Callable[[Floats, Draws], Iterator[Piece]]] = {
    "wheel": _wheel,
    "person-head": _hair,
    "traffic-light": _lamps,
    "traffic-sign": _sign,
    "direction-board": _board,
    "column": _poster,
}
_SQUARE: dict[str, Callable[[Floats, Draws], Iterator[Piece]]] = {
    "facade": _facade,
    "facade-brick": _facade,
    "door": _door,
    "wall": _coping,
    "plate": _plate,
    "head-lamp": _head_lamp,
    "rear-lamp": _rear_lamp,
}
