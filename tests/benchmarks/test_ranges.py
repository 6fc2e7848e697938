"""What careless flags give: a sentence before anything runs, and nothing else."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from noop_server import NOOP_CONTRACT
from sceneloom import cli
from sceneloom.errors import InputError, SceneLoomError, ServerUnavailableError, SizeError
from sceneloom_bench.engine_command import EngineBenchSettings
from sceneloom_bench.harness import ServedSettings, bench_maps, check_name, check_out
from sceneloom_bench.loops import run_closed
from sceneloom_bench.mlperf_command import MlperfSettings
from sceneloom_bench.render_command import RenderBenchSettings
from sceneloom_bench.server_statistics import ServerView
from sceneloom_bench.suite_command import SuiteSettings

NOWHERE = ServedSettings(url="127.0.0.1:1")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MlperfSettings(server=NOWHERE, workers=10**6), "workers is 1000000; it is at mos"),
        (
            lambda: MlperfSettings(server=NOWHERE, target_rate=1e9),
            r"rate is 1000000000\.0; it is at",
        ),
        (lambda: MlperfSettings(server=NOWHERE, probe_seconds=math.inf), "probe_seconds is inf"),
        (lambda: MlperfSettings(server=NOWHERE, seconds=math.nan), "seconds is nan"),
        (lambda: MlperfSettings(server=NOWHERE, size="0x0"), "WIDTHxHEIGHT"),
        (
            lambda: MlperfSettings(server=NOWHERE, share_of_capacity=math.nan),
            "share_of_capacity is nan; it is a finite number",
        ),
        (lambda: RenderBenchSettings(server=NOWHERE, name="../x"), "name '../x'"),
        (lambda: RenderBenchSettings(server=NOWHERE, size="big"), "WIDTHxHEIGHT"),
        (lambda: RenderBenchSettings(server=NOWHERE, formats=("png", "png")), "different values"),
        (lambda: RenderBenchSettings(server=NOWHERE, in_flight=0), "in_flight is 0; it is at leas"),
        (lambda: EngineBenchSettings(ngf=10**9), "ngf is 1000000000; it is at most 1024"),
        (lambda: EngineBenchSettings(rounds=10**9), "at most 100000"),
        (lambda: EngineBenchSettings(batch=()), "batch is "),
        (lambda: EngineBenchSettings(keep=Path(__file__)), "a file in the place of the bundle's"),
        (lambda: SuiteSettings(seconds=math.nan), "seconds is nan"),
        (lambda: SuiteSettings(batch=(1, 0)), r"batch\[1\] is 0; it is at least 1"),
    ],
)
def test_settings_that_no_run_would_end_with_are_refused(
    make: Callable[[], object], says: str
) -> None:
    with pytest.raises(SceneLoomError, match=says):
        make()


def test_names_are_a_part_of_a_file_name() -> None:
    for name in (None, "", "demo-8.server_2", "Offline"):
        check_name(name)
    for name in ("a/b", "../x", ".hidden", "a b", "a\n"):
        with pytest.raises(InputError, match="write letters"):
            check_name(name)


def test_a_place_that_no_report_can_be_written_to_is_refused_before_it_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "render.json").mkdir()
    check_out(tmp_path, "server")
    check_out(tmp_path / "new" / "folder", "server")
    assert not (tmp_path / "new").exists()
    for out, says in ((tmp_path / "file" / "in", "not a folder"), (tmp_path, "is a folder")):
        # Nobody is at the address, which is not asked before.
        line = ["bench", "render", "--url", "127.0.0.1:1", "--out", str(out)]
        assert cli.main(line) == 1
        assert says in capsys.readouterr().err


def test_maps_that_are_too_large_are_not_drawn() -> None:
    with pytest.raises(SizeError, match=r"160000x160000 is 25,600,000,000 pixels; a map has at"):
        bench_maps(NOOP_CONTRACT, (160_000, 160_000), 1)
    with pytest.raises(SizeError, match=r"99999 maps of 8192x8192 take 31249.7 GiB, and .* free"):
        bench_maps(NOOP_CONTRACT, (8192, 8192), 99_999)


def test_an_address_of_metrics_that_speaks_no_http_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with listening.accept()[0] as asked:
                asked.recv(1000)
                asked.sendall(b"\x00\x00\x12\x04\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        view = ServerView("http://127.0.0.1:1", f"127.0.0.1:{listening.getsockname()[1]}")
        with pytest.raises(ServerUnavailableError, match="does not speak HTTP"):
            view.cache_hits()
        thread.join()


def test_a_system_that_starts_no_more_threads_ends_the_load() -> None:
    before = threading.stack_size(1 << 46)
    try:
        with pytest.raises(SceneLoomError, match="3 requests at once: can't start new thread"):
            run_closed(lambda _: None, in_flight=3, seconds=0, requests=3)
    finally:
        threading.stack_size(before)
