"""How many requests are in flight to one server: additive increase, multiplicative decrease.

The estimate of the requests that only wait is that of TCP Vegas (Brakmo and Peterson, 1995):
in flight * (1 - fastest / measured latency). Below a few the window grows by one, above it shrinks;
a rejection halves it. More than the server can use is worse than useless: with 16 in flight Triton
answered fewer requests a second than with one.
"""

from __future__ import annotations

import statistics
from collections.abc import Hashable

from sceneloom.errors import InputError

_EPOCHS_BETWEEN_PROBES = 64
_SMALLEST_EPOCH = 2
_SHRINK_REJECTED, _SHRINK_SLOW = 0.5, 0.8


class AdaptiveWindow:
    """The number of requests that may be in flight; the caller keeps to it and reports answers."""

    def __init__(self, *, largest: int = 32, fixed: int | None = None, batch: int = 1) -> None:
        """Begin with one request.

        Args:
            largest: never more than this.
            fixed: always this many, whatever happens.
            batch: how many requests the server joins: as many again may wait.

        Raises:
            InputError: a number is below 1.
        """
        if min(largest, fixed or 1, batch) < 1:
            raise InputError("a window of requests in flight holds at least 1")
        self.limit = fixed or 1
        """Requests that may be in flight now."""
        self._largest = largest
        self._fixed = fixed is not None
        self._wanted = (2 * batch, 4 * batch)  # requests that wait at the server
        self._doubling = True
        self._fastest: dict[Hashable, float] = {}
        self._samples: list[float] = []
        self._kind: Hashable = None
        self._epochs = 0
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
        self._doubling = False
        self._resize(int(self.limit * _SHRINK_REJECTED))
        self._samples = []

    def _end_epoch(self, latency: float, kind: Hashable) -> None:
        self._epochs += 1
        if self._after_probe:
            self._resize(self._after_probe)
            self._after_probe = 0
            return
        if self._epochs % _EPOCHS_BETWEEN_PROBES == 0 and self.limit > 1:
            # A server that has become slower or faster shows its own speed with nobody waiting.
            self._after_probe, self._fastest = self.limit, {}
            self._resize(1)
            return
        waiting = self.limit * (1 - self._fastest[kind] / latency)
        low, high = self._wanted
        if waiting < low:
            self._resize(2 * self.limit if self._doubling else self.limit + 1)
        else:
            self._doubling = False
            if waiting > high:
                self._resize(int(self.limit * _SHRINK_SLOW))

    def _resize(self, limit: int) -> None:
        limit = max(1, min(limit, self._largest))
        if limit < self.limit:
            self._ignored = self.limit
        self.limit = limit
