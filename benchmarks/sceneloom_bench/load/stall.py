"""A server that stands still for a second, once, seen by an open and by a closed loop.

The tritonserver is stopped (SIGSTOP) in the middle of a load and goes on a second later; the model
draws nothing and takes some milliseconds. Everybody who would have come in
that second waits, and the open loop's p99 says so. The closed loop sends nothing meanwhile: two
slow answers of hundreds, and its p99 hides the second (coordinated omission).

    python -m sceneloom_bench.load.stall --out build/bench
"""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from sceneloom import TritonSynthesizer
from sceneloom.errors import InputError, SceneLoomError
from sceneloom.request import Request
from sceneloom_bench.load.answers import Send
from sceneloom_bench.load.requests import TensorConnection
from sceneloom_bench.noop_server import NoopServer
from sceneloom_bench.ranges import MOST_REQUESTS, MOST_ROUNDS, MOST_THREADS, check_out, check_ranges
from sceneloom_bench.reports.environment import Environment
from sceneloom_bench.reports.report import Figure, Measurement, Report, flags_of, say, write_report
from sceneloom_bench.stalled_server import (
    driving,
    slow_server,
    small_maps,
    stand_still,
    subject_of,
)

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
    """What the model takes."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(self, _RANGES)
        if not 0 < self.rate < 1 / max(self.delay_seconds, 1e-9):
            raise InputError(f"a model of {self.delay_seconds:g} s cannot answer {self.rate:g}/s")


class StallingConnection(TensorConnection):
    """A connection to a server that stands still once its `at`-th request is sent."""

    def __init__(self, client: TritonSynthesizer, server: NoopServer, at: int, seconds: float):
        """Stop nothing yet.

        Args:
            client: of the server; it is closed with this.
            server: that stands still.
            at: number of the request; warm-up must not reach it.
            seconds: for how long.
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
        stand_still(self._server, self._seconds)


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
    from sceneloom_bench.reports.tables import describe

    check_out(out, _NAME)
    report = measure(settings)
    write_report(report, out, _NAME)
    print(describe(report))
    print(json.dumps(report.to_json()))
    return 0


def measure(settings: StallSettings) -> Report:
    """All runs; ``raised_p99_ms`` of the report's `extra` is by loop and run.

    Raises:
        SceneLoomError: requests went on failing.
    """
    maps = small_maps()
    measured: list[Measurement] = []
    raised: dict[str, list[float]] = {"open": [], "closed": []}
    with slow_server(settings.delay_seconds) as server, Environment() as environment:
        for run in range(1, settings.runs + 1):
            for mode, figures in raised.items():
                pair = [_load(server, maps, settings, mode, run, stalled=s) for s in (False, True)]
                calm, stalled = (one.figures["p99"].value for one in pair)
                figures.append(round(stalled - calm, 1))
                say(f"run {run}, {mode} loop: p99 raised by {figures[-1]} ms")
                measured += [pair[0], _with_raised(pair[1], figures[-1])]
    return Report(
        kind="server",
        title=f"a server that stands still for {settings.stall_seconds:g} s, once, in open and "
        "closed loops",
        subject=subject_of(maps, settings.delay_seconds),
        settings=flags_of(settings),
        environment=environment.to_json(),
        measurements=measured,
        marks=environment.marks(),
        extra={"raised_p99_ms": raised},
    )


def _load(
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
    connection = StallingConnection(
        TritonSynthesizer(server.grpc), server, at, settings.stall_seconds
    )
    name = f"run {run}, {'stalled' if stalled else 'undisturbed'}"
    with driving(server, connection, maps, settings.requests) as driver:
        if mode == "closed":
            measured = driver.closed(settings.in_flight, name=name)
        else:
            measured, _ = driver.open("constant", settings.rate, 0, name=name)
        assert connection.stalls == stalled
    return measured


def _with_raised(measured: Measurement, raised_ms: float) -> Measurement:
    figure = Figure(value=raised_ms, unit="ms")
    return dataclasses.replace(measured, figures={**measured.figures, "p99_raised": figure})


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main))
    except SceneLoomError as error:
        sys.exit(f"stall: {error}")
