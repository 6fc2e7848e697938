"""Procedural street scenes: label maps, instance maps and photographs of streets that never were.

`build_street` says what is in a scene, `paint_labels` paints its maps at any size and `paint_photo`
the photograph that belongs to them; `draw_street` builds and paints the maps, `draw_pair` all
three.
"""

from sceneloom_training.scenes.painting import paint_labels
from sceneloom_training.scenes.photo import paint_photo
from sceneloom_training.scenes.scene import Scene, Shape
from sceneloom_training.scenes.street import Pair, Street, build_street, draw_pair, draw_street

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
