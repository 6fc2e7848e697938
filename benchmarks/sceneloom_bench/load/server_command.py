"""`sceneloom bench server`: a Triton server under closed and open loops of requests.

One way to the server after the other: a closed loop for each number of requests in flight, then
open loops at shares of the best rate that the closed ones reached. Another map every request, all
prepared before; warm-up before each load; the server's own queue and compute times around it.

    sceneloom bench server --repository build/demo/repository --size 512x256 --out build/bench
    sceneloom bench server --url gpu1:8001 --transports grpc --p99-bound-ms 100 --out build/bench
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from sceneloom import TritonSynthesizer
from sceneloom.contract import MODEL_NAME
from sceneloom.errors import InputError
from sceneloom.request import Request
from sceneloom.triton.encoded import ENCODED_MODEL, EncodedFormat
from sceneloom.triton.transport import MAX_SECONDS, Timeouts
from sceneloom_bench.bench_inputs import bench_maps, inputs_hash
from sceneloom_bench.load.driver import Driver, Length
from sceneloom_bench.load.highest_rate import P99_REQUESTS, RESULT, find_highest_rate
from sceneloom_bench.load.kept import Kept
from sceneloom_bench.load.latencies import INTERVALS_MARK
from sceneloom_bench.load.overhead import measure_overhead
from sceneloom_bench.load.requests import (
    Opened,
    TensorConnection,
    TransportName,
    check_maps,
    close_all,
    fitting_batches,
    open_connections,
)
from sceneloom_bench.load.schedule import Arrivals, rounded_rate
from sceneloom_bench.load.server_statistics import ServerView
from sceneloom_bench.ranges import (
    ABOVE_0,
    MOST_BATCH,
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
from sceneloom_bench.reports.report import Measurement, Report, write_report
from sceneloom_bench.served import Served, ServedSettings, elsewhere, served, served_flags
from sceneloom_export.settings import parse_size

ORDER_MARK = (
    "transports, batches and numbers in flight ran one after the other, not in turn: a machine "
    "that drifts is part of every difference between them, and small ones are not to be trusted"
)


_RANGES = {
    "different_maps": (2, MOST_MAPS),  # with one, a cache on the way would answer
    "batches": (1, MOST_BATCH),
    "in_flight": (1, MOST_THREADS),
    "rates": (0.001, 100_000),
    "shares": (ABOVE_0, 10),
    "seed": (0, 2**63),
    "seconds": (0, MAX_SECONDS),
    "requests": (2, MOST_REQUESTS),
    "warm_up": (1, MOST_REQUESTS),
    "most_in_flight": (1, MOST_THREADS),
    "most_failures": (1, MOST_REQUESTS),
    "overhead_rounds": (0, MOST_ROUNDS),
    "p99_bound_ms": (ABOVE_0, 1000 * MAX_SECONDS),
    "p99_requests": (1, MOST_REQUESTS),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerBenchSettings:
    """Which server is asked, for what, and how."""

    server: Annotated[ServedSettings, tyro.conf.OmitArgPrefixes]
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
    """How the open loops' requests are spread."""
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
        """Check the ranges."""
        parse_size(self.size)
        Timeouts(infer=self.timeout)
        check_name(self.name)
        check_different(self, "transports", "batches", "in_flight")
        if self.open:
            check_different(self, "arrivals", "rates" if self.rates else "shares")
        check_ranges(self, _RANGES)
        planned = max(self.rates, default=0) * self.seconds
        if planned > MOST_REQUESTS:
            raise InputError(
                f"rates of {max(self.rates):g} for {self.seconds:g} s plan {planned:g} requests; "
                f"a load has at most {MOST_REQUESTS:,}"
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
    from sceneloom_bench.reports.tables import describe

    stem = "-".join(filter(None, ("server", settings.name)))
    check_out(out, stem)
    report = measure(settings)
    write_report(report, out, stem)
    print(describe(report))
    print(json.dumps(report.to_json()))
    return 0


def measure(settings: ServerBenchSettings) -> Report:
    """Run all loads.

    Raises:
        InputError: the maps make no different requests, or the server takes none of the batches.
        SceneLoomError: there is no server, it answered from its cache, or every load failed.
    """
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(served(settings.server, encoded=_serves_encoded(settings)))
        front = stack.enter_context(TritonSynthesizer(server.grpc, model=settings.server.model))
        maps = bench_maps(
            front.contract, parse_size(settings.size), settings.different_maps, settings.maps
        )
        check_maps(maps, settings.batches)
        metrics = server.embedded.metrics if server.embedded else settings.metrics
        view = stack.enter_context(contextlib.closing(ServerView(server.grpc, metrics)))
        described = view.describe(settings.server.model)
        with Environment() as environment:
            measured, marks = _measure_all(settings, server, maps, view)
    height, width = maps[0].label_map.shape
    return Report(
        kind="server",
        title=f"{front.model} at {width}x{height} behind {_spoken(described)}",
        subject={
            "height": height,
            "width": width,
            "engine": front.engine,
            "bundle_sha256": front.contract.bundle_hash,
            "inputs_sha256": inputs_hash(maps),
        },
        settings={**served_flags(settings), "metrics": settings.metrics and "HOST:PORT"},
        environment=environment.to_json(),
        measurements=measured,
        marks=[
            *environment.marks(),
            *elsewhere(settings.server),
            *marks,
            ORDER_MARK,
            INTERVALS_MARK,
        ],
        extra=described,
    )


def _measure_all(
    settings: ServerBenchSettings, server: Served, maps: Sequence[Request], view: ServerView
) -> tuple[list[Measurement], list[str]]:
    """Every load, and what was left out."""
    opened = open_connections(
        server,
        settings.server.model,
        settings.transports,
        timeout=settings.timeout,
        format=settings.encoded_format,
    )
    try:
        return _measure_opened(settings, opened, maps, view)
    finally:
        close_all(opened.connections)


def _measure_opened(
    settings: ServerBenchSettings, opened: Opened, maps: Sequence[Request], view: ServerView
) -> tuple[list[Measurement], list[str]]:
    """Every load on each way, and what was left out."""
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
    tensors: dict[str, TritonSynthesizer] = {
        name: connection.client
        for name, connection in opened.connections.items()
        if isinstance(connection, TensorConnection)
    }
    kept.run_all("overhead", lambda: _overhead(settings, tensors, maps))
    if settings.p99_bound_ms is not None:
        _find_highest_rate(settings, settings.p99_bound_ms, first, kept)
    return kept.measured, kept.marks


def run_loads(driver: Driver, settings: ServerBenchSettings, kept: Kept) -> float | None:
    """The closed loops, then the open ones.

    Args:
        driver: sends the requests.
        settings: which loads.
        kept: where they are added.

    Returns:
        the best rate of requests of the closed loops; None if all failed.
    """
    way = f"{driver.transport}, batch {driver.batch}"
    reached: list[float] = []
    for count in settings.in_flight:
        closed = kept.run(f"{way}, {count} in flight", functools.partial(driver.closed, count))
        reached += [one.figures["rate"].value / driver.batch for one in closed]
    best = max(reached, default=None)
    if settings.open:
        shares = [] if best is None else [rounded_rate(s * best) for s in settings.shares]
        rates = settings.rates or tuple(dict.fromkeys(shares))  # two may be one, rounded
        for arrivals in settings.arrivals:
            for rate in rates:
                what = f"{way}, {arrivals} at {rate:g}/s"
                kept.run(what, functools.partial(_open, driver, arrivals, rate, settings.seed))
    return best


def _open(driver: Driver, arrivals: Arrivals, rate: float, seed: int) -> Measurement:
    return driver.open(arrivals, rate, seed)[0]


def _find_highest_rate(
    settings: ServerBenchSettings, bound_ms: float, first: tuple[Driver, float] | None, kept: Kept
) -> None:
    """On the first way of which a closed loop was measured."""
    if first is None:
        kept.marks.append(f"{RESULT} left out: no closed loop says where to search")
        return
    driver, best = first
    kept.run_all(
        RESULT,
        lambda: find_highest_rate(driver, best, bound_ms, settings.p99_requests, settings.seed),
    )


def _overhead(
    settings: ServerBenchSettings, clients: Mapping[str, TritonSynthesizer], maps: Sequence[Request]
) -> list[Measurement]:
    """Of a server that was started here, whose engine can be run without it."""
    repository = settings.server.repository
    engine = next((client.engine for client in clients.values()), "")
    if repository is None or not engine or not settings.overhead_rounds:
        return []
    version = repository / MODEL_NAME / "1"
    return measure_overhead(engine, version, clients, maps, settings.overhead_rounds)


def _serves_encoded(settings: ServerBenchSettings) -> bool:
    """Whether a server that is started here is to serve the encoded path: wanted, and in the
    bundle, which one of an older version may lack.
    """
    repository = settings.server.repository
    return (
        "encoded" in settings.transports
        and repository is not None
        and (repository / ENCODED_MODEL / "config.pbtxt").is_file()
    )


def _spoken(described: Mapping[str, Any]) -> str:
    server = described["server"]
    return f"{server['name']} {server['version']}"
