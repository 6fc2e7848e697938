"""The benchmarks of engines: what they make of times and pictures, and how they end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sceneloom_bench import cpu_engines, gpu_engines
from sceneloom_bench.cpu_engines import CpuEnginesSettings


def engine(seconds: float, level: int, calls: list[Any]) -> Callable[..., tuple[float, Any]]:
    """Says that it took so long, more for later maps, and gives a picture of one grey level."""

    def run(*maps: Any) -> tuple[float, Any]:
        calls.append(maps)
        return seconds * (1 + maps[0]), np.full((2, 2, 3), level, np.uint8)

    return run


def test_rounds_on_the_cpu_are_ratios_within_a_round() -> None:
    calls: list[Any] = []
    runners = {
        cpu_engines.EAGER: engine(8.0, 100, calls),
        cpu_engines.BASELINE: engine(4.0, 101, calls),
        "openvino-fp32": engine(2.0, 100, calls),
        cpu_engines.SERVED: engine(2.2, 100, calls),
    }
    maps: list[tuple[Any, Any]] = [(number, None) for number in range(4)]
    rounds, parities = cpu_engines.run_rounds(runners, maps)
    assert len(rounds) == 3  # the first is warm-up
    assert calls[4:8] == [maps[1]] * 4
    assert rounds[0][cpu_engines.EAGER] == 16.0
    assert parities[cpu_engines.BASELINE].max == 1
    assert parities["openvino-fp32"].max == 0
    result = {
        "date": "2026-01-01",
        "parameters": 2_000_000,
        "weights": "random",
        "height": 64,
        "width": 128,
        "machine": {
            "cores": 2,
            "cpu": "a CPU",
            "cpu_flags": ["avx2"],
            "memory_gib": 4,
            "system": "Linux",
            "load_average": 0.5,
        },
        "served_engine": "openvino-fp32",
        "left_out": {"openvino-int8": "differs"},
        "cannot_run": {"tensorrt-fp16": "no GPU"},
        "seconds": {name: [r[name] for r in rounds] for name in runners},
        "parity": {name: parity.to_json() for name, parity in parities.items()},
        "peak_memory_mib": dict.fromkeys([*runners, "model process in Triton"], 7),
    }
    assert cpu_engines.ratio(result, cpu_engines.EAGER, "openvino-fp32") == (4.0, 4.0, 4.0)
    page = cpu_engines.describe(result)
    row = "| openvino-fp32 | 6.00 | 4.00 (4.00 to 4.00) | 2.00 (2.00 to 2.00) | max 0, equal | 7 |"
    assert row in page
    assert "1.100 times as long" in page
    assert "- openvino-int8: differs" in page
    assert "- tensorrt-fp16: no GPU" in page


def test_turns_on_a_gpu_take_another_map_every_time() -> None:
    calls: list[Any] = []
    runners = {gpu_engines.EAGER: engine(0.2, 9, calls), "tensorrt-fp16": engine(0.1, 9, calls)}
    maps: list[tuple[Any, Any]] = [(0, None), (1, None), (2, None)]
    seconds, shown = gpu_engines.take_turns(runners, maps, blocks=2, pictures=3)
    for block in seconds["tensorrt-fp16"]:
        assert block == pytest.approx([0.1, 0.2, 0.3])
    assert shown["tensorrt-fp16"].max() == 9
    result = {
        "date": "2026-01-01",
        "gpu": {"gpu": "A card", "tensorrt": "10.1.0", "cuda_runtime": "12.9", "driver": "570"},
        "settings": {
            "height": 1024,
            "width": 2048,
            "blocks": 2,
            "pictures": 3,
            "checkpoint": "random",
        },
        "plan": {"norms": "native"},
        "teraflops": {"fp16": 100.0, "fp32": 10.0},
        "seconds": seconds,
        "parity": {name: {"max": 0, "psnr": None} for name in runners},
        "cannot_run": {},
    }
    page = gpu_engines.describe(result)
    # 1.5 TFLOP in 0.2 s are 7.5 TFLOP/s, of 100.
    assert "| tensorrt-fp16 | 200.00 | 300.00 | 2.00 | 8% | max 0, equal |" in page
    assert "| torch-fp32 | 400.00 | 600.00 | 1.00 | 4% | reference |" in page


def test_the_gpu_benchmark_ends_in_a_sentence_without_a_gpu(tmp_path: Path) -> None:
    if Path("/proc/driver/nvidia/version").is_file():
        pytest.skip("this machine has an NVIDIA driver: make gpu-engines measures it")
    done = subprocess.run(
        [sys.executable, "-m", "sceneloom_bench.gpu_engines", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("gpu engines: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="rounds is 0"):
        CpuEnginesSettings(rounds=0)
    with pytest.raises(ValueError, match="pictures is 0"):
        gpu_engines.GpuEnginesSettings(pictures=0)


@pytest.mark.slow
def test_a_small_network_from_export_to_the_page(tmp_path: Path) -> None:
    settings = CpuEnginesSettings(height=128, width=256, rounds=1, ngf=4, blocks=1)
    assert cpu_engines.main(tmp_path, settings) == 0
    (path,) = tmp_path.glob("cpu-engines-*.json")
    result = json.loads(path.read_text())
    wanted = {cpu_engines.EAGER, cpu_engines.BASELINE, "openvino-fp32", "openvino-int8"}
    assert wanted <= set(result["seconds"])
    assert result["parity"]["openvino-fp32"]["max"] <= 1
    assert path.with_suffix(".md").is_file()
