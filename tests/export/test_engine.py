"""`sceneloom engine` from the graph to the proven plan and its record, on a GPU that is not there.

The fake TensorRT runs the graph with ONNX Runtime: choosing graphs and norms, proving, timing,
recording and refusing are what is tested here, not TensorRT.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from gpu_worlds import FAKE, fake_gpu, run_engine, run_python

from sceneloom.files import file_hash
from sceneloom_serving.plan_record import read_record


@pytest.fixture
def model(engine_bundle: Path, tmp_path: Path) -> Path:
    """model.onnx of a bundle that the test may change."""
    shutil.copytree(engine_bundle, tmp_path / "bundle")
    return tmp_path / "bundle" / "synthesis" / "1" / "model.onnx"


def plan_of(model: Path) -> dict[str, Any]:
    """What the fake TensorRT was told."""
    plan: dict[str, Any] = json.loads(model.with_name("model.plan").read_text())
    return plan


def names(model: Path) -> list[str]:
    return sorted(path.name for path in model.parent.iterdir())


SIZE = ("--profiles", "96x64")
LOAD = """
import sys
from pathlib import Path
from sceneloom.errors import PlanRefusedError
from sceneloom_serving.tensorrt_runtime import TensorRTSynthesizer
try:
    print("loaded", TensorRTSynthesizer(Path(sys.argv[1])).contract.sizes)
except PlanRefusedError as error:
    print("refused:", error)
