"""The camera: bloom, softness, vignette, sensor noise, and display values."""

from __future__ import annotations

import functools

import cv2
import numpy as np
import numpy.typing as npt

from sceneloom_training.scenes.light import Light

Floats = npt.NDArray[np.float32]

_WHITE = 3.0
"""Linear light, after exposure, at which a pixel is clipped."""
_LEVELS = 4096


def develop(linear: Floats, light: Light, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Take the photograph.

    Args:
        linear: light of each pixel, float32 [H, W, 3] from 0; changed in place.
        light: its exposure, white balance, and how far lamps stand out.
        rng: sensor noise, and how far the lens is soft and dark at the corners.

    Returns:
        display values, uint8 [H, W, 3] RGB.
    """
    height, width = linear.shape[:2]
    vignette, soft, noise = rng.uniform(0.05, 0.3), rng.uniform(0.4, 0.62), rng.uniform(0.5, 1.5)
    linear *= light.exposure
    linear += _bloom(linear, 0.12 + 0.3 * light.lamps)
    linear = np.asarray(cv2.GaussianBlur(linear, (0, 0), soft), np.float32)
    x = ((np.arange(width, dtype=np.float32) + 0.5) / width * 2 - 1)[None, :]
    y = ((np.arange(height, dtype=np.float32) + 0.5) / height * 2 - 1)[:, None]
    falloff = 1 - np.float32(vignette) * (0.7 * x * x + 0.3 * y * y)
    grain = rng.standard_normal((height, width), np.float32)
    grain *= np.float32(0.012 * noise * (1 + light.lamps))
    # Dark parts of a picture are the noisiest once they are brought up for display.
    falloff += grain
    linear *= (falloff * np.float32((_LEVELS - 1) / _WHITE))[..., None]
    linear += (grain * np.float32(0.15 * (_LEVELS - 1) / _WHITE))[..., None]
    np.clip(linear, 0, _LEVELS - 1, out=linear)
    return np.asarray(_curve()[linear.astype(np.uint16)])


def _bloom(linear: Floats, strength: float) -> Floats:
    """Light that bright parts spread around them."""
    height, width = linear.shape[:2]
    small_size = max(width // 8, 2), max(height // 8, 2)
    small = cv2.resize(linear, small_size, interpolation=cv2.INTER_AREA)
    bright = np.clip(small - np.float32(0.9), 0, 3)
    spread = cv2.GaussianBlur(bright, (0, 0), max(0.012 * height / 8, 0.3))
    wide = cv2.resize(spread, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(wide * np.float32(strength), np.float32)


@functools.cache
def _curve() -> npt.NDArray[np.uint8]:
    """Display value of each level: a soft shoulder for highlights, gamma, and contrast."""
    light = np.arange(_LEVELS) / (_LEVELS - 1) * _WHITE
    shoulder = light * (1 + light / _WHITE**2) / (1 + light)
    toned = np.clip(1.28 * shoulder, 0, 1) ** (1 / 2.2)
    contrast = toned - 0.055 * np.sin(2 * np.pi * toned)
    return np.asarray(np.rint(255 * np.clip(contrast, 0, 1)), np.uint8)
