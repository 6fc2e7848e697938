"""A server that can be made to stand still for a while, and our loops against it.

The model draws nothing and takes some milliseconds for it, so that a second in which nobody is
answered is all that there is to see.

    with slow_server(0.004) as server:
        stand_still(server, 1)
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from sceneloom.request import Request
from sceneloom_bench.bench_inputs import bench_maps, inputs_hash
from sceneloom_bench.load.driver import Driver, Length
from sceneloom_bench.load.requests import TensorConnection
from sceneloom_bench.load.server_statistics import ServerView
from sceneloom_bench.noop_server import NOOP_CONTRACT, NoopServer, write_noop_repository

SIZE = (64, 128)
"""(height, width) of the maps."""
_MAPS = 8
_WARM_UP = 16


def small_maps() -> Sequence[Request]:
    """What the server is asked for, in turn."""
    return bench_maps(NOOP_CONTRACT, SIZE, _MAPS)


@contextlib.contextmanager
def slow_server(delay_seconds: float) -> Iterator[NoopServer]:
    """A running server, one request at a time, each of which takes so long."""
    with tempfile.TemporaryDirectory(prefix="sceneloom-stall-") as folder:
        repository = Path(folder) / "repository"
        write_noop_repository(repository, delay_seconds=delay_seconds)
        with NoopServer(repository) as server:
            yield server


def stand_still(server: NoopServer, seconds: float) -> None:
    """Stop a server (SIGSTOP), and let it go on after so many seconds; returns then."""
    # Not the model's process: after a second without its sign of life the server would take it for
    # dead as soon as both go on, and crash.
    pid = server.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def driving(
    server: NoopServer, connection: TensorConnection, maps: Sequence[Request], requests: int
) -> Iterator[Driver]:
    """Our loops of single maps over a connection, which is closed at the end.

    Args:
        server: that answers.
        connection: to it.
        maps: what is sent, in turn.
        requests: of each load; a few more go in front of it to warm up.
    """
    length = Length(seconds=0, requests=requests, warm_up=_WARM_UP)
    with (
        contextlib.closing(connection),
        contextlib.closing(ServerView(server.grpc)) as view,
    ):
        yield Driver("grpc", connection, maps, 1, view, length)


def subject_of(maps: Sequence[Request], delay_seconds: float) -> dict[str, str | int]:
    """What a report says of the server and its maps."""
    return {
        "height": SIZE[0],
        "width": SIZE[1],
        "engine": f"a model that draws nothing and takes {delay_seconds:g} s",
        "inputs_sha256": inputs_hash(maps),
    }
