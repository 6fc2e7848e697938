"""`sceneloom bench mlperf`: MLPerf's LoadGen drives a Triton server, and its summary is the result.

LoadGen plans the queries, measures their latency from the planned moment, and gives the verdict.
Every scenario runs in a process of its own. Short closed loops before it measure the targets.

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

from annotated_types import Gt

from sceneloom import progress
from sceneloom.errors import InputError, require
from sceneloom.maps import parse_size
from sceneloom.request import Request
from sceneloom.synthesizer import Synthesizer
from sceneloom.triton.client import TransportChoice, TritonSynthesizer
from sceneloom.triton.transport import Timeouts, server_address
from sceneloom.validation import checked
from sceneloom_bench import harness, loadgen
from sceneloom_bench.loops import run_closed
from sceneloom_bench.reports.environment import Environment
from sceneloom_bench.reports.report import Figure, Measurement, Report
from sceneloom_bench.reports.statistics import around, percentile_figure
from sceneloom_bench.server_statistics import ServerView, Watch

_QUERIES: dict[loadgen.Scenario, int] = {"SingleStream": 64, "Server": 459, "Offline": 64}
_RATES = {"SingleStream": "with_overhead", "Server": "completed", "Offline": "offline"}
_BOUND = 10
"""Default of Server's latency bound, in single latencies."""
_OFFLINE_MARGIN = 1.5
"""Factor of the measured rate for Offline's query: a faster run is long enough, too."""
_MAX_IN_FLIGHT = 64
_MIN_SINGLE, _MAX_SINGLE = 3, 200
"""Number of single requests for the median."""
_RISE = 1.05
"""A smaller rise of the rate ends the search for the capacity."""
UNVERIFIED = (
    "not an MLPerf result: LoadGen's load and verdict on a network outside its benchmarks, not "
    "verified by MLCommons"
)


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class MlperfSettings:
    """Server, scenarios and duration."""

    server: harness.Server
    scenario: tuple[loadgen.Scenario, ...] = ("SingleStream", "Server", "Offline")
    """Scenarios, one after the other."""
    transport: TransportChoice = "grpc"
    """Transport of the tensors."""
    size: str = "2048x1024"
    """WIDTHxHEIGHT of drawn maps."""
    maps: Path | None = None
    """Folder of maps in place of drawn ones."""
    different_maps: harness.Maps = 16
    """Maps of the sample library, from which LoadGen draws with replacement."""
    queries: harness.Requests | None = None
    """Fewest queries; by default 64 of SingleStream, 459 of Server, 64 samples of Offline."""
    seconds: harness.Seconds = loadgen.SECONDS
    """Shortest run; 600 by the rules."""
    target_rate: harness.Rate | None = None
    """Queries per second of Server, in place of a share of the capacity."""
    share_of_capacity: harness.Share = 0.7
    """Server's rate, as a share of the pictures per second of short closed loops."""
    latency_bound_ms: harness.Milliseconds | None = None
    """Server's bound on the 99th percentile; by default 10 latencies of a single request."""
    batch: harness.Batch | None = None
    """Most samples of a request of Offline; by default the model's largest batch."""
    in_flight: harness.Threads = 4
    """Requests at once of Offline, and of the first of the closed loops for the capacity."""
    workers: harness.Threads = 64
    """Most requests at once of Server. Further ones wait in the client; their latency counts."""
    probe_seconds: Annotated[harness.Seconds, Gt(0)] = 3.0
    """Duration of the single requests, and of each closed loop for the capacity."""
    timeout: float = 3600.0
    """Limit of a request, in seconds."""
    name: str = ""
    """Suffix of the files' names."""

    def __post_init__(self) -> None:
        harness.check_different(self, "scenario")
        parse_size(self.size)
        harness.check_name(self.name)
        Timeouts(infer=self.timeout)


