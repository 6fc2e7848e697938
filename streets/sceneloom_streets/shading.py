"""From tables to pixels: depth, texture, shade, shadow and haze of every pixel at once."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from sceneloom_streets.light import Light
from sceneloom_streets.patches import Surfaces
from sceneloom_streets.scene import Scene
from sceneloom_streets.textures import NAMES, PITCH, TILE, atlas

Floats = npt.NDArray[np.float32]
Index = npt.NDArray[np.intp]

_DIRT_SCALE = np.float32(0.16), np.float32(0.06)
"""Scale of dirt against the texture, along a row and up a column: it runs down walls."""
_NEAREST, _FURTHEST = 0.5, 2000.0


def shade(
    scene: Scene,
    light: Light,
    surfaces: Surfaces,
    index: Index,
    shadows: tuple[Floats, Floats],
) -> Floats:
    """Linear light of every pixel but the sky's, float32 [H, W, 3].

    `index` [H, W] is the row of each pixel in `surfaces`. `shadows` are those of the sun and of
    contact, float32 [H, W] from 0 (light) to 1.
    """
    height, width = index.shape
    x = ((np.arange(width, dtype=np.float32) + np.float32(0.5 - width / 2)) / height)[None, :]
    y = ((np.arange(height, dtype=np.float32) + np.float32(0.5)) / height)[:, None]
    right = np.asarray((x - scene.vanishing_x) / scene.focal, np.float32)
    rise = np.asarray((scene.horizon - y) / scene.focal, np.float32)
    nearness = _linear(surfaces.nearness, index, right, rise)
    np.clip(nearness, 1 / _FURTHEST, 1 / _NEAREST, out=nearness)
    ahead = np.reciprocal(nearness, out=nearness)
    colour = surfaces.colour.take(index, axis=0)
    factor = _texture(scene, surfaces, index, right, rise, ahead)
    factor *= _linear(surfaces.shade, index, x, y)
    # The light passes softly from one flat panel of a vehicle to the next.
    sheen = surfaces.sheen.take(index)
    step = 4 if height >= 512 else 1
    size = -(-width // step), -(-height // step)
    painted = (sheen > 0).astype(np.float32)
    small, share = (
        cv2.GaussianBlur(
            cv2.resize(image, size, interpolation=cv2.INTER_AREA), (0, 0), 0.01 * height / step
        )
        for image in (sheen, painted)
    )
    soft = cv2.resize(small / np.maximum(share, 1e-4), (width, height))
    soft /= np.where(painted > 0, sheen, 1)
    factor *= np.where(painted > 0, np.clip(soft, 0.6, 1.6), 1).astype(np.float32)
    if (surfaces.shadow_line > 0).any():
        # The lower parts of fronts have no sun; the penumbra is half a metre high.
        above = rise * ahead
        above += np.float32(scene.camera_height)
        above -= surfaces.shadow_line.take(index)
        lit = np.clip(above * 2 + np.float32(0.5), 0, 1)
        unlit = surfaces.unlit.take(index)
        factor *= unlit + lit * (1 - unlit)
    np.maximum(factor, 0.06, out=factor)
    colour *= factor[..., None]
    # Shadows darken the level ground below the horizon.
    first = max(int(scene.horizon * height) - 1, 0)
    ground = surfaces.ground.take(index[first:])
    sun, contact = (shadow[first:] * ground for shadow in shadows)
    colour[first:] *= 1 - sun[..., None] * (1 - surfaces.in_ambient)
    colour[first:] *= (1 - np.float32(0.8) * contact)[..., None]
    clear = cv2.exp(ahead * np.float32(-light.haze))[..., None]
    colour *= clear
    colour += (1 - clear) * (light.horizon * np.float32(0.9))
    return np.asarray(colour, np.float32)


def _linear(table: Floats, index: Index, x: Floats, y: Floats) -> Floats:
    """``a x + b y + c`` with the coefficients of each pixel's row."""
    out = table[:, 0].take(index)
    out *= x
    out += table[:, 1].take(index) * y
    out += table[:, 2].take(index)
    return np.asarray(out, np.float32)


def _texture(
    scene: Scene, surfaces: Surfaces, index: Index, right: Floats, rise: Floats, ahead: Floats
) -> Floats:
    """Texture and dirt as a factor around 1 that fades where pixels are coarser than texels."""
    height = index.shape[0]
    per_ahead = surfaces.up[:, 1].take(index)
    per_up = surfaces.up[:, 0].take(index)
    column = surfaces.along[:, 0].take(index)
    column *= right
    column += surfaces.along[:, 1].take(index)
    column *= ahead
    row = per_up * rise
    row += per_ahead
    row *= ahead
    if scene.bend:
        column -= per_ahead * np.square(np.minimum(ahead, 400)) * np.float32(0.5 * scene.bend)
    # Texels per pixel; level ground is foreshortened by its distance.
    coarse = per_ahead * np.sqrt(ahead / np.float32(scene.camera_height))
    coarse += per_up
    coarse *= ahead
    coarse *= np.float32(1 / (scene.focal * height))
    coarse *= coarse
    coarse *= surfaces.fine.take(index)
    coarse += 1
    grain = surfaces.grain.take(index)
    grain /= coarse
    smooth = np.float32(NAMES.index("smooth") * PITCH)
    factor = _sample(column * _DIRT_SCALE[0], row * _DIRT_SCALE[1], smooth)
    factor *= surfaces.dirt.take(index)
    grain *= _sample(column, row, surfaces.layer.take(index))
    factor += grain
    factor += 1
    return factor


def _sample(column: Floats, row: Floats, layer: Floats | np.float32) -> Floats:
    """The atlas at positions in texels within the tiles that start at the rows `layer`."""
    column -= np.floor(column * np.float32(1 / TILE)) * np.float32(TILE)
    row -= np.floor(row * np.float32(1 / TILE)) * np.float32(TILE)
    row += layer
    return np.asarray(cv2.remap(atlas(), column, row, cv2.INTER_LINEAR), np.float32)
