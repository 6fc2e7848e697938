"""A scene as a camera sees it: flat shapes, back to front, without a resolution.

`painting` makes the maps of a scene and `photo` its photograph, both from the same shapes.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from sceneloom_streets.ids import COUNTED, INSTANCE_DIVISOR


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Shape:
    """One flat, evenly labelled piece of a thing, already in perspective."""

    label: int
    """Cityscapes label id."""
    kind: str
    """Key to the material, such as ``car-glass`` or ``facade``."""
    outline: npt.NDArray[np.float32]
    """Closed polygon, float32 [N, 2]: x to the right of the image centre, y down from the top edge,
    both in image heights. The frame is ``|x| <= width / height / 2`` and ``0 <= y <= 1``; outlines
    reach beyond it.
    """
    distance: float
    """Metres from the camera to the middle of the shape; infinite for the sky."""
    thing: int
    """Number of the thing (a car, a house) that the shape is a part of."""
    instance: int | None = None
    """Number of the thing among those of its label, from 0; None where the label is not counted."""
    plane: tuple[float, float, float, float] | None = None
    """(a, b, c, d) of the plane ``a X + b Y + c Z = d``, in metres right of, above and ahead of the
    camera; (a, b, c) is a unit vector to the camera's side. None faces the camera at `distance`.
    """
    detail: bool = False
    """True within the thing's own outline (a window in a facade): the label map ignores it."""

    @property
    def value(self) -> int:
        """Value in the instance map."""
        if self.instance is None:
            return self.label
        return self.label * INSTANCE_DIVISOR + self.instance

    def __post_init__(self) -> None:
        """Check that counted labels, and no others, have an instance."""
        assert (self.instance is not None) == (self.label in COUNTED), (self.label, self.instance)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A street as one camera sees it."""

    seed: int
    """Seed of the street."""
    horizon: float
    """Height of the horizon, in image heights from the top edge."""
    vanishing_x: float
    """Vanishing point of the straight street, in image heights to the right of the image centre."""
    focal: float = 1.9
    """Focal length of the camera, in image heights."""
    camera_height: float = 1.35
    """Metres from the road up to the camera."""
    bend: float = 0.0
    """Curvature of the street in 1/metres, positive to the right."""
    shapes: tuple[Shape, ...]
    """All shapes, back to front: later ones hide earlier ones."""
