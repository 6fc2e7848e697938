"""`sceneloom bench render` against a server of known speed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from noop_server import NoopServer, write_noop_repository
from sceneloom.errors import InputError, ServingError
from sceneloom_bench.harness import ServedSettings
from sceneloom_bench.render_command import RenderBenchSettings, main, measure
from sceneloom_bench.reports.report import read_report
from sceneloom_bench.server_statistics import Counters, ServerView


@pytest.fixture(scope="module")
def slow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NoopServer]:
    """Takes 50 ms a picture."""
    folder = tmp_path_factory.mktemp("noop") / "repository"
    repository = write_noop_repository(folder, dynamic_batching=True, delay_per_picture=0.05)
    with NoopServer(repository) as running:
        yield running


@pytest.mark.slow
@pytest.mark.triton
def test_the_servers_idle_share_and_the_rate_agree(
    slow_server: NoopServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = RenderBenchSettings(
        server=ServedSettings(url=slow_server.grpc), size="128x64", count=24, rounds=2
    )
    assert main(out=tmp_path, settings=settings) == 0
    report = read_report(tmp_path / "render.json")
    assert [m.name for m in report.measurements] == ["png", "jpg"]
    for measurement in report.measurements:
        for run in measurement.extra["runs"]:
            # It sleeps 50 ms for each picture, and is busy for little else.
            busy = (1 - run["idle"]) * run["seconds"] / 24
            assert 0.05 <= busy < 0.07
            assert run["attempts"] == 1
        assert measurement.figures["rate"].value < 20
        assert measurement.figures["rate"].low is None  # two rounds make no interval
    rates, path = capsys.readouterr().out.splitlines()[-2:]
    assert "pictures/s" in rates
    assert path == f"report: {tmp_path / 'render.json'}"


@pytest.mark.triton
def test_a_map_that_gives_no_picture_ends_the_benchmark(
    slow_server: NoopServer, tmp_path: Path
) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    (maps / "a.png").write_bytes(b"no picture")
    settings = RenderBenchSettings(server=ServedSettings(url=slow_server.grpc), maps=maps)
    with pytest.raises(InputError, match=r"a\.png"):
        measure(settings)


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="--url"):
        ServedSettings()
    with pytest.raises(InputError, match="count is 0"):
        RenderBenchSettings(server=ServedSettings(url="a:1"), count=0)


def test_a_server_that_is_gone_or_new_is_a_sentence() -> None:
    with pytest.raises(ServingError, match=r"127\.0\.0\.1:1, model 'synthesis'"):
        ServerView("127.0.0.1:1").counters(["synthesis"])
    parts = dict.fromkeys(("total", "queue"), 0)
    more, fewer = (
        Counters(
            requests=count, failed=0, pictures=count, executions=1, cache_hits=0, nanoseconds=parts
        )
        for count in (7, 3)
    )
    assert more.since(fewer).requests == 4
    with pytest.raises(ServingError, match="was restarted during the load"):
        fewer.since(more)
