"""The report of a GPU, on a CPU and a tiny network: from end to end, out of time, and killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import CHECKOUT

import gpu_report
from gpu_report import GpuReportSettings
from sceneloom.errors import EngineError
from sceneloom_bench.reports.report import read_report

TESTS = "tests/training/test_gpu.py"
KNOWN = {"README.md", "engine.json", "parts.json", "server.json", "tests.json", "training.json"}


def tiny(folder: Path, **changes: Any) -> GpuReportSettings:
    given = {"device": "cpu", "size": "128x64", "ngf": 4, "blocks": 1, "work": folder / "work"}
    return GpuReportSettings(**{**given, "engines": ("onnxruntime-fp32",), **changes})


def check_whole(out: Path) -> set[str]:
    """Check that each file is whole and that the page has what the others have; their names."""
    found = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert found <= KNOWN
    for name in found - {"README.md"}:
        json.loads((out / name).read_text())
    for name in found & {"engine.json", "server.json"}:
        assert read_report(out / name).measurements
    if "README.md" in found:
        assert (out / "README.md").read_text().endswith("|\n")
    return found


@pytest.mark.triton
@pytest.mark.timeout(600)
@pytest.mark.slow
@pytest.mark.parametrize("batch", [(1,), (1, 2)])
def test_every_part_has_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: tuple[int, ...]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(gpu_report, "TRANSPORTS", ("grpc",))
    monkeypatch.setattr(gpu_report, "IN_FLIGHT", (1, 2))
    out = tmp_path / "out"
    settings = tiny(tmp_path, batch=batch, tests=(TESTS,), seconds=900)
    assert gpu_report.main(out=out, settings=settings) == 0
    assert check_whole(out) == KNOWN
    parts = json.loads((out / "parts.json").read_text())["parts"]
    names = ["torch-fp32", "export", "tests", "training, 128x64", "server", "onnxruntime-fp32"]
    if len(batch) > 1:
        names += ["torch-fp32, larger batches", "onnxruntime-fp32, larger batches"]
    assert [(part["name"], part["why"]) for part in parts] == [(name, "") for name in names]
    engines = read_report(out / "engine.json")
    for name in ("torch-fp32", "onnxruntime-fp32"):
        for count in batch:
            row = engines.named(name, batch=count)
            assert {"p50", "p99", "times_faster", "peak_memory", "peak_share"} <= set(row.figures)
            assert ("parity" in row.extra) == (name != "torch-fp32")
    assert engines.named("onnxruntime-fp32", batch=1).extra["parity"]["max"] <= 1
    loads = [m.load["in_flight"] for m in read_report(out / "server.json").measurements]
    assert loads == [1, 2]
    tests = json.loads((out / "tests.json").read_text())
    assert {one["why"] for one in tests.values()} == {"Skipped: PyTorch finds no GPU"}
    assert len(json.loads((out / "training.json").read_text())) == 2
    text = (out / "README.md").read_text()
    for words in (
        f"| onnxruntime-fp32 | {batch[-1]} | ",
        "this trainer: + bfloat16",
        "### Closed loop",
    ):
        assert words in text
    assert "A dry run on a CPU" in text
    assert str(tmp_path) not in "".join(path.read_text() for path in out.iterdir())


def test_what_the_seconds_do_not_allow_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    start = time.monotonic()
    gpu_report.main(out=tmp_path / "out", settings=tiny(tmp_path, seconds=10, batch=(1,)))
    assert time.monotonic() - start < 30
    assert "parts.json" in check_whole(tmp_path / "out")
    parts = json.loads((tmp_path / "out" / "parts.json").read_text())["parts"]
    reasons = {part["name"]: part["why"] for part in parts}
    assert reasons["server"]
    assert f"| {reasons['server']} |" in (tmp_path / "out" / "README.md").read_text()


def test_a_run_that_is_killed_leaves_whole_results_and_no_process(tmp_path: Path) -> None:
    out, work = tmp_path / "out", tmp_path / "work"
    script = CHECKOUT / "benchmarks" / "experiments" / "gpu_report.py"
    flags = "--device cpu --size 128x64 --ngf 4 --blocks 1 --batch 1 --engines onnxruntime-fp32"
    command = [sys.executable, str(script), *flags.split(), "--tests", TESTS]
    seconds = random.uniform(2, 12)
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(
            [*command, "--out", str(out), "--work", str(work)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        time.sleep(seconds)
        children = psutil.Process(running.pid).children(recursive=True)
        running.send_signal(signal.SIGKILL)
        running.wait(30)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == [], f"killed after {seconds:.1f} s"
    if out.is_dir():
        check_whole(out)


def test_without_a_gpu_it_ends_before_anything_is_written(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EngineError, match="sees no GPU on this machine; a dry run is --device cpu"):
        gpu_report.main(out=tmp_path / "out", settings=tiny(tmp_path, device="cuda"))
    assert list(tmp_path.iterdir()) == []
