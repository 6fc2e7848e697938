"""Turns: in each round every candidate has one turn, so that a machine that drifts does not decide
a ratio within a round.

The order of each round is drawn by a seed. A rotating order would give each candidate the same
predecessor, whose heat and caches would be part of every turn.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np

from sceneloom import progress
from sceneloom.errors import SceneLoomError
from sceneloom.maps import Image
from sceneloom.request import Request, stack
from sceneloom.synthesizer import Synthesizer
from sceneloom_bench.child_process import ChildProcess
from sceneloom_bench.harness import batches


def rounds_in_turn(names: Collection[str], rounds: int) -> Iterator[tuple[int, list[str]]]:
    """Number of each round from 0, and the order of the names left then, equal in every run."""
    random = np.random.default_rng(0)
    for number in range(rounds):
        present = list(names)
        yield number, [present[index] for index in random.permutation(len(present))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    """Result of an engine's turn."""

    seconds: list[float]
    """Seconds of each batch, maps on the host to pictures on the host."""
    device_seconds: list[float]
    """Seconds of each batch between two CUDA events; empty if not measured."""
    pictures: dict[int, Image]
    """Number of the map -> uint8 [H, W, 3], for the maps to show."""


class Runner(Protocol):
    """An engine that takes turns."""

    def turn(self, batches: Sequence[Sequence[int]], show: frozenset[int]) -> Round:
        """Render batches of map numbers; keep the pictures of the numbers in `show`."""


class EngineRunner:
    """Take turns with an engine in this process."""

    def __init__(self, engine: Synthesizer) -> None:
        self._engine = engine
        self._requests: list[Request] = []

    def __enter__(self) -> EngineRunner:
        self._engine.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._engine.__exit__(*error)

    def largest(self) -> int:
        """Largest batch."""
        return self._engine.max_batch_size

    def hold(self, requests: Sequence[Request]) -> None:
        """Keep the maps that turns name by number."""
        self._requests = list(requests)

    def turn(self, batches: Sequence[Sequence[int]], show: frozenset[int] = frozenset()) -> Round:
        """Take a turn; see `Runner.turn`. The clock of a batch contains `run_batch` only."""
        seconds, device, pictures = [], [], {}
        for numbers in batches:
            inputs = stack([self._requests[n] for n in numbers])
            start = time.perf_counter()
            images = self._engine.run_batch(*inputs)
            seconds.append(time.perf_counter() - start)
            if self._engine.device_seconds is not None:
                device.append(self._engine.device_seconds)
            for number, image in zip(numbers, images, strict=True):
                if number in show:
                    pictures[number] = image.copy()
        return Round(seconds=seconds, device_seconds=device, pictures=pictures)

    def run(self, *maps: Any) -> tuple[float, Image]:
        """Seconds of `Synthesizer.synthesize`, checks of its maps included, and the picture."""
        start = time.perf_counter()
        image = self._engine.synthesize(*maps)
        return time.perf_counter() - start, image


class EngineProcess(ChildProcess):
    """An `EngineRunner` in a process of its own; raises EngineError like `ChildProcess.call`."""

    def __init__(self, open_engine: Callable[[], Synthesizer], **limits: float) -> None:
        """Start the process, which loads the engine (picklable) at once."""
        super().__init__(functools.partial(_open_runner, open_engine), **limits)

    def largest(self) -> int:
        """Largest batch."""
        return cast(int, self.ask("largest"))

    def hold(self, requests: Sequence[Request]) -> None:
        """Send the maps that turns name by number."""
        self.ask("hold", list(requests))

    def turn(self, batches: Sequence[Sequence[int]], show: frozenset[int] = frozenset()) -> Round:
        """Take a turn; see `Runner.turn`. The limit counts per batch."""
        return cast(Round, self.ask("turn", batches, show, times=max(len(batches), 1)))

    def run(self, *maps: Any) -> tuple[float, Image]:
        """Run `EngineRunner.run`, timed inside the process."""
        return cast(tuple[float, Image], self.ask("run", *maps))


def _open_runner(open_engine: Callable[[], Synthesizer]) -> EngineRunner:
    return EngineRunner(open_engine())


@dataclasses.dataclass(kw_only=True)
class Timings:
    """Results of one engine by round, without the warm-up."""

    seconds: list[list[float]] = dataclasses.field(default_factory=list)
    device_seconds: list[list[float]] = dataclasses.field(default_factory=list)
    """Seconds of each batch on the GPU; empty rounds if not measured."""
    pictures: dict[int, Image] = dataclasses.field(default_factory=dict)
    """Number of the map -> its first picture."""
    grown_mib: float = 0.0
    """Growth of the GPU's used memory in the warm-up."""


def run_rounds(
    runners: Mapping[str, Runner],
    maps: int,
    *,
    batch: int,
    rounds: int,
    turn: int,
    gpu_used: Callable[[], float] = lambda: 0.0,
) -> tuple[dict[str, Timings], dict[str, str]]:
    """Let engines that hold `maps` maps take turns of `turn` batches, after a round of warm-up.
    `gpu_used` is in MiB. Returns the timings, and the reasons of the failed engines.
    """
    taken = {name: Timings() for name in runners}
    failed: dict[str, str] = {}
    numbers = batches(range(maps), batch)
    turns = progress.Steps(len(runners) * (rounds + 1))
    for number, names in rounds_in_turn(taken, rounds + 1):
        work = list(itertools.islice(numbers, turn))
        every = frozenset(itertools.chain.from_iterable(work))
        what = f"batch {batch}, {f'round {number} of {rounds}' if number else 'warm-up'}"
        said = []
        for name in names:
            before = gpu_used() if not number else 0.0
            try:
                with turns.step(f"{what}, {name}"):
                    done = runners[name].turn(work, every - taken[name].pictures.keys())
            except SceneLoomError as error:
                failed[name] = str(error)
                del taken[name]
                said.append(f"{name} failed ({error})")
                continue
            taken[name].pictures.update(done.pictures)
            said.append(f"{name} {sum(done.seconds) / len(done.seconds):.3f}")
            if number:
                taken[name].seconds.append(done.seconds)
                taken[name].device_seconds.append(done.device_seconds)
            else:
                taken[name].grown_mib = gpu_used() - before
        progress.say(f"{what}, seconds: {', '.join(said)}")
    return taken, failed
