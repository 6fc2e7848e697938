"""One map made ready for the network: checked, padded, styled; a batch as named tensors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sceneloom.contract import (
    INPUT_INSTANCES,
    INPUT_LABELS,
    INPUT_PICTURE,
    INPUT_STYLE,
    STYLE_ROWS,
    Contract,
)
from sceneloom.errors import InputError
from sceneloom.maps import (
    Array,
    InstanceMap,
    LabelMap,
    Style,
    check_instance_map,
    check_label_map,
    renumber_instances,
)
from sceneloom.style import default_styles
from sceneloom.text import counted


@dataclasses.dataclass(frozen=True)
class Padding:
    """Rows at the bottom and columns at the right, added by edge replication."""

    bottom: int = 0
    right: int = 0

    def pad(self, pixel_map: Array) -> Array:
        """Pad a map [H, W] or a picture [H, W, 3] to [H + bottom, W + right, ...]; without padding,
        return the same array.
        """
        if self == Padding():
            return pixel_map
        sides = [(0, self.bottom), (0, self.right), (0, 0)][: pixel_map.ndim]
        return np.pad(pixel_map, sides, mode="edge")

    def crop(self, image: Array) -> Array:
        """Crop an image [H + bottom, W + right, C] back to [H, W, C]."""
        return image[: image.shape[0] - self.bottom, : image.shape[1] - self.right]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One picture's inputs, ready for the network: checked, padded, and renumbered if styled."""

    label_map: LabelMap
    """uint8 [H, W] at network size; of a model of pictures, the picture, uint8 [H, W, 3]."""
    instance_map: InstanceMap | None
    """int32 [H, W] at network size, or None where the model takes none."""
    style: Style | None
    """float32 [256, F], or None where the model takes none."""
    padding: Padding
    """Padding of the caller's map, to be cropped from the picture."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) at network size."""
        height, width = self.label_map.shape[:2]
        return height, width


def prepare(
    contract: Contract,
    label_map: Array,
    instance_map: Array | None = None,
    style: Array | None = None,
) -> Request:
    """Check one picture's inputs against the contract, pad them and make the style table.

    The label map is uint8 [H, W], channels as `read_label_map` returns them; a model of pictures
    takes a picture in its place, uint8 [H, W, 3], as `read_picture` returns it. The instance map,
    whole numbers [H, W], is needed if `contract.wants_instances`, else ignored. Style is float [K,
    F], row k for the k-th smallest of K instance ids, or the whole table of 256 rows; None takes
    the contract's defaults.

    Raises MissingInputError without a needed instance map, SizeError if sizes differ or the model
    does not take this one, UnknownLabelError for values that are no channel, TooManyInstancesError
    for a styled model and more than 256 instances, InputError for another dtype or rank, or a style
    that the model does not take.
    """
    check_label_map(contract, label_map)
    height, width = label_map.shape[:2]
    network_height, network_width = contract.network_size(height, width)
    padding = Padding(network_height - height, network_width - width)
    instances = check_instance_map(contract, label_map, instance_map)
    table = None
    if contract.style_channels and instances is not None:
        if style is None:
            style = default_styles(contract, label_map, instances)
        instances, ids = renumber_instances(instances, STYLE_ROWS)
        table = _full_table(contract, len(ids), style)
    elif style is not None:
        raise InputError("this model takes no style: it was trained without an encoder")
    return Request(
        label_map=padding.pad(label_map),
        instance_map=None if instances is None else padding.pad(instances),
        style=table,
        padding=padding,
    )


def _full_table(contract: Contract, instances: int, style: Array) -> Style:
    """The caller's rows, checked, in a table of `STYLE_ROWS`."""
    if (
        style.ndim != 2
        or style.dtype.kind not in "fiu"
        or style.shape[1] != contract.style_channels
        or len(style) not in (instances, STYLE_ROWS)  # as many, or a table that is full already
    ):
        raise InputError(
            f"style is float [{counted(instances, 'instance')}, {contract.style_channels}], not "
            f"{style.dtype} {list(style.shape)}"
        )
    if not (np.abs(style) <= np.finfo(np.float32).max).all():
        raise InputError("style holds values that are not finite float32 numbers")
    table = np.zeros((STYLE_ROWS, contract.style_channels), np.float32)
    table[: len(style)] = style
    return table


def stack(requests: Sequence[Request]) -> tuple[LabelMap, InstanceMap | None, Style | None]:
    """Arrays of a batch, for `Synthesizer.run_batch`, of requests of one size.

    A single request is not copied: its arrays are views of the caller's, to be read only.
    """
    labels = [r.label_map for r in requests]
    instances = [r.instance_map for r in requests if r.instance_map is not None]
    styles = [r.style for r in requests if r.style is not None]
    stacked: list[Any] = []
    for arrays in (labels, instances, styles):
        if len(arrays) == 1:  # engines want memory in C order, and torch warns of read-only arrays
            stacked.append(np.require(arrays[0], requirements=["C", "W"])[None])
        else:
            stacked.append(np.stack(arrays) if arrays else None)
    return stacked[0], stacked[1], stacked[2]


def tensors(
    label_maps: LabelMap, instance_maps: InstanceMap | None, styles: Style | None
) -> dict[str, Array]:
    """Arrays of a batch by the names of the model's inputs, without None."""
    main = INPUT_LABELS if label_maps.ndim == 3 else INPUT_PICTURE
    named = {main: label_maps, INPUT_INSTANCES: instance_maps, INPUT_STYLE: styles}
    return {name: array for name, array in named.items() if array is not None}


def smallest_map(contract: Contract) -> tuple[LabelMap, InstanceMap | None]:
    """A map of one class, uint8 [H, W] (or a black picture, [H, W, 3]), and of one instance, int32
    [H, W] or None, of the smallest size that a model takes.
    """
    size = min(contract.sizes or [(contract.smallest_side, contract.smallest_side)], key=math.prod)
    label_map = np.zeros(size if contract.kind == "labels" else (*size, 3), np.uint8)
    return label_map, np.zeros(size, np.int32) if contract.wants_instances else None


def random_inputs(contract: Contract) -> dict[str, Array]:
    """Tensors of one random map of the smallest size that a model takes."""
    label_map, instance_map = smallest_map(contract)
    rng = np.random.default_rng()
    values = 256 if contract.schema is None else contract.schema.channels
    label_map = rng.integers(0, values, label_map.shape, np.uint8)
    if instance_map is not None:
        instance_map = rng.integers(0, 100, instance_map.shape, np.int32)
    return tensors(*stack([prepare(contract, label_map, instance_map, None)]))
