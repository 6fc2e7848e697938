"""Which requests are sent again, how often, and after how long.

`Pipeline._pause` asks a run's policy and takes from its budget; docs/rendering.md has the rules.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Annotated

from pydantic import Field

from sceneloom import errors
from sceneloom.validation import checked

_EXPONENT_LIMIT = 30

Attempts = Annotated[int, Field(ge=1, le=1000)]


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often and how fast a picture is requested again."""

    attempts: Attempts = 10
    """Most requests for one picture to a busy server."""
    model_attempts: Attempts = 3
    """Most requests for one picture that the model fails at."""
    server_attempts: Attempts = 10
    """Most requests for one picture that end with the loss of the server: a map may kill it. Waits
    for a server do not count.
    """
    first_wait: Annotated[float, Field(gt=0)] = 0.1
    """Longest wait before the second request, in seconds; it doubles each time."""
    longest_wait: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """Longest wait, in seconds."""
    budget: Annotated[float, Field(ge=0, le=10)] = 0.5
    """Retries per request of the whole run, beyond one a second."""

    def again(self, error: errors.ServingError, failures: list[errors.ServingError]) -> bool:
        """Whether to request a picture again, after the last error and all failures so far."""
        if isinstance(error, errors.ConnectionClosedError):
            return True  # waiting for a server raises at once
        away = sum(isinstance(e, errors.ServerUnavailableError) for e in failures)
        broken = sum(isinstance(e, errors.ModelFailedError) for e in failures)
        if isinstance(error, errors.ServerUnavailableError):
            return away < self.server_attempts
        if isinstance(error, errors.ModelFailedError):
            return broken < self.model_attempts
        return error.retryable and len(failures) - away - broken < self.attempts

    def wait(self, failures: int) -> float:
        """Seconds to wait after this many failures: exponential growth with full jitter."""
        longest = self.first_wait * 2.0 ** min(failures - 1, _EXPONENT_LIMIT)
        return random.uniform(0, min(longest, self.longest_wait))


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
        """Take a retry at the time `now`, in seconds, and return the seconds to wait before it."""
        elapsed = 0.0 if self._seen is None else now - self._seen
        earned = self.requests * self.earned + elapsed * self.per_second
        self._left = min(self.max_left, self._left + earned) - 1
        self._seen, self.requests = now, 0
        return max(0.0, -self._left / self.per_second)