def main(*, out: harness.OutFolder, settings: harness.Flags[MlperfSettings]) -> int:
    """Run MLPerf's LoadGen against a Triton server, write DIR/mlperf.json and LoadGen's own
    summaries beside it, and print tables and the verdicts.

    Args:
        out: folder of the report.
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
    """Run the scenarios, one after the other."""
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
            version=settings.server.model_version,
            transport=settings.transport,
            timeouts=Timeouts(infer=settings.timeout),
        ) as client:
            contract, engine, kind = client.contract, client.engine, client.transport.kind
            batch = settings.batch or client.max_batch_size
            if batch > client.max_batch_size:
                raise InputError(f"the model takes at most {client.max_batch_size} in one request")
            maps = harness.bench_maps(contract, size, settings.different_maps, settings.maps)
            if len(maps) < 2:  # a cache on the way could answer requests
                text = f"{settings.maps} has {len(maps)} map; the sample library needs two"
                raise InputError(text)
            if "Offline" in settings.scenario and len(maps) <= batch:
                raise InputError(
                    f"Offline in batches of {batch} needs more different maps than a batch, not "
                    f"{len(maps)}: give it more with --different-maps, or a smaller --batch"
                )
            subject = harness.subject_of(maps, engine, contract.bundle_hash)
            plans = _plans(settings, client, view, address, maps, batch)
        del maps
        measured = []
        for scenario, (plan, marks) in plans.items():
            watch = Watch(view, [plan.model])
            with progress.stage(f"LoadGen, {scenario}", left=settings.seconds):
                outcome = loadgen.run_loadgen(plan)
            watch.counted()
            measured.append(measurement(plan, outcome, kind, marks))
            progress.say(f"LoadGen, {scenario}: {measured[-1].marks[0]}")
    named = f"{subject['width']}x{subject['height']}: {', '.join(settings.scenario)}"
    return Report(
        kind="mlperf",
        title=f"MLPerf LoadGen at {named}",
        subject=subject,
        settings=harness.served_flags(settings),
        environment=environment.to_json(),
        measurements=measured,
        marks=[UNVERIFIED, *environment.marks(), *harness.elsewhere(settings.server)],
        extra={"single_ms": round(1000 * plan.expected_seconds, 3)},
    )


def _address(server: harness.Served, transport: TransportChoice) -> str:
    if transport != "http":
        return server.grpc
    url = server.grpc if server.grpc.startswith("http://") else server.http
    if url is None:
        raise InputError("--transport http needs the server's HTTP port: --http HOST:PORT")
    _, address = server_address(url if "://" in url else f"http://{url}", "http")
    return f"http://{address}"


def _plans(
    settings: MlperfSettings,
    client: TritonSynthesizer,
    view: ServerView,
    address: str,
    maps: Sequence[Request],
    batch: int,
) -> dict[loadgen.Scenario, tuple[loadgen.LoadGenRun, list[str]]]:
    """The run of each scenario, with the targets that the settings leave open, and their marks."""
    with progress.stage("time single requests", left=settings.probe_seconds):
        single = single_seconds(client, maps, settings.probe_seconds)
    progress.say(f"a single request: {1000 * single:.1f} ms")
    loop, wait = settings.in_flight, settings.probe_seconds
    workers = {"SingleStream": 1, "Server": settings.workers, "Offline": loop}
    bound = _BOUND * 1000 * single
    plans: dict[loadgen.Scenario, tuple[loadgen.LoadGenRun, list[str]]] = {}
    for scenario in settings.scenario:
        rate, marks = 1 / single, []
        if scenario == "Offline":
            rate = _OFFLINE_MARGIN * capacity(
                client, maps, in_flight=loop, batch=batch, seconds=wait
            )
        if scenario == "Server" and settings.target_rate is not None:
            rate = settings.target_rate
        elif scenario == "Server":
            # A second batch for each of the server's instances.
            joined = client.max_batch_size if client.dynamic_batching else 1
            most = min(2 * view.instances(client.model) * joined, _MAX_IN_FLIGHT)
            found = highest_capacity(client, maps, first=loop, most=most, seconds=wait)
            share = settings.share_of_capacity
            rate = share * found.rate
            marks.append(f"asked for {rate:.4g}/s: {share:.0%} of {found}")
        if scenario == "Server" and settings.latency_bound_ms is None:
            marks.append(
                f"latency bound {bound:.4g} ms: {_BOUND} times that of a single request, "
                f"{1000 * single:.4g} ms"
            )
        plan = loadgen.LoadGenRun(
            scenario=scenario,
            address=address,
            model=settings.server.model,
            version=settings.server.model_version,
            transport=settings.transport,
            timeout=settings.timeout,
            size=parse_size(settings.size),
            maps=settings.maps,
            different_maps=settings.different_maps,
            queries=settings.queries or _QUERIES[scenario],
            seconds=settings.seconds,
            expected_seconds=single,
            rate=rate,
            latency_bound_ms=settings.latency_bound_ms or bound,
            workers=workers[scenario],
            batch=batch if scenario == "Offline" else 1,
        )
        plans[scenario] = plan, marks
    return plans


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capacity:
    """The best closed loop: pictures per second, requests in flight, and those of all loops."""

    rate: float
    in_flight: int
    tried: Sequence[int]

    def __str__(self) -> str:
        said = f"{self.rate:.4g}/s of a closed loop with {self.in_flight} in flight just before"
        tried = ", ".join(map(str, self.tried))
        return said if len(self.tried) == 1 else f"{said}, the best of {tried}"


def single_seconds(synthesizer: Synthesizer, maps: Sequence[Request], seconds: float) -> float:
    """Median seconds of single requests, after a warm-up, during `seconds`, at least of three."""
    turning = harness.batches(maps, 1)
    synthesizer.run_requests(next(turning))
    took: list[float] = []
    while len(took) < _MIN_SINGLE or (sum(took) < seconds and len(took) < _MAX_SINGLE):
        start = time.perf_counter()
        synthesizer.run_requests(next(turning))
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def capacity(
    synthesizer: Synthesizer, maps: Sequence[Request], *, in_flight: int, batch: int, seconds: float
) -> float:
    """Pictures per second of a closed loop, with the requests still in flight after `seconds`."""

    def send(number: int) -> object:
        chosen = [maps[(number * batch + each) % len(maps)] for each in range(batch)]
        return synthesizer.run_requests(chosen)

    with progress.stage(f"closed loop, {in_flight} in flight", left=seconds):
        load = run_closed(
            send, in_flight=in_flight, seconds=seconds, requests=in_flight, max_failures=1
        )
    return batch * len(load.answered) / load.seconds


def highest_capacity(
    synthesizer: Synthesizer, maps: Sequence[Request], *, first: int, most: int, seconds: float
) -> Capacity:
    """The best closed loop of single pictures.

    Each has twice the requests of the one before, up to `most`, until the rate rises by less than
    5 %: a batching server needs more requests in flight than it runs at once.
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
    plan: loadgen.LoadGenRun, outcome: loadgen.Outcome, transport: str, targets: Sequence[str]
) -> Measurement:
    """A run with LoadGen's values. The first mark is the verdict, `targets` are further marks."""
    summary, failed = outcome.summary, outcome.failed
    verdict = [summary.verdict]
    if failed:
        requests = "request" if failed == 1 else "requests"
        verdict = [
            f"not valid: {failed} {requests} failed, the first with: {outcome.first_error}",
            f"{summary.verdict}, without regard to failed requests",
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
            *loadgen.below_minimum(plan.scenario, seconds=outcome.took, queries=outcome.samples),
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


def _latencies(plan: loadgen.LoadGenRun, outcome: loadgen.Outcome) -> dict[str, Figure]:
    """Percentiles and maximum; empty for Offline, whose latency is a place in the queue."""
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
    for percent in (50, 90, 99):  # the requests' own clocks start a little after LoadGen's
        own = percentile_figure(outcome.seconds, percent, unit="ms", scale=1000)
        figures[f"p{percent}"] = around(figures[f"p{percent}"].value, own)
    for name, value in summary.early_ms.items():
        figures[f"{name}_early_stopping"] = Figure(value=value, unit="ms", better="lower")
    return figures
