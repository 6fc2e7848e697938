"""The requests of one load: when each was planned, sent and answered, and what failed.

All moments are of `time.perf_counter`, in seconds from the load's start.
"""

from __future__ import annotations

import collections
import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from sceneloom.errors import SceneLoomError, ServingError

Send = Callable[[int], object]
"""Sends the request of a number and returns once its picture is in memory; raises ServingError."""


class LoadFailedError(SceneLoomError):
    """A load that came to nothing: too many requests in a row failed, or all did."""

    def __init__(self, what: str, last: ServingError | None) -> None:
        """Say it.

        Args:
            what: happened.
            last: the last failure.
        """
        super().__init__(f"{what}, the last one so: {last}")
        self.mark = f"{what}, the last one with {type(last).__name__}"
        """For a report: without the server's own words, which may name addresses and folders."""


class Sent(NamedTuple):
    """One request."""

    planned: float
    """When it should have been sent; its latency begins here."""
    sent: float
    """When it was."""
    done: float
    """When its answer was there, or its failure."""
    waited: bool
    """Whether no worker was free when it should have been sent."""
    failure: str
    """The error's class; empty for an answer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """All requests of a load."""

    requests: Sequence[Sent]
    """In the order in which they were planned."""
    in_flight: int = 1
    """Of a closed loop: so many requests are on their way when it ends; 1 of an open loop."""

    @property
    def answered(self) -> list[Sent]:
        """Those that a picture came back for."""
        return [one for one in self.requests if not one.failure]

    @property
    def latencies(self) -> list[float]:
        """Seconds from planned to answered, in the order in which they were planned."""
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
        """Kind -> how many."""
        return dict(collections.Counter(one.failure for one in self.requests if one.failure))


class Recorder:
    """Sends requests from many threads and keeps what became of them."""

    def __init__(self, send: Send, most_failures: int) -> None:
        """Start nothing yet.

        Args:
            send: what a request is.
            most_failures: so many in a row end the load.
        """
        self._send = send
        self._most_failures = most_failures
        self._in_a_row = 0
        self._last: ServingError | None = None
        self._sent: list[Sent] = []
        self._start = 0.0
        self.stopped = threading.Event()
        """Set once something ended the load."""

    def run(self, work: Callable[[], None], threads: int, lead_in: float = 0) -> Sequence[Sent]:
        """Call `work` in so many threads at once, and wait for all.

        Args:
            work: what a thread does until it returns; it calls `ask`.
            threads: how many.
            lead_in: seconds until the load's moment 0, for the threads to be there.

        Returns:
            the requests, in the order in which they were planned.

        Raises:
            LoadFailedError: too many requests in a row failed, or all.
        """
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
        """Seconds since the load's moment 0."""
        return time.perf_counter() - self._start

    def ask(self, number: int, planned: float | None = None, *, waited: bool = False) -> None:
        """Send a request now, and keep what became of it.

        Args:
            number: of the request, for its maps.
            planned: when it should have been sent; None for now.
            waited: see `Sent`.
        """
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
        done = self.now()
        self._sent.append(Sent(sent if planned is None else planned, sent, done, waited, failure))
