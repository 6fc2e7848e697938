"""The real LoadGen against a real server of known speed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from noop_server import NOOP_CONTRACT, NoopServer, write_noop_repository
from sceneloom.errors import InputError, SceneLoomError, ServingError
from sceneloom.maps import instance_map_png, label_map_png
from sceneloom.request import Request
from sceneloom_bench.harness import ServedSettings, bench_maps
from sceneloom_bench.loadgen import LoadGenRun, run_loadgen
from sceneloom_bench.mlperf_command import MlperfSettings, main, measure
from sceneloom_bench.reports.report import read_report

pytest.importorskip("mlperf_loadgen")
pytestmark = pytest.mark.triton
SECONDS = 0.008


@pytest.fixture(scope="module")
def noop_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NoopServer]:
    """Takes 8 ms for each execution, one at a time."""
    folder = tmp_path_factory.mktemp("noop") / "repository"
    with NoopServer(write_noop_repository(folder, delay_seconds=SECONDS)) as running:
        yield running


def settings_for(server: NoopServer, **changes: object) -> MlperfSettings:
    fields: dict[str, object] = {
        "size": "128x64",
        "different_maps": 9,
        "seconds": 0.2,
        "probe_seconds": 0.5,
        **changes,
    }
    return MlperfSettings(server=ServedSettings(url=server.grpc), **fields)  # type: ignore[arg-type]


def test_a_single_stream_and_offline(
    noop_server: NoopServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = settings_for(noop_server, scenario=("SingleStream", "Offline"), name="short")
    assert main(out=tmp_path, settings=chosen) == 0
    report = read_report(tmp_path / "mlperf-short.json")
    verdicts, path = capsys.readouterr().out.splitlines()[-2:]
    assert verdicts.startswith("LoadGen: SingleStream VALID (")
    assert path == f"report: {tmp_path / 'mlperf-short.json'}"
    single, offline = report.measurements
    assert single.marks[0] == "LoadGen: VALID"
    assert "below the rules' minimum: " in single.marks[1]
    assert len(single.samples[0]) == single.extra["queries"] >= 64
    figures = single.figures
    assert 1000 * SECONDS < figures["p50"].value <= figures["p90"].value
    assert figures["p90"].value <= figures["p90_early_stopping"].value
    assert figures["p90"].low is not None
    assert figures["rate"].value < 1 / SECONDS
    assert offline.extra["valid"]
    # Batches of eight take as long as one.
    assert offline.load["batch"] == 8
    assert offline.figures["rate"].value > 2 / SECONDS
    assert "p90" not in offline.figures
    for one in report.measurements:
        text = (tmp_path / f"mlperf-{one.name}-short-summary.txt").read_text()
        assert "MLPerf Results Summary" in text
        assert text == one.extra["summary"]
    assert noop_server.grpc not in (tmp_path / "mlperf-short.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("share", "valid"), [(0.7, True), (1.3, False)])
def test_a_server_is_valid_below_its_capacity_and_invalid_above(
    noop_server: NoopServer, share: float, valid: bool
) -> None:
    chosen = settings_for(
        noop_server,
        scenario=("Server",),
        share_of_capacity=share,
        latency_bound_ms=400,
        seconds=3,
        probe_seconds=1,
    )
    report = measure(chosen)
    (found,) = report.measurements
    assert found.extra["queries"] >= 459
    assert found.extra["valid"] is valid, found.extra["summary"]
    assert found.marks[0].startswith("LoadGen: VALID" if valid else "LoadGen: INVALID")
    assert any(f"{share:.0%} of " in mark for mark in found.marks)
    assert found.figures["latency_bound"].value == 400
    assert (found.figures["p99"].value <= 400) is valid
    assert found.load["arrivals"] == "poisson"


@pytest.mark.slow
def test_failed_requests_void_a_run_that_loadgen_finds_valid(tmp_path: Path) -> None:
    repository = write_noop_repository(tmp_path / "noop", queue_size=1, delay_seconds=0.05)
    with NoopServer(repository) as server:
        chosen = settings_for(
            server, scenario=("Server",), target_rate=200, queries=60, latency_bound_ms=60_000
        )
        report = measure(chosen)
    (found,) = report.measurements
    assert found.extra["failed"] > 0
    assert not found.extra["valid"]
    assert found.marks[0].startswith(f"not valid: {found.extra['failed']} requests failed, the ")
    assert "QueueFullError: the server" in found.marks[0]
    assert found.marks[1].startswith("LoadGen: ")


def test_a_run_without_a_server_says_so(noop_server: NoopServer, plan: LoadGenRun) -> None:
    with pytest.raises(InputError, match="at most 8"):
        measure(settings_for(noop_server, batch=9))
    plan = dataclasses.replace(plan, queries=1, seconds=0, expected_seconds=1, rate=1)
    with pytest.raises(ServingError, match=r"127\.0\.0\.1:1"):
        run_loadgen(plan)
    with pytest.raises(ServingError, match=r"LoadGen's SingleStream did not end within 0\.01 s"):
        run_loadgen(plan, within=0.01)


@pytest.mark.slow
def test_an_answer_from_the_cache_is_an_error(tmp_path: Path) -> None:
    repository = write_noop_repository(tmp_path / "noop", response_cache=True)
    with NoopServer(repository, cache_bytes=1 << 24) as server:
        chosen = settings_for(server, scenario=("SingleStream",), different_maps=2)
        with pytest.raises(SceneLoomError, match=r"\d+ requests .* the server's response cache"):
            measure(chosen)


@pytest.mark.slow
def test_maps_that_a_cache_could_answer_are_refused(
    noop_server: NoopServer, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"batches of 8 needs more different maps .* not 8"):
        measure(settings_for(noop_server, scenario=("Offline",), different_maps=8))
    maps = bench_maps(NOOP_CONTRACT, (64, 64), 2)
    for folder in ("test_label", "test_inst"):
        (tmp_path / folder).mkdir()
    chosen = settings_for(noop_server, scenario=("SingleStream",), maps=tmp_path)
    write_map(tmp_path, "one.png", maps[0])
    with pytest.raises(InputError, match="has 1 map; the sample library needs two"):
        measure(chosen)
    write_map(tmp_path, "two.png", maps[1])
    report = measure(chosen)
    assert report.title.startswith("MLPerf LoadGen at 64x64: ")  # not of the size of drawn ones
    assert (report.subject["height"], report.subject["width"]) == (64, 64)


def write_map(folder: Path, name: str, request: Request) -> None:
    labels, instances = request.label_map, request.instance_map
    assert instances is not None
    (folder / "test_label" / name).write_bytes(label_map_png(NOOP_CONTRACT, labels))
    (folder / "test_inst" / name).write_bytes(instance_map_png(NOOP_CONTRACT, labels, instances))


@pytest.mark.slow
def test_a_batching_servers_capacity_over_http_by_its_whole_address(tmp_path: Path) -> None:
    repository = write_noop_repository(
        tmp_path / "noop", delay_seconds=SECONDS, dynamic_batching=True
    )
    with NoopServer(repository) as server:
        for named in (
            ServedSettings(url=server.grpc, http=f"http://{server.http}"),
            ServedSettings(url=f"http://{server.http}"),
        ):
            chosen = dataclasses.replace(
                settings_for(server, scenario=("Server",), transport="http", queries=50),
                server=named,
            )
            (found,) = measure(chosen).measurements
            assert found.load["transport"] == "http"
            assert any("the best of 4, 8" in mark for mark in found.marks), found.marks
