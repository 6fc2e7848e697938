"""`sceneloom bench server`: a Triton server under closed and open loops of requests.

For each transport: a closed loop for each number of requests in flight, then open loops at shares
of the closed loops' best rate. Maps are prepared before and differ from request to request; each
load has a warm-up and the server's own queue and compute times. At last the server's overhead over
the bare engine, both on the same maps in turn.

    sceneloom bench server --repository build/demo/repository --size 512x256 --out build/bench
    sceneloom bench server --url gpu1:8001 --transports grpc --p99-bound-ms 100 --out build/bench
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Interval

from sceneloom import TritonSynthesizer, progress
from sceneloom.contract import MODEL_NAME
from sceneloom.errors import EngineError, InputError, SceneLoomError, ServingError
from sceneloom.maps import Image, parse_size
from sceneloom.pictures import EncodedFormat
from sceneloom.request import Request
from sceneloom.triton.access import Access, AccessArguments, AccessFlags
from sceneloom.triton.transport import Timeouts
from sceneloom.validation import checked
from sceneloom_bench import harness, load_requests
from sceneloom_bench.latencies import INTERVALS_MARK, blocks_of
from sceneloom_bench.load import P99_REQUESTS, RESULT, Driver, Length, find_highest_rate
from sceneloom_bench.loops import Arrivals, LoadFailedError, rounded_rate
from sceneloom_bench.reports.environment import Environment
from sceneloom_bench.reports.report import Measurement, Report
from sceneloom_bench.reports.statistics import latency_figures, median_figure, rate_figure
from sceneloom_bench.server_statistics import GatewayView, ServerView, View
from sceneloom_bench.turns import EngineProcess, EngineRunner, rounds_in_turn
from sceneloom_serving.engines import open_engine

ORDER_MARK = (
    "transports, batches and numbers in flight ran one after the other, not in turn: a machine "
    "that drifts is part of every difference between them, so do not trust small ones"
)
BARE, OVERHEAD = "bare engine", "overhead over the bare engine"
MAX_DIFFERENCE = 1
"""Grey levels between server and bare engine; a larger difference is marked."""
_WARM_UP_ROUNDS = 3


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerBenchSettings:
    """The server, its requests and the loads."""

    server: harness.Server
    metrics: str | None = None
    """``HOST:PORT`` of a running server's metrics, to look for cache hits."""
    size: str = "512x256"
    """WIDTHxHEIGHT of drawn maps."""
    maps: Path | None = None
    """Folder of maps in place of drawn ones."""
    different_maps: harness.Maps = 16
    """Maps to take turns; more than a request holds."""
    transports: tuple[load_requests.TransportName, ...] = ("grpc", "grpc-shm", "http")
    """Transports; to a gateway, its own alone."""
    format: EncodedFormat = "png"
    """Picture format of a gateway."""
    batches: tuple[harness.Batch, ...] = (1,)
    """Maps of a request."""
    in_flight: tuple[harness.Threads, ...] = (1, 2, 4, 8)
    """Requests in flight of the closed loops."""
    open: bool = True
    """Open loops after the closed ones."""
    rates: tuple[harness.Rate, ...] = ()
    """Requests per second of the open loops, in place of `shares`."""
    shares: tuple[harness.Share, ...] = (0.5, 0.7, 0.9)
    """Rates of the open loops, as shares of the closed loops' best."""
    arrivals: tuple[Arrivals, ...] = ("constant", "poisson")
    """Gaps between the open loops' requests."""
    seed: Annotated[int, Interval(ge=0, le=2**63)] = 0
    """Seed of Poisson arrivals."""
    seconds: harness.Seconds = 10
    """Shortest load."""
    requests: Annotated[harness.Requests, Ge(2)] = 100
    """Fewest requests of a load."""
    warm_up: harness.Requests = 16
    """Uncounted requests before each load."""
    most_in_flight: harness.Threads = 256
    """Workers of an open loop."""
    most_failures: harness.Requests = 100
    """Failures in a row that end a load; it is then left out and marked."""
    timeout: float = 120
    """Limit of a request, in seconds."""
    overhead_rounds: Annotated[int, Interval(ge=0, le=100_000)] = 40
    """Pictures by the bare engine of a repository and through the server in turn; 0 for none."""
    p99_bound_ms: harness.Milliseconds | None = None
    """Find the highest rate with a p99 within this bound, on the first transport and batch."""
    p99_requests: harness.Requests = P99_REQUESTS
    """Fewest requests of a probe of that bound."""
    name: str = ""
    """Suffix of the file's name."""

    def __post_init__(self) -> None:
        parse_size(self.size)
        Timeouts(infer=self.timeout)
        harness.check_name(self.name)
        harness.check_different(self, "transports", "batches", "in_flight")
        if self.open:
            harness.check_different(self, "arrivals", "rates" if self.rates else "shares")
        planned = max(self.rates, default=0) * self.seconds
        if planned > 10_000_000:
            raise InputError(
                f"rates of {max(self.rates):g} for {self.seconds:g} s plan {planned:g} requests; "
                "a load has at most 10,000,000"
            )

    def loads(self, fitting: int) -> int:
        """Largest number of loads of so many pairs of a transport and a batch."""
        rates = len(self.arrivals) * len(self.rates or self.shares) * self.open
        overhead = bool(self.server.repository and self.overhead_rounds)
        return fitting * (len(self.in_flight) + rates) + overhead + bool(self.p99_bound_ms)

    @property
    def length(self) -> Length:
        """Length of each load."""
        return Length(
            seconds=self.seconds,
            requests=self.requests,
            warm_up=self.warm_up,
            max_in_flight=self.most_in_flight,
            max_failures=self.most_failures,
        )


