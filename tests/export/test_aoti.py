"""A package of AOTInductor on the CPU: built, proven, recorded, run, refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_worlds import run_engine
from support import blocky_maps

from sceneloom.errors import (
    EngineError,
    PlanRefusedError,
    SceneLoomError,
    ServerStartError,
    SizeError,
)
from sceneloom.files import file_hash
from sceneloom_export.aoti_build import read_network
from sceneloom_export.engine import build_engine
from sceneloom_export.settings import PlanSettings
from sceneloom_serving.aoti_runtime import AotiSynthesizer, torch_machine
from sceneloom_serving.bundle import VERSION, load_references, verify_repository
from sceneloom_serving.engines import ENGINES, unavailable
from sceneloom_serving.parity import check_proof, compare, run_parity
from sceneloom_serving.plan_record import read_record, write_record
from sceneloom_training.checkpoint import load_checkpoint
from sceneloom_training.torch_synthesizer import TorchSynthesizer

FP32 = ("--runtime", "aoti", "--precision", "fp32")


@pytest.fixture
def version(compiled: Path, tmp_path: Path) -> Path:
    """The folder of a package that the test may change."""
    return shutil.copytree(compiled, tmp_path / "repository") / VERSION


@pytest.fixture
def model(engine_bundle: Path, tmp_path: Path) -> Path:
    """model.onnx of a bundle without a package."""
    return shutil.copytree(engine_bundle, tmp_path / "bundle") / VERSION / "model.onnx"


@pytest.mark.slow
def test_the_record_and_the_pictures(compiled: Path, least_checkpoint: Path) -> None:
    version = compiled / VERSION
    record = read_record(version / "model.pt2")
    here = torch_machine(None)
    assert (record.builder, record.precision, record.machine) == ("aoti", "fp32", here)
    assert {"sse2", "popcnt"} <= set(here.cpu_features)
    assert record.plan_sha256 == file_hash(version / "model.pt2")
    assert record.graph["sha256"] == file_hash(version / "model.onnx")
    assert record.parity is not None
    assert record.parity["max"] <= 1
    assert record.latency is not None
    assert (record.latency["count"], record.latency["measured_by"]) == (3, "run_batch")
    # Nothing of the compiler's stays.
    assert {path.name for path in version.iterdir()} - {"model.py"} == {
        *("model.onnx", "onnxruntime.onnx", "weights.bin", "model.pt2", "model.pt2.json")
    }
    references = load_references(compiled)
    trained = load_checkpoint(least_checkpoint)
    with AotiSynthesizer(version / "model.pt2") as engine:
        assert (engine.engine, engine.precision, engine.max_batch_size) == ("aoti-fp32", "fp32", 1)
        assert engine.contract.sizes == ((64, 96),)
        found = run_parity(references.pictures, engine, references.requests)
        check_proof(found, "fp32", engine.engine, len(references.requests))
        pairs = [blocky_maps(64, 96, seed) for seed in range(3)]
        pictures = engine.synthesize_batch(*map(list, zip(*pairs, strict=True)))
    torch_ = TorchSynthesizer(trained.generator, trained.contract)
    assert compare([torch_.synthesize(*pair) for pair in pairs], pictures).max <= 1
    assert len({picture.tobytes() for picture in pictures}) == 3


@pytest.mark.slow
def test_other_sizes_and_batches_are_refused_not_computed(compiled: Path) -> None:
    """The compiled code would read beyond its inputs."""
    with AotiSynthesizer(compiled / VERSION / "model.pt2") as engine:
        with pytest.raises(SizeError, match="96x64"):
            engine.synthesize(*blocky_maps(64, 64, 0))
        labels, instances = blocky_maps(64, 96, 0)
        with pytest.raises(SizeError, match=r"a batch of 2 at 96x64 .* takes 1@96x64 alone"):
            engine.run_batch(np.stack([labels] * 2), np.stack([instances] * 2), None)


@pytest.mark.slow
def test_a_changed_byte_another_torch_and_another_cpu_are_refused(version: Path) -> None:
    package = version / "model.pt2"
    record, blob = read_record(package), bytearray(package.read_bytes())
    blob[len(blob) // 2] ^= 1
    package.write_bytes(blob)
    with pytest.raises(PlanRefusedError, match="executable code, so it is not loaded"):
        AotiSynthesizer(package)
    with pytest.raises(PlanRefusedError, match=r"is not the plan of model\.pt2\.json"):
        verify_repository(version.parents[1])
    blob[len(blob) // 2] ^= 1
    package.write_bytes(blob)
    for machine, reason in (
        ({"torch": "2.9.0"}, r"was built for PyTorch 2\.9\.0, this is .* engine --runtime aoti"),
        ({"cpu_features": ("avx2048", "sse2")}, "was built for a CPU with avx2048"),
    ):
        other = dataclasses.replace(record.machine, **machine)
        write_record(package, dataclasses.replace(record, machine=other))
        with pytest.raises(PlanRefusedError, match=reason):
            AotiSynthesizer(package)
    package.with_name("model.pt2.json").unlink()
    with pytest.raises(PlanRefusedError, match="has no record"):
        AotiSynthesizer(package)


@pytest.mark.slow
def test_verify_checks_the_package_of_the_variant(compiled: Path, tmp_path: Path) -> None:
    repository = shutil.copytree(compiled, tmp_path / "repository")
    package = repository / VERSION / "model.pt2"
    record = read_record(package)
    with pytest.raises(PlanRefusedError, match="is for a CPU, and variant 'aoti' runs on a GPU"):
        verify_repository(repository, "aoti")

    def rewrite(**changes: Any) -> None:
        machine = dataclasses.replace(record.machine, gpu="a GPU", compute_capability="9.0")
        write_record(package, dataclasses.replace(record, machine=machine, **changes))

    rewrite()
    assert verify_repository(repository, "aoti") == verify_repository(compiled)
    rewrite(precision="fp16")
    with pytest.raises(PlanRefusedError, match="--runtime aoti --precision fp32"):
        verify_repository(repository, "aoti")
    rewrite(profiles=(dataclasses.replace(record.profiles[0], height=(32, 32, 32)),))
    with pytest.raises(PlanRefusedError, match=r"is for 1@96x32, .* aoti --profiles 96x64"):
        verify_repository(repository, "aoti")
    package.unlink()
    package.with_name("model.pt2.json").unlink()
    with pytest.raises(ServerStartError, match=r"missing.*sceneloom engine --runtime aoti builds"):
        verify_repository(repository, "aoti")


@pytest.mark.slow
def test_it_is_one_of_the_engines_of_its_bundle(compiled: Path, engine_bundle: Path) -> None:
    version = compiled / VERSION
    assert unavailable(ENGINES["aoti-fp32"], version) is None
    half = unavailable(ENGINES["aoti-fp16"], version)
    assert half == "model.pt2 is of fp32, not of fp16"
    missing = unavailable(ENGINES["aoti-fp32"], engine_bundle / VERSION)
    assert missing == "the bundle has no model.pt2: sceneloom engine --runtime aoti"
    assert verify_repository(compiled) == verify_repository(compiled, "embedded")


@pytest.mark.slow
def test_a_package_that_fits_is_kept(version: Path) -> None:
    model, said = version / "model.onnx", list[str]()
    settings = PlanSettings(runtime="aoti", precision="fp32", timed_runs=3)
    before = (version / "model.pt2").stat().st_mtime_ns
    build_engine(model, settings, keep=True, show=said.append)
    assert "nothing to build" in said[-1]
    assert (version / "model.pt2").stat().st_mtime_ns == before


def test_without_a_compiler_one_sentence(model: Path) -> None:
    done = run_engine(model, *FP32, environment={**os.environ, "PATH": "/nowhere"})
    assert done.returncode == 1
    assert done.stderr == (
        "sceneloom engine: AOTInductor compiles C++, and this machine has no g++: apt-get install "
        "g++, or name another compiler in the variable CXX\n"
    )
    assert done.stdout == ""


@pytest.mark.slow
def test_a_compiler_that_fails_leaves_nothing(model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\necho 'this is no compiler' >&2\nexit 1\n")
    broken.chmod(0o755)
    before = sorted(path.name for path in model.parent.iterdir())
    done = run_engine(model, *FP32, environment={**os.environ, "CXX": str(broken)})
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"sceneloom engine: {model}: PyTorch ")
    assert "cannot compile it" in last
    assert sorted(path.name for path in model.parent.iterdir()) == before


def test_what_is_refused_before_the_work(model: Path) -> None:
    for settings, reason in (
        ({"norms": "plugin"}, "--norms is for --runtime tensorrt alone"),
        ({"builder_level": 5}, "--builder-level is for --runtime tensorrt alone"),
        ({"version_compatible": True}, "--version-compatible is for --runtime tensorrt alone"),
        ({"profiles": ("2@96x64",)}, "takes single pictures of one size, such as 96x64"),
        ({"profiles": ("96x64", "64x64")}, "takes single pictures of one size"),
        ({"profiles": ("64x64:96x64:96x64",)}, "takes single pictures of one size"),
        ({"profiles": ("32x32",)}, "no reference picture of a size that 1@32x32 takes"),
    ):
        with pytest.raises(SceneLoomError, match=reason):
            build_engine(model, PlanSettings(runtime="aoti", **settings))
    with pytest.raises(EngineError, match=r"the name of a package of AOTInductor ends in \.pt2"):
        build_engine(model, PlanSettings(runtime="aoti"), plan=model.with_name("model.plan"))


def test_a_graph_of_another_architecture_is_refused(model: Path) -> None:
    architecture = json.loads((model.parents[2] / "report.json").read_text())["architecture"]
    assert read_network(model, architecture).architecture.ngf == 4
    with pytest.raises(EngineError, match="its weights are not of the architecture"):
        read_network(model, {**architecture, "ngf": 8})
    with pytest.raises(EngineError, match="export the model again"):
        read_network(model, None)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_half_on_the_cpu_differs_as_little_as_on_a_gpu(model: Path) -> None:
    settings = PlanSettings(runtime="aoti", precision="fp16", timed_runs=3)
    record = build_engine(model, settings)
    assert record.parity is not None
    with AotiSynthesizer(model.with_name("model.pt2")) as engine:
        assert engine.engine == "aoti-fp16"
