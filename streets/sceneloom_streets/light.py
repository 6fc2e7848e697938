"""The light of a scene: time of day, weather, sky, and the camera's exposure.

Light is linear: a surface's colour is its reflectance times its light; `photo.develop` makes
display values.
"""

from __future__ import annotations

import dataclasses
import functools

import cv2
import numpy as np
import numpy.typing as npt

from sceneloom_streets.scene import Scene
from sceneloom_streets.textures import fractal

Floats = npt.NDArray[np.float32]

_SIDE = 512
"""Texels along a side of the seamless clouds."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Light:
    """Sun, sky and exposure of a scene; colours are linear float32 [3] RGB."""

    to_sun: Floats
    """Unit vector towards the sun (right, up, ahead)."""
    sun: Floats
    """Light of the sun on a surface that faces it."""
    ambient: Floats
    """Light of the whole sky on a level surface."""
    zenith: Floats
    """Colour of the sky overhead."""
    horizon: Floats
    """Colour of the sky at the horizon, and of the haze."""
    cloud: Floats
    """Colour of the clouds."""
    cover: float
    """Share of the sky under clouds, 0..1."""
    haze: float
    """Share of a surface's light lost per metre."""
    lamps: float
    """Brightness of lamps and lit windows, 0 by day to 1 at dusk."""
    exposure: Floats
    """Gain of each channel: exposure and white balance."""


def draw_light(rng: np.random.Generator) -> Light:
    """Draw a light: clear, broken clouds, overcast, a low sun, or dusk."""
    weather = str(
        rng.choice(["clear", "clouds", "overcast", "low", "dusk"], p=[0.24, 0.22, 0.28, 0.14, 0.12])
    )
    height = {"low": (0.16, 0.32), "dusk": (0.1, 0.2)}.get(weather, (0.45, 1.05))
    azimuth, elevation = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(*height))
    level = np.cos(elevation)
    to_sun = _colour(np.sin(azimuth) * level, np.sin(elevation), np.cos(azimuth) * level)
    warm = float({"low": rng.uniform(0.5, 1), "dusk": 1.0}.get(weather, rng.uniform(0, 0.35)))
    strength = {
        "clear": rng.uniform(2.2, 3.3),
        "clouds": rng.uniform(1.0, 2.4),
        "overcast": rng.uniform(0.0, 0.1),
        "low": rng.uniform(1.6, 2.6),
        "dusk": rng.uniform(0.0, 0.12),
    }[weather]
    cover = {
        "clear": rng.uniform(0.05, 0.35),
        "clouds": rng.uniform(0.4, 0.75),
        "overcast": rng.uniform(0.9, 1.0),
        "low": rng.uniform(0.1, 0.6),
        "dusk": rng.uniform(0.2, 0.9),
    }[weather]
    if weather == "dusk":
        zenith, cloud = _colour(0.06, 0.10, 0.24), _colour(0.16, 0.15, 0.22)
        horizon = _mix(_colour(0.62, 0.36, 0.26), _colour(0.30, 0.34, 0.46), float(rng.random()))
        ambient = _colour(0.17, 0.17, 0.21)
    elif weather == "overcast":
        grey = float(rng.uniform(0.62, 1.05))
        zenith, cloud = _colour(0.8, 0.84, 0.9) * grey, _colour(0.92, 0.94, 0.96) * grey
        horizon, ambient = _colour(1.0, 1.0, 1.0) * grey, _colour(0.92, 0.95, 1.0) * grey
    else:
        zenith = _colour(0.10, 0.26, 0.68) * float(rng.uniform(0.7, 1.15))
        horizon = _mix(_colour(0.60, 0.80, 1.02), _colour(1.25, 0.86, 0.55), 0.8 * warm**1.5)
        cloud = _mix(_colour(1.25, 1.25, 1.25), _colour(1.25, 0.95, 0.75), warm)
        ambient = _mix(_colour(0.51, 0.57, 0.67), _colour(0.36, 0.38, 0.5), warm)
    brightness = float(rng.normal(1.0, 0.12)) * (0.62 if weather == "dusk" else 1.0)
    gain = 1.15 / (ambient.mean() + 0.45 * strength * (0.25 + to_sun[1]))
    balance = 1 + rng.normal(0, 0.035) * np.array([1.0, 0.1, -1.0])
    return Light(
        to_sun=to_sun,
        sun=_colour(1.0, 0.95 - 0.22 * warm, 0.86 - 0.5 * warm) * np.float32(strength),
        ambient=ambient,
        zenith=zenith,
        horizon=horizon,
        cloud=cloud,
        cover=float(cover),
        haze=float(rng.gamma(1.5, 0.0008)) + (0.0006 if weather == "overcast" else 0.0004),
        lamps=float(rng.uniform(0.75, 1)) if weather == "dusk" else 0.12 * (weather == "overcast"),
        exposure=(gain * brightness * balance).astype(np.float32),
    )


