"""The record beside a TensorRT plan, `model.plan.json`: what it was built from, with what, for
which GPU, and how it was proven.

A plan is executable code, not data: its author can run anything in the process that loads it. So a
plan is loaded only if its bytes have the hash that its record names, and only where the record says
it belongs. Both are checked before TensorRT sees a byte. docs/tensorrt.md is the specification.

Optimisation profiles are the ranges of batch and size that a plan takes, each tuned for one point.
Single values are the fastest; several profiles let one plan serve single pictures and batches.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from sceneloom.contract import (
    INPUT_INSTANCES,
    INPUT_LABELS,
    INPUT_STYLE,
    STYLE_ROWS,
    Contract,
)
from sceneloom.errors import PlanRefusedError, SchemaError
from sceneloom.files import write_whole
from sceneloom.text import parse_json

FORMAT = 1
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
    """`python`; `trtexec` in records of older versions."""
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

    @property
    def summary(self) -> str:
        """Latency and parity in one line for people."""
        latency, parity = self.latency or {}, self.parity
        speed = f"p50 {latency.get('p50_ms')} ms, p99 {latency.get('p99_ms')} ms"
        if parity is None:
            return f"{speed}; parity not measured: {self.parity_missing}"
        return (
            f"{speed}; parity with PyTorch: max {parity['max']}, 99.9th percentile "
            f"{parity['p999']:g}, PSNR {parity['psnr'] or float('inf'):.1f} dB"
        )

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
    text = json.dumps(record.to_json(), indent=1) + "\n"
    write_whole(record_path(plan), text.encode(), flush=True)


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
    old, new = _numbers(built.tensorrt)[:3], _numbers(machine.tensorrt)[:3]
    newer = record.version_compatible and old[:1] == new[:1] and old < new
    if old != new and not newer:
        wrong.append(f"TensorRT {built.tensorrt}, this is {machine.tensorrt}")
    if record.hardware == "ampere+":
        fits = _numbers(machine.compute_capability) >= (8, 0)
    else:
        fits = built.compute_capability == machine.compute_capability
        fits &= record.hardware == "same-capability" or built.gpu == machine.gpu
    if not fits:
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


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version: 8.6.1.post1 is (8, 6, 1)."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


Range = tuple[int, int, int]
"""Least, tuned for, most."""
Point = Literal["least", "tuned", "most"]
_POINTS: dict[Point, int] = {"least": 0, "tuned": 1, "most": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """One optimisation profile."""

    batch: Range
    """Pictures at once."""
    height: Range
    """Pixels."""
    width: Range
    """Pixels."""

    def __post_init__(self) -> None:
        """Check that each range is in order."""
        for name in ("batch", "height", "width"):
            low, tuned, high = getattr(self, name)
            if not 1 <= low <= tuned <= high:
                raise SchemaError(f"{name} {low}:{tuned}:{high} of a profile is not in order")

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """The one (height, width) that it takes, or None if it takes several."""
        (low, tall), (narrow, wide) = self.height[::2], self.width[::2]
        return (low, narrow) if (low, narrow) == (tall, wide) else None

    def takes(self, batch: int, height: int, width: int) -> bool:
        """Whether a batch of pictures of this size may run in it."""
        values = ((self.batch, batch), (self.height, height), (self.width, width))
        return all(low <= value <= high for (low, _, high), value in values)

    def shapes(self, contract: Contract, point: Point) -> dict[str, tuple[int, ...]]:
        """The inputs' shapes at one end of the ranges, or at the point it is tuned for."""
        index = _POINTS[point]
        return input_shapes(contract, self.batch[index], self.height[index], self.width[index])

    def to_json(self) -> dict[str, list[int]]:
        """As a JSON object."""
        return {name: list(getattr(self, name)) for name in ("batch", "height", "width")}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Profile:
        """Read the JSON form.

        Raises:
            KeyError, TypeError, ValueError, SchemaError: it is not one.
        """
        names = ("batch", "height", "width")
        ranges = {name: tuple(int(value) for value in data[name]) for name in names}
        if any(len(values) != 3 for values in ranges.values()):
            raise ValueError(f"{data} where ranges of three numbers belong")
        return cls(**ranges)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """As it is written on the command line: BATCH@SIZE."""
        batches = [str(value) for value in self.batch]
        sizes = [f"{w}x{h}" for h, w in zip(self.height, self.width, strict=True)]
        return f"{_short(batches)}@{_short(sizes)}"


def _short(parts: list[str]) -> str:
    return parts[0] if len(set(parts)) == 1 else ":".join(parts)


def input_shapes(
    contract: Contract, batch: int, height: int, width: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of the served model's inputs, by name, in the graph's order."""
    shapes: dict[str, tuple[int, ...]] = {INPUT_LABELS: (batch, height, width)}
    if contract.boundaries or contract.style_channels:
        shapes[INPUT_INSTANCES] = (batch, height, width)
    if contract.style_channels:
        shapes[INPUT_STYLE] = (batch, STYLE_ROWS, contract.style_channels)
    return shapes


def choose_profile(
    profiles: Sequence[Profile], batch: int, height: int, width: int
) -> tuple[int, int] | None:
    """Find the profile that a batch runs in.

    Returns:
        the profile's index and how many of the pictures it takes at once: all, in the profile that
        is tuned nearest to them, or else as many as any takes; None if no profile takes the size.
    """
    for count in range(batch, 0, -1):
        distances = [
            (abs(p.batch[1] - count), abs(p.height[1] - height) + abs(p.width[1] - width), number)
            for number, p in enumerate(profiles)
            if p.takes(count, height, width)
        ]
        if distances:
            return min(distances)[-1], count
    return None
