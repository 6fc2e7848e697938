"""A real package of AOTInductor on a real GPU, from the export to p50 and p99 at 2048x1024.

    .venv/bin/python -m pytest -m gpu -s tests/export/test_gpu_aoti.py

Each package's record is printed as one line of JSON. test_aoti.py runs the same steps on a CPU.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from support import COMMAND, blocky_maps, save_published, wide_generator

from sceneloom_export.engine import build_engine
from sceneloom_export.settings import PlanSettings
from sceneloom_serving.aoti_runtime import AotiSynthesizer
from sceneloom_serving.bundle import PACKAGE_FILE, verify_repository
from sceneloom_serving.plan_record import PlanRecord
from sceneloom_training.networks import GeneratorArchitecture

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU"),
]

SMALL = GeneratorArchitecture(
    input_channels=36, ngf=16, global_downsamplings=3, global_blocks=3, enhancers=1
)
FULL_SIZE = GeneratorArchitecture(input_channels=36, ngf=32, enhancers=1)


def build(folder: Path, architecture: GeneratorArchitecture, size: str, runs: int) -> Path:
    """Import, export and compile in half; the package."""
    save_published(wide_generator(architecture, seed=1), folder / "latest_net_G.pth")
    for arguments in (
        ("import", "latest_net_G.pth", "--labels", "cityscapes", "--out", "checkpoint"),
        ("export", "checkpoint", "--repository", "bundle", "--precision", "fp16", "--sizes", size),
    ):
        subprocess.run([*COMMAND, *arguments], cwd=folder, check=True, timeout=3600)
    model = folder / "bundle" / "synthesis" / "1" / "model.onnx"
    record = build_engine(model, PlanSettings(runtime="aoti", timed_runs=runs))
    show(record)
    assert record.parity is not None
    assert record.machine.compute_capability
    assert verify_repository(folder / "bundle", "aoti")
    return model.with_name(PACKAGE_FILE)


def show(record: PlanRecord) -> None:
    print(json.dumps({k: v for k, v in record.to_json().items() if k != "contract"}))


@pytest.mark.timeout(1800)
def test_a_small_network(tmp_path: Path) -> None:
    with AotiSynthesizer(build(tmp_path, SMALL, "96x64", 20)) as engine:
        assert engine.engine == "aoti-cuda-fp16"
        pictures = [engine.synthesize(*blocky_maps(64, 96, seed)) for seed in range(3)]
        assert len({picture.tobytes() for picture in pictures}) == 3
        assert engine.device_seconds


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_full_size_network_at_2048x1024(tmp_path: Path) -> None:
    with AotiSynthesizer(build(tmp_path, FULL_SIZE, "2048x1024", 1000)) as engine:
        assert engine.record.latency is not None
        assert engine.record.latency["count"] >= 459
