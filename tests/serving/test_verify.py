"""Verification: an untouched export passes, and every way of touching it is named."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from support import free_ports, run_here, write_older

from sceneloom import TritonSynthesizer
from sceneloom.contract import Contract
from sceneloom.errors import PlanRefusedError, SceneLoomError, ServerStartError
from sceneloom.files import file_hash
from sceneloom.schema import load_schema
from sceneloom_export.bundle import Exported
from sceneloom_export.repository import write_configs
from sceneloom_export.settings import TritonSettings
from sceneloom_serving import templates
from sceneloom_serving.bundle import load_golden, verify_repository
from sceneloom_serving.embedded import EmbeddedServer
from sceneloom_serving.engines import open_engine
from sceneloom_serving.parity import check_golden
from sceneloom_serving.plan_record import Machine, PlanRecord, Profile, write_record

CONTRACT = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)
SIZE = (128, 192)
FILES = 12


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A bundle as export writes it, with a few bytes for graphs and weights."""
    folder = tmp_path / "repository"
    model = folder / "synthesis"
    shutil.copytree(templates() / "synthesis", model, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("model.onnx", "onnxruntime.onnx", "weights.bin"):
        (model / "1" / name).write_bytes(name.encode())
    write_configs(model, CONTRACT, TritonSettings(), largest=SIZE, engine="openvino-fp32")
    maps = {"label_map": np.zeros((64, 64), np.uint8), "instance_map": np.zeros((64, 64), np.int32)}
    np.savez(folder / "golden.npz", **maps, block_means=np.zeros((4, 4, 3), np.float32))
    paths = [path for path in folder.rglob("*") if path.is_file()]
    hashes = {path.relative_to(folder).as_posix(): file_hash(path) for path in paths}
    report = {"sceneloom": "0", "bundle_hash": "ab", "sha256": hashes}
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def add_plan(repository: Path, **changes: Any) -> Path:
    """A plan of a few bytes with its record, for batch 1 and for up to 4."""
    version = repository / "synthesis" / "1"
    plan = version / "model.plan"
    plan.write_bytes(b"plan")
    height, width = ((side, side, side) for side in SIZE)
    values: dict[str, Any] = {
        "plan_sha256": file_hash(plan),
        "graph": {"file": "model.onnx", "sha256": file_hash(version / "model.onnx")},
        "machine": Machine(
            tensorrt="10.16.1",
            cuda_runtime="13.1",
            driver="580.1",
            gpu="a GPU",
            compute_capability="9.0",
        ),
        "builder": "python",
        "precision": "fp32",  # as the variants say where there is no fp16.onnx
        "norms": "native",
        "profiles": (
            Profile(batch=(1, 1, 1), height=height, width=width),
            Profile(batch=(1, 2, 4), height=height, width=width),
        ),
        "version_compatible": False,
        "hardware": "none",
        "settings": {},
        "parity": None,
        "parity_missing": "a test",
        "latency": None,
        "contract": CONTRACT,
        "sceneloom": "0",
        "created": "2026-11-25T00:00:00+00:00",
    }
    write_record(plan, PlanRecord(**{**values, **changes}))
    return plan


def refusal(repository: Path, variant: str | None = None) -> str:
    with pytest.raises(SceneLoomError) as caught:
        verify_repository(repository, variant)
    return str(caught.value)


def test_a_real_export_passes(exported: Exported) -> None:
    assert verify_repository(exported.repository, "embedded") >= FILES
    assert "sceneloom engine builds it" in refusal(exported.repository, "tensorrt")


@pytest.mark.triton
def test_a_bundle_of_an_older_version_passes_and_loads(exported: Exported, tmp_path: Path) -> None:
    folder = write_older(exported.repository, tmp_path / "old")
    report = json.loads((folder / "report.json").read_text())
    assert "synthesis_decode/1/model.py" in report["sha256"]
    assert verify_repository(folder, "onnxruntime-tensorrt") == len(report["sha256"])
    with open_engine("onnxruntime-fp32", folder / "synthesis" / "1") as engine:
        assert check_golden(engine, load_golden(folder)) < 0.1
    with EmbeddedServer(folder, free_ports(), engine="onnxruntime-fp32") as server:
        with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
            models = client.get_model_repository_index().models
        assert [model.name for model in models] == ["synthesis"]
        with TritonSynthesizer(server.grpc) as synthesizer:
            assert check_golden(synthesizer, load_golden(folder)) < 0.1


@pytest.mark.parametrize("variant", [None, "embedded", "onnxruntime"])
def test_untouched(repository: Path, variant: str | None) -> None:
    assert verify_repository(repository, variant) == FILES


@pytest.mark.parametrize(
    "name",
    [
        "golden.npz",
        "synthesis/config.pbtxt",
        "synthesis/configs/tensorrt.pbtxt",
        "synthesis/1/model.py",
        "synthesis/1/weights.bin",
    ],
)
def test_one_changed_byte_or_a_missing_file_is_named(repository: Path, name: str) -> None:
    path = repository / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert refusal(repository).startswith(f"{path}: is not the file that was exported")
    path.unlink()
    assert refusal(repository) == f"{path}: missing"


@pytest.mark.parametrize(
    "name",
    [
        "synthesis/2/model.onnx",  # Triton serves the latest version
        "synthesis/configs/other.pbtxt",
        "synthesis/triton_python_backend_stub",  # runs instead of the backend's own
        "synthesis/1/helper.py",
        "synthesis/1/plugin.so",
        "synthesis/1/__init__.pyc",
        "synthesis/1/model/__init__.pyc",  # Python prefers the package to model.py
        "synthesis/1/numpy/__init__.py",
        "synthesis/1/model.cpython-311-x86_64-linux-gnu.so",
        "synthesis/1/__pycache__/model.cpython-311.pyc",
        "synthesis/1/timing.cache",
        "synthesis/1/model.plan.json",  # of no plan
        "synthesis/1/.hidden",
        "synthesis/1/sub/model.plan",
        "synthesis/model.plan",
        "another/config.pbtxt",
        "another/1/model.onnx",
    ],
)
def test_what_a_server_would_load_beside_it_is_refused(repository: Path, name: str) -> None:
    path = repository / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    assert "was not exported, and a server may load it" in refusal(repository)


@pytest.mark.parametrize("name", ["synthesis/1/model", "synthesis/linked", "synthesis/configs"])
def test_a_linked_folder_in_a_model_is_refused(repository: Path, name: str, tmp_path: Path) -> None:
    path = repository / name
    if path.is_dir():
        path.rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir(exist_ok=True)
    path.symlink_to(tmp_path / "elsewhere")
    assert refusal(repository).startswith(f"{path}: is a link to a folder")


@pytest.mark.parametrize(
    "name",
    [
        "report.json",
        "golden.npz",
        "synthesis/1/weights.bin",
        "synthesis/1/model.plan",
        "synthesis/1/model.plan.json",
    ],
)
def test_a_pipe_is_refused_and_not_waited_for(repository: Path, name: str) -> None:
    add_plan(repository)
    path = repository / name
    path.unlink()
    os.mkfifo(path)
    done = run_here("verify", repository)
    assert done.returncode == 1
    assert f"{path}: is not a regular file" in done.stderr


def test_a_linked_file_and_a_linked_model_are_what_they_lead_to(
    repository: Path, tmp_path: Path
) -> None:
    weights = repository / "synthesis" / "1" / "weights.bin"
    weights.rename(tmp_path / "weights")
    weights.symlink_to(tmp_path / "weights")
    (repository / "synthesis").rename(tmp_path / "model")
    (repository / "synthesis").symlink_to(tmp_path / "model")
    assert verify_repository(repository, "embedded") == FILES
    (tmp_path / "model" / "1" / "helper.py").write_text("")
    assert "helper.py: was not exported" in refusal(repository)
    (tmp_path / "model" / "1" / "helper.py").unlink()
    (tmp_path / "weights").write_bytes(b"other")
    assert "weights.bin: is not the file that was exported" in refusal(repository)


def test_what_no_server_loads_is_left_alone(repository: Path) -> None:
    (repository / "notes").mkdir()
    (repository / "notes" / "a.txt").write_text("")
    (repository / "README").write_text("")
    assert verify_repository(repository) == FILES


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda report: report.pop("sha256"), "not a table of files and hashes"),
        (lambda report: report["sha256"].update({"../x": "0" * 64}), "not a table of files"),
        (lambda report: report["sha256"].update({"/x": "0" * 64}), "not a table of files"),
        (lambda report: report["sha256"].update({"x": "0"}), "not a table of files"),
        (lambda report: report["sha256"].update({"": "0" * 64}), "not a table of files"),
        (lambda report: report["sha256"].pop("golden.npz"), "no hash of golden.npz; an older"),
        (lambda report: report["sha256"].pop("synthesis/config.pbtxt"), "no hash of synthesis/con"),
    ],
)
def test_damaged_report(repository: Path, change: Change, message: str) -> None:
    path = repository / "report.json"
    report = json.loads(path.read_text())
    change(report)
    path.write_text(json.dumps(report))
    assert refusal(repository).startswith(f"{path}: ")
    assert message in refusal(repository)