def main(
    *,
    out: harness.OutFolder,
    settings: harness.Flags[ServerBenchSettings],
    access: AccessArguments = AccessFlags(),  # noqa: B008 - frozen
) -> int:
    """Put a server or a gateway under load, write DIR/server.json, and print its tables and the
    best load.

    Args:
        out: folder of the report.
        access: API key, trusted certificates and headers.
    """
    url = settings.server.url
    granted = access.read([] if url is None else [url])
    work = functools.partial(measure, access=granted)
    return harness.run_benchmark("server", work, settings, settings.name, out)


def measure(settings: ServerBenchSettings, access: Access | None = None) -> Report:
    """Run all loads; raises the first failure if every load failed."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(harness.served(settings.server))
        model, version = settings.server.model, settings.server.model_version
        front = stack.enter_context(
            TritonSynthesizer(server.grpc, model=model, version=version, access=access)
        )
        gateway = front.transport.kind == "gateway"
        size = parse_size(settings.size)
        maps = harness.bench_maps(front.contract, size, settings.different_maps, settings.maps)
        load_requests.check_maps(maps, settings.batches)
        metrics = server.embedded.metrics if server.embedded else settings.metrics
        opened = GatewayView() if gateway else ServerView(server.grpc, metrics, access)
        view = stack.enter_context(contextlib.closing(opened))
        described = view.describe(model)
        with Environment() as environment:
            connections, left_out = load_requests.open_connections(
                server,
                model,
                ("gateway",) if gateway else settings.transports,
                version=version,
                timeout=settings.timeout,
                format=settings.format,
                access=access,
            )
            stack.callback(load_requests.close_all, connections)
            kept = Kept(marks=left_out)
            measure_all(settings, connections, maps, view, kept)
    height, width = maps[0].size
    spoken = "{name} {version}".format(**described["server"])
    return Report(
        kind="server",
        title=f"{front.model} at {width}x{height} behind {spoken}",
        subject=harness.subject_of(maps, front.engine, front.contract.bundle_hash),
        settings={**harness.served_flags(settings), "metrics": settings.metrics and "HOST:PORT"},
        environment=environment.to_json(),
        measurements=kept.measured,
        marks=[
            *environment.marks(),
            *harness.elsewhere(settings.server),
            *kept.marks,
            ORDER_MARK,
            INTERVALS_MARK,
        ],
        extra=described,
    )


@dataclasses.dataclass(kw_only=True)
class Kept:
    """Measurements, and marks for failed ones."""

    measured: list[Measurement] = dataclasses.field(default_factory=list)
    marks: list[str] = dataclasses.field(default_factory=list)
    failed: SceneLoomError | None = None
    steps: progress.Steps = dataclasses.field(default_factory=lambda: progress.Steps(1))
    """Counts the loads."""

    def run(
        self, what: str, measure: Callable[..., Sequence[Measurement]], *arguments: Any
    ) -> list[Measurement]:
        """Measure and keep the result; empty if the load, the server or the engine fails. An answer
        from a cache voids the whole run.
        """
        try:
            with self.steps.step(what):
                found = list(measure(*arguments))
        except (EngineError, LoadFailedError, ServingError) as error:
            progress.say(f"{what} failed: {error}")
            self.failed = self.failed or error
            # An error's own text may name addresses and folders of a machine.
            why = error.mark if isinstance(error, LoadFailedError) else type(error).__name__
            self.marks.append(f"{what} left out: {why}")
            return []
        self.measured += found
        return found


def measure_all(
    settings: ServerBenchSettings,
    connections: Mapping[load_requests.TransportName, load_requests.Connection],
    maps: Sequence[Request],
    view: View,
    kept: Kept,
) -> None:
    """Measure every load on each transport, the overhead, and the highest rate."""
    fitting, too_large = load_requests.fitting_batches(connections, settings.batches)
    kept.marks += too_large
    kept.steps = progress.Steps(settings.loads(len(fitting)))
    first: tuple[Driver, float] | None = None
    for transport, batch in fitting:
        driver = Driver(transport, connections[transport], maps, batch, view, settings.length)
        best = run_loads(driver, settings, kept)
        if first is None and best is not None:
            first = driver, best
    if kept.failed and not kept.measured:
        raise kept.failed
    clients: dict[str, TritonSynthesizer] = {
        name: connection.client
        for name, connection in connections.items()
        if isinstance(connection, load_requests.TensorConnection)
    }
    # Only the engine of an embedded server can run without it.
    repository = settings.server.repository
    engine = next((client.engine for client in clients.values()), "")
    if repository is not None and engine and settings.overhead_rounds:
        version, rounds = repository / MODEL_NAME / "1", settings.overhead_rounds
        kept.run("overhead", measure_overhead, engine, version, clients, maps, rounds)
    bound = settings.p99_bound_ms
    if bound is not None and first is None:
        kept.marks.append(f"{RESULT} left out: the closed loops that start the search failed")
    elif bound is not None and first is not None:
        requests, seed = settings.p99_requests, settings.seed
        kept.run(RESULT, find_highest_rate, *first, bound, requests, seed)


def run_loads(driver: Driver, settings: ServerBenchSettings, kept: Kept) -> float | None:
    """Run the closed loops, then the open ones; returns the closed loops' best rate, if any."""
    source = f"{driver.transport}, batch {driver.batch}"
    reached: list[float] = []
    for count in settings.in_flight:
        what = f"{source}, {count} in flight"
        closed = kept.run(what, lambda count: [driver.closed(count)], count)
        reached += [one.figures["rate"].value / driver.batch for one in closed]
    best = max(reached, default=None)
    if settings.open:
        shares = [] if best is None else [rounded_rate(s * best) for s in settings.shares]
        rates = settings.rates or tuple(dict.fromkeys(shares))  # two may be one, rounded
        for arrivals in settings.arrivals:
            for rate in rates:
                what = f"{source}, {arrivals} at {rate:g}/s"
                kept.run(what, lambda *load: [driver.open(*load)[0]], arrivals, rate, settings.seed)
    return best


