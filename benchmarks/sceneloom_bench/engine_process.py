"""An engine in a process of its own: it is asked for pictures one at a time and says how long each
took, so that several can be measured in turn and none disturbs another's memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from typing import Any

from sceneloom.synthesizer import Synthesizer
from sceneloom_serving.machine import peak_memory_mib


class EngineProcess:
    """Use it as a context manager."""

    def __init__(self, open_engine: Callable[[], Synthesizer]) -> None:
        """Start the process; it loads the engine at once.

        Args:
            open_engine: a picklable function that returns the engine, called in the process.
        """
        self._pipe, theirs = Pipe()
        self._process = get_context("spawn").Process(target=_serve, args=(open_engine, theirs))
        self._process.start()

    def run(self, *maps: Any) -> tuple[float, Any]:
        """Seconds of one picture, measured inside the process, and the picture."""
        self._pipe.send(maps)
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    @property
    def peak_memory_mib(self) -> int:
        """Largest resident memory of the process so far, in MiB."""
        assert self._process.pid is not None
        return peak_memory_mib(self._process.pid)

    def __enter__(self) -> EngineProcess:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        if self._process.is_alive():
            self._pipe.send(None)
        self._process.join()


def timed(synthesizer: Synthesizer, *maps: Any) -> tuple[float, Any]:
    """Seconds of one picture, and the picture."""
    start = time.perf_counter()
    image = synthesizer.synthesize(*maps)
    return time.perf_counter() - start, image


def _serve(open_engine: Callable[[], Synthesizer], pipe: Connection) -> None:
    try:
        engine = open_engine()
        while (maps := pipe.recv()) is not None:
            pipe.send(timed(engine, *maps))
    except Exception as error:  # whoever waits for a picture is told why there is none
        pipe.send(error)
