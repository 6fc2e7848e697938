"""Procedural street scenes: label maps and instance maps of streets that never were.

`build_street` says what is in a scene, `paint_labels` paints its maps at any size, and
`draw_street` does both.
"""

from sceneloom_training.scenes.painting import paint_labels
from sceneloom_training.scenes.scene import Scene, Shape
from sceneloom_training.scenes.street import Street, build_street, draw_street

__all__ = ["Scene", "Shape", "Street", "build_street", "draw_street", "paint_labels"]
