"""Photograph of a scene, by deferred shading.

A canvas of patch numbers is filled back to front, like the label map. A table has the material and
the light of each patch.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
import numpy.typing as npt

from sceneloom_streets.light import Light, draw_light, paint_sky
from sceneloom_streets.painting import SUBPIXEL_BITS, check_size, to_corners
from sceneloom_streets.patches import patches_of, random_numbers, tabulate
from sceneloom_streets.scene import Scene
from sceneloom_streets.shading import shade
from sceneloom_streets.shadows import ground_shadows

Floats = npt.NDArray[np.float32]

_STREAM = 0x9407
"""Part of the photograph's random seed: its numbers are independent of the street's."""
_WHITE = 3.0
"""Linear light, after exposure, of a clipped pixel."""
_LEVELS = 4096


def paint_photo(scene: Scene, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Paint a scene's photograph, uint8 [H, W, 3] RGB, in the light of `scene.seed`.

    Every pixel shows its label of `paint_labels`. Equal arguments give equal bytes. Raises
    InputError like `check_size`.
    """
    check_size(height, width)
    streams = np.random.SeedSequence((scene.seed, _STREAM)).spawn(4)
    for_light, for_things, for_sky, for_lens = (np.random.default_rng(s) for s in streams)
    light = draw_light(for_light)
    draws = random_numbers(scene, for_things)
    patches = list(patches_of(scene, draws[1], height=height, lamps=light.lamps))
    # The number of the patch that each pixel shows.
    assert len(patches) < 1 << 16, len(patches)
    whole = np.zeros((height, width), np.uint16)
    canvas = whole.copy()
    values = np.array([scene.shapes[patch.shape].value for patch in patches], np.int32)
    starts = np.cumsum([0] + [len(patch.outline) for patch in patches]).tolist()
    corners = to_corners(np.concatenate([patch.outline for patch in patches]), height, width)
    for number, patch in enumerate(patches):
        piece = [corners[starts[number] : starts[number + 1]]]
        cv2.fillPoly(canvas, piece, (number,), cv2.LINE_8, SUBPIXEL_BITS)
        if patch.part == 0 and not scene.shapes[patch.shape].detail:
            cv2.fillPoly(whole, piece, (number,), cv2.LINE_8, SUBPIXEL_BITS)
    # A filled outline includes all pixels on it, so a detail may reach a pixel too far.
    np.copyto(canvas, whole, where=values[canvas] != values[whole])
    index = canvas.astype(np.intp)
    surfaces = tabulate(scene, light, patches, draws)
    shadows = ground_shadows(scene, light.to_sun, height, width)
    linear = shade(scene, light, surfaces, index, shadows)
    sky = paint_sky(scene, light, for_sky, height, width)[:height]
    above = index[: len(sky)] == 0
    np.copyto(linear[: len(sky)], sky, where=above[..., None])
    return develop(linear, light, for_lens)


def develop(linear: Floats, light: Light, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Turn linear light, float32 [H, W, 3], into display values, uint8 [H, W, 3] RGB.

    Adds bloom, softness, vignette and sensor noise; changes `linear` in place.
    """
    height, width = linear.shape[:2]
    vignette, soft, noise = rng.uniform(0.05, 0.3), rng.uniform(0.4, 0.62), rng.uniform(0.5, 1.5)
    linear *= light.exposure
    # Bloom: light that bright parts spread around them.
    small_size = max(width // 8, 2), max(height // 8, 2)
    small = cv2.resize(linear, small_size, interpolation=cv2.INTER_AREA)
    bright = np.clip(small - np.float32(0.9), 0, 3)
    spread = cv2.GaussianBlur(bright, (0, 0), max(0.012 * height / 8, 0.3))
    spread = cv2.resize(spread, (width, height), interpolation=cv2.INTER_LINEAR)
    linear += spread * np.float32(0.12 + 0.3 * light.lamps)
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
    return np.asarray(_tone_curve()[linear.astype(np.uint16)])


@functools.cache
def _tone_curve() -> npt.NDArray[np.uint8]:
    """Display value of each level: a soft shoulder for highlights, gamma, and contrast."""
    light = np.arange(_LEVELS) / (_LEVELS - 1) * _WHITE
    shoulder = light * (1 + light / _WHITE**2) / (1 + light)
    toned = np.clip(1.28 * shoulder, 0, 1) ** (1 / 2.2)
    contrast = toned - 0.055 * np.sin(2 * np.pi * toned)
    return np.asarray(np.rint(255 * np.clip(contrast, 0, 1)), np.uint8)
