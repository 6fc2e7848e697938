"""`sceneloom bench mlperf`: MLPerf's LoadGen drives a Triton server, and its summary is the result.

LoadGen decides when each query is due, measures its latency from then, and gives the verdict; this
only passes queries on and keeps what it wrote. Every scenario runs in a process of its own.

    sceneloom bench mlperf --repository build/demo/repository --size 512x256 \
        --scenario SingleStream Server --seconds 60 --out build/bench
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from sceneloom.errors import InputError, require
from sceneloom.request import Request
from sceneloom.triton.client import TransportChoice, TritonSynthesizer
from sceneloom.triton.transport import MAX_SECONDS, Timeouts, server_address
from sceneloom_bench.bench_inputs import bench_maps, inputs_hash
from sceneloom_bench.load.server_statistics import ServerView, check_cache
from sceneloom_bench.mlperf.loadgen_process import Plan, run_loadgen
from sceneloom_bench.mlperf.measurement import measurement
from sceneloom_bench.mlperf.probe import capacity, highest_capacity, single_seconds
from sceneloom_bench.mlperf.rules import SECONDS, Scenario
from sceneloom_bench.ranges import (
    ABOVE_0,
    MOST_BATCH,
    MOST_MAPS,
    MOST_REQUESTS,
    MOST_THREADS,
    check_name,
    check_out,
    check_ranges,
)
from sceneloom_bench.reports.environment import Environment
from sceneloom_bench.reports.report import Measurement, Report, say, write_report
from sceneloom_bench.served import Served, ServedSettings, elsewhere, served, served_flags
from sceneloom_export.settings import parse_size

_QUERIES: dict[Scenario, int] = {"SingleStream": 64, "Server": 459, "Offline": 64}
_BOUND = 10
"""Server's latency bound in single latencies, unless it is named."""
_OFFLINE_MARGIN = 1.5
"""Offline's query is drawn for this many times the measured rate, so that a run that is faster than
the closed loop before it is long enough.
"""
_MOST_IN_FLIGHT = 64
_FEWEST_MAPS = 2
UNVERIFIED = (
    "not an MLPerf result: LoadGen's load and verdict on a network that is none of its benchmarks, "
    "not verified by MLCommons"
)


