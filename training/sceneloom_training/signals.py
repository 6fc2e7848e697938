"""Stopping a run in good order: the first signal is noted, and ends a wait; the second ends the
process at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, TypeVar

from typing_extensions import Self

_NUMBERS = (signal.SIGTERM, signal.SIGINT)
_Found = TypeVar("_Found")


class _StopWaiting(BaseException):
    """Not an Exception: decoders catch those, and call the file damaged."""


class StopSignals:
    """Notes SIGTERM and Ctrl-C instead of ending the process; use it as a context manager."""

    def __init__(self) -> None:
        """No signal yet."""
        self.number: int | None = None
        """Number of the signal that came, or None."""
        self._before: dict[int, Any] = {}
        self._waiting = False

    def __enter__(self) -> Self:
        """Take over the signals; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _NUMBERS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def unless_stopped(self, wait: Callable[[], _Found]) -> _Found | None:
        """What a function gives, which may wait for long; None if a signal came before or then."""
        try:
            try:
                self._waiting = True
                return None if self.number is not None else wait()
            finally:
                self._waiting = False
        except _StopWaiting:
            return None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        for each in _NUMBERS:
            signal.signal(each, signal.SIG_DFL)
        if self._waiting:
            self._waiting = False
            raise _StopWaiting
