"""What each patch of a photograph is made of and how it is lit: tables with a row per patch.

Everything that is the same all over a patch is worked out here, for thousands of patches at once;
`shading` then looks the rows up at every pixel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sceneloom_training.scenes.canyon import is_front, shadow_lines
from sceneloom_training.scenes.light import Light, fall, mirrored_sky
from sceneloom_training.scenes.materials import MATERIALS, reflectance
from sceneloom_training.scenes.patches import DRAWS, Patch
from sceneloom_training.scenes.scene import Scene, Shape
from sceneloom_training.scenes.shadows import GROUND_LABELS, VEHICLE_LABELS, in_shade
from sceneloom_training.scenes.textures import NAMES, PITCH, TILE

Floats = npt.NDArray[np.float32]
Draws = npt.NDArray[np.float64]

_BODYWORK = [list(MATERIALS).index(name) for name in ("body", "deck", "car-roof")]
_FAINT = 0.2
"""Suns below this are not worth looking for what they do not reach."""
_NAMES = list(MATERIALS)
_ROW = {name: row for row, name in enumerate(_NAMES)}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Surfaces:
    """One row per patch; all float32, [N] or [N, 3]."""

    colour: Floats
    """Linear light [N, 3] that the middle of the patch sends to the camera."""
    nearness: Floats
    """[N, 3]: coefficients of a ray (right, up, 1) that give 1 / metres ahead."""
    along: Floats
    """[N, 2]: texels per metre to the right and ahead, for the texture's column."""
    up: Floats
    """[N, 2]: texels per metre up and ahead, for the texture's row."""
    layer: Floats
    """First row of the texture in the atlas."""
    grain: Floats
    """Strength of the texture."""
    fine: Floats
    """How fast the texture fades where pixels are coarser than its texels."""
    dirt: Floats
    """Strength of cloudy differences."""
    shade: Floats
    """[N, 3]: coefficients of (x, y, 1) in image heights that give a factor of brightness."""
    sheen: Floats
    """Brightness of the light on painted bodywork, 0 on all else."""
    ground: Floats
    """1 where shadows fall on level ground, else 0."""
    shadow_line: Floats
    """Metres above the road up to which a front lies in the shadow of the houses across."""
    unlit: Floats
    """Share of a patch's light that is left without the sun."""
    in_ambient: Floats
    """[3]: share of the light of level ground that is left in the shadow of the sun."""


def draws_of(scene: Scene, rng: np.random.Generator) -> tuple[Draws, Draws]:
    """Random numbers 0..1 of a scene: [things, DRAWS] and [shapes, DRAWS], at any size the same."""
    things = 1 + max(shape.thing for shape in scene.shapes)
    return rng.random((things, DRAWS)), rng.random((len(scene.shapes), DRAWS))


def tabulate(
    scene: Scene, light: Light, patches: Sequence[Patch], draws: tuple[Draws, Draws]
) -> Surfaces:
    """Work out the rows of all patches.

    Args:
        scene: the street.
        light: what shines on it.
        patches: all that is painted, back to front.
        draws: random numbers of things and of shapes.
    """
    shapes = [scene.shapes[patch.shape] for patch in patches]
    rows = np.array([_ROW[patch.material] for patch in patches])
    ground = np.array([shape.label in GROUND_LABELS for shape in shapes])
    planes = _planes(scene, shapes, ground)
    normals, boxes = planes[:, :3], _boxes(patches)
    sky, sun = fall(light, normals, _COLUMNS["rounded"][rows])
    sunny = light.sun.max() > _FAINT
    shaded = in_shade(scene, light.to_sun) if sunny else {}
    lines = shadow_lines(scene, light.to_sun) if sunny else {}
    sun *= np.array([[1 - shaded.get(shape.thing, 0)] for shape in shapes], np.float32)
    albedo = _albedo(rows, patches, shapes, draws)
    tilts = draws[1][[patch.shape for patch in patches], 7].astype(np.float32) - 0.5
    mirrored = mirrored_sky(light, _rays(scene, boxes), normals, tilts)
    colour = albedo * (sky + sun) + mirrored * _COLUMNS["gloss"][rows][:, None]
    sheen = colour.mean(axis=1) / np.maximum(albedo.mean(axis=1), 1e-3)
    colour += albedo * _glow(light, rows)[:, None] / light.exposure
    level_sky, level_sun = fall(light, np.array([[0, 1, 0]], np.float32), np.zeros(1, np.float32))
    along, up = _axes(normals, _COLUMNS["density"][rows])
    return Surfaces(
        colour=colour.astype(np.float32),
        nearness=(normals / planes[:, 3:]).astype(np.float32),
        along=along,
        up=up,
        layer=_COLUMNS["layer"][rows],
        grain=_COLUMNS["grain"][rows],
        fine=_COLUMNS["fine"][rows],
        dirt=_COLUMNS["dirt"][rows],
        shade=_shades(light, rows, _of_vehicles(shapes, boxes)),
        sheen=np.where(np.isin(rows, _BODYWORK), sheen, 0).astype(np.float32),
        ground=ground.astype(np.float32),
        shadow_line=np.array(
            [lines.get(shape.thing, -99.0) if is_front(shape) else -99.0 for shape in shapes],
            np.float32,
        ),
        unlit=(sky.mean(axis=1) / (sky + sun).mean(axis=1)).astype(np.float32),
        in_ambient=(level_sky / (level_sky + level_sun))[0],
    )


