"""`sceneloom bench server`: a Triton server under closed and open loops of requests.

One way to the server after the other: a closed loop for each number of requests in flight, then
open loops at shares of the best rate that the closed ones reached. Another map every request, all
prepared before; warm-up before each load; the server's own queue and compute times around it. Last
what the server adds to the bare engine, which renders the same maps in turn with it.

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
import tyro

from sceneloom import TritonSynthesizer
from sceneloom.contract import MODEL_NAME
from sceneloom.errors import EngineError, InputError, SceneLoomError, ServingError
from sceneloom.maps import Image, parse_size
from sceneloom.request import Request
from sceneloom.triton.encoded import ENCODED_MODEL, EncodedFormat
from sceneloom.triton.transport import MAX_SECONDS, Timeouts
from sceneloom_bench import harness
from sceneloom_bench.latencies import INTERVALS_MARK, blocks_of
from sceneloom_bench.load import P99_REQUESTS, RESULT, Driver, Length, find_highest_rate
from sceneloom_bench.load_requests import (
    Opened,
    TensorConnection,
    TransportName,
    check_maps,
    close_all,
    fitting_batches,
    open_connections,
)
from sceneloom_bench.loops import Arrivals, LoadFailedError, rounded_rate
from sceneloom_bench.reports.environment import Environment
from sceneloom_bench.reports.report import Measurement, Report, say
from sceneloom_bench.reports.statistics import latency_figures, median_figure, rate_figure
from sceneloom_bench.server_statistics import ServerView
from sceneloom_bench.turns import EngineProcess, EngineRunner, rounds_in_turn
from sceneloom_serving.engines import open_engine

ORDER_MARK = (
    "transports, batches and numbers in flight ran one after the other, not in turn: a machine "
    "that drifts is part of every difference between them, and small ones are not to be trusted"
)
BARE, OVERHEAD = "bare engine", "overhead over the bare engine"
MOST_DIFFERENCE = 1
"""Grey levels between server and bare engine; above, a measurement is marked."""
_WARM_UP_ROUNDS = 3
_RANGES = {
    "different_maps": (2, harness.MOST_MAPS),  # with one, a cache on the way would answer
    "batches": (1, harness.MOST_BATCH),
    "in_flight": (1, harness.MOST_THREADS),
    "rates": (0.001, 100_000),
    "shares": (harness.ABOVE_0, 10),
    "seed": (0, 2**63),
    "seconds": (0, MAX_SECONDS),
    "requests": (2, harness.MOST_REQUESTS),
    "warm_up": (1, harness.MOST_REQUESTS),
    "most_in_flight": (1, harness.MOST_THREADS),
    "most_failures": (1, harness.MOST_REQUESTS),
    "overhead_rounds": (0, harness.MOST_ROUNDS),
    "p99_bound_ms": (harness.ABOVE_0, 1000 * MAX_SECONDS),
    "p99_requests": (1, harness.MOST_REQUESTS),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerBenchSettings:
    """The server, its requests, and the loads."""

    server: Annotated[harness.ServedSettings, tyro.conf.OmitArgPrefixes]
    """Which server."""
    metrics: str | None = None
    """``HOST:PORT`` of a running server's metrics, where cache hits are to be looked for, too."""
    size: str = "512x256"
    """WIDTHxHEIGHT of the maps that are drawn."""
    maps: Path | None = None
    """Folder of maps to send in place of drawn ones."""
    different_maps: int = 16
    """Maps that take turns; more than a request takes."""
    transports: tuple[TransportName, ...] = ("grpc", "grpc-shm", "http", "encoded")
    """Ways to the server."""
    encoded_format: EncodedFormat = "png"
    """Of the encoded path's pictures."""
    batches: tuple[int, ...] = (1,)
    """Maps of a request."""
    in_flight: tuple[int, ...] = (1, 2, 4, 8)
    """Requests in flight of the closed loops."""
    open: bool = True
    """Open loops after the closed ones."""
    rates: tuple[float, ...] = ()
    """Requests per second of the open loops, in place of `shares`."""
    shares: tuple[float, ...] = (0.5, 0.7, 0.9)
    """Rates of the open loops, as shares of the closed loops' best."""
    arrivals: tuple[Arrivals, ...] = ("constant", "poisson")
    """Spread of the open loops' requests."""
    seed: int = 0
    """Of Poisson arrivals."""
    seconds: float = 10
    """Of each load, at least."""
    requests: int = 100
    """Of each load, at least."""
    warm_up: int = 16
    """Requests in front of each load, not counted."""
    most_in_flight: int = 256
    """Workers of an open loop."""
    most_failures: int = 100
    """So many requests that fail in a row end a load, which is then left out and marked."""
    timeout: float = 120
    """Seconds that a request may take."""
    overhead_rounds: int = 40
    """Pictures by the bare engine and through the server in turn, of a repository; 0 for none."""
    p99_bound_ms: float | None = None
    """Find the highest rate that keeps p99 within so many milliseconds, on the first transport with
    the first batch.
    """
    p99_requests: int = P99_REQUESTS
    """Of each probe of that bound, at least."""
    name: str = ""
    """Added to the file's name."""

    def __post_init__(self) -> None:
        parse_size(self.size)
        Timeouts(infer=self.timeout)
        harness.check_name(self.name)
        harness.check_different(self, "transports", "batches", "in_flight")
        if self.open:
            harness.check_different(self, "arrivals", "rates" if self.rates else "shares")
        harness.check_ranges(self, _RANGES)
        planned = max(self.rates, default=0) * self.seconds
        if planned > harness.MOST_REQUESTS:
            raise InputError(
                f"rates of {max(self.rates):g} for {self.seconds:g} s plan {planned:g} requests; "
                f"a load has at most {harness.MOST_REQUESTS:,}"
            )

    @property
    def length(self) -> Length:
        """Of each load."""
        fields = [field.name for field in dataclasses.fields(Length)]
        return Length(**{name: getattr(self, name) for name in fields})


