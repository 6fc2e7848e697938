"""A server that stands still for a second, once, seen by an open and by a closed loop.

The tritonserver is stopped (SIGSTOP) in the middle of a load and continued a second later; the
model draws nothing and takes some milliseconds. Everybody who would have come in that second waits,
and the open loop's p99 shows it. The closed loop sends nothing meanwhile: two slow answers of
hundreds, and its p99 hides the second (coordinated omission).

    python benchmarks/experiments/stalls.py --out build/bench
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from sceneloom import TritonSynthesizer
from sceneloom.errors import InputError, SceneLoomError
from sceneloom.synthesizer import Request
from sceneloom_bench.harness import (
    MOST_REQUESTS,
    MOST_ROUNDS,
    MOST_THREADS,
    bench_maps,
    check_out,
    check_ranges,
    publish,
    subject_of,
)
from sceneloom_bench.load import Driver, Length
from sceneloom_bench.load_requests import TensorConnection
from sceneloom_bench.loops import Send
from sceneloom_bench.noop_server import NOOP_CONTRACT, NoopServer, write_noop_repository
from sceneloom_bench.reports.environment import Environment
from sceneloom_bench.reports.report import Figure, Measurement, Report, flags_of, say
from sceneloom_bench.server_statistics import ServerView
from sceneloom_bench.turns import rounds_in_turn

SIZE = (64, 128)
"""(height, width) of the maps."""
_MAPS = 8
_WARM_UP = 16
_NAME = "server-stall"
_RANGES = {
    "runs": (1, MOST_ROUNDS),
    "in_flight": (1, MOST_THREADS),
    "requests": (100, MOST_REQUESTS),
    "stall_seconds": (0, 60),
    "delay_seconds": (0, 60),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StallSettings:
    """How the server is asked, and how long it stands still."""

    runs: int = 3
    """Runs, each of the four loads: open and closed, undisturbed and stalled."""
    rate: float = 30
    """Requests per second of the open loop."""
    in_flight: int = 2
    """Requests in flight of the closed loop."""
    requests: int = 600
    """Of each load."""
    stall_seconds: float = 1
    """How long the server stands still, once in each stalled load."""
    delay_seconds: float = 0.004
    """Of a picture in the model."""

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        if not 0 < self.rate < 1 / max(self.delay_seconds, 1e-9):
            raise InputError(f"a model of {self.delay_seconds:g} s cannot answer {self.rate:g}/s")


class StallingConnection(TensorConnection):
    """A connection to a server that stands still once its `at`-th request is sent."""

    def __init__(self, client: TritonSynthesizer, server: NoopServer, at: int, seconds: float):
        """Stop nothing yet: request number `at`, which warm-up must not reach, stops the server.
        The client is closed with this.
        """
        super().__init__(client)
        self._server, self._at, self._seconds = server, at, seconds
        self.stalls = 0
        """How often the server stood still."""

    def sender(self, maps: Sequence[Request], batch: int) -> Send:
        """As a plain connection's, and it stops the server on its way."""
        inner = super().sender(maps, batch)

        def send(number: int) -> None:
            if number == self._at:
                threading.Thread(target=self._stall).start()
            inner(number)

        return send

    def _stall(self) -> None:
        self.stalls += 1
        # Not the model's process: after a second without its sign of life the server would take it
        # for dead as soon as both continue, and crash.
        pid = self._server.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(self._seconds)
        finally:
            os.kill(pid, signal.SIGCONT)


def main(
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    settings: Annotated[StallSettings, tyro.conf.OmitArgPrefixes] = StallSettings(),
) -> int:
    """Stall a server in open and closed loops, write DIR/server-stall.json, and print it.

    Args:
        out: folder of the report.
        settings: how.
    """
    check_out(out, _NAME)
    return publish(measure(settings), out, _NAME)


def measure(settings: StallSettings) -> Report:
    """All runs; ``raised_p99_ms`` of the report's `extra` is by loop and run.

    Raises:
        SceneLoomError: requests failed.
    """
    maps = bench_maps(NOOP_CONTRACT, SIZE, _MAPS)
    measured: list[Measurement] = []
    raised: dict[str, list[float]] = {"open": [], "closed": []}
    with tempfile.TemporaryDirectory(prefix="sceneloom-stall-") as folder:
        repository = Path(folder) / "repository"
        write_noop_repository(repository, delay_seconds=settings.delay_seconds)
        with NoopServer(repository) as server, Environment() as environment:
            for run, modes in rounds_in_turn(raised, settings.runs):
                for mode in modes:
                    calm, stalled = (
                        measure_load(server, maps, settings, mode, run + 1, stalled=s)
                        for s in (False, True)
                    )
                    more = round(stalled.figures["p99"].value - calm.figures["p99"].value, 1)
                    raised[mode].append(more)
                    say(f"run {run + 1}, {mode} loop: p99 raised by {more} ms")
                    figures = {**stalled.figures, "p99_raised": Figure(value=more, unit="ms")}
                    measured += [calm, dataclasses.replace(stalled, figures=figures)]
    engine = f"a model that draws nothing and takes {settings.delay_seconds:g} s"
    return Report(
        kind="server",
        title=f"a server that stands still for {settings.stall_seconds:g} s, once, in open and "
        "closed loops",
        subject=subject_of(maps, engine, None),
        settings=flags_of(settings),
        environment=environment.to_json(),
        measurements=measured,
        marks=environment.marks(),
        extra={"raised_p99_ms": raised},
    )


def measure_load(
    server: NoopServer,
    maps: Sequence[Request],
    settings: StallSettings,
    mode: str,
    run: int,
    *,
    stalled: bool,
) -> Measurement:
    """One load, in the middle of which the server stands still or does not."""
    at = settings.requests // 2 if stalled else -1
    client = TritonSynthesizer(server.grpc)
    connection = StallingConnection(client, server, at, settings.stall_seconds)
    name = f"run {run}, {'stalled' if stalled else 'undisturbed'}"
    length = Length(seconds=0, requests=settings.requests, warm_up=_WARM_UP)
    with contextlib.closing(connection), contextlib.closing(ServerView(server.grpc)) as view:
        driver = Driver("grpc", connection, maps, 1, view, length)
        if mode == "closed":
            measured = driver.closed(settings.in_flight, name=name)
        else:
            measured, _ = driver.open("constant", settings.rate, 0, name=name)
    assert connection.stalls == stalled
    return measured


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main))
    except SceneLoomError as error:
        sys.exit(f"stalls: {error}")
