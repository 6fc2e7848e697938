"""Real TensorRT plans on a real GPU, from the export to p50 and p99 at 2048x1024.

    make gpu                                                          (everything that needs a GPU)
    .venv-gpu/bin/python -m pytest -m gpu -s tests/export/test_gpu_tensorrt.py

Each plan's record is printed as one line of JSON. Skipped where there is no GPU or no TensorRT;
there, test_engine.py runs the same steps on a GPU that is not there.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support import COMMAND, blocky_maps, save_published, wide_generator

from sceneloom.errors import PlanRefusedError, SceneLoomError
from sceneloom_export.engine import build_engine
from sceneloom_export.settings import PlanSettings
from sceneloom_serving.bundle import PLAN_FILE
from sceneloom_serving.gpu import this_machine
from sceneloom_serving.parity import SERVING_LIMITS, compare
from sceneloom_serving.plan_record import PlanRecord
from sceneloom_serving.tensorrt_runtime import TensorRTSynthesizer
from sceneloom_training.networks import GeneratorArchitecture


def missing() -> str:
    """Why nothing here can run, or nothing."""
    try:
        this_machine()
    except SceneLoomError as error:
        return str(error)
    return ""


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]

SMALL = GeneratorArchitecture(
    input_channels=36, ngf=16, global_downsamplings=3, global_blocks=3, enhancers=1
)
FULL_SIZE = GeneratorArchitecture(input_channels=36, ngf=32, enhancers=1)
PROFILES = ("96x64", "1:4:4@96x64", "1@64x64:128x128:256x128")


def export(folder: Path, architecture: GeneratorArchitecture, *flags: str) -> Path:
    """Import, then export as users do; model.onnx."""
    save_published(wide_generator(architecture, seed=1), folder / "latest_net_G.pth")
    for arguments in (
        ("import", "latest_net_G.pth", "--labels", "cityscapes", "--out", "checkpoint"),
        ("export", "checkpoint", "--repository", "bundle", "--precision", "fp16", *flags),
    ):
        subprocess.run([*COMMAND, *arguments], cwd=folder, check=True, timeout=3600)
    return folder / "bundle" / "synthesis" / "1" / "model.onnx"


def show(record: PlanRecord) -> None:
    print(json.dumps({k: v for k, v in record.to_json().items() if k != "contract"}))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("gpu"), SMALL, "--largest", "96x64")


@pytest.fixture(scope="module", params=["fp16", "fp32"])
def plan(request: pytest.FixtureRequest, model: Path) -> Path:
    """A plan with a profile for single pictures, one for batches and one for other sizes."""
    settings = PlanSettings(precision=request.param, profiles=PROFILES, builder_level=1)
    path = model.with_name(f"{request.param}.plan")
    show(build_engine(model, settings, plan=path))
    return path


@pytest.mark.timeout(1800)
def test_parity_latency_and_batches(plan: Path) -> None:
    with TensorRTSynthesizer(plan) as engine:
        record = engine.record
        assert record.parity is not None
        assert record.latency is not None
        assert 0 < record.latency["p50_ms"] <= record.latency["p99_ms"]
        assert record.latency["cuda_graph"]
        assert engine.device_seconds is None
        engine.synthesize(*blocky_maps(64, 96, 0))
        assert engine.device_seconds
        labels, instances = zip(*(blocky_maps(64, 96, seed) for seed in range(5)), strict=True)
        together = engine.synthesize_batch(labels, instances)
        singly = [engine.synthesize(*pair) for pair in zip(labels, instances, strict=True)]
        # Profiles have kernels of their own: equal within the limits of the precision, not in bits.
        parity = compare(singly, together)
        limits = SERVING_LIMITS["fp16" if record.precision == "fp16" else "fp32"]
        assert limits.max is None or parity.max <= 2 * limits.max
        assert limits.psnr is None or parity.psnr >= limits.psnr
        assert len({image.tobytes() for image in singly}) == 5


@pytest.mark.timeout(1800)
def test_graphs_follow_the_shape(plan: Path) -> None:
    sizes = [(64, 64), (128, 128), (64, 64), (128, 256), (64, 64)]
    with TensorRTSynthesizer(plan) as engine, TensorRTSynthesizer(plan, cuda_graphs=False) as plain:
        for seed, size in enumerate(sizes):
            maps = blocky_maps(*size, seed)
            for _ in range(2):  # the second time from the graph
                assert np.array_equal(engine.synthesize(*maps), plain.synthesize(*maps))
        assert engine.captured
        assert not plain.captured


def test_a_changed_byte_is_refused(plan: Path, tmp_path: Path) -> None:
    copy = tmp_path / PLAN_FILE
    blob = bytearray(plan.read_bytes())
    blob[len(blob) // 2] ^= 1
    copy.write_bytes(blob)
    copy.with_name(f"{PLAN_FILE}.json").write_bytes(
        plan.with_name(f"{plan.name}.json").read_bytes()
    )
    with pytest.raises(PlanRefusedError, match="its SHA-256 is"):
        TensorRTSynthesizer(copy)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_full_size_network_at_2048x1024(tmp_path: Path) -> None:
    """182.9 M parameters, FP16, batch 1: the figures of docs/tensorrt.md."""
    model = export(tmp_path, FULL_SIZE, "--largest", "2048x1024")
    record = build_engine(model, PlanSettings(timed_runs=1000))
    show(record)
    assert record.parity is not None
    assert record.latency is not None
    assert record.latency["count"] == 1000
