"""Painting the photograph that belongs to a scene.

A canvas of patch numbers is filled back to front, exactly as the label map is; tables say what each
patch is made of and how it is lit; every pixel then looks its row up (deferred shading).

::

    from sceneloom_training.scenes import draw_pair

    pair = draw_pair(seed=7, height=1024, width=2048)
    pair.photo, pair.label_map, pair.instance_map
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from sceneloom_training.scenes.lens import develop
from sceneloom_training.scenes.light import draw_light
from sceneloom_training.scenes.painting import SUBPIXEL_BITS, check_size, to_corners
from sceneloom_training.scenes.patches import Patch, patches_of
from sceneloom_training.scenes.scene import Scene
from sceneloom_training.scenes.shading import shade
from sceneloom_training.scenes.shadows import ground_shadows
from sceneloom_training.scenes.sky import paint_sky
from sceneloom_training.scenes.surfaces import draws_of, tabulate

_STREAM = 0x9407
"""Keeps a photograph's random numbers apart from those that its street was built with."""


def paint_photo(scene: Scene, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Paint a scene as a camera might have seen it.

    Time of day, weather and every thing's colours follow from `scene.seed`. What a pixel shows is
    what `paint_labels` says it is at the same size.

    Args:
        scene: what to paint.
        height: pixels, 16 to 16384.
        width: pixels, 16 to 16384 and at most four times the height.

    Returns:
        uint8 [H, W, 3] RGB; equal arguments give equal bytes.

    Raises:
        InputError: the size is out of range.
    """
    check_size(height, width)
    streams = np.random.SeedSequence((scene.seed, _STREAM)).spawn(4)
    for_light, for_things, for_sky, for_lens = (np.random.default_rng(s) for s in streams)
    light = draw_light(for_light)
    draws = draws_of(scene, for_things)
    patches = list(patches_of(scene, draws[1], height=height, lamps=light.lamps))
    index = _index(scene, patches, height, width)
    surfaces = tabulate(scene, light, patches, draws)
    shadows = ground_shadows(scene, light.to_sun, height, width)
    linear = shade(scene, light, surfaces, index, shadows)
    sky = paint_sky(scene, light, for_sky, height, width)[:height]
    above = index[: len(sky)] == 0
    np.copyto(linear[: len(sky)], sky, where=above[..., None])
    return develop(linear, light, for_lens)


def _index(scene: Scene, patches: list[Patch], height: int, width: int) -> npt.NDArray[np.intp]:
    """Number of the patch that each pixel shows, [H, W]."""
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
    # Outlines are filled with all pixels that they touch, so a detail may reach a pixel too far.
    strayed = values[canvas] != values[whole]
    np.copyto(canvas, whole, where=strayed)
    return canvas.astype(np.intp)