_RANGES = {
    "different_maps": (_FEWEST_MAPS, MOST_MAPS),  # with one, a cache on the way would answer
    "queries": (1, MOST_REQUESTS),
    "seconds": (0, MAX_SECONDS),
    "target_rate": (0.001, 100_000),
    "share_of_capacity": (ABOVE_0, 10),
    "latency_bound_ms": (ABOVE_0, 1000 * MAX_SECONDS),
    "batch": (1, MOST_BATCH),
    "in_flight": (1, MOST_THREADS),
    "workers": (1, MOST_THREADS),
    "probe_seconds": (ABOVE_0, MAX_SECONDS),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MlperfSettings:
    """Which server, which scenarios, and for how long."""

    server: Annotated[ServedSettings, tyro.conf.OmitArgPrefixes]
    """Which server."""
    scenario: tuple[Scenario, ...] = ("SingleStream", "Server", "Offline")
    """One or several, one after the other."""
    transport: TransportChoice = "grpc"
    """How tensors travel."""
    size: str = "2048x1024"
    """WIDTHxHEIGHT of drawn maps."""
    maps: Path | None = None
    """Folder of maps to use in place of drawn ones."""
    different_maps: int = 16
    """Maps of the sample library, from which LoadGen draws with replacement."""
    queries: int | None = None
    """Fewest queries of a run; 64 of SingleStream, 459 of Server, 64 samples of Offline unless
    given.
    """
    seconds: float = SECONDS
    """Shortest run; the rules want 600."""
    target_rate: float | None = None
    """Queries per second of Server; without it, a share of the capacity."""
    share_of_capacity: float = 0.7
    """What share of the pictures per second that short closed loops reached Server asks for."""
    latency_bound_ms: float | None = None
    """Server's bound on the 99th percentile; 10 times the latency of a request alone unless given.
    """
    batch: int | None = None
    """Most samples of one request of Offline; the model's largest batch unless given."""
    in_flight: int = 4
    """Requests at once of Offline, and of the first of the closed loops that measure the capacity;
    the next have twice as many, until the rate rises by less than 5 %.
    """
    workers: int = 64
    """Requests at once of Server at most; what comes above waits in the client, and its latency
    counts on.
    """
    probe_seconds: float = 3.0
    """How long the single latency and each of those closed loops are measured."""
    timeout: float = 3600.0
    """Longest that a request may take, in seconds."""
    name: str = ""
    """Added to the files' names."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.scenario or len(set(self.scenario)) < len(self.scenario):
            raise InputError("name each scenario once, and at least one")
        parse_size(self.size)
        check_name(self.name)
        check_ranges(self, _RANGES)
        Timeouts(infer=self.timeout)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Targets:
    """What the probe gave, and what follows from it."""

    single_seconds: float
    rates: dict[Scenario, float]
    bound_ms: float
    said: dict[Scenario, list[str]]


def main(
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    settings: Annotated[MlperfSettings, tyro.conf.OmitArgPrefixes],
) -> int:
    """Run MLPerf's LoadGen against a Triton server, write DIR/mlperf.json and LoadGen's own
    summaries beside it, and print the report as the last line.

    Args:
        out: folder of the report.
        settings: which server, which scenarios, and for how long.
    """
    from sceneloom_bench.reports.tables import describe

    stem = "-".join(filter(None, ("mlperf", settings.name)))
    check_out(out, stem)
    report = measure(settings)
    write_report(report, out, stem)
    for one in report.measurements:
        stem = "-".join(filter(None, ("mlperf", one.name, settings.name, "summary")))
        (out / f"{stem}.txt").write_text(one.extra["summary"], "utf-8")
    print(describe(report))
    print(json.dumps(report.to_json()))
    return 0


def measure(settings: MlperfSettings) -> Report:
    """Run the scenarios, one after the other.

    Raises:
        MissingDependencyError: LoadGen is not installed.
        SceneLoomError: there is no server, it answered from its cache, or LoadGen broke.
    """
    require(("mlperf_loadgen",), extra="bench", purpose="sceneloom bench mlperf")
    size = parse_size(settings.size)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(served(settings.server))
        environment = stack.enter_context(Environment())
        metrics = server.embedded.metrics if server.embedded else None
        view = stack.enter_context(contextlib.closing(ServerView(server.grpc, metrics)))
        address = _address(server, settings.transport)
        with _connect(settings, address) as client:
            contract, engine, kind = client.contract, client.engine, client.transport.kind
            batch = settings.batch or client.max_batch_size
            if batch > client.max_batch_size:
                raise InputError(f"the model takes at most {client.max_batch_size} in one request")
            maps = bench_maps(contract, size, settings.different_maps, settings.maps)
            _check_maps(settings, maps, batch)
            inputs, (height, width) = inputs_hash(maps), maps[0].label_map.shape
            targets = _probe(settings, client, view, maps, batch)
        del maps
        measurements = []
        for scenario in settings.scenario:
            say(f"LoadGen, {scenario}: at least {settings.seconds:g} s")
            plan = _plan(settings, scenario, address, targets, batch)
            measurements.append(_run(plan, kind, targets.said[scenario], view))
    return Report(
        kind="mlperf",
        title=f"MLPerf LoadGen at {width}x{height}: {', '.join(settings.scenario)}",
        subject={
            "height": height,
            "width": width,
            "engine": engine,
            "bundle_sha256": contract.bundle_hash,
            "inputs_sha256": inputs,
        },
        settings=served_flags(settings),
        environment=environment.to_json(),
        measurements=measurements,
        marks=[UNVERIFIED, *environment.marks(), *elsewhere(settings.server)],
        extra={"single_ms": round(1000 * targets.single_seconds, 3)},
    )


def _check_maps(settings: MlperfSettings, maps: Sequence[Request], batch: int) -> None:
    """Refuse maps of which a cache on the way could answer requests."""
    if len(maps) < _FEWEST_MAPS:
        raise InputError(f"{settings.maps} has {len(maps)} map; the sample library needs two")
    if "Offline" in settings.scenario and len(maps) <= batch:
        raise InputError(
            f"Offline in batches of {batch} needs more different maps than a batch holds, not "
            f"{len(maps)}: give it more with --different-maps, or a smaller --batch"
        )


def _address(server: Served, transport: TransportChoice) -> str:
    if transport != "http":
        return server.grpc
    url = server.grpc if server.grpc.startswith("http://") else server.http
    if url is None:
        raise InputError("--transport http needs the server's HTTP port: --http HOST:PORT")
    return f"http://{server_address(url if '://' in url else f'http://{url}', 'http')}"


def _connect(settings: MlperfSettings, address: str) -> TritonSynthesizer:
    return TritonSynthesizer(
        address,
        model=settings.server.model,
        transport=settings.transport,
        timeouts=Timeouts(infer=settings.timeout),
    )


def _probe(
    settings: MlperfSettings,
    client: TritonSynthesizer,
    view: ServerView,
    maps: Sequence[Request],
    batch: int,
) -> _Targets:
    """Measure what targets are made from, as far as they are not given."""
    single = single_seconds(client, maps, settings.probe_seconds)
    say(f"a request alone: {1000 * single:.1f} ms")
    rates: dict[Scenario, float] = {"SingleStream": 1 / single}
    said: dict[Scenario, list[str]] = {scenario: [] for scenario in settings.scenario}
    loop, wait = settings.in_flight, settings.probe_seconds
    if "Offline" in settings.scenario:
        offline = capacity(client, maps, in_flight=loop, batch=batch, seconds=wait)
        rates["Offline"] = _OFFLINE_MARGIN * offline
    bound = settings.latency_bound_ms
    if "Server" in settings.scenario:
        if settings.target_rate is None:
            most = _most_in_flight(client, view)
            found = highest_capacity(client, maps, first=loop, most=most, seconds=wait)
            rates["Server"] = settings.share_of_capacity * found.rate
            said["Server"].append(
                f"asked for {rates['Server']:.4g}/s: {settings.share_of_capacity:.0%} of {found}"
            )
        else:
            rates["Server"] = settings.target_rate
        if bound is None:
            said["Server"].append(
                f"latency bound {_BOUND * 1000 * single:.4g} ms: {_BOUND} times that of a request "
                f"alone, {1000 * single:.4g} ms"
            )
    return _Targets(
        single_seconds=single,
        rates=rates,
        bound_ms=_BOUND * 1000 * single if bound is None else bound,
        said=said,
    )


def _most_in_flight(client: TritonSynthesizer, view: ServerView) -> int:
    """Requests with which the server has a second batch for each of its instances."""
    groups = view.describe(client.model)["model"]["instance_groups"]
    instances: int = max(sum(group["count"] for group in groups), 1)
    joined = client.max_batch_size if client.dynamic_batching else 1
    return min(2 * instances * joined, _MOST_IN_FLIGHT)


def _plan(
    settings: MlperfSettings, scenario: Scenario, address: str, targets: _Targets, batch: int
) -> Plan:
    workers = {"SingleStream": 1, "Server": settings.workers, "Offline": settings.in_flight}
    return Plan(
        scenario=scenario,
        address=address,
        model=settings.server.model,
        transport=settings.transport,
        timeout=settings.timeout,
        size=parse_size(settings.size),
        maps=None if settings.maps is None else str(settings.maps),
        different_maps=settings.different_maps,
        queries=settings.queries or _QUERIES[scenario],
        seconds=settings.seconds,
        expected_seconds=targets.single_seconds,
        rate=targets.rates[scenario],
        latency_bound_ms=targets.bound_ms,
        workers=workers[scenario],
        batch=batch if scenario == "Offline" else 1,
    )


def _run(plan: Plan, transport: str, said: list[str], view: ServerView) -> Measurement:
    before, hits = view.counters([plan.model]), view.cache_hits()
    outcome = run_loadgen(plan)
    after, now = view.counters([plan.model]), view.cache_hits()
    counted = {plan.model: after[plan.model].since(before[plan.model])}
    check_cache(counted, None if now is None or hits is None else now - hits)
    found = measurement(plan, outcome, transport, said)
    say(f"LoadGen, {plan.scenario}: {found.marks[0]}")
    return found
