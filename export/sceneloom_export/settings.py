"""Settings of an export and of a TensorRT build, and optimisation profiles as people write them.
Light: no torch, no onnx, no TensorRT.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal, get_args

from sceneloom.contract import Contract
from sceneloom.errors import SchemaError, SizeError
from sceneloom.maps import parse_size
from sceneloom_serving.parity import CLASSES, Precision, PrecisionClass
from sceneloom_serving.plan_record import Hardware, Profile

ExportPrecision = Literal["exact", "fast", "fp32", "fp16", "bf16", "int8"]
"""A class of precisions, or one of them."""
_RANGES = {
    "max_batch_size": (1, 1024),
    "queue_delay_us": (0, 60_000_000),
    "queue_size": (0, 1_000_000),
    "queue_timeout_s": (0, 86_400),
    "instances": (1, 64),
    "max_pixels": (1, 1 << 32),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServingSettings:
    """How the exported model is served; written into its config.pbtxt."""

    max_batch_size: int = 1
    """Largest batch of one execution. 1 is the latency profile; a larger one takes memory for each
    picture.
    """
    queue_delay_us: int = 0
    """Microseconds a request may wait for others to join its batch."""
    queue_size: int = 0
    """Requests that may wait; one more is refused with "queue full". 0 sets no limit: with one,
    Triton lets requests wait for half a second now and then though nothing runs (docs/serving.md).
    """
    queue_timeout_s: float = 0.0
    """Seconds a request may wait before it is refused with "timeout expired". 0 sets no limit; with
    one, Triton does the same.
    """
    instances: int = 1
    """Copies of the model that run side by side, each with its own memory."""
    max_pixels: int = 8_388_608
    """Largest picture that the server takes, in pixels: 4 times 2048x1024. Memory grows with it."""
    warmup: tuple[str, ...] = ()
    """Sizes to run once while loading, as WIDTHxHEIGHT; each must be one that the model takes."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for field, (low, high) in _RANGES.items():
            if not low <= getattr(self, field) <= high:
                raise SchemaError(
                    f"{field} is {getattr(self, field)}; it is from {low:,} to {high:,}"
                )
        for text in self.warmup:
            parse_size(text)

    @property
    def warmup_sizes(self) -> list[tuple[int, int]]:
        """The (height, width) pairs of `warmup`."""
        return [parse_size(text) for text in self.warmup]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What is exported, and on what it is proven."""

    precision: tuple[ExportPrecision, ...] = ("exact",)
    """What to prove and, where it passes, to write: exact is fp32 and fp16; fast also bf16 and
    int8, and names the fastest of all in config.pbtxt. Or the precisions themselves: fp32 always is
    one of them; int8 is calibrated on maps and takes longer.
    """
    maps: Path | None = None
    """Folder of your own label and instance maps, to be proven and calibrated on beside drawn ones;
    the first eight are used.
    """
    unknown: Literal["error", "unlabelled"] = "error"
    """What to do with label ids of your maps that the schema does not have: refuse the map, or read
    them as unlabelled.
    """
    segmenter: Path | None = None
    """Segmenter, as evaluate takes it, that looks at the pictures of bf16 and int8: those of your
    maps and of a drawn street. They may lose one point of mean IoU.
    """

    def __post_init__(self) -> None:
        """Check the names."""
        known = get_args(ExportPrecision)
        for name in self.precision:
            if name not in known:
                raise SchemaError(f"no precision {name!r}; there are {', '.join(known)}")

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions that are meant, float32 first."""
        named = {"fp32", *self.precision}
        for name in get_args(PrecisionClass):
            if name in named:
                named |= set(CLASSES[name])
        return tuple(precision for precision in CLASSES["fast"] if precision in named)

    @property
    def served(self) -> PrecisionClass:
        """The class that the engine in config.pbtxt is taken from."""
        return "fast" if "fast" in self.precision else "exact"


