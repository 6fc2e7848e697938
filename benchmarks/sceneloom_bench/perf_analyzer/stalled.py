"""A server that stands still for a second, once, seen by perf_analyzer's open loop and by ours.

perf_analyzer sends at a rate from a few threads, four unless it is told otherwise, and a request's
latency counts from when it was sent. While the server stands still four requests wait; those that
were due meanwhile are sent afterwards, and look quick: of 600 requests, p99 does not show the
second (coordinated omission). With a thread for everybody who is due it does.

    python -m sceneloom_bench.perf_analyzer.stalled --out build/bench
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

import tyro

from sceneloom import TritonSynthesizer
from sceneloom.contract import MODEL_NAME
from sceneloom.errors import InputError, SceneLoomError
from sceneloom_bench.load.driver import Driver
from sceneloom_bench.load.requests import TensorConnection
from sceneloom_bench.noop_server import NoopServer
from sceneloom_bench.perf_analyzer.binary import Program, Target, find_program, run_open
from sceneloom_bench.perf_analyzer.inputs import write_inputs
from sceneloom_bench.perf_analyzer.pairs import PERF_ANALYZER, SCENELOOM, Load, medians
from sceneloom_bench.ranges import MOST_REQUESTS, MOST_ROUNDS, MOST_THREADS, check_out, check_ranges
from sceneloom_bench.reports.environment import Environment
from sceneloom_bench.reports.report import Figure, Measurement, Report, flags_of, say, write_report
from sceneloom_bench.reports.statistics import median_figure
from sceneloom_bench.stalled_server import (
    SIZE,
    driving,
    slow_server,
    small_maps,
    stand_still,
    subject_of,
)

_DELAY = 0.004
_DEFAULT_THREADS = 4
_NAME = "perf-analyzer-stalled"
_RANGES = {
    "runs": (1, MOST_ROUNDS),
    "requests": (2, MOST_REQUESTS),
    "stall_seconds": (0, 60),
    "many_threads": (1, MOST_THREADS),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StalledSettings:
    """How the server is asked, and how long it stands still."""

    perf_analyzer: Path | None = None
    """The program, or the folder that fetch made; without it, build/perf_analyzer or PATH."""
    runs: int = 3
    """Runs of each load."""
    rate: float = 60
    """Requests per second, evenly spaced."""
    requests: int = 600
    """Of each load."""
    stall_seconds: float = 1
    """How long the server stands still, once in each stalled load."""
    many_threads: int = 128
    """``--max-threads`` of perf_analyzer beside its default of 4."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(self, _RANGES)
        if not 0 < self.rate < 1 / _DELAY:
            raise InputError(f"a model of {_DELAY:g} s cannot answer {self.rate:g}/s")


Asked = Callable[[bool], Mapping[str, Figure]]
"""Runs one load, stalled or not, and gives its figures."""


def main(
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    settings: Annotated[StalledSettings, tyro.conf.OmitArgPrefixes] = StalledSettings(),
) -> int:
    """Stall a server under both open loops, write DIR/perf-analyzer-stalled.json, and print it.

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


def measure(settings: StalledSettings) -> Report:
    """All runs, in turn.

    Raises:
        MissingDependencyError: perf_analyzer is not here; the text says how to get it.
        ServingError: requests failed.
    """
    program = find_program(settings.perf_analyzer)
    maps = small_maps()
    with (
        tempfile.TemporaryDirectory(prefix="sceneloom-stalled-") as folder,
        slow_server(_DELAY) as server,
        driving(
            server, TensorConnection(TritonSynthesizer(server.grpc)), maps, settings.requests
        ) as driver,
    ):
        inputs = write_inputs(maps, Path(folder) / "inputs.json")
        many = settings.many_threads
        tools: dict[str, Asked] = {
            PERF_ANALYZER: _perf_analyzer(program, server, inputs, settings, _DEFAULT_THREADS),
            f"{PERF_ANALYZER}, {many} threads": _perf_analyzer(
                program, server, inputs, settings, many
            ),
            SCENELOOM: _ours(server, driver, settings),
        }
        with Environment() as environment:
            measured = _take_turns(tools, settings)
    return Report(
        kind="perf-analyzer",
        title=f"a server that stands still for {settings.stall_seconds:g} s, once, under the open "
        f"loops of perf_analyzer {program.version} and of SceneLoom",
        subject=subject_of(maps, _DELAY),
        settings=flags_of(settings),
        environment=environment.to_json(),
        measurements=measured,
        marks=environment.marks(),
    )


def _take_turns(tools: Mapping[str, Asked], settings: StalledSettings) -> list[Measurement]:
    found: dict[tuple[str, bool], list[Mapping[str, Figure]]] = {}
    for run in range(settings.runs):
        for name, ask in tools.items():
            for stalled in (False, True):
                figures = ask(stalled)
                found.setdefault((name, stalled), []).append(figures)
                said = "stalled" if stalled else "undisturbed"
                say(f"run {run + 1}, {name}, {said}: p99 {figures['p99'].value:.1f} ms")
    load: Load = {
        "mode": "open",
        "arrivals": "constant",
        "rate": settings.rate,
        "transport": "grpc",
        "batch": 1,
    }
    measured = []
    for (name, stalled), rounds in found.items():
        figures = medians(rounds)
        raised = [
            a["p99"].value - b["p99"].value for a, b in zip(rounds, found[name, False], strict=True)
        ]
        if stalled:
            figures["p99_raised"] = median_figure(raised, unit="ms")
        said = "stalled" if stalled else "undisturbed"
        measured.append(
            Measurement(
                name=f"{name}, {said}",
                load=load,
                figures=figures,
                extra={"p99_raised_ms": [round(each, 1) for each in raised]} if stalled else {},
            )
        )
    return measured


def _ours(server: NoopServer, driver: Driver, settings: StalledSettings) -> Asked:
    def ask(stalled: bool) -> Mapping[str, Figure]:
        with _stall(server, settings) if stalled else contextlib.nullcontext():
            return driver.open("constant", settings.rate, 0)[0].figures

    return ask


def _perf_analyzer(
    program: Program, server: NoopServer, inputs: Path, settings: StalledSettings, threads: int
) -> Asked:
    target = Target(
        address=server.grpc,
        model=MODEL_NAME,
        way="grpc",
        inputs=inputs,
        largest_pixels=SIZE[0] * SIZE[1],
        timeout=600,
    )

    def ask(stalled: bool) -> Mapping[str, Figure]:
        with _stall(server, settings) if stalled else contextlib.nullcontext():
            opinion = run_open(
                program,
                target,
                rate=settings.rate,
                arrivals="constant",
                requests=settings.requests,
                threads=threads,
            )
        late = Figure(value=opinion.delayed, unit="share")
        return {**opinion.figures(), "sent_late": late}

    return ask


@contextlib.contextmanager
def _stall(server: NoopServer, settings: StalledSettings) -> Iterator[None]:
    """Let the server stand still in the middle of what is done meanwhile."""
    middle = settings.requests / settings.rate / 2
    timer = threading.Timer(middle, stand_still, (server, settings.stall_seconds))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()  # it does nothing if it has begun
        timer.join()


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main))
    except SceneLoomError as error:
        sys.exit(f"stalled: {error}")