def main(
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    settings: Annotated[ServerBenchSettings, tyro.conf.OmitArgPrefixes],
) -> int:
    """Put a server under load, write DIR/server.json, and print it as the last line.

    Args:
        out: folder of the report.
        settings: which server, and which loads.
    """
    stem = harness.stem_of("server", settings.name)
    harness.check_out(out, stem)
    return harness.publish(measure(settings), out, stem)


def measure(settings: ServerBenchSettings) -> Report:
    """Run all loads.

    Raises:
        InputError: the maps make no different requests, or the server takes none of the batches.
        SceneLoomError: there is no server, it answered from its cache, or every load failed.
    """
    repository = settings.server.repository
    # A bundle of an older version may lack the encoded path.
    has_encoded = repository is not None and (repository / ENCODED_MODEL / "config.pbtxt").is_file()
    encoded = has_encoded and "encoded" in settings.transports
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(harness.served(settings.server, encoded=encoded))
        front = stack.enter_context(TritonSynthesizer(server.grpc, model=settings.server.model))
        size = parse_size(settings.size)
        maps = harness.bench_maps(front.contract, size, settings.different_maps, settings.maps)
        check_maps(maps, settings.batches)
        metrics = server.embedded.metrics if server.embedded else settings.metrics
        view = stack.enter_context(contextlib.closing(ServerView(server.grpc, metrics)))
        described = view.describe(settings.server.model)
        with Environment() as environment:
            opened = open_connections(
                server,
                settings.server.model,
                settings.transports,
                timeout=settings.timeout,
                format=settings.encoded_format,
            )
            stack.callback(close_all, opened.connections)
            kept = measure_all(settings, opened, maps, view)
    height, width = maps[0].label_map.shape
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
    """Measurements, and marks for failed ones: a failing part takes nothing else with it."""

    measured: list[Measurement] = dataclasses.field(default_factory=list)
    marks: list[str] = dataclasses.field(default_factory=list)
    failed: SceneLoomError | None = None

    def run(self, what: str, measure: Callable[[], Sequence[Measurement]]) -> list[Measurement]:
        """Measure, and keep it; none where the load, the server or the engine fails. An answer from
        a cache is no such failure: it makes the whole run void.
        """
        try:
            found = list(measure())
        except (EngineError, LoadFailedError, ServingError) as error:
            say(f"{what} failed: {error}")
            self.failed = self.failed or error
            # An error's own text may name addresses and folders of a machine.
            why = error.mark if isinstance(error, LoadFailedError) else type(error).__name__
            self.marks.append(f"{what} left out: {why}")
            return []
        self.measured += found
        return found


