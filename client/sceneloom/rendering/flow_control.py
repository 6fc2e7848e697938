"""What bounds a run: the window of a server, the budget of retries, and maps that wait by size.

The window grows while more requests in flight bring more pictures, and shrinks when a server
rejects requests. The budget keeps the retries of a whole run below a part of its requests.

A server joins requests of equal size only: of one size it ran 16 requests in 4 executions, of two
alternating ones in 9. So all maps of the size that was taken last go first, then those of the size
that has waited longest.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Hashable

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

    def __init__(self, *, largest: int = 32, fixed: int | None = None) -> None:
        """Begin with one request.

        Args:
            largest: never more than this.
            fixed: always this many, whatever happens.

        Raises:
            InputError: a number is below 1.
        """
        if min(largest, fixed or 1) < 1 or fixed == 0:
            raise InputError("a window of requests in flight holds at least 1")
        self.limit = fixed or 1
        """Requests that may be in flight now."""
        self._largest = largest
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
        """Report an answer.

        Args:
            seconds: from sending to the whole answer.
            kind: answers of one kind, such as a size, are compared with each other.
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
            self._end_epoch(statistics.median(self._samples), kind)
            self._samples = []

    def rejected(self) -> None:
        """Report that the server refused a request, or that it waited for too long."""
        if self._fixed:
            return
        if self._ignored:
            self._ignored -= 1
            return
        self._trial, self._proven = None, 0
        self._until_trial = _EPOCHS_BETWEEN_TRIALS
        self._resize(int(self.limit * _SHRINK_REJECTED))
        self._samples = []

    def _end_epoch(self, latency: float, kind: Hashable) -> None:
        self._epochs += 1
        if self._after_probe:
            self._resize(self._after_probe)
            self._after_probe = 0
        elif self._trial is not None:
            self._judge(*self._trial, latency)
        elif self._epochs % _EPOCHS_BETWEEN_PROBES == 0 and self.limit > 1:
            # A server that has become slower or faster shows its own speed with nobody waiting.
            self._after_probe, self._fastest, self._proven = self.limit, {}, 0
            self._resize(1)
        else:
            self._adapt(self.limit * (1 - self._fastest[kind] / latency), latency)

    def _adapt(self, waiting: float, latency: float) -> None:
        if waiting < _FEW_WAIT / 2:
            self._resize(2 * self.limit)
        elif waiting < _FEW_WAIT:
            self._resize(self.limit + 1)
        elif waiting > _MANY_WAIT and self.limit > self._proven:
            self._resize(int(self.limit * _SHRINK_SLOW))
        elif self._until_trial:
            self._until_trial -= 1
        elif self.limit < self._largest:
            self._trial = self.limit, self.limit / latency
            self._resize(max(self.limit + 1, int(self.limit * _TRIAL_GROWTH)))

    def _judge(self, limit_before: int, rate_before: float, latency: float) -> None:
        self._trial = None
        if self.limit / latency >= rate_before * _WORTH_IT:
            self._proven, self._until_trial = self.limit, 0
        else:
            self._until_trial = _EPOCHS_BETWEEN_TRIALS
            self._resize(limit_before)

    def _resize(self, limit: int) -> None:
        limit = max(1, min(limit, self._largest))
        if limit != self.limit:
            self._ignored = self.limit  # answers to what was sent before
        self.limit = limit


class RetryBudget:
    """How many retries the run may still send: each request earns a part of one, and time earns one
    a second, so that a run never stands still for want of budget.
    """

    def __init__(self, earned: float, *, most: float = 100.0, per_second: float = 1.0) -> None:
        """Begin with some retries in hand.

        Args:
            earned: retries that each first request earns.
            most: that can be in hand.
            per_second: earned by time.
        """
        self._earned, self._most, self._per_second = earned, most, per_second
        self._left = min(10.0, most)
        self._seen: float | None = None

    def earn(self) -> None:
        """Report a first request."""
        self._left = min(self._most, self._left + self._earned)

    def spend(self, now: float) -> float:
        """Take a retry; returns the seconds to wait until it is paid for.

        Args:
            now: a clock's reading, in seconds.
        """
        if self._seen is not None:
            self._left = min(self._most, self._left + (now - self._seen) * self._per_second)
        self._seen = now
        self._left -= 1
        return max(0.0, -self._left / self._per_second)


class SizeBuckets:
    """Read maps by size."""

    def __init__(self) -> None:
        self._by_size: dict[tuple[int, int], deque[Loaded]] = {}  # sizes in order of arrival
        self._current: tuple[int, int] | None = None
        self.bytes = 0
        """Memory that its maps hold."""

    def __len__(self) -> int:
        return sum(map(len, self._by_size.values()))

    def add(self, loaded: Loaded) -> None:
        """Put a map on the shelf."""
        self._by_size.setdefault(loaded.size, deque()).append(loaded)
        self.bytes += loaded.bytes

    def take(self, most: Callable[[tuple[int, int]], int] = lambda size: 1) -> list[Loaded]:
        """Take maps of one size; the shelf must not be empty.

        Args:
            most: (height, width) -> how many of that size at most.
        """
        if self._current not in self._by_size:
            self._current = next(iter(self._by_size))
        assert self._current is not None
        queue = self._by_size[self._current]
        taken = [queue.popleft() for _ in range(min(most(self._current), len(queue)))]
        if not queue:
            del self._by_size[self._current]
        self.bytes -= sum(loaded.bytes for loaded in taken)
        return taken

    def clear(self) -> int:
        """Drop all maps; returns how many there were."""
        count = len(self)
        self._by_size.clear()
        self.bytes = 0
        return count
