"""Patches, the polygons of a photograph, and a table of their materials and light.

A shape becomes a patch of its material and further patches within it: the panes of a window, the
lamps of a traffic light, the hair of a head. Patches keep their shape's place in the order and are
cut off at their thing's outline. `Surfaces` has a row per patch, which `shading` looks up at every
pixel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sceneloom_streets.camera import cut
from sceneloom_streets.light import Light, irradiance, mirrored_sky
from sceneloom_streets.materials import MATERIALS, VEHICLES, material_name, reflectance
from sceneloom_streets.scene import Scene, Shape
from sceneloom_streets.shadows import (
    GROUND_LABELS,
    VEHICLE_LABELS,
    is_front,
    shaded_shares,
    shadow_lines,
)
from sceneloom_streets.textures import NAMES, PITCH, TILE

Floats = npt.NDArray[np.float32]
Draws = npt.NDArray[np.float64]
Piece = tuple[str, npt.NDArray[Any]]
"""Material and outline of one patch."""

DRAWS = 12
"""Random numbers per shape and per thing."""
_MIN_PIXELS = 3.5
"""Shapes smaller than this up or across, in pixels, are left without further patches."""
_FAINT = 0.2
"""A sun below this casts no shadows."""

_MATERIALS = list(MATERIALS.values())
_ROW = {name: row for row, name in enumerate(MATERIALS)}
_BODYWORK = [_ROW[name] for name in ("body", "deck", "car-roof")]
_FIELDS = ("grain", "fine", "uneven", "dirt", "rounded", "top", "gloss", "glow", "vary", "draw")
_COLUMNS: dict[str, Floats] = {
    **{name: np.array([getattr(m, name) for m in _MATERIALS], np.float32) for name in _FIELDS},
    "layer": np.array([NAMES.index(m.texture) * PITCH for m in _MATERIALS], np.float32),
    "density": np.array([TILE / m.tile for m in _MATERIALS], np.float32),
    "sharing": np.array([("scene", "thing", "shape").index(m.by) for m in _MATERIALS], np.float32),
}
"""The numbers of all materials, one array [materials] for each field."""
_LENGTHS = np.array([len(m.palette) for m in _MATERIALS])
_PALETTES = reflectance(
    np.array(
        [(*m.palette, *[(0, 0, 0)] * (_LENGTHS.max() - len(m.palette))) for m in _MATERIALS],
        np.float32,
    )
)
"""Palettes of all materials as linear colours [materials, longest, 3], padded with black."""


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


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Surfaces:
    """One row per patch; all float32, [N] or [N, 3]."""

    colour: Floats
    """Linear light [N, 3] that the middle of the patch sends to the camera."""
    nearness: Floats
    """[N, 3]: coefficients of a ray (right, up, 1) for 1 / metres ahead."""
    along: Floats
    """[N, 2]: texels per metre to the right and ahead, for the texture's column."""
    up: Floats
    """[N, 2]: texels per metre up and ahead, for the texture's row."""
    layer: Floats
    """First row of the texture in the atlas."""
    grain: Floats
    """Strength of the texture."""
    fine: Floats
    """Fading of the texture where pixels are coarser than its texels."""
    dirt: Floats
    """Strength of cloudy differences."""
    shade: Floats
    """[N, 3]: coefficients of (x, y, 1) in image heights for a factor of brightness."""
    sheen: Floats
    """Brightness of the light on painted bodywork, 0 on all else."""
    ground: Floats
    """1 where shadows fall on level ground, else 0."""
    shadow_line: Floats
    """Metres above the road: height of the shadow on a front of the houses across."""
    unlit: Floats
    """Share of a patch's light without the sun."""
    in_ambient: Floats
    """[3]: share of the light of level ground without the sun."""


def random_numbers(scene: Scene, rng: np.random.Generator) -> tuple[Draws, Draws]:
    """Random numbers 0..1 of a scene: [things, DRAWS] and [shapes, DRAWS], at any size the same."""
    things = 1 + max(shape.thing for shape in scene.shapes)
    return rng.random((things, DRAWS)), rng.random((len(scene.shapes), DRAWS))


