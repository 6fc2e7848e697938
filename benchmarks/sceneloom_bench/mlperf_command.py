"""`sceneloom bench mlperf`: MLPerf's LoadGen drives a Triton server, and its summary is the result.

LoadGen decides when each query is due, measures its latency from then, and gives the verdict; this
only passes queries on and keeps LoadGen's text. Every scenario runs in a process of its own. Before
LoadGen runs, short closed loops measure what its targets are made from.

    sceneloom bench mlperf --repository build/demo/repository --size 512x256 \
        --scenario SingleStream Server --seconds 60 --out build/bench
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from sceneloom.errors import InputError, require
from sceneloom.maps import parse_size
from sceneloom.request import Request
from sceneloom.synthesizer import Synthesizer
from sceneloom.triton.client import TransportChoice, TritonSynthesizer
from sceneloom.triton.transport import MAX_SECONDS, Timeouts, server_address
from sceneloom_bench import harness
from sceneloom_bench.loadgen import SECONDS, Outcome, Plan, Scenario, below_minimum, run_loadgen
from sceneloom_bench.loops import run_closed
from sceneloom_bench.reports.environment import Environment
from sceneloom_bench.reports.report import Figure, Measurement, Report, say
from sceneloom_bench.reports.statistics import around, percentile_figure
from sceneloom_bench.server_statistics import ServerView, Watch

_QUERIES: dict[Scenario, int] = {"SingleStream": 64, "Server": 459, "Offline": 64}
_RATES = {"SingleStream": "with_overhead", "Server": "completed", "Offline": "offline"}
_BOUND = 10
"""Server's latency bound in single latencies, unless it is named."""
_OFFLINE_MARGIN = 1.5
"""Offline's query is drawn for this many times the measured rate, so that a run that is faster than
the closed loop before it is long enough.
"""
_MOST_IN_FLIGHT = 64
_FEWEST_MAPS = 2
_FEWEST_SINGLE, _MOST_SINGLE = 3, 200
"""Requests alone of which the median is taken."""
_RISE = 1.05
"""The search for the capacity ends at a closed loop whose rate rises by less."""
UNVERIFIED = (
    "not an MLPerf result: LoadGen's load and verdict on a network that is none of its benchmarks, "
    "not verified by MLCommons"
)


