"""How far a picture's colours are from the photograph's, class by class: a judge without a network.

The mean colour of every class that is there is compared. A picture that has the road's grey and the
sky's blue right has a small error whatever its detail; an untrained generator has a large one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_LEAST_PIXELS = 64


def colour_errors(
    picture: npt.NDArray[np.uint8],
    photo: npt.NDArray[np.uint8],
    label_map: npt.NDArray[np.uint8],
) -> dict[int, float]:
    """Compare mean colours.

    Args:
        picture: uint8 [H, W, 3].
        photo: uint8 [H, W, 3].
        label_map: channels, uint8 [H, W]; channel 255 and classes of fewer than 64 pixels are left
            out.

    Returns:
        channel -> mean absolute difference of the mean red, green and blue, in grey levels.
    """
    assert picture.shape == photo.shape == (*label_map.shape, 3)
    counts = np.bincount(label_map.ravel(), minlength=256)
    sums = np.zeros((256, 3))
    for colour in range(3):
        difference = picture[..., colour].astype(np.float64) - photo[..., colour]
        sums[:, colour] = np.bincount(label_map.ravel(), difference.ravel(), minlength=256)
    there = [int(c) for c in np.flatnonzero(counts >= _LEAST_PIXELS) if c != 255]
    return {c: float(np.abs(sums[c] / counts[c]).mean()) for c in there}


def mean_colour_error(
    picture: npt.NDArray[np.uint8],
    photo: npt.NDArray[np.uint8],
    label_map: npt.NDArray[np.uint8],
) -> float:
    """Mean of `colour_errors` over the classes, in grey levels; 0 where none is large enough."""
    errors = colour_errors(picture, photo, label_map)
    return float(np.mean(list(errors.values()))) if errors else 0.0
