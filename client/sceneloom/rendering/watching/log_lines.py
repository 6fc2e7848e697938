"""What happens in a run, as JSON lines for machines: one object per event, with its time."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, TextIO

from sceneloom.errors import ServingError
from sceneloom.rendering.results import Failed, Rendered, Result, Skipped
from sceneloom.rendering.watching.listener import Listener


class LogLines(Listener):
    """Writes a line for each result, retry, and server that goes or comes."""

    def __init__(self, out: TextIO | None = None) -> None:
        """Write to a stream.

        Args:
            out: stderr unless named.
        """
        self._out = out or sys.stderr

    def write(self, event: str, **values: Any) -> None:
        """Write one line.

        Args:
            event: what happened.
            values: JSON values that say more.
        """
        line = {"time": round(time.time(), 3), "event": event, **values}
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()

    def on_result(self, result: Result) -> None:
        """``rendered``, ``skipped`` or ``failed``."""
        if isinstance(result, Failed):
            kind = type(result.error).__name__
            self.write("failed", key=result.key, kind=kind, reason=result.reason)
        elif isinstance(result, Skipped):
            self.write("skipped", key=result.key, output=result.output)
        elif isinstance(result, Rendered):
            self.write(
                "rendered",
                key=result.key,
                output=result.output,
                seconds=round(result.seconds, 4),
                attempts=result.attempts,
                bytes=result.bytes,
                engine=result.engine,
                precision=result.precision,
            )

    def on_retry(self, error: ServingError) -> None:
        """``retry``."""
        self.write("retry", kind=type(error).__name__, reason=str(error))

    def on_server(self, name: str, away: bool) -> None:
        """``server there`` or ``server away``."""
        state = "server away" if away else "server there"
        self.write(state, server=name)
