"""The record beside a TensorRT plan, `model.plan.json`: what it was built from, with what, for
which GPU, and how it was proven.

A plan is executable code, not data: whoever can write one can run anything in the process that
loads it. So a plan is loaded only if its bytes have the hash that its record names, and only where
the record says it belongs; both are checked before TensorRT sees a byte. docs/tensorrt.md is the
specification.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, Literal

from sceneloom.contract import Contract
from sceneloom.errors import PlanRefusedError, SchemaError
from sceneloom.text import parse_json
from sceneloom_serving.profiles import Profile

FORMAT = 1
PLAN_FILE = "model.plan"
"""A plan's name in a version's folder of an export bundle; Triton's tensorrt backend expects it."""
Hardware = Literal["none", "ampere+", "same-capability"]
"""GPUs that a plan runs on: the one it was built on, any from compute capability 8.0, or any of the
same compute capability.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """What a plan depends on."""

    tensorrt: str
    """Version of TensorRT, such as 10.16.1."""
    cuda_runtime: str
    """Version of the CUDA runtime, such as 12.9; empty where it is not known."""
    driver: str
    """Version of the NVIDIA driver, such as 570.86.15."""
    gpu: str
    """Name of the GPU, such as NVIDIA H100 80GB HBM3."""
    compute_capability: str
    """Of the GPU, such as 9.0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """The record of one plan."""

    plan_sha256: str
    """Of the plan's bytes."""
    graph: dict[str, Any]
    """The ONNX file it was built from and the file of its weights: names and SHA-256."""
    machine: Machine
    """Where it was built, and so where it runs."""
    builder: str
    """`python` or `trtexec`."""
    precision: str
    """`fp32` or `fp16`."""
    norms: str
    """How InstanceNormalization is done: `group`, `native` or `plugin`."""
    profiles: tuple[Profile, ...]
    """The ranges of batch and size that it takes."""
    version_compatible: bool
    """Whether later versions of the same major TensorRT may load it."""
    hardware: Hardware
    """The GPUs that may load it."""
    settings: dict[str, Any]
    """Everything else that the build was told."""
    parity: dict[str, Any] | None
    """Difference from PyTorch's reference pictures, or None if it was not measured."""
    parity_missing: str | None
    """Why not."""
    latency: dict[str, Any] | None
    """p50 and p99 in milliseconds, how many were measured, and what they include; None likewise."""
    contract: Contract
    """The bundle's contract."""
    sceneloom: str
    """Version that built it."""
    created: str
    """UTC, ISO 8601."""

    @property
    def served_contract(self) -> Contract:
        """The contract with the sizes of this plan, where each profile is for one size."""
        sizes = [profile.fixed_size for profile in self.profiles]
        fixed = tuple(dict.fromkeys(size for size in sizes if size is not None))
        if None in sizes:
            return self.contract
        return dataclasses.replace(self.contract, sizes=fixed)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            "format": FORMAT,
            **values,
            "machine": dataclasses.asdict(self.machine),
            "profiles": [profile.to_json() for profile in self.profiles],
            "contract": self.contract.to_json(),
        }


def record_path(plan: Path) -> Path:
    """Where the record of a plan is: beside it, with .json appended."""
    return plan.with_name(f"{plan.name}.json")


def write_record(plan: Path, record: PlanRecord) -> None:
    """Write the record of a plan, whole or not at all; it is the last file that a build writes."""
    path = record_path(plan)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with fresh.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(record.to_json(), indent=1) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def read_record(plan: Path) -> PlanRecord:
    """Read the record of a plan.

    Raises:
        PlanRefusedError: there is none, or it is not one that this version reads.
    """
    path = record_path(plan)
    try:
        data = parse_json(path.read_text("utf-8"))
    except FileNotFoundError:
        raise PlanRefusedError(
            f"{plan}: has no record ({path.name}) beside it; build it with sceneloom engine"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise PlanRefusedError(f"{path}: cannot be read ({error})") from None
    if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
        raise PlanRefusedError(f"{path}: is not a record of format {FORMAT}; build the plan anew")
    try:
        return PlanRecord(
            **{
                **data,
                "machine": Machine(**data["machine"]),
                "profiles": tuple(Profile.from_json(entry) for entry in data["profiles"]),
                "contract": Contract.from_json(data["contract"], source=str(path)),
            }
        )
    except (KeyError, TypeError, ValueError, AttributeError, SchemaError) as error:
        raise PlanRefusedError(f"{path}: damaged ({error})") from None


def verified_plan(plan: Path, machine: Machine) -> tuple[PlanRecord, bytes]:
    """Read a plan that may be loaded on this machine.

    Args:
        plan: the file.
        machine: this machine.

    Returns:
        its record, and the very bytes whose hash was checked.

    Raises:
        PlanRefusedError: its bytes or this machine are not those of its record.
    """
    record = read_record(plan)
    try:
        blob = plan.read_bytes()
    except OSError as error:
        raise PlanRefusedError(f"{plan}: cannot be read ({error.strerror or error})") from None
    check_plan(record, hashlib.sha256(blob).hexdigest(), machine, str(plan))
    return record, blob


def check_plan(record: PlanRecord, plan_sha256: str, machine: Machine, source: str) -> None:
    """Check a plan against its record, and the record against a machine; no GPU is needed.

    A newer driver than the one it was built with is fine, an older one is not. TensorRT's version
    must be the same, unless the plan is version-compatible; the GPU likewise, unless it is
    hardware-compatible.

    Args:
        record: the plan's.
        plan_sha256: hash of the plan's bytes.
        machine: where it is to be loaded.
        source: what to call the plan in an error.

    Raises:
        PlanRefusedError: names everything that does not match.
    """
    if plan_sha256 != record.plan_sha256:
        raise PlanRefusedError(
            f"{source}: its SHA-256 is {plan_sha256[:12]}..., its record says "
            f"{record.plan_sha256[:12]}...; a plan is executable code, so it is not loaded"
        )
    built = record.machine
    wrong = []
    if not _same_tensorrt(built.tensorrt, machine.tensorrt, record.version_compatible):
        wrong.append(f"TensorRT {built.tensorrt}, this is {machine.tensorrt}")
    if not _same_gpu(built, machine, record.hardware):
        wrong.append(
            f"{built.gpu} (compute capability {built.compute_capability}), this is "
            f"{machine.gpu} ({machine.compute_capability})"
        )
    if _numbers(machine.driver) < _numbers(built.driver):
        wrong.append(f"driver {built.driver} or newer, this is {machine.driver}")
    both = built.cuda_runtime and machine.cuda_runtime
    if both and _numbers(built.cuda_runtime)[:1] != _numbers(machine.cuda_runtime)[:1]:
        wrong.append(f"CUDA {built.cuda_runtime}, this is {machine.cuda_runtime}")
    if wrong:
        raise PlanRefusedError(
            f"{source}: was built for {'; for '.join(wrong)}: build it here with sceneloom engine"
        )


def _same_tensorrt(built: str, here: str, version_compatible: bool) -> bool:
    old, new = _numbers(built)[:3], _numbers(here)[:3]
    return old == new or (version_compatible and old[:1] == new[:1] and old < new)


def _same_gpu(built: Machine, here: Machine, hardware: Hardware) -> bool:
    if hardware == "ampere+":
        return _numbers(here.compute_capability) >= (8, 0)
    same = built.compute_capability == here.compute_capability
    return same and (hardware == "same-capability" or built.gpu == here.gpu)


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version: 8.6.1.post1 is (8, 6, 1)."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
