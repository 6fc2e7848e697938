"""The full-size measurement: small in CI, and the real one as a slow test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sceneloom_serving.machine import describe_machine, peak_memory_mib

pytestmark = pytest.mark.triton


def measure(folder: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "sceneloom_bench.full_size", "--out", str(folder)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    (written,) = folder.glob("*.json")
    assert json.loads(written.read_text()) == result
    assert (
        f"{result['parameters'] / 1e6:.1f} M parameters" in written.with_suffix(".md").read_text()
    )
    return result


def check_result(result: dict[str, Any], pairs: int) -> None:
    assert result["served_against_pytorch"]["max"] <= 1
    assert result["served_against_bare_max"] <= 1
    assert result["served_against_pytorch"]["picture_std"] > 5
    assert len(result["seconds"]["bare runtime, each"]) == pairs
    assert min(result["seconds"]["through Triton, each"]) > 0
    processes = {"import", "export", "tritonserver", "model process in Triton", "bare runtime"}
    assert processes < set(result["peak_memory_mib"])
    assert all(value > 10 for value in result["peak_memory_mib"].values())


def test_small_network_goes_through_the_same_measurement(tmp_path: Path) -> None:
    small = ["--height", "128", "--width", "256", "--ngf", "2", "--blocks", "1", "--pairs", "2"]
    check_result(measure(tmp_path, *small), pairs=2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_full_size_network(tmp_path: Path) -> None:
    result = measure(tmp_path, "--pairs", "2")
    check_result(result, pairs=2)
    assert result["parameters"] == 182_857_059


def test_machine_is_described_without_names_of_places() -> None:
    machine = describe_machine()
    assert machine["cores"] >= 1
    assert machine["memory_gib"] >= 1
    assert machine["versions"]["numpy"]
    assert peak_memory_mib(1) >= 0
    assert "/" not in json.dumps(machine).replace(" / ", "")
