"""Work in a process of its own, so that its memory is not the measuring process's."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

from typing_extensions import Self

from sceneloom.errors import EngineError

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Aside:
    """One process that calls functions; use it as a context manager."""

    def __init__(self) -> None:
        """The process starts with the first call."""
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))

    def call(self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call a picklable function there, and wait for what it returns.

        Raises:
            EngineError: the process died.
        """
        try:
            return self._pool.submit(function, *args, **kwargs).result()
        except BrokenProcessPool:
            raise EngineError(
                f"the process of {function.__name__} died, as one does that runs out of memory"
            ) from None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._pool.shutdown(cancel_futures=True)
