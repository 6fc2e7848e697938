"""Instance maps: boundaries, and the dense numbering that styled models want."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sceneloom.errors import TooManyInstancesError


def boundary_map(instance_map: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Instance boundaries: pixels whose id differs from the pixel above, below, left or right
    (pix2pixHD, section 3.3).

    Args:
        instance_map: whole numbers [H, W]; compared as they are, never as floats.

    Returns:
        bool [H, W].
    """
    boundary = np.zeros(instance_map.shape, np.bool_)
    across = instance_map[:, 1:] != instance_map[:, :-1]
    down = instance_map[1:] != instance_map[:-1]
    boundary[:, 1:] |= across
    boundary[:, :-1] |= across
    boundary[1:] |= down
    boundary[:-1] |= down
    return boundary


def renumber_instances(
    instance_map: npt.NDArray[np.int32], limit: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Number the instances densely in the order of their ids; boundaries do not change.

    Args:
        instance_map: int32 [H, W].
        limit: most instances there may be.

    Returns:
        int32 [H, W] with values 0..K-1, and int32 [K] with the id each had before.

    Raises:
        TooManyInstancesError: K is above `limit`.
    """
    ids, dense = np.unique(instance_map, return_inverse=True)
    if len(ids) > limit:
        raise TooManyInstancesError(
            f"the map has {len(ids)} instances; a styled model takes at most {limit}"
        )
    return dense.reshape(instance_map.shape).astype(np.int32), ids.astype(np.int32)


def instance_channels(
    label_map: npt.NDArray[np.uint8], instance_map: npt.NDArray[Any]
) -> tuple[list[int], list[int]]:
    """Which class each instance is of: that of its first pixel, since an instance lies within one
    label.

    Args:
        label_map: uint8 [H, W], channels.
        instance_map: whole numbers [H, W].

    Returns:
        the K instance ids in ascending order, and the channel of each (255 where unlabelled has
        none).
    """
    ids, first = np.unique(instance_map, return_index=True)
    return ids.tolist(), label_map.ravel()[first].tolist()
