"""The record beside a TensorRT plan, `model.plan.json`, or a package of AOTInductor,
`model.pt2.json`: its sources, its machine and its proof.

Both are executable code: their author can run anything in the process that loads them. So either is
loaded only if its bytes have the hash in its record, and only on the machine of the record. Both
are checked before the runtime sees a byte. docs/tensorrt.md and docs/aoti.md are the specification.
A package is a plan of another runtime here: everything that holds for a plan holds for it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import PlainValidator

from sceneloom.contract import (
    INPUT_INSTANCES,
    INPUT_LABELS,
    INPUT_PICTURE,
    INPUT_STYLE,
    OUTPUT_IMAGE,
    STYLE_ROWS,
    Contract,
)
from sceneloom.errors import PlanRefusedError, SchemaError
from sceneloom.files import write_whole
from sceneloom.text import parse_json
from sceneloom.validation import checked, read_json

FORMAT = 1
Hardware = Literal["none", "ampere+", "same-capability"]
"""GPUs that may load a plan: its own, compute capability 8.0 or newer, or of the same one."""
_Contract = Annotated[
    Contract, PlainValidator(lambda v: v if isinstance(v, Contract) else Contract.from_json(v))
]
Range = tuple[int, int, int]  # least, tuned for, most
Point = Literal["least", "tuned", "most"]


@checked(SchemaError)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """One optimisation profile: the ranges of batch and size that it takes, tuned for one point."""

    batch: Range
    height: Range
    width: Range

    def __post_init__(self) -> None:
        for name, (low, tuned, high) in vars(self).items():
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
        """Shapes of the inputs at one end of the ranges, or at the tuned point."""
        index = get_args(Point).index(point)
        return input_shapes(contract, self.batch[index], self.height[index], self.width[index])

    def __str__(self) -> str:
        """The form on the command line, BATCH@SIZE."""
        sizes = [f"{w}x{h}" for h, w in zip(self.height, self.width, strict=True)]
        parts = [list(map(str, self.batch)), sizes]
        return "@".join(part[0] if len(set(part)) == 1 else ":".join(part) for part in parts)


@checked(PlanRefusedError)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """The GPU or CPU, driver and libraries that a plan depends on."""

    tensorrt: str
    """Version, or empty for a package of AOTInductor."""
    cuda_runtime: str
    """Version, such as 12.9, or empty."""
    driver: str
    gpu: str
    """Name, or empty for a package for the CPU."""
    compute_capability: str
    torch: str = ""
    """PyTorch's version, of a package of AOTInductor alone."""
    cpu_features: tuple[str, ...] = ()
    """Instruction sets of the CPU, as Linux names them, of a package of AOTInductor alone."""


@checked(PlanRefusedError)
@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """The record of one plan."""

    plan_sha256: str
    graph: dict[str, Any]
    """The source ONNX file and the file of its weights: names and SHA-256."""
    machine: Machine
    builder: str
    """`python`, or `aoti` for a package; `trtexec` in records of older versions."""
    precision: str
    norms: str
    """InstanceNormalization as `group`, `native` or `plugin`; `native` in a package."""
    profiles: tuple[Profile, ...]
    version_compatible: bool
    hardware: Hardware
    settings: dict[str, Any]
    parity: dict[str, Any] | None
    """Difference from PyTorch's reference pictures, or None if not measured."""
    parity_missing: str | None
    latency: dict[str, Any] | None
    """p50 and p99 in milliseconds, their count and scope, or None if not measured."""
    contract: _Contract
    sceneloom: str
    created: str

    @property
    def served_contract(self) -> Contract:
        """The contract with the sizes of this plan, if each profile is for one size."""
        sizes = [profile.fixed_size for profile in self.profiles]
        fixed = tuple(dict.fromkeys(size for size in sizes if size is not None))
        return self.contract if None in sizes else dataclasses.replace(self.contract, sizes=fixed)

    @property
    def summary(self) -> str:
        """Latency and parity in one line."""
        latency, parity = self.latency or {}, self.parity
        speed = f"p50 {latency.get('p50_ms')} ms, p99 {latency.get('p99_ms')} ms"
        if parity is None:
            return f"{speed}; parity not measured: {self.parity_missing}"
        return (
            f"{speed}; parity with PyTorch: max {parity['max']}, 99.9th percentile "
            f"{parity['p999']:g}, PSNR {parity['psnr'] or float('inf'):.1f} dB"
        )

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object."""
        fields = dataclasses.asdict(self)
        if not self.machine.torch:  # older versions refuse keys that they do not know
            del fields["machine"]["torch"], fields["machine"]["cpu_features"]
        return {"format": FORMAT, **fields, "contract": self.contract.to_json()}


def record_path(plan: Path) -> Path:
    """Place of a plan's record: beside the plan, with .json appended."""
    return plan.with_name(f"{plan.name}.json")