"""


def test_strongly_typed_builds_both_norms_and_keeps_one(model: Path) -> None:
    done = run_engine(model, *SIZE, "--precision", "fp32", environment=fake_gpu())
    assert done.returncode == 0, done.stderr
    assert "TensorRT 10.16.1 on Fake GPU, from model.onnx: fp32" in done.stdout
    assert "norms native: built" in done.stdout
    assert "norms plugin: built" in done.stdout
    record = read_record(model.with_name("model.plan"))
    assert record.norms in ("native", "plugin")
    assert plan_of(model)["norms"] == record.norms
    assert plan_of(model)["flags"] == 2  # STRONGLY_TYPED
    assert plan_of(model)["set"] == []  # neither FP16 nor TF32
    assert record.plan_sha256 == file_hash(model.with_name("model.plan"))
    assert record.graph == {
        "file": "model.onnx",
        "sha256": file_hash(model),
        "weights": "weights.bin",
        "weights_sha256": file_hash(model.with_name("weights.bin")),
    }
    assert record.machine.gpu == "Fake GPU"
    assert record.machine.tensorrt == "10.16.1"
    assert record.machine.cuda_runtime == "12.9"
    assert record.parity is not None
    assert record.parity["max"] <= 1
    assert record.latency is not None
    assert record.latency["count"] == 3
    assert record.latency["cuda_graph"] is True
    assert record.latency["size"] == [64, 96]
    parts = ["copies in host memory", "upload", "inference", "download"]
    assert (record.latency["measured_by"], record.latency["includes"]) == ("run_batch", parts)
    assert 0 < record.latency["host_copies_p50_ms"] < record.latency["p50_ms"]
    assert record.served_contract.sizes == ((64, 96),)
    assert names(model) == [
        "model.onnx",
        "model.plan",
        "model.plan.json",
        "weights.bin",
    ]


def test_half_takes_its_own_graph(model: Path) -> None:
    done = run_engine(model, environment=fake_gpu())
    assert done.returncode == 1
    assert "fp16.onnx: is missing" in done.stderr
    assert "--precision exact" in done.stderr
    shutil.copy(model, model.with_name("fp16.onnx"))
    done = run_engine(model, environment=fake_gpu())  # the size that parity was proven at
    assert done.returncode == 0, done.stderr
    assert "from fp16.onnx: fp16" in done.stdout
    record = read_record(model.with_name("model.plan"))
    assert (record.precision, record.graph["file"]) == ("fp16", "fp16.onnx")


def test_a_plan_that_differs_from_pytorch_is_not_kept(model: Path) -> None:
    flags = (*SIZE, "--precision", "fp32")
    done = run_engine(model, *flags, environment=fake_gpu(FAKE_WRONG_NORMS="native"))
    assert done.returncode == 0, done.stderr
    assert "norms native: not kept: TensorRT 10.16.1 differs from PyTorch by" in done.stdout
    assert read_record(model.with_name("model.plan")).norms == "plugin"
    before = names(model), file_hash(model.with_name("model.plan"))
    done = run_engine(
        model, *flags, "--norms", "native", environment=fake_gpu(FAKE_WRONG_NORMS="native")
    )
    assert done.returncode == 1
    assert "differs from PyTorch by" in done.stderr
    assert (names(model), file_hash(model.with_name("model.plan"))) == before


def test_norms_that_cannot_be_built_leave_the_others(model: Path) -> None:
    flags = (*SIZE, "--precision", "fp32")
    done = run_engine(model, *flags, environment=fake_gpu(FAKE_FAILING_NORMS="plugin"))
    assert done.returncode == 0, done.stderr
    assert "norms plugin: not kept" in done.stdout
    assert "could not find any implementation" in done.stdout
    assert read_record(model.with_name("model.plan")).norms == "native"


def test_compatible_plans_take_the_native_norms_only(model: Path) -> None:
    flags = (*SIZE, "--precision", "fp32", "--version-compatible")
    done = run_engine(model, *flags, environment=fake_gpu())
    assert done.returncode == 0, done.stderr
    assert "plugin" not in done.stdout
    assert plan_of(model)["set"] == ["VERSION_COMPATIBLE"]
    loaded = run_python(
        LOAD, model.with_name("model.plan"), environment=fake_gpu(FAKE_TENSORRT="10.17.0")
    )
    assert loaded.startswith("loaded")


def test_eleven_has_no_flags_for_types(model: Path) -> None:
    environment = fake_gpu(FAKE_TENSORRT="11.4.0.106")
    done = run_engine(model, *SIZE, "--precision", "fp32", environment=environment)
    assert done.returncode == 0, done.stderr
    assert plan_of(model)["flags"] == 0


def test_a_changed_byte_another_card_and_another_version_are_refused(model: Path) -> None:
    done = run_engine(model, *SIZE, "--precision", "fp32", environment=fake_gpu())
    assert done.returncode == 0, done.stderr
    plan = model.with_name("model.plan")
    assert run_python(LOAD, plan, environment=fake_gpu()) == "loaded ((64, 96),)\n"
    other = run_python(LOAD, plan, environment=fake_gpu(FAKE_GPU="Another GPU"))
    assert "was built for Fake GPU (compute capability 9.0), this is Another GPU" in other
    later = run_python(LOAD, plan, environment=fake_gpu(FAKE_TENSORRT="10.16.2.1"))
    assert "was built for TensorRT 10.16.1, this is 10.16.2" in later
    blob = bytearray(plan.read_bytes())
    blob[-2] ^= 1
    plan.write_bytes(blob)
    assert "refused: " in (changed := run_python(LOAD, plan, environment=fake_gpu()))
    assert "executable code, so it is not loaded" in changed


def test_what_is_refused_before_the_work(model: Path, tmp_path: Path) -> None:
    fp32 = ("--precision", "fp32")
    done = run_engine(model, *fp32, "--profiles", "32x32", environment=fake_gpu())
    assert done.returncode == 1
    assert "no reference picture of a size that 1@32x32 takes" in done.stderr
    done = run_engine(model, *fp32, "--profiles", "90x64", environment=fake_gpu())
    assert "not a multiple of 4" in done.stderr
    done = run_engine(model, *SIZE, environment=fake_gpu(FAKE_TENSORRT="10.3.0"))
    assert "TensorRT 10.3.0: plans are built with 8.6, 10.12 or newer, and 11" in done.stderr
    environment = fake_gpu(FAKE_TENSORRT="8.6.0")
    done = run_engine(model, *SIZE, "--hardware", "same-capability", environment=environment)
    assert "8.6 cannot build for one compute capability" in done.stderr
    done = run_engine(tmp_path / "none.onnx", *SIZE, environment=fake_gpu())
    assert "no such file; name model.onnx" in done.stderr
    model.write_bytes(model.read_bytes() + b"\0")
    done = run_engine(model, *SIZE, *fp32, environment=fake_gpu())
    assert "model.onnx: is not the file that" in done.stderr
    (model.parents[2] / "report.json").unlink()
    done = run_engine(model, *SIZE, *fp32, environment=fake_gpu())
    assert "report.json: missing" in done.stderr
    assert "model.plan" not in names(model)


def test_unproven_plans_say_so(model: Path) -> None:
    flags = ("--precision", "fp32", "--profiles", "32x32", "--unproven")
    done = run_engine(model, *flags, environment=fake_gpu())
    assert done.returncode == 0, done.stderr
    record = read_record(model.with_name("model.plan"))
    assert record.parity is None
    assert record.parity_missing == "no reference picture of a size that the plan takes"


def test_without_a_gpu_one_sentence(model: Path) -> None:
    environment = fake_gpu()
    del environment["FAKE_GPU"]
    done = run_engine(model, *SIZE, environment=environment)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "sceneloom engine: this machine has no NVIDIA GPU that CUDA can use "
        "(cudaErrorInsufficientDriver); TensorRT plans are built and run on the GPU\n"
    )


def test_a_driver_that_is_too_old_is_named(model: Path) -> None:
    environment = fake_gpu(FAKE_DRIVER_CUDA="11080")
    del environment["FAKE_GPU"]
    done = run_engine(model, *SIZE, environment=environment)
    assert done.returncode == 1
    assert done.stderr == (
        "sceneloom engine: the NVIDIA driver takes CUDA 11.8 at most, and cuda-python is of CUDA "
        "12.9: install a newer driver\n"
    )


def test_bindings_alone_are_enough(model: Path, tmp_path: Path) -> None:
    """An image has TensorRT's libraries, and the bindings under their own name."""
    shutil.copytree(FAKE / "cuda", tmp_path / "cuda")
    shutil.copytree(FAKE / "tensorrt", tmp_path / "tensorrt_bindings")
    environment = {**fake_gpu(), "PYTHONPATH": str(tmp_path)}
    done = run_engine(model, *SIZE, "--precision", "fp32", environment=environment)
    assert done.returncode == 0, done.stderr
    record = read_record(model.with_name("model.plan"))
    assert record.builder == "python"
    assert record.parity is not None


