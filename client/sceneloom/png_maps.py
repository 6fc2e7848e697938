"""Writing label maps and instance maps as PNG files that `read_label_map` and `read_instance_map`
read back: what an array becomes before it can go the encoded path.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sceneloom.contract import Contract
from sceneloom.errors import InputError, TooManyInstancesError
from sceneloom.inputs import check_instance_map, check_label_map
from sceneloom.instances import renumber_instances
from sceneloom.schema import MAX_FILE_VALUE, NO_CHANNEL, LabelSchema

# Maps are flat: the first level already takes them to a few per cent, and is several times faster.
_PARAMETERS = (cv2.IMWRITE_PNG_COMPRESSION, 1)


def label_map_png(contract: Contract, label_map: npt.NDArray[Any]) -> bytes:
    """Write a label map as a PNG file of label ids.

    Args:
        contract: of the model.
        label_map: uint8 [H, W], channels as `read_label_map` returns them.

    Returns:
        the file: 8-bit grey, 16-bit if an id of the map is above 255.

    Raises:
        InputError: wrong dtype or rank, or values that are no channel of the schema.
    """
    check_label_map(contract, label_map)
    values = _file_values(contract.schema)[label_map]
    return _png(values.astype(np.uint8) if values.max() <= np.iinfo(np.uint8).max else values)


def instance_map_png(
    contract: Contract, label_map: npt.NDArray[Any], instance_map: npt.NDArray[Any]
) -> bytes:
    """Write an instance map as a PNG file.

    Ids above 65535, for which PNG has no room, are numbered anew in their order; boundaries and the
    rows of a style do not change.

    Args:
        contract: of a model that takes instance maps.
        label_map: uint8 [H, W], the map that it belongs to.
        instance_map: whole numbers [H, W].

    Returns:
        the file: 16-bit grey.

    Raises:
        InputError: wrong dtype, rank or size, or ids outside 0..2147483647.
        TooManyInstancesError: ids above 65535, and more than 65536 of them.
    """
    instances = check_instance_map(contract, label_map, instance_map)
    if instances is None:
        raise InputError("this model takes no instance map: it was trained without")
    if instances.max() > MAX_FILE_VALUE:
        try:
            instances, _ = renumber_instances(instances, MAX_FILE_VALUE + 1)
        except TooManyInstancesError:
            raise TooManyInstancesError(
                "the map has more instances than a PNG file has room for, 65536"
            ) from None
    return _png(instances.astype(np.uint16))


def _file_values(schema: LabelSchema) -> npt.NDArray[np.uint16]:
    """Channel -> label id, uint16 [256]."""
    values = np.zeros(256, np.uint16)
    values[: schema.channels] = [label.id for label in schema.labels]
    if schema.unlabelled is not None and schema.unlabelled_channel == NO_CHANNEL:
        values[NO_CHANNEL] = schema.unlabelled
    return values


def _png(values: npt.NDArray[Any]) -> bytes:
    done, encoded = cv2.imencode(".png", values, _PARAMETERS)
    assert done, "OpenCV refused to write a map"
    return encoded.tobytes()
