"""A process of its own for work that must not share memory or a crash with the measuring process.

    with ChildProcess() as child:
        peaks = child.call(measure_peaks, "cpu")

The child dies with its parent, even with a killed one. It ignores Ctrl-C, prints to standard error,
and shows its progress if the parent does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import sys
from collections.abc import Callable
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, TypeVar, cast

from typing_extensions import Self

from sceneloom import progress
from sceneloom.errors import EngineError, SceneLoomError
from sceneloom.text import one_line
from sceneloom_serving.engines import peak_memory_mib

_P = ParamSpec("_P")
_R = TypeVar("_R")
_PR_SET_PDEATHSIG = 1
_STOP_SECONDS = 10.0
LONGEST = 3600.0
"""Seconds until an answer is given up: far above the longest work."""
Opens = Callable[[], contextlib.AbstractContextManager[Any]]


class AnswerTimeoutError(EngineError):
    """The process did not answer in time and was killed."""


class ChildProcess:
    """Run functions in a child process, one at a time; use it as a context manager."""

    def __init__(self, opens: Opens = contextlib.nullcontext, *, longest: float = LONGEST) -> None:
        """Start the process, which enters the result of `opens` (picklable) for `ask`.

        `longest` limits the start and each answer, in seconds.
        """
        self._longest = longest
        self._pipe, theirs = Pipe()
        self._process = get_context("spawn").Process(
            target=_serve, args=(opens, theirs, os.getpid(), progress.is_shown())
        )
        self._process.start()
        theirs.close()  # or the end of the process would not be seen here
        self._opened = False

    def ready(self) -> None:
        """Wait until the object is open; raises EngineError if that fails or takes too long."""
        if not self._opened:
            self._receive(self._longest)
            self._opened = True

    def call(self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call a picklable function in the process.

        Raises a SceneLoomError of the function unchanged, and EngineError for any other error, a
        dead process, or a late answer.
        """
        return cast(_R, self._ask(function, args, kwargs, self._longest))

    def ask(self, method: str, *args: Any, times: int = 1) -> Any:
        """Call a method of the opened object within `times` the limit; raises like `call`."""
        return self._ask(method, args, {}, times * self._longest)

    @property
    def peak_memory_mib(self) -> int:
        """Largest resident memory so far, in MiB; 0 after the end of the process."""
        assert self._process.pid is not None
        try:
            return peak_memory_mib(self._process.pid)
        except OSError:
            return 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            with contextlib.suppress(OSError):  # it has died
                self._pipe.send(None)
            self._process.join(_STOP_SECONDS)
        self._process.kill()  # a call may last for long
        self._process.join()
        self._pipe.close()

    def _ask(self, what: object, args: object, kwargs: object, seconds: float) -> Any:
        self.ready()
        try:
            self._pipe.send((what, args, kwargs))
        except OSError:
            raise self._died() from None
        return self._receive(seconds)

    def _receive(self, seconds: float) -> Any:
        try:
            if not self._pipe.poll(seconds):
                self._process.kill()  # it would disturb the measured processes
                raise AnswerTimeoutError(f"its process did not answer within {seconds:g} s")
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _died(self) -> EngineError:
        self._process.join(_STOP_SECONDS)
        code = self._process.exitcode
        if code == -signal.SIGKILL:
            return EngineError("its process was killed, as by a system that runs out of memory")
        if code is not None and code < 0:
            return EngineError(f"its process was ended by {signal.Signals(-code).name}")
        return EngineError(f"its process ended with code {code}")


def _serve(opens: Opens, pipe: Connection, parent: int, shown: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before the line above
        os._exit(1)
    os.dup2(2, 1)
    showing = progress.shown() if shown else contextlib.nullcontext()
    try:
        with showing, opens() as opened:
            pipe.send(None)
            while (asked := pipe.recv()) is not None:
                what, args, kwargs = asked
                run = getattr(opened, what) if isinstance(what, str) else what
                try:
                    answer = run(*args, **kwargs)
                except Exception as error:
                    answer = _sendable(error)
                pipe.send(answer)
    except (EOFError, BrokenPipeError):
        pass  # the parent has gone
    except Exception as error:
        with contextlib.suppress(BrokenPipeError):
            pipe.send(_sendable(error))
    sys.stderr.flush()
    os._exit(0)  # a library's own threads may still run, and would be waited for


def _sendable(error: Exception) -> SceneLoomError:
    """The SceneLoomError unchanged if it can be pickled, else the error's first paragraph."""
    if isinstance(error, SceneLoomError):
        with contextlib.suppress(Exception):
            return cast(SceneLoomError, pickle.loads(pickle.dumps(error)))
        return EngineError(str(error))
    first = one_line(str(error).strip().split("\n\n")[0])  # runtimes end in advice
    return EngineError(f"{type(error).__name__}: {first}".rstrip(": "))
