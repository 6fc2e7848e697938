"""Work in a process of its own, so that its memory is not the measuring process's."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as NotDone
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

from typing_extensions import Self

from sceneloom.errors import EngineError

_P = ParamSpec("_P")
_R = TypeVar("_R")
_PR_SET_PDEATHSIG = 1
LONGEST = 3600.0
"""Seconds that a process may take to answer: far above what any does that still works."""


class Aside:
    """One process that calls functions; use it as a context manager."""

    def __init__(self, longest: float = LONGEST) -> None:
        """The process starts with the first call.

        Args:
            longest: seconds that a call may take.
        """
        self._pool = ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=_belong_to, initargs=(os.getpid(),)
        )
        self._longest = longest
        self._pid: int | None = None

    def call(self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call a picklable function there, and wait for what it returns.

        Raises:
            EngineError: the process died, or did not return in time.
        """
        try:
            pid = self._pid = self._pool.submit(os.getpid).result(LONGEST)
            called = self._pool.submit(function, *args, **kwargs)
            with contextlib.suppress(NotDone):
                return called.result(self._longest)
            if called.done():  # it returned at the last moment, or its own time ran out
                return called.result()
            os.kill(pid, signal.SIGKILL)  # or the end of this would wait for it
        except BrokenProcessPool:
            self._pid = None
            raise EngineError(
                f"the process of {function.__name__} died, as one does that runs out of memory"
            ) from None
        raise EngineError(
            f"the process of {function.__name__} did not return within {self._longest:g} s"
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """End the process, at once if the block was left by an error: a call may last for long."""
        if kind is not None and self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        self._pool.shutdown(cancel_futures=True)


def _belong_to(parent: int) -> None:
    """Leave Ctrl-C to the process that started this one, and die with it: killed, it tells nobody,
    and this one would wait for work for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
