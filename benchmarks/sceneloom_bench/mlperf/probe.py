"""What a server can do, measured for a moment before LoadGen runs: how long a request takes alone,
and how many pictures a second come of several at once. Only targets are made from it.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence

from sceneloom.request import Request
from sceneloom.synthesizer import Synthesizer
from sceneloom_bench.bench_inputs import batches
from sceneloom_bench.load.closed_loop import run_closed

_REQUESTS = 3
_LONGEST = 200
_RISE = 1.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capacity:
    """What a server reached in closed loops."""

    rate: float
    """Pictures per second, of the best of them."""
    in_flight: int
    """Requests in flight of that one."""
    tried: Sequence[int]
    """Requests in flight of all."""

    def __str__(self) -> str:
        """As a mark says it."""
        said = f"{self.rate:.4g}/s, which a closed loop of {self.in_flight} requests reached just "
        if len(self.tried) == 1:
            return f"{said}before"
        return f"{said}before, the best of {', '.join(map(str, self.tried))} in flight"


def single_seconds(synthesizer: Synthesizer, maps: Sequence[Request], seconds: float) -> float:
    """The median time of a request alone, after one that is not counted.

    Args:
        synthesizer: who is asked.
        maps: what, in turn.
        seconds: how long; at least three requests.
    """
    turning = batches(maps, 1)
    synthesizer.run_requests(next(turning))
    took: list[float] = []
    while len(took) < _REQUESTS or (sum(took) < seconds and len(took) < _LONGEST):
        start = time.perf_counter()
        synthesizer.run_requests(next(turning))
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def capacity(
    synthesizer: Synthesizer,
    maps: Sequence[Request],
    *,
    in_flight: int,
    batch: int,
    seconds: float,
) -> float:
    """Pictures per second in a closed loop.

    Args:
        synthesizer: who is asked.
        maps: what, in turn; of equal size, or in batches of one.
        in_flight: requests at once.
        batch: pictures of each.
        seconds: how long requests are sent; those in flight are waited for, and count.
    """

    def send(number: int) -> object:
        chosen = [maps[(number * batch + each) % len(maps)] for each in range(batch)]
        return synthesizer.run_requests(chosen)

    load = run_closed(
        send, in_flight=in_flight, seconds=seconds, requests=in_flight, most_failures=1
    )
    return batch * len(load.answered) / load.seconds


def highest_capacity(
    synthesizer: Synthesizer,
    maps: Sequence[Request],
    *,
    first: int,
    most: int,
    seconds: float,
) -> Capacity:
    """The best of closed loops of single pictures, each of twice as many requests as the one
    before, until the rate rises by less than 5 %: a server that joins requests into batches reaches
    its best only with more in flight than it runs at once.

    Args:
        synthesizer: who is asked.
        maps: what, in turn.
        first: requests in flight of the first loop.
        most: of the last at most; the first is run in any case.
        seconds: of each loop.
    """
    tried = [first]
    best, at = capacity(synthesizer, maps, in_flight=first, batch=1, seconds=seconds), first
    while tried[-1] < most:
        tried.append(min(2 * tried[-1], most))
        rate = capacity(synthesizer, maps, in_flight=tried[-1], batch=1, seconds=seconds)
        enough = rate < _RISE * best
        if rate > best:
            best, at = rate, tried[-1]
        if enough:
            break
    return Capacity(rate=best, in_flight=at, tried=tried)
