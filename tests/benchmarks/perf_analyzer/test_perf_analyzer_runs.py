"""The real perf_analyzer beside our loops against a real server of known speed."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from sceneloom.contract import MODEL_NAME
from sceneloom.errors import MissingDependencyError
from sceneloom_bench.bench_inputs import bench_maps
from sceneloom_bench.load.server_statistics import ServerView
from sceneloom_bench.noop_server import NOOP_CONTRACT, NoopServer, write_noop_repository
from sceneloom_bench.perf_analyzer.binary import Target, find_program, run_closed
from sceneloom_bench.perf_analyzer.inputs import write_inputs
from sceneloom_bench.perf_analyzer.perf_analyzer_command import PerfAnalyzerSettings, main
from sceneloom_bench.perf_analyzer.stalled import StalledSettings, measure
from sceneloom_bench.reports.report import read_report
from sceneloom_bench.served import ServedSettings

pytestmark = [pytest.mark.triton, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def _program() -> None:
    try:
        find_program()
    except MissingDependencyError as error:
        pytest.skip(str(error))


def test_both_tools_in_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with NoopServer(write_noop_repository(tmp_path / "noop", delay_seconds=0.008)) as server:
        settings = PerfAnalyzerSettings(
            server=ServedSettings(url=f"grpc://{server.grpc}", http=f"http://{server.http}"),
            size="128x64",
            transports=("grpc", "grpc-shm", "http"),
            in_flight=(1, 3),
            arrivals=("constant",),
            requests=50,
            rounds=2,
        )
        assert main(out=tmp_path, settings=settings) == 0
    report = read_report(tmp_path / "perf-analyzer.json")
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == report.to_json()
    assert len(report.measurements) == 2 * 3 * 3
    for way in settings.transports:
        for count in settings.in_flight:
            pair = [
                report.named(name, transport=way, mode="closed", in_flight=count)
                for name in ("perf_analyzer", "sceneloom")
            ]
            for one in pair:
                assert one.figures["p50"].value > 8 * count
                assert one.figures["compute"].value >= 8
                assert 50 < one.figures["rate"].value < 125
            assert 0.4 < pair[1].figures["p50_ratio"].value < 2.5
        theirs = report.named("perf_analyzer", transport=way, mode="open")
        assert (
            theirs.load["rate"]
            == report.named("sceneloom", transport=way, mode="open").load["rate"]
        )
        assert "sent_late" in theirs.figures
    assert server.grpc not in (tmp_path / "perf-analyzer.json").read_text()


def test_warm_up_is_sent_and_not_counted(tmp_path: Path) -> None:
    inputs = write_inputs(bench_maps(NOOP_CONTRACT, (64, 128), 4), tmp_path / "inputs.json")
    with NoopServer(write_noop_repository(tmp_path / "noop", delay_seconds=0.008)) as server:
        target = Target(
            address=server.grpc,
            model=MODEL_NAME,
            way="grpc",
            inputs=inputs,
            largest_pixels=64 * 128,
            timeout=60,
            warm_up=16,
        )
        with contextlib.closing(ServerView(server.grpc)) as view:
            for in_flight, sent in ((3, 40 + 16), (20, 40 + 20)):
                before = view.counters([MODEL_NAME])[MODEL_NAME]
                found = run_closed(find_program(), target, in_flight=in_flight, requests=40)
                after = view.counters([MODEL_NAME])[MODEL_NAME]
                assert len(found.moments) == 40
                assert after.since(before).requests == sent


@pytest.mark.timeout(400)
def test_four_threads_hide_a_stalled_second_and_many_do_not() -> None:
    report = measure(StalledSettings(runs=1))
    raised = {
        one.name.removesuffix(", stalled"): one.figures["p99_raised"].value
        for one in report.measurements
        if one.name.endswith(", stalled")
    }
    assert raised["perf_analyzer"] < 200
    assert raised["perf_analyzer, 128 threads"] > 700
    assert raised["sceneloom"] > 700
