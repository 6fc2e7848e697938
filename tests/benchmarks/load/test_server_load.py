"""Loads against the real tritonserver with a model that draws nothing and takes a known time.

Nothing is asserted in seconds of this machine: figures are compared with the model's delay, and
with each other within one run.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from noop_server import NOOP_CONTRACT, NoopServer, write_noop_repository
from sceneloom import cli
from sceneloom.errors import InputError, SceneLoomError
from sceneloom.request import Request
from sceneloom_bench.harness import Served, ServedSettings, bench_maps
from sceneloom_bench.load import PROBE, RESULT, Driver, Length, find_highest_rate
from sceneloom_bench.load_requests import (
    TransportName,
    check_maps,
    close_all,
    fitting_batches,
    open_connections,
)
from sceneloom_bench.reports.report import Measurement, read_report
from sceneloom_bench.server_command import ORDER_MARK, ServerBenchSettings, measure
from sceneloom_bench.server_statistics import ServerView

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.triton
DELAY = 0.02
SIZE = (64, 128)


@pytest.fixture(scope="module")
def noop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NoopServer]:
    folder = tmp_path_factory.mktemp("noop") / "repository"
    with NoopServer(write_noop_repository(folder, delay_seconds=DELAY, max_batch_size=4)) as server:
        yield server


@pytest.fixture(scope="module")
def maps() -> list[Request]:
    return bench_maps(NOOP_CONTRACT, SIZE, 4)


@contextlib.contextmanager
def driving(
    noop: NoopServer,
    maps: list[Request],
    *,
    transport: TransportName = "grpc",
    batch: int = 1,
    length: Length | None = None,
) -> Iterator[Driver]:
    length = length or Length(seconds=0, requests=60, warm_up=4)
    server = Served(grpc=noop.grpc, http=noop.http, embedded=None)
    opened, _ = open_connections(server, "synthesis", (transport,))
    view = ServerView(noop.grpc, noop.metrics)
    try:
        yield Driver(transport, opened[transport], maps, batch, view, length)
    finally:
        view.close()
        close_all(opened)


def growth(measured: Measurement) -> float:
    """The last block's median latency beside the first one's."""
    return float(np.median(measured.samples[-1]) / np.median(measured.samples[0]))


@pytest.mark.slow
def test_below_capacity_latency_is_the_delay_and_above_it_grows(
    noop: NoopServer, maps: list[Request]
) -> None:
    with driving(noop, maps) as driver:
        closed = driver.closed(2)
        capacity = closed.figures["rate"].value
        half, _ = driver.open("constant", 0.5 * capacity, 0)
        beyond, _ = driver.open("poisson", 1.5 * capacity, 0, requests=90)
    assert 0.4 < capacity * DELAY <= 1
    assert 1 <= half.figures["p50"].value / (1000 * DELAY) < 2.5
    assert growth(closed) < 2
    assert growth(beyond) > 3
    assert beyond.figures["p50"].value > 2 * closed.figures["p50"].value
    assert beyond.extra["waited_for_a_worker"] == 0


def test_the_servers_own_breakdown(noop: NoopServer, maps: list[Request]) -> None:
    with driving(noop, maps) as driver:
        measured = driver.closed(4)
    figures = {name: figure.value for name, figure in measured.figures.items()}
    assert figures["compute"] >= 1000 * DELAY
    # One instance and four in flight: three are always in front.
    assert 2 < figures["queue"] / figures["compute"] < 4
    counted = measured.extra["server"]["synthesis"]
    assert counted["requests"] == counted["executions"] == measured.extra["requests"] == 60
    assert counted["mean_batch"] == 1
    parts = sum(figures[name] for name in ("queue", "compute_input", "compute", "compute_output"))
    assert parts <= counted["total_ms"] * 1.01
    mean = 1000 * np.mean([value for block in measured.samples for value in block])
    assert figures["transfer"] == pytest.approx(mean - counted["total_ms"], abs=0.1)
    assert parts + figures["transfer"] == pytest.approx(mean, rel=0.1)


def test_batches_are_counted_in_pictures(noop: NoopServer, maps: list[Request]) -> None:
    with driving(noop, maps, batch=4, length=Length(seconds=0, requests=12, warm_up=1)) as driver:
        measured = driver.closed(1)
    assert measured.extra["server"]["synthesis"]["mean_batch"] == 4
    assert 0.4 < measured.figures["rate"].value * DELAY / 4 <= 1


@pytest.mark.slow
def test_the_highest_rate_lies_between_its_probes(noop: NoopServer, maps: list[Request]) -> None:
    with driving(noop, maps) as driver:
        found = find_highest_rate(driver, 2 / DELAY, 1000 * 4 * DELAY, 20, seed=1)
    result, *probes = found
    assert result.name == RESULT
    assert {probe.name for probe in probes} == {PROBE}
    figure = result.figures["rate"]
    kept = [p.load["rate"] for p in probes if p.figures["max"].value <= 1000 * 4 * DELAY]
    assert figure.value == result.extra["kept_rate"] == max(kept)
    assert figure.low is figure.high is None  # where a search ended is no interval
    (mark,) = result.marks
    if result.extra["not_kept_rate"] is None:
        assert "no higher rate was tried" in mark
    else:
        assert result.extra["not_kept_rate"] > figure.value
        assert mark.startswith(f"{max(kept):g} requests per second keep a p99 of 80 ms and")


def test_http_and_grpc_say_the_same_of_the_server(noop: NoopServer) -> None:
    with (
        contextlib.closing(ServerView(noop.grpc)) as grpc,
        contextlib.closing(ServerView(f"http://{noop.http}")) as http,
    ):
        assert grpc.counters(["synthesis"]) == http.counters(["synthesis"])
        described = grpc.describe("synthesis")
        assert described == http.describe("synthesis")
    assert described["server"]["name"] == "triton"
    assert described["model"]["instance_groups"] == [{"count": 1, "kind": "KIND_CPU"}]
    assert described["model"]["max_batch_size"] == 4


def test_instances_are_those_of_all_gpus_of_a_group(
    noop: NoopServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = [{"count": 2, "kind": "KIND_GPU", "gpus": [0, 1, 2]}, {"kind": "KIND_CPU"}]
    with contextlib.closing(ServerView(noop.grpc)) as view:
        config = view._ask("config", "synthesis") | {"instance_group": groups}
        monkeypatch.setattr(view, "_ask", lambda what, model: config)
        described = view.describe("synthesis")["model"]["instance_groups"]
    assert described == [{"count": 6, "kind": "KIND_GPU"}, {"count": 1, "kind": "KIND_CPU"}]


def test_the_command_from_end_to_end(
    noop: NoopServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        *("--url", noop.grpc, "--http", noop.http, "--metrics", noop.metrics),
        *("--size", "128x64", "--different-maps", "9", "--batches", "1", "8"),
        *("--in-flight", "2", "--shares", "0.5", "--seconds", "0", "--requests", "12"),
        *("--arrivals", "poisson", "--warm-up", "2", "--name", "test", "--out", str(tmp_path)),
    ]
    assert cli.main(["bench", "server", *arguments]) == 0
    report = read_report(tmp_path / "server-test.json")
    shown = capsys.readouterr()
    best, path = shown.out.splitlines()[-2:]
    assert best.startswith("The best throughput is ")
    assert path == f"report: {tmp_path / 'server-test.json'}"
    assert "grpc, batch 1, 2 in flight (1 of 6) ..." in shown.err
    loads = [(one.load["transport"], one.load["mode"]) for one in report.measurements]
    tensors = ("grpc", "grpc-shm", "http")
    assert loads == [(t, mode) for t in tensors for mode in ("closed", "open")]
    said = " ".join(report.marks)
    assert "grpc-shm in batches of 8 left out: a request takes 4 at most" in said
    assert ORDER_MARK in report.marks
    assert report.extra["server"]["version"]
    text = (tmp_path / "server-test.json").read_text()
    for address in (noop.grpc, noop.http):
        port = address.rpartition(":")[2]
        assert f":{port}" not in text  # its digits alone may be those of a figure
    assert str(tmp_path) not in text


@pytest.mark.slow
def test_loads_that_fail_are_marks_and_the_others_stay(tmp_path: Path) -> None:
    repository = write_noop_repository(tmp_path / "r", delay_seconds=DELAY, queue_size=1)
    with NoopServer(repository) as server:
        settings = ServerBenchSettings(
            server=ServedSettings(url=server.grpc),
            size="128x64",
            transports=("grpc",),
            in_flight=(1,),
            rates=(0.5 / DELAY, 100 / DELAY),
            arrivals=("constant",),
            seconds=0,
            requests=60,
            warm_up=2,
            most_failures=5,
        )
        report = measure(settings)
    assert [one.load["mode"] for one in report.measurements] == ["closed", "open"]
    (mark,) = [mark for mark in report.marks if "left out" in mark]
    assert mark == (
        "grpc, batch 1, constant at 5000/s left out: 5 requests in a row failed, the last one "
        "with QueueFullError"
    )


def test_batches_that_no_way_takes_are_refused(noop: NoopServer) -> None:
    server = Served(grpc=noop.grpc, http=noop.http, embedded=None)
    opened, _ = open_connections(server, "synthesis", ("grpc", "http"))
    try:
        assert fitting_batches(opened, (4,)) == ([("grpc", 4), ("http", 4)], [])
        with pytest.raises(InputError, match="http in batches of 5 left out: a request takes 4"):
            fitting_batches(opened, (5, 8))
    finally:
        close_all(opened)


def test_maps_that_make_one_request_for_ever_are_refused(maps: list[Request]) -> None:
    check_maps(maps, (1, 3))
    with pytest.raises(InputError, match=r"give at least 5 \(--different-maps"):
        check_maps(maps, (1, 4))
    other = bench_maps(NOOP_CONTRACT, (64, 64), 1)
    check_maps([*maps, *other], (1,))
    with pytest.raises(InputError, match="differ in size"):
        check_maps([*maps, *other], (2,))


def test_failed_requests_are_counted(tmp_path: Path, maps: list[Request]) -> None:
    repository = write_noop_repository(tmp_path / "r", delay_seconds=DELAY, queue_size=2)
    with NoopServer(repository) as server, driving(server, maps) as driver:
        measured, p99 = driver.open("constant", 4 / DELAY, 0, requests=100)
    failed = measured.extra["failures"]["QueueFullError"]
    assert measured.figures["failed"].value == failed / 100 > 0.2
    assert p99 == float("inf")
    assert measured.extra["server"]["synthesis"]["requests"] == 100 - failed
    assert any(mark.startswith(f"{failed} of 100 requests failed") for mark in measured.marks)


def test_an_answer_from_the_cache_is_an_error(tmp_path: Path, maps: list[Request]) -> None:
    repository = write_noop_repository(tmp_path / "r", response_cache=True)
    with NoopServer(repository, cache_bytes=1 << 24) as server:
        with (
            driving(server, maps[:1]) as driver,
            pytest.raises(SceneLoomError, match="60 requests of this load were answered from the"),
        ):
            driver.closed(1)
        with contextlib.closing(ServerView(server.grpc, server.metrics)) as view:
            assert view.cache_hits() == view.counters(["synthesis"])["synthesis"].cache_hits > 60
            assert view.describe("synthesis")["model"]["response_cache"]


def test_a_server_without_any_of_the_ways_is_refused(noop: NoopServer) -> None:
    server = Served(grpc=noop.grpc, http=None, embedded=None)
    with pytest.raises(InputError, match="http left out: it needs an address: --http"):
        open_connections(server, "synthesis", ("http",))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("different_maps", 1),
        ("in_flight", ()),
        ("in_flight", (2, 2)),
        ("batches", (0,)),
        ("rates", (-1.0,)),
        ("rates", (3.0, 3.0)),
        ("rates", (math.inf,)),
        ("rates", (1e-300,)),
        ("rates", (90_000.0,)),
        ("shares", ()),
        ("shares", (0.5, 0.5)),
        ("shares", (math.inf,)),
        ("arrivals", ("constant", "constant")),
        ("in_flight", (1_000_000,)),
        ("most_in_flight", 10**9),
        ("seconds", math.nan),
        ("seconds", math.inf),
        ("timeout", math.nan),
        ("seed", -1),
        ("p99_bound_ms", 0),
        ("p99_bound_ms", math.nan),
        ("p99_bound_ms", math.inf),
        ("name", "a/b"),
        ("size", "512"),
    ],
)
def test_settings_that_cannot_be_are_refused(field: str, value: object) -> None:
    server = ServedSettings(url="127.0.0.1:1")
    seconds = {"seconds": 1000} if field == "rates" else {}  # too many for so long
    with pytest.raises(SceneLoomError):
        ServerBenchSettings(server=server, **{field: value, **seconds})  # type: ignore[arg-type]
