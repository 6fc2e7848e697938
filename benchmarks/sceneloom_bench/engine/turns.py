"""Batches in turn through one engine, timed from maps on the host to pictures on the host.

What a batch is made of is stacked before its clock starts: what is timed is `run_batch`, which ends
when the pictures are on the host, and so is synchronised on a GPU, too.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from sceneloom.maps import Image
from sceneloom.request import Request
from sceneloom.synthesizer import Synthesizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
    """What one turn gave."""

    seconds: list[float]
    """Of each batch, maps on the host to pictures on the host."""
    device_seconds: list[float]
    """Of each batch, the GPU's part between two CUDA events; empty where that is not measured."""
    pictures: dict[int, Image]
    """By number of their map: uint8 [H, W, 3], those that were asked for."""


class Runner(Protocol):
    """Something that takes turns."""

    def turn(self, batches: Sequence[Sequence[int]], show: frozenset[int]) -> Turn:
        """See `Turns.turn`."""


class DeviceTimed(Synthesizer):
    """An engine that knows how long the GPU worked for its last batch."""

    device_seconds: float | None = None
    """None where it was not measured."""


class Turns:
    """Takes turns with one engine, in this process."""

    def __init__(self, engine: Synthesizer) -> None:
        """Nothing is rendered before `hold` has given the maps.

        Args:
            engine: stays the caller's, to be closed.
        """
        self._engine = engine
        self._requests: list[Request] = []

    def hold(self, requests: Sequence[Request]) -> None:
        """Keep the maps that turns name by number."""
        self._requests = list(requests)

    def turn(self, batches: Sequence[Sequence[int]], show: frozenset[int] = frozenset()) -> Turn:
        """Render batches, one after another.

        Args:
            batches: numbers of maps.
            show: numbers of the maps whose pictures are wanted.
        """
        seconds, device, pictures = [], [], {}
        for numbers in batches:
            inputs = _stacked([self._requests[n] for n in numbers])
            start = time.perf_counter()
            images = self._engine.run_batch(*inputs)
            seconds.append(time.perf_counter() - start)
            if isinstance(self._engine, DeviceTimed) and self._engine.device_seconds is not None:
                device.append(self._engine.device_seconds)
            for number, image in zip(numbers, images, strict=True):
                if number in show:
                    pictures[number] = image.copy()
        return Turn(seconds=seconds, device_seconds=device, pictures=pictures)

    def run(self, *maps: Any) -> tuple[float, Any]:
        """Seconds of one picture, checks of its maps included, and the picture.

        Args:
            maps: as `Synthesizer.synthesize` takes them.
        """
        start = time.perf_counter()
        image = self._engine.synthesize(*maps)
        return time.perf_counter() - start, image


def _stacked(requests: Sequence[Request]) -> tuple[Any, Any, Any]:
    columns = [(r.label_map, r.instance_map, r.style) for r in requests]
    return tuple(  # type: ignore[return-value]
        None if column[0] is None else np.stack(column) for column in zip(*columns, strict=True)
    )
