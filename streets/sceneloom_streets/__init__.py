"""Procedural streets: label map, instance map and photograph, in Cityscapes' label ids.

A seed is the same street at every size. Dependencies are numpy and OpenCV::

    from sceneloom_streets import draw_pair, draw_street

    street = draw_street(seed=7, height=1024, width=2048)
    street.label_map  # uint8 [H, W], Cityscapes label ids
    street.instance_map  # int32 [H, W], label * 1000 + n for people, riders and vehicles

    pair = draw_pair(seed=7, height=1024, width=2048, labels="cityscapes-details")
    pair.photo  # uint8 [H, W, 3] RGB, aligned with the maps to the pixel
    pair.label_map == 36  # windows: schema cityscapes-details

`paint_labels` and `paint_photo` paint the `Scene` of `build_street`, polygons without a resolution.
`sceneloom_streets.dataset` writes many streets as files.
"""

from sceneloom_streets.painting import paint_labels
from sceneloom_streets.photo import paint_photo
from sceneloom_streets.scene import Scene, Shape
from sceneloom_streets.street import Pair, Street, build_street, draw_pair, draw_street

__all__ = [
    "Pair",
    "Scene",
    "Shape",
    "Street",
    "build_street",
    "draw_pair",
    "draw_street",
    "paint_labels",
    "paint_photo",
]