def write_record(plan: Path, record: PlanRecord) -> None:
    """Write the record of a plan, whole or not at all, as the last file of a build."""
    text = json.dumps(record.to_json(), indent=1) + "\n"
    write_whole(record_path(plan), text.encode(), flush=True)


def read_record(plan: Path) -> PlanRecord:
    """Read the record of a plan; raises PlanRefusedError if it is missing or damaged."""
    path = record_path(plan)
    try:
        data = parse_json(path.read_text("utf-8"))
    except FileNotFoundError:
        raise PlanRefusedError(
            f"{plan}: has no record ({path.name}) beside it; build it with sceneloom engine"
        ) from None
    except (OSError, ValueError) as error:
        raise PlanRefusedError(f"{path}: cannot be read ({error})") from None
    if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
        raise PlanRefusedError(f"{path}: is not a record of format {FORMAT}; build the plan anew")
    return read_json(PlanRecord, data, source=str(path), error=PlanRefusedError)


def verified_plan(plan: Path, machine: Machine) -> tuple[PlanRecord, bytes]:
    """A plan's record and its checked bytes; raises PlanRefusedError for a mismatch."""
    record = read_record(plan)
    try:
        blob = plan.read_bytes()
    except OSError as error:
        raise PlanRefusedError(f"{plan}: cannot be read ({error.strerror or error})") from None
    check_plan(record, hashlib.sha256(blob).hexdigest(), machine, str(plan))
    return record, blob


def check_plan(record: PlanRecord, plan_sha256: str, machine: Machine, source: str) -> None:
    """Check a plan against its record, and the record against a machine; needs no GPU.

    The driver may be newer than at the build. The version of TensorRT or PyTorch must be the same,
    unless the plan is version-compatible; the GPU likewise. The CPU must have every instruction set
    of a package. Raises PlanRefusedError with every mismatch.
    """
    if plan_sha256 != record.plan_sha256:
        raise PlanRefusedError(
            f"{source}: its SHA-256 is {plan_sha256[:12]}..., its record says "
            f"{record.plan_sha256[:12]}...; it is executable code, so it is not loaded"
        )
    built = record.machine
    wrong = []
    if built.torch != machine.torch:
        wrong.append(f"PyTorch {built.torch}, this is {machine.torch}")
    if lacking := sorted(set(built.cpu_features) - set(machine.cpu_features)):
        wrong.append(f"a CPU with {', '.join(lacking)}")
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
        flags = " --runtime aoti" if built.torch else ""
        raise PlanRefusedError(
            f"{source}: was built for {'; for '.join(wrong)}: build it here with sceneloom "
            f"engine{flags}"
        )


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version: 8.6.1.post1 is (8, 6, 1)."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


TENSOR_TYPES: dict[str, npt.DTypeLike] = {
    INPUT_LABELS: np.uint8,
    INPUT_PICTURE: np.uint8,
    INPUT_INSTANCES: np.int32,
    INPUT_STYLE: np.float32,
    OUTPUT_IMAGE: np.uint8,
}
"""Tensor of the served model -> its type."""


def input_shapes(
    contract: Contract, batch: int, height: int, width: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of the served model's inputs by name, in the order of the graph."""
    main = (batch, height, width) if contract.kind == "labels" else (batch, height, width, 3)
    shapes: dict[str, tuple[int, ...]] = {contract.main_input: main}
    if contract.wants_instances:
        shapes[INPUT_INSTANCES] = (batch, height, width)
    if contract.style_channels:
        shapes[INPUT_STYLE] = (batch, STYLE_ROWS, contract.style_channels)
    return shapes


def choose_profile(
    profiles: Sequence[Profile], batch: int, height: int, width: int
) -> tuple[int, int] | None:
    """Index of the profile tuned nearest to a batch, and the count of pictures that it takes at
    once: all, or else the most of one profile. None if no profile takes the size.
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