def patches_of(scene: Scene, draws: Draws, *, height: int, lamps: float) -> Iterator[Patch]:
    """Patches of a scene, back to front; small shapes at `height` pixels have a single one.

    `draws` are random numbers 0..1 [number of shapes, DRAWS]; `lamps` (0..1) is the brightness and
    number of lit windows.
    """
    paved = False
    starts = np.cumsum([0] + [len(shape.outline) for shape in scene.shapes])[:-1]
    corners = np.concatenate([shape.outline for shape in scene.shapes])
    size = np.maximum.reduceat(corners, starts) - np.minimum.reduceat(corners, starts)
    large = (size.min(axis=1) >= _MIN_PIXELS / height).tolist()
    for i, shape in enumerate(scene.shapes):
        name = material_name(shape.kind, shape.label)
        # All shapes of a house share this draw.
        if name == "facade" and draws[shape.thing % len(draws), DRAWS - 1] > 0.68:
            name = "facade-brick"
        yield Patch(shape.outline, name, i, 0)
        pieces: list[Piece] = []
        if shape.kind == "road" and not paved:
            paved = True
            pieces = list(_road_repairs(scene, draws[i]))
        elif large[i]:
            pieces = [
                *_round_pieces(name, shape.outline, draws[i]),
                *_square_pieces(name, shape, draws[i], lamps),
            ]
        for part, (material, outline) in enumerate(pieces, start=1):
            if len(outline) >= 3:
                yield Patch(outline, material, i, part)


def _square_pieces(name: str, shape: Shape, draws: Draws, lamps: float) -> Iterator[Piece]:
    """Further patches within a shape of four corners."""
    outline = shape.outline
    if len(outline) != 4:
        return
    match name:
        case "window":
            lit = draws[0] < 0.6 * lamps**1.5
            wings = [(0.08, 0.92)] if draws[2] < 0.3 else [(0.07, 0.47), (0.53, 0.93)]
            for u0, u1 in wings:
                yield "lit-pane" if lit else "pane", quad(outline, u0, u1, 0.06, 0.94)
            if draws[3] < 0.25:
                yield "cornice", quad(outline, 0.05, 0.95, 1 - 0.6 * draws[4], 0.96)  # a blind
        case "shop-window":
            lit = draws[0] < 0.6 * lamps**1.5
            yield "lit-pane" if lit else "shop-pane", quad(outline, 0.03, 0.97, 0.05, 0.76)
            if draws[2] < 0.7:
                yield "shop-sign", quad(outline, 0.0, 1.0, 0.78, 1.0)
                yield "sign-white", quad(outline, 0.2, 0.8, 0.85, 0.93)
            if draws[3] < 0.4:
                yield "poster", quad(outline, 0.1 + 0.4 * draws[4], 0.3 + 0.4 * draws[4], 0.2, 0.5)
        case "door":
            if draws[2] < 0.7:
                yield "pane", quad(outline, 0.2, 0.8, 0.45, 0.93)
            yield "shut-line", quad(outline, 0.0, 1.0, 0.0, 0.03)
        case "facade" | "facade-brick":
            if draws[2] < 0.6:
                yield "plinth", quad(outline, 0, 1, 0, 0.02 + 0.05 * draws[3])
            if draws[4] < 0.6:
                yield "cornice", quad(outline, 0, 1, 0.975 - 0.02 * draws[5], 1)
            if draws[6] < 0.3:
                yield "cornice", quad(outline, 0, 1, 0.3, 0.312)
        case "wall":
            yield "coping", quad(outline, 0, 1, 0.92, 1)
        case "plate":
            if draws[4] < 0.75:
                grown = np.array([2.4 + 2 * draws[5], 1.5 + draws[6]], np.float32)
                yield "trim", _scaled(outline, grown)
                yield "plate", outline
            middle = 0.3 + 0.2 * float(draws[2])
            yield "sign-black", quad(outline, 0.12, middle, 0.28, 0.72)
            yield "sign-black", quad(outline, middle + 0.06, 0.9, 0.28, 0.72)
        case "head-lamp":
            yield "reflector", quad(outline, 0.0, 1.0, 0.0, 0.3 + 0.2 * draws[2])
            if draws[3] < 0.5:
                yield "indicator", quad(outline, 0.0, 0.15, 0.0, 1.0)
        case "rear-lamp":
            yield "indicator", quad(outline, 0.1, 0.9, 0.1, 0.3 + 0.2 * draws[2])
        case "glass" if shape.kind.split("-")[0] in VEHICLES:
            yield "glass", quad(outline, 0.05, 0.95, 0.1, 0.94)


