"""What can be told while a run goes on; metrics, log lines and progress are listeners."""

from __future__ import annotations

import dataclasses

from sceneloom.errors import ServingError
from sceneloom.rendering.results import Result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Levels:
    """How full the parts of the pipeline are at a moment."""

    in_flight: int = 0
    """Requests in flight."""
    window: int = 0
    """Requests that may be in flight."""
    reading: int = 0
    """Maps that are being read."""
    waiting: int = 0
    """Maps that have been read and wait for their turn."""
    active: int = 0
    """Maps that are being decoded, sent, encoded or written."""
    pausing: int = 0
    """Requests that wait before they are sent again."""


class Listener:
    """Hears what happens; every method may be left as it is. All are called from one thread, which
    they must not hold up.
    """

    def on_result(self, result: Result) -> None:
        """A map is done with."""

    def on_answer(self, seconds: float, sent: int, received: int) -> None:
        """A request was answered.

        Args:
            seconds: from sending to the whole answer.
            sent: bytes of its tensors.
            received: bytes of the answer's.
        """

    def on_retry(self, error: ServingError) -> None:
        """A request failed and will be sent again."""

    def on_server(self, name: str, away: bool) -> None:
        """A server was connected to, went away or came back."""
