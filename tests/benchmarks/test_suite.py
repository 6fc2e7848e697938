"""The suite's commands in step with the benchmarks, and what it skips."""

from __future__ import annotations

import dataclasses
import re
import signal
import sys
from pathlib import Path

import pytest
from bench_reports import engine_report, mlperf_report

from sceneloom import progress
from sceneloom.cli import main
from sceneloom.errors import InputError
from sceneloom_bench import suite_command
from sceneloom_bench.reports.report import write_report
from sceneloom_bench.suite_command import (
    STALLS,
    STEPS,
    StepArguments,
    SuiteSettings,
    choose_folder,
    run_steps,
    unexpected,
)

FLAG = r"--[a-z][a-z0-9.-]*[a-z0-9]"


@pytest.fixture
def place(tmp_path: Path) -> StepArguments:
    """A folder in which the engines have been measured."""
    write_report(engine_report(), tmp_path, "engine-demo")
    return StepArguments(settings=SuiteSettings(work=tmp_path / "work"), out=tmp_path, gpu=False)


def test_every_step_names_flags_that_there_are_and_its_own_file(
    place: StepArguments, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in STEPS:
        benchmark, *flags = place.arguments(name)
        if benchmark == "stall":
            assert flags == []
            assert STALLS.is_file()
            continue
        with pytest.raises(SystemExit):
            main(["bench", benchmark, "--help"])
        shown = capsys.readouterr().out
        known = set(re.findall(rf"(?<![\w-])({FLAG})", shown))
        assert {flag for flag in flags if flag.startswith("--")} <= known, name
        added = flags[flags.index("--name") + 1] if "--name" in flags else ""
        assert "-".join(filter(None, (benchmark, added))) == name


def test_a_gpu_is_measured_at_full_size_in_batches(place: StepArguments) -> None:
    on_gpu = StepArguments(settings=place.settings, out=place.out, gpu=True)
    assert on_gpu.arguments("engine")[-5:] == ["--batch", "1", "2", "4", "8"]
    assert "2048x1024" in on_gpu.arguments("server")
    assert "256x128" in place.arguments("server")


def test_what_was_measured_is_not_measured_again(
    place: StepArguments, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SuiteSettings(only=("engine-demo",))
    with progress.shown():
        assert list(run_steps(StepArguments(settings=settings, out=place.out, gpu=False))) == []
    assert "engine-demo: has a report" in capsys.readouterr().err


def test_a_step_that_another_one_must_precede_says_so(tmp_path: Path) -> None:
    settings = SuiteSettings(only=("server",))
    ((name, reason),) = run_steps(StepArguments(settings=settings, out=tmp_path, gpu=False))
    assert name == "server"
    assert "engine-demo.json" in reason


def test_it_goes_on_in_the_folder_that_is_not_finished(tmp_path: Path) -> None:
    old, new = tmp_path / "a-card-2026-01-01", tmp_path / "a-card-2026-01-02"
    for folder in (old, new, tmp_path / "a-card-two-2027-01-01"):
        folder.mkdir()
    assert choose_folder(tmp_path, "a-card") == new
    for name in STEPS:
        (new / f"{name}.json").write_text("{}")
    assert choose_folder(tmp_path, "a-card") not in (old, new)


def test_a_verdict_that_was_not_expected_is_said(tmp_path: Path) -> None:
    report = mlperf_report()
    for name, valid in (("mlperf-demo", False), ("mlperf-overload", True)):
        wrong = dataclasses.replace(report.measurements[0], name="Server", extra={"valid": valid})
        write_report(dataclasses.replace(report, measurements=[wrong]), tmp_path, name)
        assert unexpected(name, tmp_path).startswith("LoadGen's verdict on Server is")
    assert unexpected("render", tmp_path) == ""


def test_unknown_steps_are_refused() -> None:
    with pytest.raises(InputError, match="no benchmark 'engines'"):
        SuiteSettings(only=("engines",))


def test_an_interrupted_suite_lets_its_benchmark_put_things_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "bench.py"
    script.write_text(
        "import os, signal, sys, time\n"
        "def stop(*_):\n"
        f"    open({str(tmp_path / 'tidied')!r}, 'w').close()\n"
        "    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "os.kill(os.getppid(), signal.SIGALRM)\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(suite_command, "SCENELOOM", (sys.executable, str(script)))
    place = StepArguments(settings=SuiteSettings(only=("engine",)), out=tmp_path, gpu=False)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(run_steps(place))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert (tmp_path / "tidied").exists()
