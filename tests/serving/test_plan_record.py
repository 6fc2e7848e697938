"""A plan is loaded only if it is the one its record names, and only where the record says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from sceneloom.contract import Contract
from sceneloom.errors import PlanRefusedError
from sceneloom.schema import load_schema
from sceneloom_serving.plan_record import (
    Machine,
    PlanRecord,
    Profile,
    check_plan,
    read_record,
    record_path,
    verified_plan,
    write_record,
)

BLOB = b"a plan" * 100
SHA256 = "20ea1b21ac2fd1b0ce4de2d6a0da1b54e3d2c8b4c0d0f2b3d6f9f0a3f6a5e1c9"
HERE = Machine(
    tensorrt="10.16.1",
    cuda_runtime="12.9",
    driver="570.86.15",
    gpu="NVIDIA H100 80GB HBM3",
    compute_capability="9.0",
)


def record(**changes: Any) -> PlanRecord:
    values: dict[str, Any] = {
        "plan_sha256": SHA256,
        "graph": {"file": "fp16.onnx", "sha256": "1" * 64},
        "machine": HERE,
        "builder": "python",
        "precision": "fp16",
        "norms": "native",
        "profiles": (Profile(batch=(1, 4, 4), height=(1024,) * 3, width=(2048,) * 3),),
        "version_compatible": False,
        "hardware": "none",
        "settings": {"builder_level": 3},
        "parity": {"max": 1, "p999": 1.0, "mean": 0.1, "psnr": None},
        "parity_missing": None,
        "latency": {"p50_ms": 5.0, "p99_ms": 6.0, "count": 500},
        "contract": Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=32),
        "sceneloom": "0.1.0",
        "created": "2026-01-01T00:00:00+00:00",
    }
    return PlanRecord(**{**values, **changes})


def check(machine: dict[str, str] | None = None, **changes: Any) -> None:
    check_plan(
        record(**changes), SHA256, dataclasses.replace(HERE, **(machine or {})), "model.plan"
    )


def test_where_it_was_built() -> None:
    check()
    check({"driver": "575.1"})  # drivers are updated; they run what older ones ran
    check({"cuda_runtime": "12.4"})
    check({"cuda_runtime": ""})


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        ({"tensorrt": "10.16.2"}, r"TensorRT 10\.16\.1, this is 10\.16\.2"),
        ({"tensorrt": "8.6.0"}, r"TensorRT 10\.16\.1, this is 8\.6\.0"),
        (
            {"gpu": "NVIDIA H200"},
            r"H100 80GB HBM3 \(compute capability 9\.0\), this is NVIDIA H200",
        ),
        ({"compute_capability": "10.0"}, r"this is NVIDIA H100 80GB HBM3 \(10\.0\)"),
        ({"driver": "550.54.15"}, r"driver 570\.86\.15 or newer, this is 550\.54\.15"),
        ({"cuda_runtime": "13.0"}, r"CUDA 12\.9, this is 13\.0"),
    ],
)
def test_another_machine_is_refused_with_the_reason(machine: dict[str, str], reason: str) -> None:
    with pytest.raises(PlanRefusedError, match=reason):
        check(machine)


def test_everything_that_differs_is_named() -> None:
    with pytest.raises(PlanRefusedError, match=r"TensorRT .*; for .*H100.*build it here"):
        check({"tensorrt": "11.4.0", "gpu": "NVIDIA A10", "compute_capability": "8.6"})


def test_compatible_plans() -> None:
    check({"tensorrt": "10.17.0"}, version_compatible=True)
    check({"gpu": "NVIDIA A10", "compute_capability": "8.6"}, hardware="ampere+")
    check({"gpu": "NVIDIA H200"}, hardware="same-capability")
    for machine, changes in (
        ({"tensorrt": "10.15.0"}, {"version_compatible": True}),
        ({"tensorrt": "11.0.0"}, {"version_compatible": True}),
        ({"gpu": "T4", "compute_capability": "7.5"}, {"hardware": "ampere+"}),
        ({"gpu": "A10", "compute_capability": "8.6"}, {"hardware": "same-capability"}),
    ):
        with pytest.raises(PlanRefusedError):
            check(machine, **changes)


def test_a_changed_byte_is_refused(tmp_path: Path) -> None:
    import hashlib

    plan = tmp_path / "model.plan"
    plan.write_bytes(BLOB)
    kept = record(plan_sha256=hashlib.sha256(BLOB).hexdigest())
    write_record(plan, kept)
    assert verified_plan(plan, HERE) == (kept, BLOB)
    plan.write_bytes(BLOB[:-1] + b"!")
    with pytest.raises(PlanRefusedError, match=r"its SHA-256 is .* executable code"):
        verified_plan(plan, HERE)
    plan.unlink()
    with pytest.raises(PlanRefusedError, match="cannot be read"):
        verified_plan(plan, HERE)


def test_the_form_of_the_file(tmp_path: Path) -> None:
    plan = tmp_path / "model.plan"
    write_record(plan, record())
    assert [path.name for path in tmp_path.iterdir()] == ["model.plan.json"]
    data = json.loads(record_path(plan).read_text())
    assert data["format"] == 1
    assert data["machine"]["gpu"] == "NVIDIA H100 80GB HBM3"
    assert data["profiles"] == [{"batch": [1, 4, 4], "height": [1024] * 3, "width": [2048] * 3}]
    assert data["contract"]["schema"]["name"] == "cityscapes"
    assert read_record(plan) == record()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.clear(),
        lambda data: data.update(format=2),
        lambda data: data.pop("machine"),
        lambda data: data.update(surprise=1),
        lambda data: data.update(
            profiles=[{"batch": [4, 1, 1], "height": [1] * 3, "width": [1] * 3}]
        ),
        lambda data: data.update(contract={}),
        lambda data: data["machine"].update(colour="green"),
    ],
)
def test_damaged_record(tmp_path: Path, damage: Any) -> None:
    plan = tmp_path / "model.plan"
    write_record(plan, record())
    data = json.loads(record_path(plan).read_text())
    damage(data)
    record_path(plan).write_text(json.dumps(data))
    with pytest.raises(PlanRefusedError, match=r"model\.plan\.json"):
        read_record(plan)


def test_no_record_and_no_json(tmp_path: Path) -> None:
    plan = tmp_path / "model.plan"
    with pytest.raises(PlanRefusedError, match="has no record"):
        read_record(plan)
    record_path(plan).write_text("{")
    with pytest.raises(PlanRefusedError, match="cannot be read"):
        read_record(plan)
    record_path(plan).write_text("[]")
    with pytest.raises(PlanRefusedError, match="format 1"):
        read_record(plan)


def test_sizes_that_the_plan_is_for() -> None:
    assert record().served_contract.sizes == ((1024, 2048),)
    several = record(
        profiles=(
            Profile(batch=(1, 1, 1), height=(512,) * 3, width=(1024,) * 3),
            Profile(batch=(1, 4, 4), height=(512,) * 3, width=(1024,) * 3),
        )
    )
    assert several.served_contract.sizes == ((512, 1024),)
    ranges = record(
        profiles=(Profile(batch=(1, 1, 1), height=(512, 512, 1024), width=(1024,) * 3),)
    )
    assert ranges.served_contract.sizes is None
