"""`sceneloom serve`."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from sceneloom import progress
from sceneloom.contract import precision_of
from sceneloom.errors import EngineError
from sceneloom.text import printable
from sceneloom_serving.bundle import VERSION, bundle_hash, verify_repository
from sceneloom_serving.bundled_server import LogLine
from sceneloom_serving.choice import choose_engine, precisions_left_out
from sceneloom_serving.embedded import EmbeddedServer, ServerSettings, keep_up
from sceneloom_serving.engines import ENGINES, get_engine, unavailable
from sceneloom_serving.parity import PrecisionClass

_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Stopped(BaseException):
    pass


def main(
    repository: Annotated[Path, Positional, arg(metavar="REPOSITORY")],
    *,
    settings: Annotated[ServerSettings, arg(name="server"), OmitArgPrefixes] = ServerSettings(),  # noqa: B008 - frozen
    precision: PrecisionClass = "exact",
    engine: str = "auto",
    verbose: bool = False,
) -> int:
    """Serve an exported repository with the bundled Triton server, on 127.0.0.1 only.

    Checks that the files are as exported. Prints a line that begins with "ready " once the model
    has answered a real inference with the right picture, and again after each restart: a server
    that ends, or gives another picture, is started again on the same ports. Runs until interrupted
    (SIGINT, SIGTERM or SIGHUP). For development and machines without a GPU, not for production: the
    bundled server lacks security fixes.

    Args:
        repository: folder of an export.
        settings: ports and timeouts.
        precision: exact serves float32 on CPUs and half on GPUs; fast also bfloat16 and int8 that
            export and this machine have proven.
        engine: name of an engine, as sceneloom runtimes lists them; auto takes the fastest of that
            precision within its limits on this machine, measured once and remembered.
        verbose: forward the server's whole log instead of warnings and errors.
    """

    def show(line: LogLine) -> None:
        text = line.text if verbose else line.summary
        if text:
            print(f"triton {line.level}: {printable(text)}", file=sys.stderr, flush=True)

    def say(text: str) -> None:
        print(f"sceneloom serve: {printable(text)}", file=sys.stderr, flush=True)

    def stop(number: int, frame: FrameType | None) -> None:
        for again in _STOP:  # a second signal must not cut the stop short
            signal.signal(again, signal.SIG_IGN)
        raise _Stopped

    if engine != "auto" and engine not in ENGINES:
        say(f"no engine {engine!r}; choose one of auto, {', '.join(ENGINES)}")
        return 2
    verify_repository(repository)
    chosen = _choose(repository, engine, precision)
    server = EmbeddedServer(repository, settings, engine=chosen, on_log=show)

    def ready() -> None:
        print(
            f"ready grpc={server.grpc} http={server.http} metrics={server.metrics} "
            f"engine={server.engine} precision={precision_of(server.engine)} "
            f'difference="{server.difference}" fast="{server.fast}"',
            flush=True,
        )

    with contextlib.ExitStack() as stack:
        for number in _STOP:
            stack.callback(signal.signal, number, signal.signal(number, stop))
        try:
            with server:
                check = functools.partial(verify_repository, repository)
                say(keep_up(server, check=check, on_ready=ready, say=say))
                return 1
        except _Stopped:
            print("stopped", file=sys.stderr)
            return 0


@progress.shown()
def _choose(repository: Path, engine: str, precision: PrecisionClass) -> str:
    if engine == "auto":
        return choose_engine(
            repository,
            bundle_hash(repository),
            precision=precision,
            say=lambda line: print(printable(line), file=sys.stderr, flush=True),
        )
    # Export's verdict comes first: it wrote no refused graph.
    found = get_engine(engine)
    refused = precisions_left_out(repository).get(found.precision)
    if reason := refused or unavailable(found, repository / VERSION):
        raise EngineError(f"{engine}: {reason}")
    return engine
