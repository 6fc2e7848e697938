"""The sky: a gradient, a glow round the sun, and clouds on a level ceiling."""

from __future__ import annotations

import functools

import cv2
import numpy as np
import numpy.typing as npt

from sceneloom_training.scenes.light import Light
from sceneloom_training.scenes.scene import Scene
from sceneloom_training.scenes.textures import fractal

Floats = npt.NDArray[np.float32]

_SIDE = 512


@functools.cache
def _ceiling() -> Floats:
    """Seamless clouds, float32 [512, 512] of mean 0 and deviation 1."""
    return fractal(np.random.default_rng(21), _SIDE, 1.55) * np.float32(2)


def paint_sky(
    scene: Scene, light: Light, rng: np.random.Generator, height: int, width: int
) -> Floats:
    """The sky from the top of the picture down to the horizon.

    Args:
        scene: the street, for its camera.
        light: the weather.
        rng: where the clouds are.
        height: pixels of the whole picture.
        width: pixels.

    Returns:
        linear light, float32 [rows, W, 3].
    """
    # Clouds are soft: half the resolution does for large pictures.
    step = 2 if height >= 512 else 1
    rows = -(-int(np.ceil(height * (scene.horizon + 0.02))) // step)
    columns = -(-width // step)
    x = ((np.arange(columns, dtype=np.float32) + 0.5) * step - width / 2) / height
    y = (np.arange(rows, dtype=np.float32) + 0.5) * step / height
    right = ((x - scene.vanishing_x) / scene.focal).astype(np.float32)[None, :]
    rise = ((scene.horizon - y) / scene.focal).astype(np.float32)[:, None]
    lift = np.clip(rise, 0, None) / np.sqrt(1 + rise * rise)
    share = (1 - np.exp(-5.0 * lift))[..., None]
    sky = np.broadcast_to(
        light.horizon + (light.zenith - light.horizon) * share, (rows, columns, 3)
    )
    sky = sky + _glow(light, right, rise)[..., None] * light.sun
    cover, body = _clouds(light, rng, right, rise)
    sky += (light.cloud * body[..., None] - sky) * cover[..., None]
    sky = np.ascontiguousarray(sky, np.float32)
    if step > 1:
        sky = cv2.resize(sky, (columns * step, rows * step), interpolation=cv2.INTER_LINEAR)
    return np.asarray(sky[:, :width], np.float32)


def _glow(light: Light, right: Floats, rise: Floats) -> Floats:
    """Brightness round the sun, float32 [rows, columns]."""
    across, up, ahead = (float(part) for part in light.to_sun)
    towards = (right * across + rise * up + ahead) / np.sqrt(1 + right * right + rise * rise)
    towards = np.maximum(towards, 0)
    return np.asarray(0.22 * towards**6 + 0.5 * towards**60 + 4 * towards**1500, np.float32)


def _clouds(
    light: Light, rng: np.random.Generator, right: Floats, rise: Floats
) -> tuple[Floats, Floats]:
    """Share of each pixel under cloud, and how bright the cloud is there."""
    ahead = 150 / (np.maximum(rise, 0) + 0.12)
    shift = rng.uniform(0, _SIDE, 4)
    density = _looked_up(ahead * right * 0.55 + shift[0], ahead + 0 * right + shift[1])
    density += 0.35 * _looked_up(ahead * right * 2 + shift[2], ahead * 3.3 + 0 * right + shift[3])
    edge = 1.3 - 2.7 * light.cover
    soft = 0.35 + 0.9 * light.cover**2
    cover = np.clip((density - edge) / soft, 0, 1)
    # Clouds thin out into the haze over the horizon, and are darkest where they are thickest.
    cover = cover * np.clip(0.35 + 6 * rise, 0, 1)
    dark = (0.1 + 0.22 * light.cover) * np.clip(density - edge, 0, 2.2)
    return cover.astype(np.float32), np.clip(1.08 - dark * 0.7, 0.35, 1.1).astype(np.float32)


def _looked_up(u: Floats, v: Floats) -> Floats:
    """The ceiling at positions in texels, repeated as needed."""
    return np.asarray(
        cv2.remap(
            _ceiling(),
            (u % _SIDE).astype(np.float32),
            (v % _SIDE).astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        ),
        np.float32,
    )
