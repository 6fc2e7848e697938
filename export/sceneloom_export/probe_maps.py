"""Maps drawn to try engines on: any label schema, any size, by seed, with regions, instances and
thin structures.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from sceneloom.contract import STYLE_ROWS, Contract
from sceneloom.maps import InstanceMap, LabelMap, renumber_instances
from sceneloom.request import Padding, Request
from sceneloom_serving.golden import BLOCK

_LARGEST_INSTANCE_ID = 2**31 - 1


def probe_sizes(contract: Contract) -> list[tuple[int, int]]:
    """The (height, width) pairs to try: those the engine is for, or three of different shape if it
    takes any.
    """
    if contract.sizes is not None:
        return list(contract.sizes)
    side = max(contract.min_side, 64 // contract.size_multiple * contract.size_multiple)
    return [(side, side), (2 * side, 3 * side), (3 * side, 2 * side + contract.size_multiple)]


def golden_size(contract: Contract) -> tuple[int, int]:
    """The (height, width) of the golden map: an engine's first size, or at least 4 by 8 blocks."""
    if contract.sizes is not None:
        return contract.sizes[0]
    unit = math.lcm(contract.size_multiple, BLOCK)
    height = -(-max(contract.min_side, 4 * BLOCK) // unit) * unit
    return height, 2 * height


def draw_probe(
    contract: Contract, height: int, width: int, seed: int, *, classes: int | None = None
) -> Request:
    """Draw one map: bands of labels, then ellipses, boxes and lines, each an instance of its own.

    Args:
        contract: decides the labels and which inputs there are.
        height: pixels, a multiple of the contract's.
        width: likewise.
        seed: equal seeds give equal maps.
        classes: most labels that occur, out of all of the schema; None is no limit.
    """
    rng = np.random.default_rng(seed)
    channels = contract.schema.channels
    label_map, instance_map = _draw(channels, height, width, rng)
    if classes is not None and classes < channels:
        chosen = rng.permutation(channels)[:classes].astype(np.uint8)
        label_map = chosen[label_map % classes]
    style = None
    if contract.style_channels:
        instance_map, _ = renumber_instances(instance_map, STYLE_ROWS)
        style = rng.normal(0.0, 0.5, (STYLE_ROWS, contract.style_channels)).astype(np.float32)
    wants_instances = contract.boundaries or contract.style_channels > 0
    return Request(
        label_map=label_map,
        instance_map=instance_map if wants_instances else None,
        style=style,
        padding=Padding(),
    )


def _draw(
    channels: int, height: int, width: int, rng: np.random.Generator
) -> tuple[LabelMap, InstanceMap]:
    label_map = np.zeros((height, width), np.uint8)
    instance_map = np.zeros((height, width), np.int32)
    for band, row in enumerate(range(0, height, max(height // 4, 1))):
        label_map[row:] = rng.integers(channels)
        instance_map[row:] = band
    # Ids far above 2048 and 65,535: an engine that compares them as half or as 16 bits loses
    # boundaries.
    ids = _LARGEST_INSTANCE_ID - rng.permutation(40)
    for index, instance_id in enumerate(ids):
        shape = np.zeros((height, width), np.uint8)
        x, y = int(rng.integers(width)), int(rng.integers(height))
        w, h = int(rng.integers(2, max(width // 4, 3))), int(rng.integers(2, max(height // 3, 3)))
        if index % 3 == 0:
            cv2.ellipse(shape, (x, y), (w, h), float(rng.uniform(0, 180)), 0, 360, (1,), -1)
        elif index % 3 == 1:
            cv2.rectangle(shape, (x, y), (x + w, y + h), (1,), -1)
        else:
            end = (int(rng.integers(width)), int(rng.integers(height)))
            cv2.line(shape, (x, y), end, (1,), 2)
        inside = shape == 1
        label_map[inside] = rng.integers(channels)
        instance_map[inside] = instance_id
    return label_map, instance_map
