"""Which requests are sent again, when, and how many in all (docs/rendering.md has the table).

Waits grow exponentially with full jitter; a budget keeps the retries of a whole run below a part of
its requests, so that a server in trouble is not buried by them.
"""

from __future__ import annotations

import dataclasses
import random

from sceneloom.errors import (
    ConnectionClosedError,
    InputError,
    ModelFailedError,
    ServerUnavailableError,
    ServingError,
)

_EXPONENT_LIMIT = 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often and how fast a picture is asked for again."""

    attempts: int = 10
    """Most requests for one picture that a busy server did not answer."""
    model_attempts: int = 3
    """Most requests for one picture that the model fails at."""
    server_attempts: int = 10
    """Most requests for one picture that end with the server's going away: a map may be what kills
    it. While no server is there, everything waits, which uses up nothing.
    """
    first_wait: float = 0.1
    """Longest wait before the second request, in seconds; it doubles each time."""
    longest_wait: float = 5.0
    """Longest wait, in seconds."""
    budget: float = 0.5
    """Retries per request of the whole run, beyond one a second."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        numbers = (self.attempts, self.model_attempts, self.server_attempts)
        if not 1 <= min(numbers) <= max(numbers) <= 1000:
            raise InputError("attempts are from 1 to 1000")
        if not 0 < self.first_wait <= self.longest_wait <= 3600:
            raise InputError("waits are above 0 and at most 3600 seconds, the first the shortest")
        if not 0 <= self.budget <= 10:
            raise InputError(f"budget is {self.budget}; it is from 0 to 10")

    def again(self, error: ServingError, failures: list[ServingError]) -> bool:
        """Whether a picture is asked for again.

        Args:
            error: what the last request for it met.
            failures: what all its requests met, the last included.
        """
        if isinstance(error, ConnectionClosedError):
            return True  # waiting for a server says at once that there will be none
        away = sum(isinstance(e, ServerUnavailableError) for e in failures)
        broken = sum(isinstance(e, ModelFailedError) for e in failures)
        if isinstance(error, ServerUnavailableError):
            return away < self.server_attempts
        if isinstance(error, ModelFailedError):
            return broken < self.model_attempts
        return error.retryable and len(failures) - away - broken < self.attempts

    def wait(self, failures: int) -> float:
        """Seconds to wait after this many failures, drawn anew each time."""
        longest = self.first_wait * 2.0 ** min(failures - 1, _EXPONENT_LIMIT)
        return random.uniform(0, min(longest, self.longest_wait))