def measure_overhead(
    engine: str,
    version: Path,
    clients: Mapping[str, TritonSynthesizer],
    maps: Sequence[Request],
    rounds: int,
) -> list[Measurement]:
    """The bare engine and the server's overhead on each transport, one picture of each in turn.

    Pictures are never in flight together, so the interval of the overhead takes rounds as
    independent; latencies have intervals over blocks. Both sides check and prepare the map, run the
    engine and crop, and their pictures are compared.
    """
    with EngineProcess(functools.partial(open_engine, engine, version)) as process:
        runners = {name: EngineRunner(client).run for name, client in clients.items()}
        seconds, differences = time_in_turn({BARE: process.run, **runners}, maps, rounds)
    samples = blocks_of(seconds[BARE])
    measured = [
        Measurement(
            name=BARE,
            load={"mode": "in turn", "batch": 1},
            figures={**latency_figures(samples), "rate": rate_figure(samples)},
            samples=samples,
            extra={"engine": engine},
        )
    ]
    for name in clients:
        pairs = list(zip(seconds[name], seconds[BARE], strict=True))
        overhead = median_figure([1000 * (a - b) for a, b in pairs], unit="ms", better="lower")
        ratio = median_figure([a / b for a, b in pairs], unit="x", better="lower")
        progress.say(
            f"{OVERHEAD}, {name}: {overhead.value:.2f} ms, {ratio.value:.3f} times as long"
        )
        samples = blocks_of(seconds[name])
        own = {"overhead": overhead, "overhead_ratio": ratio}
        marks = []
        if differences[name] > MAX_DIFFERENCE:
            marks.append(
                f"the server's pictures differ from the bare engine's by up to {differences[name]} "
                "grey levels: the two did not compute the same"
            )
        measured.append(
            Measurement(
                name=OVERHEAD,
                load={"mode": "in turn", "transport": name, "batch": 1},
                figures=own | latency_figures(samples),
                samples=samples,
                marks=marks,
                extra={"max_difference": differences[name]},
            )
        )
    return measured


def time_in_turn(
    runners: Mapping[str, Callable[..., tuple[float, Image]]], maps: Sequence[Request], rounds: int
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of each runner by round, and its largest grey-level difference from the engine."""
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    differences = dict.fromkeys(runners, 0)
    for number, names in rounds_in_turn(runners, _WARM_UP_ROUNDS + rounds):
        request = maps[number % len(maps)]
        pictures: dict[str, Any] = {}
        for name in names:
            spent, pictures[name] = runners[name](request.label_map, request.instance_map)
            if number >= _WARM_UP_ROUNDS:
                seconds[name].append(spent)
        for name, picture in pictures.items():
            difference = np.abs(picture.astype(np.int16) - pictures[BARE]).max()
            differences[name] = max(differences[name], int(difference))
    return seconds, differences