def _round_pieces(name: str, outline: Floats, draws: Draws) -> Iterator[Piece]:
    """Further patches within a shape of any number of corners."""
    low, high = outline.min(axis=0), outline.max(axis=0)
    wide, tall = high - low
    corners = len(outline)
    match name:
        case "wheel" if corners > 8:
            yield "rim", _scaled(outline, 0.64)
            yield "shut-line", _scaled(outline, 0.3)
            yield "rim", _scaled(outline, 0.2)
        case "person-head" if corners > 4:
            line = low[1] + tall * (0.3 + 0.4 * draws[2])
            hair = cut(outline.astype(np.float64), line - outline[:, 1])
            yield "helmet" if draws[3] < 0.1 else "hair", hair
        case "traffic-light":
            middle = (low + high) / 2
            angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
            radius = min(0.13 * tall, 0.4 * wide)
            disc = np.column_stack([np.cos(angles), np.sin(angles)]) * radius
            lit = 0 if draws[2] < 0.45 else 2 if draws[2] < 0.9 else 1
            for i, lamp in enumerate(("lamp-red", "lamp-amber", "lamp-green")):
                centre = np.array([middle[0], low[1] + tall * (0.19 + 0.31 * i)])
                yield lamp if i == lit else "lamp-off", disc + centre
        case "traffic-sign":
            blue = draws[2] < 0.4
            if corners == 3 or (corners > 8 and not blue):
                yield "sign-red", outline
                yield "sign-white", _scaled(outline, 0.62 if corners == 3 else 0.7)
                yield "sign-black", _scaled(outline, 0.2)
            elif (
                corners == 4
                and tall > 1.2 * wide * 0.9
                and abs(outline[0, 1] - outline[2, 1]) < tall / 4
            ):
                yield "sign-white", outline
                yield "sign-yellow", _scaled(outline, 0.74)
            elif corners == 4 and wide > 1.4 * tall:
                yield "sign-white", outline
                yield "sign-black", _scaled(outline, np.array([0.7, 0.25], np.float32))
            else:
                yield "sign-blue", outline
                yield "sign-white", _scaled(outline, np.array([0.3, 0.55], np.float32))
        case "direction-board":
            # Boards run from left to right through their middle, so their corners start at the top.
            box = np.array([(low[0], high[1]), high, (high[0], low[1]), low])
            for row in range(2 + int(draws[2] * 2)):
                v = 0.8 - 0.26 * row
                end = 0.4 + 0.5 * draws[3 + row]
                yield "sign-white", quad(box, 0.1, end, v - 0.06, v + 0.06)
        case "column" if corners == 4:
            a, b, c, d = outline
            yield "poster", quad(np.array([a, d, c, b]), 0.15, 0.8, 0.25, 0.5 + 0.4 * draws[2])


def _road_repairs(scene: Scene, draws: Draws) -> Iterator[Piece]:
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


