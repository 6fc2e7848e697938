"""Engines in turn: a round gives each one a turn on the same maps, so that a machine that drifts
does not decide a ratio taken within a round. The order changes from round to round, drawn by a
seed: one that rotates would leave everybody the same neighbour in front, whose heat and caches are
then part of every turn.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping

import numpy as np

from sceneloom.errors import SceneLoomError
from sceneloom.maps import Image
from sceneloom_bench.bench_inputs import batches
from sceneloom_bench.engine.turns import Runner
from sceneloom_bench.reports.report import say


@dataclasses.dataclass(kw_only=True)
class Taken:
    """What one engine took, by round, the warm-up left out."""

    seconds: list[list[float]] = dataclasses.field(default_factory=list)
    """Of each batch."""
    device_seconds: list[list[float]] = dataclasses.field(default_factory=list)
    """Of each batch, where the engine measures it; empty rounds where not."""
    pictures: dict[int, Image] = dataclasses.field(default_factory=dict)
    """By number of the map, each map's first."""
    grown_mib: float = 0.0
    """What the GPU's memory in use grew by in the warm-up."""


def run_rounds(
    runners: Mapping[str, Runner],
    maps: int,
    *,
    batch: int,
    rounds: int,
    turn: int,
    gpu_used: Callable[[], float] = lambda: 0.0,
) -> tuple[dict[str, Taken], dict[str, str]]:
    """Let everything take turns; the first round is warm-up and not counted.

    Args:
        runners: by name, holding the maps already.
        maps: how many they hold.
        batch: pictures at once.
        rounds: measured rounds.
        turn: batches of one engine in a round.
        gpu_used: MiB of the GPU's memory in use.

    Returns:
        what each took, and why those that failed did: they are in the first no more.
    """
    taken = {name: Taken() for name in runners}
    failed: dict[str, str] = {}
    numbers = batches(range(maps), batch)
    random = np.random.default_rng(0)
    for number in range(rounds + 1):
        work = list(itertools.islice(numbers, turn))
        names, said = list(taken), []
        for name in [names[place] for place in random.permutation(len(names))]:
            of_all = frozenset(itertools.chain.from_iterable(work))
            before = gpu_used() if not number else 0.0
            try:
                done = runners[name].turn(work, of_all - taken[name].pictures.keys())
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
        what = f"round {number} of {rounds}" if number else "warm-up"
        say(f"batch {batch}, {what}, seconds: {', '.join(said)}")
    return taken, failed