def _planes(scene: Scene, shapes: Sequence[Shape], ground: npt.NDArray[np.bool_]) -> Floats:
    """Planes (a, b, c, d) as of `Shape.plane`, float32 [N, 4]."""
    planes = np.array([s.plane or (0.0, 0.0, -1.0, -s.distance) for s in shapes], np.float32)
    planes[np.isinf(planes[:, 3])] = (0, 0, -1, -1e4)
    # Kerbs count as level: they follow the bend of the street, so no upright plane fits them.
    planes[ground] = (0, 1, 0, -scene.camera_height)
    return planes


def _glow(light: Light, rows: npt.NDArray[np.int_]) -> Floats:
    """Light of each patch's own: signals and lit panes always, lamps of cars by the dark."""
    glow = _COLUMNS["glow"][rows]
    own = np.where(glow < 0, -glow * light.lamps, glow * (0.7 + 0.5 * light.lamps))
    return np.asarray(own, np.float32)


def _columns() -> dict[str, Floats]:
    """The numbers of all materials, one array [materials] for each field."""
    materials = list(MATERIALS.values())
    fields = ("grain", "fine", "uneven", "dirt", "rounded", "top", "gloss", "glow", "vary", "draw")
    columns = {name: np.array([getattr(m, name) for m in materials], np.float32) for name in fields}
    columns["layer"] = np.array([NAMES.index(m.texture) * PITCH for m in materials], np.float32)
    columns["density"] = np.array([TILE / m.tile for m in materials], np.float32)
    columns["sharing"] = np.array(
        [("scene", "thing", "shape").index(m.by) for m in materials], np.float32
    )
    return columns


_COLUMNS = _columns()


def _palettes() -> tuple[Floats, npt.NDArray[np.int_]]:
    """Palettes of all materials as linear colours [materials, longest, 3], and their lengths."""
    lengths = np.array([len(material.palette) for material in MATERIALS.values()])
    padded = np.zeros((len(lengths), lengths.max(), 3), np.float32)
    for row, material in enumerate(MATERIALS.values()):
        padded[row, : lengths[row]] = material.palette
    return reflectance(padded), lengths


_PALETTES, _LENGTHS = _palettes()


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


def _axes(normals: Floats, density: Floats) -> tuple[Floats, Floats]:
    """Texels per metre along the two directions of each surface: see `Surfaces`."""
    a, b, c = normals.T
    flat = np.abs(b) > 0.9
    length = np.maximum(np.hypot(a, c), 1e-6)
    right, ahead = np.where(flat, 1, -c / length), np.where(flat, 0, a / length)
    along = np.stack([right, ahead], axis=1) * density[:, None]
    up = np.stack([~flat, flat], axis=1) * density[:, None]
    return along.astype(np.float32), up.astype(np.float32)


def _boxes(patches: Sequence[Patch]) -> Floats:
    """Bounding boxes (left, top, right, bottom) in image heights, float32 [N, 4]."""
    starts = np.cumsum([0] + [len(patch.outline) for patch in patches])[:-1]
    points = np.concatenate([patch.outline for patch in patches])
    low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    return np.column_stack([low, high]).astype(np.float32)


def _of_vehicles(shapes: Sequence[Shape], boxes: Floats) -> Floats:
    """The boxes, with those of a vehicle's panels replaced by the whole vehicle's.

    One gradient over all panels makes a body of flat panels look like curved sheet metal.
    """
    vehicle = np.array([shape.label in VEHICLE_LABELS for shape in shapes])
    things = np.array([shape.thing for shape in shapes])
    low = np.full((things.max() + 1, 2), np.inf, np.float32)
    high = -low
    np.minimum.at(low, things, boxes[:, :2])
    np.maximum.at(high, things, boxes[:, 2:])
    whole = np.column_stack([low[things], high[things]])
    return np.asarray(np.where(vehicle[:, None], whole, boxes), np.float32)


def _rays(scene: Scene, boxes: Floats) -> Floats:
    """Unit vectors from the camera to the middles of boxes, [N, 3]."""
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    rays = np.stack(
        [
            (np.clip(x, -1.2, 1.2) - scene.vanishing_x) / scene.focal,
            (scene.horizon - np.clip(y, 0, 1)) / scene.focal,
            np.ones(len(x)),
        ],
        axis=1,
    )
    return np.asarray(rays / np.linalg.norm(rays, axis=1, keepdims=True), np.float32)


def _shades(light: Light, rows: npt.NDArray[np.int_], boxes: Floats) -> Floats:
    """Round bodies are lighter towards the sun, leaves and glass towards the sky."""
    low, high = boxes[:, :2], boxes[:, 2:]
    size = np.maximum(high - low, 1e-4)
    directed = float(light.sun.mean() / (light.sun.mean() + light.ambient.mean()))
    across = _COLUMNS["rounded"][rows] * 1.1 * directed * light.to_sun[0] / size[:, 0]
    down = -_COLUMNS["top"][rows] / size[:, 1]
    middle = (low + high) / 2
    offset = 1 - across * middle[:, 0] - down * middle[:, 1]
    return np.asarray(np.stack([across, down, offset], axis=1), np.float32)
