"""`sceneloom bench perf-analyzer`: Triton's perf_analyzer beside our own loops, on the same loads.

Both ask the same server for the same maps, in turn, round by round: closed loops with the same
requests in flight, then open loops at the same rate. Ratios are taken within a round.

    python -m sceneloom_bench.perf_analyzer.fetch --out build/perf_analyzer
    sceneloom bench perf-analyzer --repository build/demo/repository --out build/bench
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from sceneloom import TritonSynthesizer
from sceneloom.request import Request
from sceneloom.triton.transport import Timeouts, server_address
from sceneloom_bench.bench_inputs import bench_maps, inputs_hash
from sceneloom_bench.load.driver import Driver, Length
from sceneloom_bench.load.requests import Connection, close_all, open_connections
from sceneloom_bench.load.schedule import Arrivals, rounded_rate
from sceneloom_bench.load.server_statistics import ServerView
from sceneloom_bench.perf_analyzer.binary import (
    Program,
    Target,
    Way,
    find_program,
    run_closed,
    run_open,
)
from sceneloom_bench.perf_analyzer.inputs import write_inputs
from sceneloom_bench.perf_analyzer.pairs import Load, Rounds, explain
from sceneloom_bench.ranges import (
    ABOVE_0,
    MOST_MAPS,
    MOST_REQUESTS,
    MOST_ROUNDS,
    MOST_THREADS,
    check_different,
    check_name,
    check_out,
    check_ranges,
)
from sceneloom_bench.reports.environment import Environment
from sceneloom_bench.reports.report import Measurement, Report, say, write_report
from sceneloom_bench.served import Served, ServedSettings, elsewhere, served, served_flags
from sceneloom_export.settings import parse_size

_RANGES = {
    "different_maps": (2, MOST_MAPS),
    "in_flight": (1, MOST_THREADS),
    "rate": (0.001, 100_000),
    "share": (ABOVE_0, 10),
    "threads": (1, MOST_THREADS),
    "requests": (2, MOST_REQUESTS),
    "warm_up": (1, MOST_REQUESTS),
    "rounds": (1, MOST_ROUNDS),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerfAnalyzerSettings:
    """Which server is asked by both, under which loads."""

    server: Annotated[ServedSettings, tyro.conf.OmitArgPrefixes]
    """Which server."""
    perf_analyzer: Path | None = None
    """The program, or the folder that fetch made; without it, build/perf_analyzer or PATH."""
    size: str = "512x256"
    """WIDTHxHEIGHT of the maps that are drawn."""
    maps: Path | None = None
    """Folder of maps to send in place of drawn ones."""
    different_maps: int = 8
    """Maps that take turns."""
    transports: tuple[Way, ...] = ("grpc", "grpc-shm")
    """Ways to the server."""
    in_flight: tuple[int, ...] = (1, 4)
    """Requests in flight of the closed loops."""
    open: bool = True
    """Open loops after the closed ones."""
    rate: float | None = None
    """Requests per second of the open loops; without it, a share of our closed loops' best."""
    share: float = 0.7
    """That share."""
    arrivals: tuple[Arrivals, ...] = ("constant", "poisson")
    """How the open loops' requests are spread."""
    threads: int = 4
    """perf_analyzer's ``--max-threads`` in open loops; 4 is its own default."""
    requests: int = 200
    """Of each load in each round; of an open loop at least a second's, as perf_analyzer wants
    it.
    """
    warm_up: int = 16
    """Requests in front of each load of both, not counted; perf_analyzer sends one for each of its
    threads at least.
    """
    rounds: int = 6
    """In which both take turns; intervals need six."""
    timeout: float = 3600
    """Seconds that a load may take."""
    name: str = ""
    """Added to the file's name."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        parse_size(self.size)
        Timeouts(infer=self.timeout)
        check_name(self.name)
        check_different(self, "transports", "in_flight", "arrivals")
        check_ranges(self, _RANGES)


def main(
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    settings: Annotated[PerfAnalyzerSettings, tyro.conf.OmitArgPrefixes],
) -> int:
    """Put a server under the same loads by perf_analyzer and by SceneLoom, in turn, write
    DIR/perf-analyzer.json, and print it as the last line.

    Args:
        out: folder of the report.
        settings: which server, and which loads.
    """
    from sceneloom_bench.reports.tables import describe

    stem = "-".join(filter(None, ("perf-analyzer", settings.name)))
    check_out(out, stem)
    report = measure(settings)
    write_report(report, out, stem)
    print(describe(report))
    print(json.dumps(report.to_json()))
    return 0


def measure(settings: PerfAnalyzerSettings) -> Report:
    """Run all loads, by both.

    Raises:
        MissingDependencyError: perf_analyzer is not here; the text says how to get it.
        SceneLoomError: there is no server, or requests failed.
    """
    program = find_program(settings.perf_analyzer)
    size = parse_size(settings.size)
    with served(settings.server) as server:
        with TritonSynthesizer(server.grpc, model=settings.server.model) as client:
            contract, engine = client.contract, client.engine
            maps = bench_maps(contract, size, settings.different_maps, settings.maps)
        with Environment() as environment:
            measured, marks = _measure(settings, server, program, maps)
    height, width = maps[0].label_map.shape
    return Report(
        kind="perf-analyzer",
        title=f"perf_analyzer {program.version} beside SceneLoom's own loops at {width}x{height}",
        subject={
            "height": height,
            "width": width,
            "engine": engine,
            "bundle_sha256": contract.bundle_hash,
            "inputs_sha256": inputs_hash(maps),
        },
        settings=served_flags(settings),
        environment=environment.to_json(),
        measurements=measured,
        marks=[*environment.marks(), *elsewhere(settings.server), *marks, *explain(measured)],
        extra={"perf_analyzer": program.version},
    )


def _measure(
    settings: PerfAnalyzerSettings, server: Served, program: Program, maps: Sequence[Request]
) -> tuple[list[Measurement], list[str]]:
    """Pairs of measurements, and what was left out."""
    model = settings.server.model
    opened = open_connections(server, model, settings.transports, timeout=settings.timeout)
    with (
        contextlib.closing(ServerView(server.grpc)) as view,
        tempfile.TemporaryDirectory(prefix="sceneloom-perf-analyzer-") as folder,
    ):
        inputs = write_inputs(maps, Path(folder) / "inputs.json")
        length = Length(seconds=0, requests=settings.requests, warm_up=settings.warm_up)
        measured: list[Measurement] = []
        try:
            for way in settings.transports:
                connection: Connection | None = opened.connections.get(way)
                if connection is None:
                    continue
                target = Target(
                    address=_address(server, way),
                    model=model,
                    way=way,
                    inputs=inputs,
                    largest_pixels=max(request.label_map.size for request in maps),
                    timeout=settings.timeout,
                    warm_up=settings.warm_up,
                )
                driver = Driver(way, connection, maps, 1, view, length)
                both = _Both(settings=settings, program=program, target=target, driver=driver)
                measured += both.compare()
        finally:
            close_all(opened.connections)
    return measured, list(opened.left_out)


def _address(server: Served, way: Way) -> str:
    """``HOST:PORT``, as perf_analyzer takes it for all protocols."""
    if way != "http":
        return server_address(server.grpc, "grpc")
    url = server.grpc if server.grpc.startswith("http://") else str(server.http)
    return server_address(url if "://" in url else f"http://{url}", "http")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Both:
    """Both tools on one way to the server."""

    settings: PerfAnalyzerSettings
    program: Program
    target: Target
    driver: Driver

    def compare(self) -> list[Measurement]:
        """Closed loops, then open ones at a share of their best."""
        settings = self.settings
        way = {"transport": self.target.way, "batch": 1}
        closed = [{"mode": "closed", "in_flight": count, **way} for count in settings.in_flight]
        measured = self._take_turns(closed)
        if settings.open:
            best = max(one.figures["rate"].value for one in measured[1::2])
            rate = settings.rate or rounded_rate(settings.share * best)
            at = {"mode": "open", "rate": rate, **way}
            measured += self._take_turns([{**at, "arrivals": each} for each in settings.arrivals])
        return measured

    def _take_turns(self, loads: Sequence[Load]) -> list[Measurement]:
        """Every load by both in every round, in an order that alternates."""
        pairs = [Rounds(load=load) for load in loads]
        for number in range(self.settings.rounds):
            for pair in pairs:
                turns = [self._ask_perf_analyzer, self._ask_ours]
                for turn in turns if number % 2 == 0 else reversed(turns):
                    turn(pair, number)
                theirs, ours = (
                    each[-1]["p50"].value for each in (pair.perf_analyzer, pair.sceneloom)
                )
                say(f"round {number + 1}, perf_analyzer: p50 {theirs:.2f} ms, ours {ours:.2f} ms")
        return [one for pair in pairs for one in pair.measurements()]

    def _ask_perf_analyzer(self, pair: Rounds, number: int) -> None:
        if pair.load["mode"] == "closed":
            opinion = run_closed(
                self.program,
                self.target,
                in_flight=int(pair.load["in_flight"]),
                requests=self.settings.requests,
            )
        else:
            opinion = run_open(
                self.program,
                self.target,
                rate=float(pair.load["rate"]),
                arrivals=_arrivals(pair.load),
                requests=self._open_requests(pair.load),
                threads=self.settings.threads,
            )
        pair.perf_analyzer.append(opinion.figures())
        pair.delayed.append(opinion.delayed)

    def _ask_ours(self, pair: Rounds, number: int) -> None:
        if pair.load["mode"] == "closed":
            measured = self.driver.closed(int(pair.load["in_flight"]))
        else:
            rate, count = float(pair.load["rate"]), self._open_requests(pair.load)
            measured, _ = self.driver.open(_arrivals(pair.load), rate, number, requests=count)
        pair.sceneloom.append(measured.figures)
        pair.marks.append(measured.marks)

    def _open_requests(self, load: Load) -> int:
        return max(self.settings.requests, math.ceil(float(load["rate"])))


def _arrivals(load: Load) -> Arrivals:
    return "poisson" if load["arrivals"] == "poisson" else "constant"
