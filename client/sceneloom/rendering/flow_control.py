"""The bounds of a run: a server's window of requests, the budget of retries, maps by size.

The window grows while more requests in flight bring more pictures, and shrinks when a server
rejects requests. The budget keeps the retries of a run below a part of its requests.

A server joins requests of equal size only: 16 requests of one size took 4 executions, 16 of two
alternating sizes 9. So maps of the size taken last go first, then those of the longest waiting one.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import deque
from collections.abc import Hashable

from sceneloom.errors import InputError
from sceneloom.rendering.loading import Loaded

_EPOCHS_BETWEEN_PROBES = 64
_EPOCHS_BETWEEN_TRIALS = 12
_SMALLEST_EPOCH = 2
_FEW_WAIT, _MANY_WAIT = 1.0, 3.0
_SHRINK_REJECTED, _SHRINK_SLOW = 0.5, 0.8
_TRIAL_GROWTH, _WORTH_IT = 1.5, 1.1


class AdaptiveWindow:
    """The number of requests that may be in flight; the caller keeps to it and reports answers."""

    def __init__(self, *, max_limit: int = 32, fixed: int | None = None) -> None:
        """Begin with one request, or keep to a `fixed` number.

        Raises InputError if a number is below 1.
        """
        if min(max_limit, fixed or 1) < 1 or fixed == 0:
            raise InputError("a window of requests in flight holds at least 1")
        self.limit = fixed or 1
        """Requests that may be in flight now."""
        self._max_limit = max_limit
        self._fixed = fixed is not None
        self._fastest: dict[Hashable, float] = {}
        self._samples: list[float] = []
        self._kind: Hashable = None
        self._epochs = 0
        self._until_trial = 2
        self._trial: tuple[int, float] | None = None  # limit and answers a second before it
        self._proven = 0  # a limit that a trial has shown to be of use
        self._after_probe = 0
        self._ignored = 0

    def answered(self, seconds: float, kind: Hashable) -> None:
        """Report an answer, and the seconds from sending to its end.

        Answers are compared within one kind, such as a size.
        """
        if self._fixed:
            return
        if self._ignored:  # sent before the window last changed
            self._ignored -= 1
            return
        if kind != self._kind:
            self._kind, self._samples = kind, []
        self._samples.append(seconds)
        self._fastest[kind] = min(seconds, self._fastest.get(kind, seconds))
        if len(self._samples) >= max(self.limit, _SMALLEST_EPOCH):
            latency, self._samples = statistics.median(self._samples), []
            self._end_epoch(latency, self._fastest[kind])

    def rejected(self) -> None:
        """Report that the server rejected a request, or left it waiting too long."""
        if self._fixed:
            return
        if self._ignored:
            self._ignored -= 1
            return
        self._trial, self._proven = None, 0
        self._until_trial = _EPOCHS_BETWEEN_TRIALS
        self._resize(int(self.limit * _SHRINK_REJECTED))
        self._samples = []

    def _end_epoch(self, latency: float, fastest: float) -> None:
        self._epochs += 1
        if self._after_probe:
            self._resize(self._after_probe)
            self._after_probe = 0
        elif self._trial is not None:
            limit_before, rate_before = self._trial
            self._trial = None
            if self.limit / latency >= rate_before * _WORTH_IT:
                self._proven, self._until_trial = self.limit, 0
            else:
                self._until_trial = _EPOCHS_BETWEEN_TRIALS
                self._resize(limit_before)
        elif self._epochs % _EPOCHS_BETWEEN_PROBES == 0 and self.limit > 1:
            # A server that has become slower or faster shows its own speed without a queue.
            self._after_probe, self._fastest, self._proven = self.limit, {}, 0
            self._resize(1)
        else:
            self._adapt(self.limit * (1 - fastest / latency), latency)

    def _adapt(self, waiting: float, latency: float) -> None:
        """Follow the number of requests that wait in the server's queue."""
        if waiting < _FEW_WAIT / 2:
            self._resize(2 * self.limit)
        elif waiting < _FEW_WAIT:
            self._resize(self.limit + 1)
        elif waiting > _MANY_WAIT and self.limit > self._proven:
            self._resize(int(self.limit * _SHRINK_SLOW))
        elif self._until_trial:
            self._until_trial -= 1
        elif self.limit < self._max_limit:
            self._trial = self.limit, self.limit / latency
            self._resize(max(self.limit + 1, int(self.limit * _TRIAL_GROWTH)))

    def _resize(self, limit: int) -> None:
        limit = max(1, min(limit, self._max_limit))
        if limit != self.limit:
            self._ignored = self.limit  # answers to earlier requests
        self.limit = limit


@dataclasses.dataclass
class RetryBudget:
    """The retries left: each request earns a part of one, and so does time, lest a run stall."""

    earned: float
    """Retries that each first request earns."""
    max_left: float = 100.0
    """Most retries in hand."""
    per_second: float = 1.0
    """Retries that a second earns."""
    requests: int = 0
    """First requests since the last retry."""
    _left: float = 10.0
    _seen: float | None = None

    def spend(self, now: float) -> float:
        """Take a retry at a time `now` in seconds; returns the seconds to wait before it."""
        elapsed = 0.0 if self._seen is None else now - self._seen
        earned = self.requests * self.earned + elapsed * self.per_second
        self._left = min(self.max_left, self._left + earned) - 1
        self._seen, self.requests = now, 0
        return max(0.0, -self._left / self.per_second)


# A request of 8 pictures at 2048x1024 takes three times as long as 8 requests.
_REQUEST_BYTES = 4 << 20


@dataclasses.dataclass
class SizeBuckets:
    """Loaded maps by size."""

    _by_size: dict[tuple[int, int], deque[Loaded]] = dataclasses.field(default_factory=dict)
    _current: tuple[int, int] | None = None
    count: int = 0
    """Number of maps."""
    bytes: int = 0
    """Memory of their files."""

    def add(self, loaded: Loaded) -> None:
        """Add a map."""
        self._by_size.setdefault(loaded.size, deque()).append(loaded)
        self.count += 1
        self.bytes += len(loaded.label) + len(loaded.instance or b"")

    def take(self, max_maps: int = 1) -> list[Loaded]:
        """Take maps of one size, fewer than `max_maps` if their pictures exceed 4 MiB."""
        if self._current not in self._by_size:
            self._current = next(iter(self._by_size))
        assert self._current is not None
        height, width = self._current
        fitting = _REQUEST_BYTES // (3 * height * width) if height * width else 1
        queue = self._by_size[self._current]
        taken = [queue.popleft() for _ in range(min(max_maps, max(1, fitting), len(queue)))]
        if not queue:
            del self._by_size[self._current]
        self.count -= len(taken)
        self.bytes -= sum(len(loaded.label) + len(loaded.instance or b"") for loaded in taken)
        return taken

    def clear(self) -> int:
        """Drop all maps; returns how many there were."""
        dropped = self.count
        self._by_size.clear()
        self.count = self.bytes = 0
        return dropped
