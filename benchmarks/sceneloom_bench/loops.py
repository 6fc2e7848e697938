"""Closed and open loops of requests, and what became of each request.

The closed loop keeps so many requests in flight, and sends the next when one is answered. It asks
what a server can do at most. It cannot say what users who come by themselves would wait: while the
server stands still, it asks nothing.

The open loop sends requests at planned moments, and latency counts from the plan. A worker takes
the next request, sleeps until its moment, sends it and waits for the answer. Where all workers are
busy a request is sent late, and its waiting is part of its latency. So nothing the server does can
make the loop ask less: there is no coordinated omission (Tene, How NOT to Measure Latency).

All moments are of `time.perf_counter`, in seconds from the load's start.
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
"""Sends the request of a number, and returns once its picture is in memory; raises ServingError."""
Arrivals = Literal["constant", "poisson"]
"""Evenly spaced, or independent of each other with exponential gaps, as many users are."""
_LEAD_IN = 0.1
"""Seconds for the workers of an open loop to start."""


class LoadFailedError(SceneLoomError):
    """Too many requests of a load failed in a row, or all."""

    def __init__(self, what: str, last: ServingError | None) -> None:
        super().__init__(f"{what}, the last one so: {last}")
        self.mark = f"{what}, the last one with {type(last).__name__}"
        """For a report: without the server's own words, which may name addresses and folders."""


class Sent(NamedTuple):
    """One request."""

    planned: float
    """When it should have been sent; its latency begins here."""
    sent: float
    done: float
    """Moment of its answer or failure."""
    waited: bool
    """Whether no worker was free when it should have been sent."""
    failure: str
    """The error's class; empty for an answer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """All requests of a load."""

    requests: Sequence[Sent]
    in_flight: int = 1
    """Of a closed loop: so many requests are on their way when it ends; 1 of an open loop."""

    @property
    def answered(self) -> list[Sent]:
        """Requests with a picture."""
        return [one for one in self.requests if not one.failure]

    @property
    def latencies(self) -> list[float]:
        """Seconds from planned to answered, in the order of the plan."""
        return [one.done - one.planned for one in self.answered]

    @property
    def lateness(self) -> list[float]:
        """Seconds from planned to sent where a worker was free: the generator's own delay."""
        return [one.sent - one.planned for one in self.requests if not one.waited]

    @property
    def seconds(self) -> float:
        """From the start to the last answer."""
        return max(one.done for one in self.requests)

    @property
    def failures(self) -> Mapping[str, int]:
        """Error class -> count."""
        return dict(collections.Counter(one.failure for one in self.requests if one.failure))


class _Recorder:
    """Sends requests from many threads and keeps what became of them."""

    def __init__(self, send: Send, most_failures: int) -> None:
        self._send, self._most_failures = send, most_failures
        self._in_a_row = 0
        self._last: ServingError | None = None
        self._sent: list[Sent] = []
        self._start = 0.0
        self.stopped = threading.Event()
        """Set once something ended the load."""

    def run(self, work: Callable[[], None], threads: int, lead_in: float = 0) -> Sequence[Sent]:
        """Call `work`, which calls `ask`, in so many threads; moment 0 is `lead_in` from now."""
        ready = threading.Barrier(threads + 1)

        def begin() -> None:
            ready.wait()
            work()

        with ThreadPoolExecutor(threads) as pool:
            try:
                begun = [pool.submit(begin) for _ in range(threads)]
            except RuntimeError as error:
                ready.abort()  # or those that have begun would wait for ever
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
            raise LoadFailedError(f"{self._most_failures} requests in a row failed", self._last)
        if all(one.failure for one in self._sent):
            raise LoadFailedError("all requests failed", self._last)
        return sorted(self._sent)

    def now(self) -> float:
        """Seconds since moment 0."""
        return time.perf_counter() - self._start

    def ask(self, number: int, planned: float | None = None, *, waited: bool = False) -> None:
        """Send a request now; without a plan it was planned for now."""
        failure = ""
        sent = self.now()
        try:
            self._send(number)
            self._in_a_row = 0
        except ServingError as error:
            failure = type(error).__name__
            self._in_a_row += 1
            self._last = error
            if self._in_a_row >= self._most_failures:
                self.stopped.set()
        except BaseException:
            self.stopped.set()
            raise
        self._sent.append(
            Sent(sent if planned is None else planned, sent, self.now(), waited, failure)
        )


def run_closed(
    send: Send, *, in_flight: int, seconds: float, requests: int, most_failures: int = 100
) -> Load:
    """Keep requests in flight for at least so many seconds and so many requests.

    Raises:
        LoadFailedError: `most_failures` requests in a row failed, or all.
    """
    recorder = _Recorder(send, most_failures)
    numbers = itertools.count()

    def work() -> None:
        while not recorder.stopped.is_set():
            number = next(numbers)  # one call, so no other thread gets the same
            if number >= requests and recorder.now() >= seconds:
                return
            recorder.ask(number)

    return Load(requests=recorder.run(work, in_flight), in_flight=in_flight)


def run_open(
    send: Send, planned: Sequence[float], *, most_in_flight: int = 256, most_failures: int = 100
) -> Load:
    """Send requests at their moments (`plan_arrivals`) and wait for the last answer; a request that
    finds none of `most_in_flight` workers free waits, and is marked.

    Raises:
        LoadFailedError: `most_failures` requests in a row failed, or all.
    """
    recorder = _Recorder(send, most_failures)
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

    threads = min(most_in_flight, len(planned))
    return Load(requests=recorder.run(work, threads, _LEAD_IN))


def plan_arrivals(arrivals: Arrivals, rate: float, count: int, seed: int) -> list[float]:
    """Seconds from the start at which each request is to be sent, in order.

    All `count` come within ``count / rate`` seconds, so that a load has exactly its rate:
    exponential gaps are drawn, one more than requests, and scaled to fill that time. It is a
    Poisson process whose count is known. Equal seeds give equal patterns, stretched by the rate.
    """
    if arrivals == "constant":
        return [number / rate for number in range(count)]
    ends = np.cumsum(np.random.default_rng(seed).exponential(1.0, count + 1))
    return [float(moment) for moment in ends[:-1] / ends[-1] * (count / rate)]


def count_for(rate: float, seconds: float, at_least: int) -> int:
    """Requests that a rate gives in some seconds, and not fewer than `at_least`."""
    return max(at_least, math.ceil(rate * seconds))


def rounded_rate(rate: float) -> float:
    """A rate to two significant digits: shares of a measured rate would differ in every run, and no
    two reports could be compared load by load.
    """
    return float(f"{rate:.2g}")
