"""Closed and open loops of requests, and the outcome of each request.

The closed loop keeps a number of requests in flight and finds the server's capacity. It sends
nothing while the server stalls, so it cannot tell the latency of independent users.

The open loop sends requests at planned moments, and latency counts from the plan. A worker takes
the next request, sleeps until its moment, sends it and waits for the answer. If all workers are
busy, a request is late, and the delay is part of its latency: no coordinated omission (Tene, How
NOT to Measure Latency).

Moments are seconds of `time.perf_counter` since the load's start.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import numpy as np

from sceneloom.errors import SceneLoomError, ServingError

Send = Callable[[int], object]
"""Sends the request of a number and waits for its picture; raises ServingError."""
Arrivals = Literal["constant", "poisson"]
"""Even gaps, or exponential gaps like those of independent users."""
_LEAD_IN = 0.1
"""Seconds for the workers of an open loop to start."""


class LoadFailedError(SceneLoomError):
    """All requests of a load failed, or too many in a row."""

    def __init__(self, what: str, last: ServingError | None) -> None:
        super().__init__(f"{what}, the last one with: {last}")
        self.mark = f"{what}, the last one with {type(last).__name__}"
        """The text for a report, without the server's words: they may name addresses."""


class Sent(NamedTuple):
    """One request."""

    planned: float
    """Planned moment of sending, from which latency counts."""
    sent: float
    done: float
    """Moment of the answer or failure."""
    waited: bool
    """Whether no worker was free at the planned moment."""
    failure: str
    """Class of the error; empty for an answer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """All requests of a load."""

    requests: Sequence[Sent]
    in_flight: int = 1
    """Requests on their way at the end of a closed loop; 1 for an open loop."""

    @property
    def answered(self) -> list[Sent]:
        """Requests with a picture."""
        return [one for one in self.requests if not one.failure]

    @property
    def latencies(self) -> list[float]:
        """Seconds from planned to answered, in planned order."""
        return [one.done - one.planned for one in self.answered]

    @property
    def lateness(self) -> list[float]:
        """Seconds from planned to sent if a worker was free: the generator's own delay."""
        return [one.sent - one.planned for one in self.requests if not one.waited]

    @property
    def seconds(self) -> float:
        """Seconds from the start to the last answer."""
        return max(one.done for one in self.requests)

    @property
    def failures(self) -> Mapping[str, int]:
        """Error class -> count."""
        return dict(collections.Counter(one.failure for one in self.requests if one.failure))


class _Recorder:
    """Sends requests from many threads and records them."""

    def __init__(self, send: Send, max_failures: int) -> None:
        self._send, self._max_failures = send, max_failures
        self._in_a_row = 0
        self._last: ServingError | None = None
        self._sent: list[Sent] = []
        self._start = 0.0
        self.stopped = threading.Event()
        """Set after an error that ends the load."""

    def run(self, work: Callable[[], None], threads: int, lead_in: float = 0) -> Sequence[Sent]:
        """Call `work`, which calls `ask`, in threads; moment 0 is `lead_in` seconds from now."""
        ready = threading.Barrier(threads + 1)

        def begin() -> None:
            ready.wait()
            work()

        with ThreadPoolExecutor(threads) as pool:
            try:
                begun = [pool.submit(begin) for _ in range(threads)]
            except RuntimeError as error:
                ready.abort()  # or the threads that started would wait for ever
                raise SceneLoomError(f"{threads} requests at once: {error}") from None
            self._start = time.perf_counter() + lead_in
            ready.wait()
            try:
                for one in begun:
                    one.result()
            except BaseException:
                self.stopped.set()
                raise
        if self.stopped.is_set():
            raise LoadFailedError(f"{self._max_failures} requests in a row failed", self._last)
        if all(one.failure for one in self._sent):
            raise LoadFailedError("all requests failed", self._last)
        return sorted(self._sent)

    def now(self) -> float:
        """Seconds since moment 0."""
        return time.perf_counter() - self._start

    def ask(self, number: int, planned: float | None = None, *, waited: bool = False) -> None:
        """Send a request now, planned for now unless `planned` is given."""
        failure = ""
        sent = self.now()
        try:
            self._send(number)
            self._in_a_row = 0
        except ServingError as error:
            failure = type(error).__name__
            self._in_a_row += 1
            self._last = error
            if self._in_a_row >= self._max_failures:
                self.stopped.set()
        except BaseException:
            self.stopped.set()
            raise
        self._sent.append(
            Sent(sent if planned is None else planned, sent, self.now(), waited, failure)
        )


def run_closed(
    send: Send, *, in_flight: int, seconds: float, requests: int, max_failures: int = 100
) -> Load:
    """Keep `in_flight` requests on their way for `seconds` and `requests`; raises as `run_open`."""
    recorder = _Recorder(send, max_failures)
    numbers = itertools.count()

    def work() -> None:
        while not recorder.stopped.is_set():
            number = next(numbers)  # one call, so no other thread gets the same
            if number >= requests and recorder.now() >= seconds:
                return
            recorder.ask(number)

    return Load(requests=recorder.run(work, in_flight), in_flight=in_flight)


def run_open(
    send: Send, planned: Sequence[float], *, max_in_flight: int = 256, max_failures: int = 100
) -> Load:
    """Send requests at their moments from `max_in_flight` workers and wait for all answers. Raises
    LoadFailedError if `max_failures` requests in a row failed, or all.
    """
    recorder = _Recorder(send, max_failures)
    numbers = itertools.count()

    def work() -> None:
        while True:
            number = next(numbers)  # one call, so no other thread gets the same
            if number >= len(planned):
                return
            ahead = planned[number] - recorder.now()
            if recorder.stopped.wait(ahead) if ahead > 0 else recorder.stopped.is_set():
                return
            recorder.ask(number, planned[number], waited=ahead < 0)

    threads = min(max_in_flight, len(planned))
    return Load(requests=recorder.run(work, threads, _LEAD_IN))


def plan_arrivals(arrivals: Arrivals, rate: float, count: int, seed: int) -> list[float]:
    """Planned moments of `count` requests, in order, in seconds from the start.

    Poisson arrivals fill exactly ``count / rate`` seconds: exponential gaps, one more than
    requests, are scaled to that time. Equal seeds give equal patterns, stretched by the rate.
    """
    if arrivals == "constant":
        return [number / rate for number in range(count)]
    ends = np.cumsum(np.random.default_rng(seed).exponential(1.0, count + 1))
    return [float(moment) for moment in ends[:-1] / ends[-1] * (count / rate)]


def count_for(rate: float, seconds: float, at_least: int) -> int:
    """Requests of a rate in some seconds, at least `at_least`."""
    return max(at_least, math.ceil(rate * seconds))


def rounded_rate(rate: float) -> float:
    """A rate to two significant digits, so that two runs can have equal loads to compare."""
    return float(f"{rate:.2g}")