def measure_all(
    settings: ServerBenchSettings, opened: Opened, maps: Sequence[Request], view: ServerView
) -> Kept:
    """Every load on each way, the overhead, and the highest rate."""
    fitting, too_large = fitting_batches(opened.connections, settings.batches)
    kept = Kept(marks=[*opened.left_out, *too_large])
    first: tuple[Driver, float] | None = None
    for transport, batch in fitting:
        connection = opened.connections[transport]
        driver = Driver(transport, connection, maps, batch, view, settings.length)
        best = run_loads(driver, settings, kept)
        if first is None and best is not None:
            first = driver, best
    if kept.failed and not kept.measured:
        raise kept.failed
    clients: dict[str, TritonSynthesizer] = {
        name: connection.client
        for name, connection in opened.connections.items()
        if isinstance(connection, TensorConnection)
    }
    # The engine of a server that was started here can be run without it.
    repository = settings.server.repository
    engine = next((client.engine for client in clients.values()), "")
    if repository is not None and engine and settings.overhead_rounds:
        version, rounds = repository / MODEL_NAME / "1", settings.overhead_rounds
        kept.run("overhead", lambda: measure_overhead(engine, version, clients, maps, rounds))
    bound = settings.p99_bound_ms
    if bound is not None and first is None:
        kept.marks.append(f"{RESULT} left out: no closed loop says where to search")
    elif bound is not None and first is not None:
        driver, best = first
        requests, seed = settings.p99_requests, settings.seed
        kept.run(RESULT, lambda: find_highest_rate(driver, best, bound, requests, seed))
    return kept


def run_loads(driver: Driver, settings: ServerBenchSettings, kept: Kept) -> float | None:
    """The closed loops, then the open ones; the closed loops' best rate, None if all failed."""
    way = f"{driver.transport}, batch {driver.batch}"
    reached: list[float] = []
    for count in settings.in_flight:
        closed = kept.run(f"{way}, {count} in flight", lambda count=count: [driver.closed(count)])  # type: ignore[misc]
        reached += [one.figures["rate"].value / driver.batch for one in closed]
    best = max(reached, default=None)
    if settings.open:
        shares = [] if best is None else [rounded_rate(s * best) for s in settings.shares]
        rates = settings.rates or tuple(dict.fromkeys(shares))  # two may be one, rounded
        for arrivals in settings.arrivals:
            for rate in rates:
                load = functools.partial(driver.open, arrivals, rate, settings.seed)
                what = f"{way}, {arrivals} at {rate:g}/s"
                kept.run(what, lambda load=load: [load()[0]])  # type: ignore[misc]
    return best


def measure_overhead(
    engine: str,
    version: Path,
    clients: Mapping[str, TritonSynthesizer],
    maps: Sequence[Request],
    rounds: int,
) -> list[Measurement]:
    """The bare engine, and what the server adds to it on each transport: one picture of each in
    turn.

    Nothing is ever in flight beside a picture, so the interval of the overhead takes rounds to be
    independent; those of latencies are of blocks. Both sides check and prepare the map, run the
    engine and crop; equal pictures prove that the same was computed.
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
        say(f"{OVERHEAD}, {name}: {overhead.value:.2f} ms, {ratio.value:.3f} times as long")
        samples = blocks_of(seconds[name])
        own = {"overhead": overhead, "overhead_ratio": ratio}
        marks = []
        if differences[name] > MOST_DIFFERENCE:
            marks.append(
                f"pictures through the server differ by up to {differences[name]} grey levels from "
                "the bare engine's: the two did not compute the same"
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
    """Seconds of each runner by round, and the largest difference of its pictures from the bare
    engine's, in grey levels.
    """
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