@pytest.mark.parametrize("content", ["", "[]", "{", "\ud800"])
def test_unreadable_report(repository: Path, content: str) -> None:
    (repository / "report.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    assert f"{repository / 'report.json'}: damaged" in refusal(repository)


def test_no_export_at_all(tmp_path: Path) -> None:
    assert "report.json: missing" in refusal(tmp_path)
    assert "no such folder" in refusal(tmp_path / "nothing")


def test_plan_and_its_record(repository: Path) -> None:
    plan = add_plan(repository)
    for variant in (None, "tensorrt", "tensorrt-throughput"):
        assert verify_repository(repository, variant) == FILES + 1
    plan.write_bytes(b"plam")
    assert refusal(repository) == (
        f"{plan}: is not the plan of model.plan.json; build it again with sceneloom engine"
    )
    plan.with_name("model.plan.json").unlink()
    with pytest.raises(PlanRefusedError, match="has no record"):
        verify_repository(repository)


def test_plan_of_another_graph(repository: Path) -> None:
    for graph in ({"file": "model.onnx", "sha256": "0" * 64}, {}):
        add_plan(repository, graph=graph)
        assert "was built from a graph of another export" in refusal(repository)


def test_plan_of_another_precision_than_its_variant_says(repository: Path) -> None:
    """Its pictures would be called float32's."""
    add_plan(repository, precision="fp16")
    assert verify_repository(repository) == FILES + 1
    for variant in ("tensorrt", "tensorrt-throughput"):
        said = refusal(repository, variant)
        assert f"is of fp16, and variant {variant!r} says tensorrt-fp32" in said
        assert "sceneloom engine --precision fp32" in said


def test_plan_without_the_variants_profile(repository: Path) -> None:
    side = (64, 64, 64)
    add_plan(repository, profiles=(Profile(batch=(1, 1, 1), height=side, width=side),))
    latency = refusal(repository, "tensorrt")
    assert "its optimisation profiles are 1@64x64, and variant 'tensorrt' needs others" in latency
    assert latency.endswith(": sceneloom engine --profiles 192x128")
    throughput = refusal(repository, "tensorrt-throughput")
    assert throughput.endswith(": sceneloom engine --profiles 192x128 1:4:4@192x128")


def test_what_a_killed_build_left_is_no_plan(repository: Path) -> None:
    left = repository / "synthesis" / "1" / ".model.plan.abc" / "native" / "model.plan"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half a plan")
    (repository / "synthesis" / "1" / ".sceneloom-7-ab-0.host.part").write_bytes(b"half a record")
    assert verify_repository(repository) == FILES


def test_unknown_variant_names_those_there_are(repository: Path) -> None:
    for name in ("tensorflow", "../config", "", "a b"):
        assert "embedded, onnxruntime, tensorrt, tensorrt-throughput" in (refusal(repository, name))


def test_command(repository: Path) -> None:
    done = run_here("verify", repository, "--variant", "embedded")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{repository}: all {FILES} files are as exported\n"
    (repository / "synthesis" / "1" / "weights.bin").write_bytes(b"")
    done = run_here("verify", repository)
    assert done.returncode == 1
    assert re.fullmatch(r"sceneloom verify: \S+weights\.bin: is not the file.*\n", done.stderr)


def test_serve_verifies_before_it_starts(repository: Path) -> None:
    (repository / "synthesis" / "1" / "model.py").write_text("raise SystemExit")
    done = run_here("serve", repository)
    assert done.returncode == 1
    assert done.stderr.startswith(f"sceneloom serve: {repository}/synthesis/1/model.py: is not")


def test_it_needs_the_base_install_only(repository: Path) -> None:
    code = (
        "import sys; from sceneloom.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'tensorrt'}; "
        "print(code, heavy & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "verify", str(repository)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "0 set()"


def test_damaged_golden_file_with_its_hash(repository: Path) -> None:
    (repository / "golden.npz").write_bytes(b"PK")
    report = json.loads((repository / "report.json").read_text())
    report["sha256"]["golden.npz"] = file_hash(repository / "golden.npz")
    (repository / "report.json").write_text(json.dumps(report))
    with pytest.raises(ServerStartError, match=r"golden\.npz: damaged"):
        verify_repository(repository)