_LIMITS = {
    "different_maps": (
        _FEWEST_MAPS,
        harness.MOST_MAPS,
    ),  # with one, a cache on the way would answer
    "queries": (1, harness.MOST_REQUESTS),
    "seconds": (0, MAX_SECONDS),
    "target_rate": (0.001, 100_000),
    "share_of_capacity": (harness.ABOVE_0, 10),
    "latency_bound_ms": (harness.ABOVE_0, 1000 * MAX_SECONDS),
    "batch": (1, harness.MOST_BATCH),
    "in_flight": (1, harness.MOST_THREADS),
    "workers": (1, harness.MOST_THREADS),
    "probe_seconds": (harness.ABOVE_0, MAX_SECONDS),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MlperfSettings:
    """Which server, which scenarios, and for how long."""

    server: Annotated[harness.ServedSettings, tyro.conf.OmitArgPrefixes]
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
    """Server's rate, as a share of the pictures per second of short closed loops."""
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
    """Seconds in which the single latency, and each of those closed loops, is measured."""
    timeout: float = 3600.0
    """Longest that a request may take, in seconds."""
    name: str = ""
    """Added to the files' names."""

    def __post_init__(self) -> None:
        if not self.scenario or len(set(self.scenario)) < len(self.scenario):
            raise InputError("name each scenario once, and at least one")
        parse_size(self.size)
        harness.check_name(self.name)
        harness.check_ranges(self, _LIMITS)
        Timeouts(infer=self.timeout)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Targets:
    """Seconds of a request alone, rates per second, Server's bound on p99, and marks."""

    single_seconds: float
    rates: dict[Scenario, float]
    bound_ms: float
    marks: dict[Scenario, list[str]]


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
    stem = harness.stem_of("mlperf", settings.name)
    harness.check_out(out, stem)
    report = measure(settings)
    out.mkdir(parents=True, exist_ok=True)
    for one in report.measurements:
        name = harness.stem_of("mlperf", one.name, settings.name, "summary")
        (out / f"{name}.txt").write_text(one.extra["summary"], "utf-8")
    return harness.publish(report, out, stem)


def measure(settings: MlperfSettings) -> Report:
    """Run the scenarios, one after the other.

    Raises:
        MissingDependencyError: LoadGen is not installed.
        SceneLoomError: there is no server, it answered from its cache, or LoadGen broke.
    """
    require(("mlperf_loadgen",), extra="bench", purpose="sceneloom bench mlperf")
    size = parse_size(settings.size)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(harness.served(settings.server))
        environment = stack.enter_context(Environment())
        metrics = server.embedded.metrics if server.embedded else None
        view = stack.enter_context(contextlib.closing(ServerView(server.grpc, metrics)))
        address = _address(server, settings.transport)
        with TritonSynthesizer(
            address,
            model=settings.server.model,
            transport=settings.transport,
            timeouts=Timeouts(infer=settings.timeout),
        ) as client:
            contract, engine, kind = client.contract, client.engine, client.transport.kind
            batch = settings.batch or client.max_batch_size
            if batch > client.max_batch_size:
                raise InputError(f"the model takes at most {client.max_batch_size} in one request")
            maps = harness.bench_maps(contract, size, settings.different_maps, settings.maps)
            _check_maps(settings, maps, batch)
            subject = harness.subject_of(maps, engine, contract.bundle_hash)
            targets = _targets(settings, client, view, maps, batch)
        del maps
        measured = []
        for scenario in settings.scenario:
            say(f"LoadGen, {scenario}: at least {settings.seconds:g} s")
            plan = _plan(settings, scenario, address, targets, batch)
            watch = Watch(view, [plan.model])
            outcome = run_loadgen(plan)
            watch.counted()
            measured.append(measurement(plan, outcome, kind, targets.marks[scenario]))
            say(f"LoadGen, {scenario}: {measured[-1].marks[0]}")
    named = f"{subject['width']}x{subject['height']}: {', '.join(settings.scenario)}"
    return Report(
        kind="mlperf",
        title=f"MLPerf LoadGen at {named}",
        subject=subject,
        settings=harness.served_flags(settings),
        environment=environment.to_json(),
        measurements=measured,
        marks=[UNVERIFIED, *environment.marks(), *harness.elsewhere(settings.server)],
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


def _address(server: harness.Served, transport: TransportChoice) -> str:
    if transport != "http":
        return server.grpc
    url = server.grpc if server.grpc.startswith("http://") else server.http
    if url is None:
        raise InputError("--transport http needs the server's HTTP port: --http HOST:PORT")
    return f"http://{server_address(url if '://' in url else f'http://{url}', 'http')}"


def _targets(
    settings: MlperfSettings,
    client: TritonSynthesizer,
    view: ServerView,
    maps: Sequence[Request],
    batch: int,
) -> Targets:
    """Measure what the targets are made from, as far as they are not given."""
    single = single_seconds(client, maps, settings.probe_seconds)
    say(f"a request alone: {1000 * single:.1f} ms")
    rates: dict[Scenario, float] = {"SingleStream": 1 / single}
    marks: dict[Scenario, list[str]] = {scenario: [] for scenario in settings.scenario}
    loop, wait = settings.in_flight, settings.probe_seconds
    if "Offline" in settings.scenario:
        offline = capacity(client, maps, in_flight=loop, batch=batch, seconds=wait)
        rates["Offline"] = _OFFLINE_MARGIN * offline
    bound = settings.latency_bound_ms
    if "Server" in settings.scenario:
        if settings.target_rate is None:
            # So many that the server has a second batch for each of its instances.
            joined = client.max_batch_size if client.dynamic_batching else 1
            most = min(2 * view.instances(client.model) * joined, _MOST_IN_FLIGHT)
            found = highest_capacity(client, maps, first=loop, most=most, seconds=wait)
            rates["Server"] = settings.share_of_capacity * found.rate
            marks["Server"].append(
                f"asked for {rates['Server']:.4g}/s: {settings.share_of_capacity:.0%} of {found}"
            )
        else:
            rates["Server"] = settings.target_rate
        if bound is None:
            marks["Server"].append(
                f"latency bound {_BOUND * 1000 * single:.4g} ms: {_BOUND} times that of a request "
                f"alone, {1000 * single:.4g} ms"
            )
    bound = _BOUND * 1000 * single if bound is None else bound
    return Targets(single_seconds=single, rates=rates, bound_ms=bound, marks=marks)


def _plan(
    settings: MlperfSettings, scenario: Scenario, address: str, targets: Targets, batch: int
) -> Plan:
    workers = {"SingleStream": 1, "Server": settings.workers, "Offline": settings.in_flight}
    return Plan(
        scenario=scenario,
        address=address,
        model=settings.server.model,
        transport=settings.transport,
        timeout=settings.timeout,
        size=parse_size(settings.size),
        maps=settings.maps,
        different_maps=settings.different_maps,
        queries=settings.queries or _QUERIES[scenario],
        seconds=settings.seconds,
        expected_seconds=targets.single_seconds,
        rate=targets.rates[scenario],
        latency_bound_ms=targets.bound_ms,
        workers=workers[scenario],
        batch=batch if scenario == "Offline" else 1,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capacity:
    """The best closed loop: pictures per second, its requests in flight, and those of all loops."""

    rate: float
    in_flight: int
    tried: Sequence[int]

    def __str__(self) -> str:
        said = f"{self.rate:.4g}/s, which a closed loop of {self.in_flight} requests reached just "
        if len(self.tried) == 1:
            return f"{said}before"
        return f"{said}before, the best of {', '.join(map(str, self.tried))} in flight"


def single_seconds(synthesizer: Synthesizer, maps: Sequence[Request], seconds: float) -> float:
    """The median time of a request alone, after one that is not counted; of three requests at
    least, for so many seconds.
    """
    turning = harness.batches(maps, 1)
    synthesizer.run_requests(next(turning))
    took: list[float] = []
    while len(took) < _FEWEST_SINGLE or (sum(took) < seconds and len(took) < _MOST_SINGLE):
        start = time.perf_counter()
        synthesizer.run_requests(next(turning))
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def capacity(
    synthesizer: Synthesizer, maps: Sequence[Request], *, in_flight: int, batch: int, seconds: float
) -> float:
    """Pictures per second in a closed loop of requests of `batch` pictures.

    Requests are sent for so many seconds; those in flight then are waited for, and count.
    """

    def send(number: int) -> object:
        chosen = [maps[(number * batch + each) % len(maps)] for each in range(batch)]
        return synthesizer.run_requests(chosen)

    load = run_closed(
        send, in_flight=in_flight, seconds=seconds, requests=in_flight, most_failures=1
    )
    return batch * len(load.answered) / load.seconds


def highest_capacity(
    synthesizer: Synthesizer, maps: Sequence[Request], *, first: int, most: int, seconds: float
) -> Capacity:
    """The best of closed loops of single pictures, each of twice as many requests as the one
    before, until the rate rises by less than 5 %: a server that joins requests into batches reaches
    its best only with more in flight than it runs at once.

    The loop of the first number is run in any case.
    """
    tried = [first]
    best, at = capacity(synthesizer, maps, in_flight=first, batch=1, seconds=seconds), first
    while tried[-1] < most:
        tried.append(min(2 * tried[-1], most))
        rate = capacity(synthesizer, maps, in_flight=tried[-1], batch=1, seconds=seconds)
        enough = rate < _RISE * best
        if rate > best:
            best, at = rate, tried[-1]
        if enough:
            break
    return Capacity(rate=best, in_flight=at, tried=tried)


def measurement(
    plan: Plan, outcome: Outcome, transport: str, targets: Sequence[str]
) -> Measurement:
    """A run for the report: values are LoadGen's, the first mark is the verdict, `targets` are
    marks of where its targets come from.

    A single stream's percentiles have the intervals of the requests' own times; queries that wait
    for each other are not independent, so the others' have none.
    """
    summary, failed = outcome.summary, outcome.failed
    verdict = [summary.verdict]
    if failed:
        requests = "request" if failed == 1 else "requests"
        verdict = [
            f"not valid: {failed} {requests} failed, the first with: {outcome.first_error}",
            f"{summary.verdict}, which knows nothing of requests that failed",
        ]
    load: dict[str, str | int | float | bool] = {
        "scenario": plan.scenario,
        "transport": transport,
        "batch": plan.batch,
    }
    if plan.scenario == "Server":
        load |= {"rate": round(plan.rate, 4), "arrivals": "poisson"}
    else:
        load["in_flight"] = plan.workers
    rate = summary.rates[_RATES[plan.scenario]]
    return Measurement(
        name=plan.scenario,
        load=load,
        figures={
            "rate": Figure(value=rate, unit="1/s", better="higher"),
            **_latencies(plan, outcome),
        },
        samples=[outcome.seconds] if plan.scenario == "SingleStream" else (),
        marks=[
            *verdict,
            *below_minimum(plan.scenario, seconds=outcome.took, queries=outcome.samples),
            *targets,
            *(f"LoadGen: {remark}" for remark in summary.remarks),
        ],
        extra={
            "valid": summary.valid and not failed,
            "queries": outcome.samples,
            "failed": failed,
            "seconds": round(outcome.took, 3),
            "checks": dict(summary.checks),
            "early_stopping": list(summary.early_stopping),
            "latencies_ms": dict(summary.latencies_ms),
            "rates": dict(summary.rates),
            "parameters": dict(summary.parameters),
            "summary": summary.text,
        },
    )


def _latencies(plan: Plan, outcome: Outcome) -> dict[str, Figure]:
    """Percentiles and maximum; none of Offline, where a latency is a place in its queue."""
    summary = outcome.summary
    if plan.scenario == "Offline":
        return {}
    figures = {
        name: Figure(value=summary.latencies_ms[name], unit="ms", better="lower")
        for name in ("p50", "p90", "p99", "max")
    }
    if plan.scenario == "Server":
        figures["latency_bound"] = Figure(value=plan.latency_bound_ms, unit="ms")
        return figures
    for percent in (50, 90, 99):  # the requests' own times begin a little later than LoadGen's
        own = percentile_figure(outcome.seconds, percent, unit="ms", scale=1000)
        figures[f"p{percent}"] = around(figures[f"p{percent}"].value, own)
    for name, value in summary.early_ms.items():
        figures[f"{name}_early_stopping"] = Figure(value=value, unit="ms", better="lower")
    return figures