def irradiance(light: Light, normals: Floats, rounded: Floats) -> tuple[Floats, Floats]:
    """Light from the sky and from the sun on surfaces, each linear float32 [N, 3].

    `normals` are unit vectors [N, 3]; `rounded` [N] is 0 for flat surfaces to 1 for round bodies.
    """
    up = normals[:, 1:2]
    sky = light.ambient * (0.62 + 0.38 * up)
    bounced = 0.16 * (light.ambient + light.sun * light.to_sun[1]) * (1 - up)
    facing = normals @ light.to_sun
    wrapped = np.maximum((facing + 0.7 * rounded) / (1 + 0.7 * rounded), 0)
    return sky + bounced, light.sun * wrapped[:, None]


def mirrored_sky(light: Light, rays: Floats, normals: Floats, tilts: Floats) -> Floats:
    """Light of sky and street in flat mirrors, linear float32 [N, 3].

    `rays` from the camera to the mirrors and `normals` are unit vectors [N, 3]; `tilts` [N] is the
    lean of each mirror out of its plane, about -0.5..0.5.
    """
    into = (rays * normals).sum(axis=1, keepdims=True)
    mirrored = rays - 2 * into * normals
    rise = mirrored[:, 1:2] + 0.35 * tilts[:, None]
    sky = light.horizon + (light.zenith - light.horizon) * np.clip(rise, 0, 1) ** 0.5
    street = 0.3 * (light.ambient + 0.5 * light.sun)
    share = np.clip(rise * 4 + 0.3, 0, 1)
    # Schlick's approximation: mirrors seen from the side mirror more.
    grazing = 1 + 2.5 * (1 - np.abs(into)) ** 3
    glint = np.maximum(mirrored @ light.to_sun, 0)[:, None] ** 24 * light.sun * 2
    return np.asarray((street + (sky - street) * share + glint) * grazing, np.float32)


def _colour(red: float, green: float, blue: float) -> Floats:
    return np.array([red, green, blue], np.float32)


def _mix(first: Floats, second: Floats, share: float) -> Floats:
    return np.asarray(first + (second - first) * np.float32(share), np.float32)


def paint_sky(
    scene: Scene, light: Light, rng: np.random.Generator, height: int, width: int
) -> Floats:
    """The sky of a picture of that size down to the horizon, linear float32 [rows, W, 3]."""
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
    # A glow round the sun.
    across, up, ahead_of_sun = (float(part) for part in light.to_sun)
    towards = right * across + rise * up + ahead_of_sun
    towards = np.maximum(towards / np.sqrt(1 + right * right + rise * rise), 0)
    glow = np.asarray(0.22 * towards**6 + 0.5 * towards**60 + 4 * towards**1500, np.float32)
    sky = sky + glow[..., None] * light.sun
    # Clouds on a level ceiling.
    ahead = 150 / (np.maximum(rise, 0) + 0.12)
    shift = rng.uniform(0, _SIDE, 4)
    density = _sample(ahead * right * 0.55 + shift[0], ahead + 0 * right + shift[1])
    density += 0.35 * _sample(ahead * right * 2 + shift[2], ahead * 3.3 + 0 * right + shift[3])
    edge = 1.3 - 2.7 * light.cover
    soft = 0.35 + 0.9 * light.cover**2
    # Clouds thin out into the haze over the horizon, and are darkest where they are thickest.
    cover = np.clip((density - edge) / soft, 0, 1) * np.clip(0.35 + 6 * rise, 0, 1)
    dark = (0.1 + 0.22 * light.cover) * np.clip(density - edge, 0, 2.2)
    body = np.clip(1.08 - dark * 0.7, 0.35, 1.1).astype(np.float32)
    sky += (light.cloud * body[..., None] - sky) * cover.astype(np.float32)[..., None]
    sky = np.ascontiguousarray(sky, np.float32)
    if step > 1:
        sky = cv2.resize(sky, (columns * step, rows * step), interpolation=cv2.INTER_LINEAR)
    return np.asarray(sky[:, :width], np.float32)


def _sample(u: Floats, v: Floats) -> Floats:
    """The clouds at positions in texels; the texture repeats."""
    return np.asarray(
        cv2.remap(
            _cloud_texture(),
            (u % _SIDE).astype(np.float32),
            (v % _SIDE).astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        ),
        np.float32,
    )


@functools.cache
def _cloud_texture() -> Floats:
    """Seamless clouds, float32 [512, 512] of mean 0 and deviation 1."""
    return fractal(np.random.default_rng(21), _SIDE, 1.55) * np.float32(2)
