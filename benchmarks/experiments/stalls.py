"""A server that stalls for a second, once, seen by an open and a closed loop.

The tritonserver is stopped (SIGSTOP) in the middle of a load and continued a second later; its
model takes some milliseconds. The open loop's p99 shows the wait of all requests planned in that
second. The closed loop sends nothing meanwhile, so its p99 hides the second (coordinated omission).

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
from annotated_types import Ge, Interval

from noop_server import NOOP_CONTRACT, NoopServer, write_noop_repository
from sceneloom import TritonSynthesizer, progress
from sceneloom.errors import InputError, SceneLoomError
from sceneloom.request import Request
from sceneloom.validation import checked
from sceneloom_bench import harness
from sceneloom_bench.load import Driver, Length
from sceneloom_bench.load_requests import TensorConnection
from sceneloom_bench.loops import Send
from sceneloom_bench.reports.environment import Environment
from sceneloom_bench.reports.report import Figure, Measurement, Report, flags_of
from sceneloom_bench.server_statistics import ServerView
from sceneloom_bench.turns import rounds_in_turn

SIZE = (64, 128)
"""(height, width) of the maps."""
_MAPS = 8
_WARM_UP = 16
_NAME = "server-stall"


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class StallSettings:
    """Loads and the stall."""

    runs: harness.Rounds = 3
    """Runs, each of four loads: open and closed, undisturbed and stalled."""
    rate: float = 30
    """Requests per second of the open loop."""
    in_flight: harness.Threads = 2
    """Requests in flight of the closed loop."""
    requests: Annotated[harness.Requests, Ge(100)] = 600
    """Requests of each load."""
    stall_seconds: Annotated[float, Interval(ge=0, le=60)] = 1
    """Duration of the stall, once in each stalled load."""
    delay_seconds: Annotated[float, Interval(ge=0, le=60)] = 0.004
    """Duration of a picture in the model."""

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1 / max(self.delay_seconds, 1e-9):
            raise InputError(f"a model of {self.delay_seconds:g} s cannot answer {self.rate:g}/s")


class StallingConnection(TensorConnection):
    """A connection whose request number `at`, after the warm-up, stalls the server."""

    def __init__(self, client: TritonSynthesizer, server: NoopServer, at: int, seconds: float):
        """Use a client and close it at the end. The stall takes `seconds`."""
        super().__init__(client)
        self._server, self._at, self._seconds = server, at, seconds
        self.stalls = 0
        """Number of stalls."""

    def sender(self, maps: Sequence[Request], batch: int) -> Send:
        """Prepare requests, one of which stalls the server."""
        inner = super().sender(maps, batch)

        def send(number: int) -> None:
            if number == self._at:
                threading.Thread(target=self._stall).start()
            inner(number)

        return send

    def _stall(self) -> None:
        self.stalls += 1
        # Not the model's process: the server would take it for dead after a second, and crash.
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
    """Stall a server in open and closed loops, write DIR/server-stall.json, and print the result.

    Args:
        out: folder of the report.
        settings: loads and the stall.
    """
    return harness.run_benchmark(_NAME, measure, settings, None, out)


def measure(settings: StallSettings) -> Report:
    """Run all loads; `Report.extra` has ``raised_p99_ms`` by loop and run."""
    maps = harness.bench_maps(NOOP_CONTRACT, SIZE, _MAPS)
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
                    progress.say(f"run {run + 1}, {mode} loop: p99 raised by {more} ms")
                    figures = {**stalled.figures, "p99_raised": Figure(value=more, unit="ms")}
                    measured += [calm, dataclasses.replace(stalled, figures=figures)]
    engine = f"a model without a network that takes {settings.delay_seconds:g} s"
    return Report(
        kind="server",
        title=f"A server that stalls once for {settings.stall_seconds:g} s, in both loops",
        subject=harness.subject_of(maps, engine, None),
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
    """Run one load, with or without a stall in its middle."""
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
        with progress.shown():
            sys.exit(tyro.cli(main))
    except SceneLoomError as error:
        sys.exit(f"stalls: {error}")
