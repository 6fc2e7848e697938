"""The maps that benchmarks send: another one every time, equal in every run, checked and prepared
before anything is timed.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import psutil

from sceneloom.contract import Contract
from sceneloom.errors import SizeError
from sceneloom.maps import DEFAULT_MAX_PIXELS
from sceneloom.synthesizer import Request
from sceneloom_export.proof import draw_map, read_own_maps

_BYTES_PER_PIXEL = 5
"""Of a label map and an instance map."""
_T = TypeVar("_T")
_SEED = 10_000
"""Added to a map's number: apart from the maps that exports are proven on."""


def bench_maps(
    contract: Contract, size: tuple[int, int], count: int, folder: Path | None = None
) -> list[Request]:
    """Maps for a benchmark.

    Args:
        contract: of the model; the schema decides what is drawn, streets for Cityscapes'.
        size: (height, width) of drawn maps.
        count: how many; of a folder's maps, at most so many.
        folder: maps to use in place of drawn ones, as `sceneloom render` takes them.

    Raises:
        SizeError: the model does not take maps of this size without padding, or there is no memory
            for so many.
        InputError: the folder has none, or a broken one.
    """
    if folder is not None:
        return read_own_maps(contract, folder, count).requests
    if contract.network_size(*size) != size:
        height, width = contract.network_size(*size)
        raise SizeError(
            f"the model does not take {size[1]}x{size[0]} without padding; the next is "
            f"{width}x{height}"
        )
    _check_room(size, count)
    return [draw_map(contract, size, _SEED + number) for number in range(count)]


def _check_room(size: tuple[int, int], count: int) -> None:
    """Refuse maps that nothing would take, or that this machine has no memory for."""
    pixels, text = size[0] * size[1], f"{size[1]}x{size[0]}"
    if pixels > DEFAULT_MAX_PIXELS:
        raise SizeError(f"{text} is {pixels:,} pixels; a map has at most {DEFAULT_MAX_PIXELS:,}")
    needed, free = count * pixels * _BYTES_PER_PIXEL, psutil.virtual_memory().available
    if needed > free:
        raise SizeError(
            f"{count} maps of {text} take {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB "
            "are free"
        )


def batches(maps: Sequence[_T], batch: int) -> Iterator[list[_T]]:
    """Batches of the maps, or of their numbers, in turn, without end: no two that follow each other
    are equal where there are more maps than one batch takes.
    """
    turning = itertools.cycle(maps)
    while True:
        yield list(itertools.islice(turning, batch))


def inputs_hash(maps: Sequence[Request]) -> str:
    """SHA-256 of all tensors, for `Report.subject`: equal hashes, equal inputs."""
    digest = hashlib.sha256()
    for request in maps:
        for array in (request.label_map, request.instance_map, request.style):
            if array is not None:
                digest.update(f"{array.dtype}{array.shape}".encode())
                digest.update(array.tobytes())
    return digest.hexdigest()
