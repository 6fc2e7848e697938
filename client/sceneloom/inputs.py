"""The checks of one picture's maps against a contract, before anything is done with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sceneloom.contract import Contract
from sceneloom.errors import InputError, MissingInputError, SizeError, UnknownLabelError
from sceneloom.kinds import check_kind
from sceneloom.schema import NO_CHANNEL
from sceneloom.text import counted


def check_label_map(contract: Contract, label_map: npt.NDArray[Any]) -> None:
    """Check a label map.

    Args:
        contract: the model's contract.
        label_map: should be uint8 [H, W], channels.

    Raises:
        InputError: wrong dtype or rank.
        SizeError: no pixels.
        UnknownLabelError: values that are no channel of the schema.
    """
    _check_kinds(contract, label_map, "label map")
    if label_map.ndim != 2 or label_map.dtype != np.uint8:
        raise InputError(
            f"a label map is uint8 [height, width], not {label_map.dtype} {list(label_map.shape)}"
        )
    if label_map.size == 0:
        raise SizeError("the label map has no pixels")
    schema = contract.schema
    counts = np.bincount(label_map.ravel(), minlength=256)
    counts[: schema.channels] = 0
    if schema.unlabelled_channel == NO_CHANNEL:
        counts[NO_CHANNEL] = 0
    unknown = {int(v): int(counts[v]) for v in np.flatnonzero(counts)}
    if unknown:
        listed = ", ".join(f"{v} ({counted(n, 'pixel')})" for v, n in unknown.items())
        raise UnknownLabelError(
            f"unknown label {listed}; {schema.name} has channels 0 to {schema.channels - 1}",
            unknown,
        )


def check_instance_map(
    contract: Contract, label_map: npt.NDArray[Any], instance_map: npt.NDArray[Any] | None
) -> npt.NDArray[np.int32] | None:
    """Check an instance map.

    Args:
        contract: the model's contract.
        label_map: the [H, W] label map it belongs to.
        instance_map: should be whole numbers [H, W].

    Returns:
        int32 [H, W], or None where the model takes no instance map.

    Raises:
        MissingInputError: the model wants an instance map and there is none.
        SizeError: its size is not the label map's.
        InputError: wrong dtype or rank, or ids outside 0..2147483647.
    """
    if not contract.boundaries and not contract.style_channels:
        return None
    if instance_map is None:
        raise MissingInputError(
            "this model was trained with instance maps and needs one beside the label map"
        )
    _check_kinds(contract, instance_map, "instance map")
    if instance_map.ndim != 2 or instance_map.dtype.kind not in "iu":
        raise InputError(
            f"an instance map is whole numbers [height, width], not {instance_map.dtype} "
            f"{list(instance_map.shape)}"
        )
    if instance_map.shape != label_map.shape:
        (h, w), (ih, iw) = label_map.shape, instance_map.shape
        raise SizeError(
            f"the label map is {w}x{h} and the instance map {iw}x{ih} (width x height); they must "
            "be equal"
        )
    low, high = int(instance_map.min()), int(instance_map.max())
    if low < 0 or high > np.iinfo(np.int32).max:
        raise InputError(f"instance ids run from {low} to {high}; they must be 0 to 2147483647")
    return instance_map.astype(np.int32, copy=False)


def check_contract(contract: object) -> None:
    """Raise InputError for what is no contract, such as arguments in another order."""
    check_kind(contract, Contract, "the model's contract")


def _check_kinds(contract: object, values: object, name: str) -> None:
    check_contract(contract)
    check_kind(values, np.ndarray, f"the array of the {name}")
    # A masked pixel has a value that its owner does not mean; rows of a matrix are matrices again.
    if isinstance(values, (np.ma.MaskedArray, np.matrix)):
        raise InputError(
            f"a value of {type(values).__name__} where the plain array of the {name} belongs"
        )