def test_a_missing_library_is_named(model: Path, tmp_path: Path) -> None:
    shutil.copytree(FAKE / "cuda", tmp_path / "cuda")
    (tmp_path / "tensorrt_bindings.py").write_text(
        "raise ImportError('libnvinfer.so.11: cannot open shared object file: No such file')"
    )
    environment = {**fake_gpu(), "PYTHONPATH": str(tmp_path)}
    done = run_engine(model, *SIZE, environment=environment)
    assert done.returncode == 1
    assert done.stderr == (
        "sceneloom engine: TensorRT's bindings cannot be loaded (libnvinfer.so.11: cannot open "
        "shared object file: No such file); its libraries libnvinfer, libnvinfer_plugin and "
        "libnvonnxparser come with pip install 'sceneloom[gpu]' and are in NVIDIA's images\n"
    )


def test_eight_writes_its_own_graph_and_leaves_nothing(model: Path) -> None:
    environment = fake_gpu(FAKE_TENSORRT="8.6.1.6")
    before = names(model)
    done = run_engine(model, *SIZE, "--precision", "fp32", environment=environment)
    assert done.returncode == 0, done.stderr
    assert plan_of(model)["graph"].endswith("/group/group_norms.onnx")
    assert plan_of(model)["flags"] == 1  # EXPLICIT_BATCH
    record = read_record(model.with_name("model.plan"))
    assert (record.norms, record.graph["file"]) == ("group", "model.onnx")
    assert record.graph["sha256"] == file_hash(model)  # of the export, so that verify takes it
    assert record.parity is not None
    assert names(model) == sorted([*before, "model.plan", "model.plan.json"])


def test_without_tensorrt(model: Path) -> None:
    environment = {**os.environ, "PATH": str(Path(sys.executable).parent)}
    done = run_engine(model, *SIZE, environment=environment)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "pip install 'sceneloom[gpu]'" in done.stderr


def test_a_plan_that_fits_is_kept(model: Path) -> None:
    flags = (*SIZE, "--precision", "fp32", "--keep")

    def build(*more: str, **gpu: str) -> str:
        done = run_engine(model, *flags, *more, environment=fake_gpu(**gpu))
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "nothing to build" not in build()
    assert "fits this machine and these settings: nothing to build" in build()
    assert "with other settings: building anew" in build("--builder-level", "2")
    assert "nothing to build" in build("--builder-level", "2")
    assert "this is Another GPU" in build("--builder-level", "2", FAKE_GPU="Another GPU")
    plan = model.with_name("model.plan")
    plan.write_bytes(plan.read_bytes() + b" ")
    assert "its SHA-256 is" in build("--builder-level", "2", FAKE_GPU="Another GPU")
