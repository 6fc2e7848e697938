"""An engine in a process of its own: it is told which maps to render and says how long each batch
took, so that several can be measured in turn and none disturbs another's memory.

    with EngineProcess(functools.partial(open_engine, "openvino-fp32", version)) as engine:
        seconds, picture = engine.run(label_map, instance_map)
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Sequence
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from typing import Any

from sceneloom.errors import EngineError, SceneLoomError
from sceneloom.synthesizer import Request, Synthesizer
from sceneloom.text import one_line
from sceneloom_bench.engine.aside import LONGEST
from sceneloom_bench.engine.turns import Turn, Turns
from sceneloom_serving.engines import peak_memory_mib

_STOP_SECONDS = 10.0
"""How long a process may take to end once it is told to."""


class EngineProcess:
    """Use it as a context manager."""

    def __init__(self, open_engine: Callable[[], Synthesizer], *, longest: float = LONGEST) -> None:
        """Start the process; it loads the engine at once.

        Args:
            open_engine: a picklable function that returns the engine, called in the process.
            longest: seconds that loading may take, and each batch.
        """
        self._longest = longest
        self._pipe, theirs = Pipe()
        self._process = get_context("spawn").Process(target=_serve, args=(open_engine, theirs))
        self._process.start()
        theirs.close()  # or the end of the process would not be seen here
        self._largest: int | None = None

    def ready(self) -> int:
        """Wait until the engine is loaded.

        Returns:
            most pictures that it takes at once.

        Raises:
            EngineError: it cannot be loaded, takes too long, or its process has died.
        """
        if self._largest is None:
            self._largest = self._receive(self._longest)
        return self._largest

    def hold(self, requests: Sequence[Request]) -> None:
        """Give the process the maps that turns name by number.

        Raises:
            EngineError: as `ready`.
        """
        self._ask("hold", list(requests))

    def turn(self, batches: Sequence[Sequence[int]], show: frozenset[int] = frozenset()) -> Turn:
        """Render batches of the maps that it holds, one after another; see `Turns.turn`.

        Raises:
            EngineError: the engine failed, took too long, or its process died.
        """
        return self._ask("turn", batches, show, batches=len(batches))  # type: ignore[no-any-return]

    def run(self, *maps: Any) -> tuple[float, Any]:
        """Seconds of one picture, checks of its maps included, measured inside the process, and the
        picture.

        Args:
            maps: label map, instance map and style, as `Synthesizer.synthesize` takes them.

        Raises:
            EngineError: as `turn`.
        """
        return self._ask("run", *maps)  # type: ignore[no-any-return]

    @property
    def peak_memory_mib(self) -> int:
        """Largest resident memory of the process so far, in MiB; 0 once it has ended."""
        pid = self._process.pid
        assert pid is not None
        try:
            return peak_memory_mib(pid)
        except OSError:
            return 0

    def __enter__(self) -> EngineProcess:
        """Return itself."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """End the process, at once if the block was left by an error."""
        with contextlib.suppress(OSError):  # it has died
            self._pipe.send(None)
        if kind is not None:
            self._process.terminate()
        self._process.join(_STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()

    def _ask(self, what: str, *arguments: Any, batches: int = 1) -> Any:
        self.ready()
        try:
            self._pipe.send((what, arguments))
        except OSError:
            raise self._died() from None
        return self._receive(max(batches, 1) * self._longest)

    def _receive(self, seconds: float) -> Any:
        try:
            if not self._pipe.poll(seconds):
                self._process.kill()  # it would go on beside those that are measured
                raise EngineError(f"its process did not answer within {seconds:g} s")
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
            return EngineError("its process was killed, as a system does that runs out of memory")
        if code is not None and code < 0:
            return EngineError(f"its process was ended by {signal.Signals(-code).name}")
        return EngineError(f"its process ended with code {code}")


def _serve(open_engine: Callable[[], Synthesizer], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks ends this, too
    try:
        with open_engine() as engine:
            pipe.send(engine.max_batch_size)
            turns = Turns(engine)
            known: dict[str, Callable[..., Any]] = {
                "hold": turns.hold,
                "turn": turns.turn,
                "run": turns.run,
            }
            while (asked := pipe.recv()) is not None:
                what, arguments = asked
                pipe.send(known[what](*arguments))
    except (EOFError, BrokenPipeError):
        pass  # whoever asked has gone
    except Exception as error:  # whoever waits for a picture is told why there is none
        with contextlib.suppress(BrokenPipeError):
            pipe.send(_plain(error))


def _plain(error: Exception) -> Exception:
    """An error that can be sent: those of runtimes often cannot."""
    return EngineError(reason_of(error))


def reason_of(error: Exception) -> str:
    """What an error says, in one line: those of runtimes go on with advice."""
    if isinstance(error, SceneLoomError):
        return str(error)
    first = one_line(str(error).strip().split("\n\n")[0])
    return f"{type(error).__name__}: {first}".rstrip(": ")
