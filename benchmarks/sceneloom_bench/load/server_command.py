"""`sceneloom bench server`: a Triton server under closed and open loops of requests.

Every way to the server in turn: a closed loop for each number of requests in flight, then open
loops at shares of the best rate that the closed ones reached. Another map every request, all
prepared before; warm-up before each load; the server's own queue and compute times around it.

    sceneloom bench server --repository build/demo/repository --size 512x256 --out build/bench
    sceneloom bench server --url gpu1:8001 --transports grpc --p99-bound-ms 100 --out build/bench
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from sceneloom import TritonSynthesizer
from sceneloom.contract import MODEL_NAME
from sceneloom.encoded import ENCODED_MODEL, EncodedFormat
from sceneloom.errors import InputError
from sceneloom.synthesizer import Request
from sceneloom_bench.bench_inputs import bench_maps, inputs_hash
from sceneloom_bench.load.driver import Driver, Length
from sceneloom_bench.load.highest_rate import P99_REQUESTS, find_highest_rate
from sceneloom_bench.load.latencies import INTERVALS_MARK
from sceneloom_bench.load.overhead import measure_overhead
from sceneloom_bench.load.requests import (
    TensorConnection,
    TransportName,
    close_all,
    open_connections,
)
from sceneloom_bench.load.schedule import Arrivals, rounded_rate
from sceneloom_bench.load.server_statistics import ServerView
from sceneloom_bench.reports.environment import Environment
from sceneloom_bench.reports.report import Measurement, Report, write_report
from sceneloom_bench.served import Served, ServedSettings, served, served_flags
from sceneloom_export.settings import parse_size


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
    """Maps that take turns."""
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
    """So many requests that fail in a row end the run."""
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
        for field in ("transports", "batches", "in_flight"):
            values = getattr(self, field)
            if not values or len(set(values)) != len(values):
                raise InputError(f"{field} are one or several different values, not {values}")
        if self.open and not (self.arrivals and (self.rates or self.shares)):
            raise InputError("open loops need arrivals, and rates or shares")
        least = {
            "different_maps": 2,  # with one, a cache on the way would answer
            "requests": 2,
            "warm_up": 1,
            "most_in_flight": 1,
            "most_failures": 1,
            "p99_requests": 1,
            "overhead_rounds": 0,
            "seconds": 0,
        }
        for field, low in least.items():
            if getattr(self, field) < low:
                raise InputError(f"{field} is {getattr(self, field)}; it is at least {low}")
        for field in ("batches", "in_flight", "rates", "shares"):
            if not all(value > 0 for value in getattr(self, field)):
                raise InputError(f"{field} are above 0, not {getattr(self, field)}")
        if self.p99_bound_ms is not None and self.p99_bound_ms <= 0:
            raise InputError(f"p99_bound_ms is {self.p99_bound_ms}; it is above 0")

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

    report = measure(settings)
    write_report(report, out, "-".join(filter(None, ("server", settings.name))))
    print(describe(report))
    print(json.dumps(report.to_json()))
    return 0


def measure(settings: ServerBenchSettings) -> Report:
    """Run all loads.

    Raises:
        SceneLoomError: there is no server, it answered from its cache, or requests went on failing.
    """
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(served(settings.server, encoded=_serves_encoded(settings)))
        front = stack.enter_context(TritonSynthesizer(server.grpc, model=settings.server.model))
        maps = bench_maps(
            front.contract, parse_size(settings.size), settings.different_maps, settings.maps
        )
        metrics = server.embedded.metrics if server.embedded else settings.metrics
        view = stack.enter_context(contextlib.closing(ServerView(server.grpc, metrics)))
        with Environment() as environment:
            measured, marks = _measure_all(settings, server, maps, view)
        described = view.describe(settings.server.model)
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
        marks=[*environment.marks(), *_elsewhere(server), *marks, INTERVALS_MARK],
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
    marks, measured = list(opened.left_out), []
    first: tuple[Driver, float] | None = None
    try:
        for transport, connection in opened.connections.items():
            for batch in settings.batches:
                if batch > connection.largest_batch:
                    marks.append(
                        f"{transport} in batches of {batch} left out: a request takes "
                        f"{connection.largest_batch} at most"
                    )
                    continue
                driver = Driver(transport, connection, maps, batch, view, settings.length)
                loads, best = run_loads(driver, settings)
                measured += loads
                first = first or (driver, best)
        tensors: dict[str, TritonSynthesizer] = {
            name: connection.client
            for name, connection in opened.connections.items()
            if isinstance(connection, TensorConnection)
        }
        measured += _overhead(settings, tensors, maps)
        if settings.p99_bound_ms is not None and first is not None:
            driver, best = first
            measured += find_highest_rate(
                driver, best, settings.p99_bound_ms, settings.p99_requests, settings.seed
            )
    finally:
        close_all(opened.connections)
    return measured, marks


def run_loads(driver: Driver, settings: ServerBenchSettings) -> tuple[list[Measurement], float]:
    """The closed loops, then the open ones; with the best rate of requests of the closed ones."""
    measured = [driver.closed(in_flight) for in_flight in settings.in_flight]
    best = max(one.figures["rate"].value for one in measured) / driver.batch
    if settings.open:
        rates = settings.rates or [rounded_rate(share * best) for share in settings.shares]
        for arrivals in settings.arrivals:
            for rate in rates:
                measured.append(driver.open(arrivals, rate, settings.seed)[0])
    return measured, best


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


def _elsewhere(server: Served) -> list[str]:
    """A sentence if the server is not on this machine, so that its environment is another."""
    host = server.grpc.removeprefix("http://").removeprefix("grpc://").rpartition(":")[0]
    if host in ("127.0.0.1", "localhost", "[::1]"):
        return []
    return ["the server ran elsewhere: versions, hardware and clocks are of the machine that asked"]


def _spoken(described: Mapping[str, Any]) -> str:
    server = described["server"]
    return f"{server['name']} {server['version']}"
