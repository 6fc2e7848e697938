"""Maps of eight kinds, which a fast precision is proven on beside the others: what one kind keeps
within the limits another may not.

    even      a few large regions          cells    regions of every class
    stripes   a few classes, upright       rings    a few classes, around a point
    slopes    slanted bands                blocks   small squares of every class
    crowd     many small instances         lines    thin lines over even ground
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from sceneloom.contract import Contract
from sceneloom.request import Request, prepare

Regions = npt.NDArray[np.intp]
"""[H, W]: which region a pixel belongs to, 0 to at most 200."""
_MOST_REGIONS = 200
_FEW = 6


def draw_kinds(contract: Contract, height: int, width: int, seed: int) -> list[Request]:
    """Draw a map of each kind.

    Args:
        contract: decides the classes and which inputs there are.
        height: pixels, as the network takes it.
        width: likewise.
        seed: equal seeds give equal maps.
    """
    return [
        _request(contract, draw(height, width, np.random.default_rng((seed, number))), few, number)
        for number, (draw, few) in enumerate(KINDS.values())
    ]


def _request(contract: Contract, regions: Regions, few: bool, seed: int) -> Request:
    """A class and an instance for each region."""
    rng = np.random.default_rng((seed, regions.size))
    channels = contract.schema.channels
    classes = rng.permutation(channels)[: _FEW if few else channels]
    of_region = classes[rng.integers(0, len(classes), _MOST_REGIONS + 1)]
    of_region[: len(classes)] = classes[: len(of_region)]
    label_map = of_region[regions].astype(np.uint8)
    needs = contract.boundaries or contract.style_channels > 0
    return prepare(contract, label_map, regions.astype(np.int32) if needs else None)


def _even(height: int, width: int, rng: np.random.Generator) -> Regions:
    rows, columns = _grid(height, width)
    return (rows > rng.uniform(0.3, 0.5)) + 2 * (columns > rng.uniform(0.6, 0.8)).astype(np.intp)


def _stripes(height: int, width: int, rng: np.random.Generator) -> Regions:
    _, columns = _grid(height, width)
    return (columns * rng.integers(20, 28)).astype(np.intp) + np.zeros((height, 1), np.intp)


def _slopes(height: int, width: int, rng: np.random.Generator) -> Regions:
    rows, columns = _grid(height, width)
    return ((rows + rng.uniform(0.2, 0.6) * columns) * 12).astype(np.intp)


def _crowd(height: int, width: int, rng: np.random.Generator) -> Regions:
    regions = np.zeros((height, width), np.intp)
    side = max(min(height, width) // 16, 2)
    for number in range(1, 120):
        row, column = rng.integers(0, height), rng.integers(0, width)
        regions[row : row + side, column : column + side // 2 + 1] = number
    return regions


def _cells(height: int, width: int, rng: np.random.Generator) -> Regions:
    rows, columns = _grid(height, width)
    nearest = np.full((height, width), np.inf)
    regions = np.zeros((height, width), np.intp)
    for number in range(60):
        row, column = rng.uniform(size=2)
        distance = (rows - row) ** 2 + (columns - column) ** 2 * (width / height) ** 2
        regions[distance < nearest] = number
        nearest = np.minimum(nearest, distance)
    return regions


def _rings(height: int, width: int, rng: np.random.Generator) -> Regions:
    rows, columns = _grid(height, width)
    row, column = rng.uniform(0.3, 0.7, 2)
    distance: npt.NDArray[np.float64] = np.hypot(rows - row, columns - column)
    return (distance * 16).astype(np.intp)


def _blocks(height: int, width: int, rng: np.random.Generator) -> Regions:
    numbers = rng.integers(0, _MOST_REGIONS, (-(-height // 16), -(-width // 16)))
    regions: Regions = np.kron(numbers, np.ones((16, 16), np.intp))[:height, :width]
    return regions


def _lines(height: int, width: int, rng: np.random.Generator) -> Regions:
    regions = np.zeros((height, width), np.int32)
    for number in range(1, 40):
        start = (int(rng.integers(width)), int(rng.integers(height)))
        end = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.line(regions, start, end, (number,), 1 + number % 3)
    return regions.astype(np.intp)


def _grid(height: int, width: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Rows [H, 1] and columns [1, W], each from 0 to below 1."""
    return np.arange(height)[:, None] / height, np.arange(width)[None] / width


_Draw = Callable[[int, int, np.random.Generator], Regions]
KINDS: dict[str, tuple[_Draw, bool]] = {
    "even": (_even, True),
    "stripes": (_stripes, True),
    "slopes": (_slopes, True),
    "crowd": (_crowd, True),
    "cells": (_cells, False),
    "rings": (_rings, True),
    "blocks": (_blocks, False),
    "lines": (_lines, True),
}
"""Name -> how its regions are drawn, and whether a few classes occur in it or all."""
