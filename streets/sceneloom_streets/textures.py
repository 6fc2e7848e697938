"""The textures of surfaces: one atlas of square tiles, made once from a fixed seed.

A tile is relative brightness, about -1..1, and repeats without a seam. Tiles lie below each other,
so one `cv2.remap` reads every pixel of a photograph from its own tile.
"""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

TILE = 256
"""Texels along a side of a tile."""
PITCH = TILE + 2
"""Rows from one tile of the atlas to the next: each is followed by its own first two rows."""
NAMES = (
    "plain",
    "smooth",
    "asphalt",
    "slabs",
    "cobbles",
    "plaster",
    "brick",
    "leaves",
    "grass",
    "tiles",
    "slats",
    "cloth",
    "ribs",
)


@functools.cache
def atlas() -> Floats:
    """All tiles below each other in the order of `NAMES`, float32 [tiles * PITCH, TILE + 2]."""
    rng = np.random.default_rng(20)
    y, x = np.mgrid[0:TILE, 0:TILE] / TILE
    tiles: dict[str, npt.NDArray[Any]] = {"plain": np.zeros((TILE, TILE))}
    tiles["smooth"] = fractal(rng, TILE, 1.5)
    # Grain of two sizes with a few light stones and dark pores.
    grain = _standardised(_noise(rng, 0.6, 0.6))
    stones = 0.3 * grain + 0.25 * _standardised(_noise(rng, 2.5, 2.5))
    tiles["asphalt"] = _float32(stones + 0.5 * (grain > 2.2) - 0.4 * (grain < -2.2))
    tiles["slabs"] = _blocks(rng, rows=4, columns=4, tone=0.35, stagger=0.5)
    tiles["cobbles"] = _blocks(rng, rows=16, columns=16, tone=0.5, stagger=0.5)
    # Streaks of rain, fine roughness, and cloudy dirt.
    streaks = _standardised(_noise(rng, 2, 40))
    rough = 0.2 * _standardised(_noise(rng, 1, 1))
    tiles["plaster"] = _float32(rough + 0.6 * fractal(rng, TILE, 1.2) + 0.2 * streaks)
    tiles["brick"] = _blocks(rng, rows=24, columns=8, tone=0.45, stagger=0.5)
    # Leaves of several sizes, light ones before dark gaps.
    leaves = 0.55 * fractal(rng, TILE, 1.0) + 0.4 * _standardised(_noise(rng, 1.3, 1.1))
    leaves += 0.6 * _standardised(_noise(rng, 7, 6))
    tiles["leaves"] = _float32(np.tanh(0.9 * leaves))
    tiles["grass"] = _standardised(_noise(rng, 0.8, 1.6)) * 0.5 + 0.4 * fractal(rng, TILE, 1.4)
    # Rows of roof tiles, each darker towards its lower edge.
    tones = rng.normal(0, 0.25, (20, 32))
    tiles["tiles"] = 0.5 - (y * 20) % 1 + tones[(y * 20).astype(int), (x * 32).astype(int)]
    tiles["slats"] = _slats(rng, 16, 0.78)
    tiles["cloth"] = _standardised(_noise(rng, 8, 14)) * 0.5
    tiles["ribs"] = _slats(rng, 12, 0.92) * 0.6
    return _float32(np.concatenate([np.pad(tiles[name], (0, 2), mode="wrap") for name in NAMES]))


def fractal(rng: np.random.Generator, side: int, fall: float) -> Floats:
    """Seamless cloudy noise of mean 0 and deviation 0.5, float32 [side, side].

    `fall` is the power of the frequency by which amplitudes fall: 1 is rough, 2 is soft.
    """
    spectrum = np.fft.rfft2(rng.standard_normal((side, side)))
    rows, columns = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]
    frequency = np.hypot(rows, columns) * side
    spectrum *= np.where(frequency > 0, np.maximum(frequency, 1), np.inf) ** -fall
    return _standardised(np.fft.irfft2(spectrum, s=(side, side))) * np.float32(0.5)


def _noise(rng: np.random.Generator, across: float, along: float) -> Floats:
    """White noise blurred by `across` and `along` texels."""
    noise = np.tile(rng.standard_normal((TILE, TILE)).astype(np.float32), (3, 3))
    blurred = cv2.GaussianBlur(noise, (0, 0), sigmaX=across, sigmaY=along)
    return _float32(blurred[TILE : 2 * TILE, TILE : 2 * TILE])


def _standardised(values: npt.NDArray[Any]) -> Floats:
    """The values shifted and stretched to mean 0 and deviation 1."""
    return _float32((values - values.mean()) / values.std())


def _blocks(
    rng: np.random.Generator, *, rows: int, columns: int, tone: float, stagger: float
) -> Floats:
    """Courses of blocks with dark joints; every block has its own tone."""
    y, x = np.mgrid[0:TILE, 0:TILE] / TILE
    row = np.floor(y * rows).astype(int)
    shifted = (x * columns + stagger * (row % 2)) % columns
    column = shifted.astype(int)
    tones = rng.normal(0, tone, (rows, columns))
    joint = max(1.5 / TILE * rows, 0.06), max(1.5 / TILE * columns, 0.03)
    seam = (y * rows % 1 < joint[0]) | (shifted % 1 < joint[1])
    tile = np.where(seam, -1.0, tones[row, column] + 0.2) + 0.15 * _noise(rng, 0.7, 0.7)
    return _float32(tile)


def _slats(rng: np.random.Generator, count: int, share: float) -> Floats:
    """Upright boards with dark gaps; boards take `share` of the width."""
    x = np.arange(TILE) / TILE * count
    board = np.where(x % 1 < share, rng.normal(0.2, 0.15, count)[x.astype(int)], -1.0)
    return _float32(board[None, :] + 0.1 * _noise(rng, 1, 8))


def _float32(values: npt.NDArray[Any]) -> Floats:
    return np.asarray(values, np.float32)