FLOAT32 = "float32/"
"""What the names of nodes begin with that must stay float32 where an engine computes in half; only
the graph for TensorRT 8.6 has such names.
"""
Norms = Literal["fastest", "native", "plugin"]
_LARGEST_BATCH = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How a TensorRT plan is built."""

    precision: Literal["fp16", "fp32"] = "fp16"
    """fp16: convolutions in half, InstanceNorm and the last step in float32. fp32: everything in
    float32, without TF32.
    """
    profiles: tuple[str, ...] = ()
    """Ranges of batch and size as BATCH@SIZE, each one value or LEAST:TUNED:MOST, such as
    1:4:4@2048x1024; without BATCH@ a batch of 1. None means one profile per size of the bundle, or
    the largest size that its parity was proven at if it takes any.
    """
    norms: Norms = "fastest"
    """InstanceNormalization on TensorRT 10 and 11: its native layer, its plugin, or build both and
    keep the faster.
    """
    builder_level: int = 3
    """TensorRT's builder optimisation level: 0 builds fastest, 5 tries most."""
    workspace_gib: float = 0.0
    """GiB of GPU memory that a layer may use while it computes. 0 sets no limit."""
    timing_cache: Path | None = None
    """File of measured kernels: read if it is there, then written, so that the next build is
    faster.
    """
    version_compatible: bool = False
    """Let later versions of the same major TensorRT load the plan; it may be slower."""
    hardware: Hardware = "none"
    """GPUs beside this one that may load the plan: none, any from compute capability 8.0, or any of
    the same compute capability (TensorRT 10 and 11); it may be slower.
    """
    timed_runs: int = 500
    """Pictures that the latency is measured on. The 99th percentile wants 459."""
    device: int = 0
    """CUDA's number of the GPU."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.builder_level <= 5:
            raise SchemaError(f"builder_level is {self.builder_level}; it is from 0 to 5")
        if not 0 <= self.workspace_gib <= 1024:
            raise SchemaError(f"workspace_gib is {self.workspace_gib:g}; it is from 0 to 1,024")
        if not 1 <= self.timed_runs <= 1_000_000:
            raise SchemaError(f"timed_runs is {self.timed_runs}; it is from 1 to 1,000,000")
        if self.device < 0:
            raise SchemaError(f"device is {self.device}; it is at least 0")
        if self.norms == "plugin" and (self.version_compatible or self.hardware != "none"):
            raise SchemaError("a version- or hardware-compatible plan needs the native norms")
        for text in self.profiles:
            parse_profile(text)

    @property
    def workspace_bytes(self) -> int:
        """The limit in bytes, 0 for none."""
        return round(self.workspace_gib * (1 << 30))


def parse_profile(text: str) -> Profile:
    """Parse BATCH@SIZE, each one value or LEAST:TUNED:MOST.

    Raises:
        SchemaError: a batch is not of this form.
        InputError: a size is not.
    """
    batch, at, size = text.rpartition("@")
    sizes = [parse_size(part) for part in _three(size, text)]
    batches = _three(batch, text) if at else ["1"] * 3
    if not all(part.isascii() and part.isdecimal() for part in batches):
        raise SchemaError(f"profile {text!r}: a batch is a whole number")
    least, tuned, most = (int(part) for part in batches)
    if not 1 <= most <= _LARGEST_BATCH:
        raise SchemaError(f"profile {text!r}: a batch is from 1 to {_LARGEST_BATCH:,}")
    return Profile(
        batch=(least, tuned, most),
        height=(sizes[0][0], sizes[1][0], sizes[2][0]),
        width=(sizes[0][1], sizes[1][1], sizes[2][1]),
    )


def _three(part: str, text: str) -> list[str]:
    values = part.split(":")
    if len(values) == 1:
        return values * 3
    if len(values) != 3:
        raise SchemaError(
            f"profile {text!r}: write BATCH@SIZE, each one value or LEAST:TUNED:MOST, such as "
            "1:4:4@2048x1024"
        )
    return values


def chosen_profiles(
    settings: EngineSettings, contract: Contract, proven: tuple[int, int]
) -> tuple[Profile, ...]:
    """The profiles to build, checked against what the model takes.

    Args:
        settings: may name them.
        contract: the bundle's.
        proven: the largest (height, width) of its reference pictures.

    Raises:
        SizeError: the model does not take a profile's size.
        SchemaError: the same profile is named twice.
    """
    texts = settings.profiles
    if not texts:
        texts = tuple(f"{width}x{height}" for height, width in contract.sizes or (proven,))
    profiles = tuple(parse_profile(text) for text in texts)
    if len(set(profiles)) < len(profiles):
        raise SchemaError("the same profile is named twice")
    for profile in profiles:
        for height, width in zip(profile.height, profile.width, strict=True):
            contract.check_exact_size(height, width)
        if contract.sizes is not None and profile.fixed_size is None:
            raise SizeError(f"profile {profile}: the bundle was exported for fixed sizes")
    return profiles
