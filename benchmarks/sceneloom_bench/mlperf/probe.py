"""What a server can do, measured for a moment before LoadGen runs: how long a request takes alone,
and how many pictures a second come of several at once. Only targets are made from it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from sceneloom.synthesizer import Request, Synthesizer
from sceneloom_bench.bench_inputs import batches
from sceneloom_bench.load.closed_loop import run_closed

_REQUESTS = 3
_LONGEST = 200


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
