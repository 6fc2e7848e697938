"""From label ids in an array, not in a file of their own, to the schema's channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sceneloom.errors import UnknownLabelError
from sceneloom.maps import OnUnknown
from sceneloom.schema import LabelSchema
from sceneloom.text import counted
from sceneloom_training.data.sample import LabelMap


def label_channels(
    values: npt.NDArray[Any], schema: LabelSchema, *, unknown: OnUnknown, name: str
) -> LabelMap:
    """Translate label ids to channels, as `sceneloom.maps.read_label_map` does for a file.

    Args:
        values: uint8 or uint16 [H, W], label ids.
        schema: what they mean.
        unknown: ``"error"`` refuses ids that the schema does not have; ``"unlabelled"`` reads them
            as its unlabelled id.
        name: where they come from, for the error.

    Returns:
        uint8 [H, W], the channel of each pixel (255 for unlabelled pixels that have no channel).

    Raises:
        UnknownLabelError: ids that the schema does not have, with their pixel counts.
    """
    channels, counts = schema.to_channels(values)
    if not counts:
        return channels
    if unknown == "unlabelled" and schema.unlabelled_channel is not None:
        # By value: `to_channels` marks unknown pixels by 255, which can also be a real channel.
        channels[np.isin(values, list(counts))] = schema.unlabelled_channel
        return channels
    listed = ", ".join(
        f"{value} ({counted(n, 'pixel')})" for value, n in sorted(counts.items())[:6]
    )
    way_out = (
        f"to read them as unlabelled ({schema.unlabelled}): unknown = unlabelled"
        if schema.unlabelled is not None
        else "it has no unlabelled id to read them as"
    )
    raise UnknownLabelError(
        f"{name}: label ids {listed} are not in the schema {schema.name}; {way_out}", counts
    )