def quad(corners: npt.NDArray[Any], u0: float, u1: float, v0: float, v1: float) -> npt.NDArray[Any]:
    """The part from u0 to u1 along and v0 to v1 up a quadrilateral [4, 2], in perspective.

    Corners: lower start, lower end, upper end, upper start.
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


def _scaled(outline: Floats, share: float | Floats) -> npt.NDArray[Any]:
    middle = (outline.min(axis=0) + outline.max(axis=0)) / 2
    return np.asarray(middle + (outline - middle) * share)


def tabulate(
    scene: Scene, light: Light, patches: Sequence[Patch], draws: tuple[Draws, Draws]
) -> Surfaces:
    """The rows of all patches, back to front; `draws` are of things and of shapes."""
    shapes = [scene.shapes[patch.shape] for patch in patches]
    rows = np.array([_ROW[patch.material] for patch in patches])
    ground = np.array([shape.label in GROUND_LABELS for shape in shapes])
    planes = np.array([s.plane or (0.0, 0.0, -1.0, -s.distance) for s in shapes], np.float32)
    planes[np.isinf(planes[:, 3])] = (0, 0, -1, -1e4)
    # Kerbs count as level: they follow the bend of the street, so no upright plane fits them.
    planes[ground] = (0, 1, 0, -scene.camera_height)
    normals = planes[:, :3]
    starts = np.cumsum([0] + [len(patch.outline) for patch in patches])[:-1]
    points = np.concatenate([patch.outline for patch in patches])
    low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    boxes = np.column_stack([low, high]).astype(np.float32)
    sky, sun = irradiance(light, normals, _COLUMNS["rounded"][rows])
    sunny = light.sun.max() > _FAINT
    shaded = shaded_shares(scene, light.to_sun) if sunny else {}
    lines = shadow_lines(scene, light.to_sun) if sunny else {}
    sun *= np.array([[1 - shaded.get(shape.thing, 0)] for shape in shapes], np.float32)
    albedo = _albedo(rows, patches, shapes, draws)
    tilts = draws[1][[patch.shape for patch in patches], 7].astype(np.float32) - 0.5
    # Unit vectors from the camera to the middles of the boxes.
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    rays = np.stack(
        [
            (np.clip(x, -1.2, 1.2) - scene.vanishing_x) / scene.focal,
            (scene.horizon - np.clip(y, 0, 1)) / scene.focal,
            np.ones(len(x)),
        ],
        axis=1,
    )
    rays = np.asarray(rays / np.linalg.norm(rays, axis=1, keepdims=True), np.float32)
    mirrored = mirrored_sky(light, rays, normals, tilts)
    colour = albedo * (sky + sun) + mirrored * _COLUMNS["gloss"][rows][:, None]
    sheen = colour.mean(axis=1) / np.maximum(albedo.mean(axis=1), 1e-3)
    # Signals and lit panes always glow, the lamps of cars by the dark.
    glow = _COLUMNS["glow"][rows]
    glow = np.where(glow < 0, -glow * light.lamps, glow * (0.7 + 0.5 * light.lamps))
    colour += albedo * glow.astype(np.float32)[:, None] / light.exposure
    level_sky, level_sun = irradiance(
        light, np.array([[0, 1, 0]], np.float32), np.zeros(1, np.float32)
    )
    # Texels per metre along the two directions of each surface.
    a, b, c = normals.T
    flat = np.abs(b) > 0.9
    length = np.maximum(np.hypot(a, c), 1e-6)
    right, ahead = np.where(flat, 1, -c / length), np.where(flat, 0, a / length)
    density = _COLUMNS["density"][rows][:, None]
    return Surfaces(
        colour=colour.astype(np.float32),
        nearness=(normals / planes[:, 3:]).astype(np.float32),
        along=(np.stack([right, ahead], axis=1) * density).astype(np.float32),
        up=(np.stack([~flat, flat], axis=1) * density).astype(np.float32),
        layer=_COLUMNS["layer"][rows],
        grain=_COLUMNS["grain"][rows],
        fine=_COLUMNS["fine"][rows],
        dirt=_COLUMNS["dirt"][rows],
        shade=_shades(light, rows, shapes, boxes),
        sheen=np.where(np.isin(rows, _BODYWORK), sheen, 0).astype(np.float32),
        ground=ground.astype(np.float32),
        shadow_line=np.array(
            [lines.get(shape.thing, -99.0) if is_front(shape) else -99.0 for shape in shapes],
            np.float32,
        ),
        unlit=(sky.mean(axis=1) / (sky + sun).mean(axis=1)).astype(np.float32),
        in_ambient=(level_sky / (level_sky + level_sun))[0],
    )


def _albedo(
    rows: npt.NDArray[np.int_],
    patches: Sequence[Patch],
    shapes: Sequence[Shape],
    draws: tuple[Draws, Draws],
) -> Floats:
    """Reflectance of each patch [N, 3]: a colour of its palette, a little lighter or tinted."""
    of_things, of_shapes = draws
    column = _COLUMNS["draw"][rows].astype(int)
    thing = np.array([shape.thing for shape in shapes])
    shape = np.array([patch.shape for patch in patches])
    # Patches of one shape that draw for themselves, such as panes, must not all be alike.
    own = (column + [3 * patch.part for patch in patches]) % DRAWS
    sharing = _COLUMNS["sharing"][rows]
    chosen = np.where(
        sharing == 2,
        of_shapes[shape, own],
        np.where(sharing == 1, of_things[thing, column], of_things[0, column]),
    )
    at = (chosen * _LENGTHS[rows]).astype(int)
    # What is left of the draw after the choice is a draw again.
    rest = chosen * _LENGTHS[rows] - at
    turned = np.stack([rest, (rest * 7.31) % 1, (rest * 3.77 + 0.4) % 1], axis=1) - 0.5
    vary = _COLUMNS["vary"][rows][:, None]
    change = 1 + vary * (2.6 * turned[:, :1] + 0.5 * turned)
    single = of_shapes[shape, [(5 * patch.part + 3) % DRAWS for patch in patches]] - 0.5
    change *= 1 + (_COLUMNS["uneven"][rows] * single)[:, None]
    return np.asarray(_PALETTES[rows, at] * change, np.float32)


def _shades(
    light: Light, rows: npt.NDArray[np.int_], shapes: Sequence[Shape], boxes: Floats
) -> Floats:
    """Gradients of brightness [N, 3] for `Surfaces.shade`; a vehicle's panels share one."""
    vehicle = np.array([shape.label in VEHICLE_LABELS for shape in shapes])
    things = np.array([shape.thing for shape in shapes])
    low = np.full((things.max() + 1, 2), np.inf, np.float32)
    high = -low
    np.minimum.at(low, things, boxes[:, :2])
    np.maximum.at(high, things, boxes[:, 2:])
    whole = np.column_stack([low[things], high[things]])
    boxes = np.where(vehicle[:, None], whole, boxes).astype(np.float32)
    low, high = boxes[:, :2], boxes[:, 2:]
    size = np.maximum(high - low, 1e-4)
    directed = float(light.sun.mean() / (light.sun.mean() + light.ambient.mean()))
    across = _COLUMNS["rounded"][rows] * 1.1 * directed * light.to_sun[0] / size[:, 0]
    down = -_COLUMNS["top"][rows] / size[:, 1]
    middle = (low + high) / 2
    offset = 1 - across * middle[:, 0] - down * middle[:, 1]
    return np.asarray(np.stack([across, down, offset], axis=1), np.float32)
