"""Settings of an export and of `sceneloom engine`; light: no torch, onnx or TensorRT."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Literal, get_args

from annotated_types import Ge, Interval

from sceneloom.contract import Contract
from sceneloom.errors import SchemaError, SizeError
from sceneloom.map_reading import MapReading
from sceneloom.maps import parse_size
from sceneloom.validation import checked
from sceneloom_serving.parity import CLASSES, Precision, PrecisionClass
from sceneloom_serving.plan_record import Hardware, Profile

ExportPrecision = Literal["exact", "fast", "fp32", "fp16", "bf16", "int8", "fp8"]
"""A class of precisions, or one of them."""
FLOAT32 = "float32/"  # prefix of nodes that stay float32 in TensorRT 8.6's engine of half
_LARGEST_BATCH = 1024
Runtime = Literal["tensorrt", "aoti"]
OF_TENSORRT = (
    "norms",
    "builder_level",
    "workspace_gib",
    "timing_cache",
    "version_compatible",
    "hardware",
)
"""Settings of a plan that a package of AOTInductor has not."""


@checked(SchemaError)
@dataclasses.dataclass(frozen=True, kw_only=True)
class TritonSettings:
    """How the exported model is served; written into its config.pbtxt."""

    max_batch_size: Annotated[int, Interval(ge=1, le=_LARGEST_BATCH)] = 1
    """Largest batch of one execution; each picture takes memory. 1 is the latency profile."""
    queue_delay_us: Annotated[int, Interval(ge=0, le=60_000_000)] = 0
    """Microseconds a request may wait for others to join its batch."""
    queue_size: Annotated[int, Interval(ge=0, le=1_000_000)] = 0
    """Requests that may wait; one more is refused with "queue full". 0 sets no limit: with one,
    Triton sometimes waits for half a second while it is idle (docs/serving.md).
    """
    queue_timeout_s: Annotated[float, Interval(ge=0, le=86_400)] = 0.0
    """Seconds a request may wait before it is refused with "timeout expired". 0 sets no limit."""
    instances: Annotated[int, Interval(ge=1, le=64)] = 1
    """Copies of the model that run side by side, each with its own memory."""
    max_pixels: Annotated[int, Interval(ge=1, le=1 << 32)] = 8_388_608
    """Largest picture of the server in pixels: 4 times 2048x1024. Memory grows with it."""
    warmup: tuple[str, ...] = ()
    """Sizes to run once while loading, as WIDTHxHEIGHT; the model must take each."""

    def __post_init__(self) -> None:
        for text in self.warmup:
            parse_size(text)

    @property
    def warmup_sizes(self) -> list[tuple[int, int]]:
        """The (height, width) pairs of `warmup`."""
        return [parse_size(text) for text in self.warmup]


@checked(SchemaError)
@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportSettings(MapReading):
    """Precisions of an export, and its proof."""

    precision: tuple[ExportPrecision, ...] = ("exact",)
    """Precisions to prove and, if they pass, to write: exact is fp32 and fp16; fast also bf16 and
    int8, and names the fastest of all in config.pbtxt. Or single ones: fp32 is always included;
    int8 is calibrated on maps and takes longer; fp8 is for TensorRT plans, includes fp16, and is in
    no class.
    """
    maps: Path | None = None
    """Folder of your own maps (of a model of pictures: of pictures), for proof and calibration; the
    first eight are used.
    """
    unknown: Literal["error", "unlabelled"] = "error"
    """Label ids of your maps outside the schema: refuse the map, or read them as unlabelled."""
    segmenter: Path | None = None
    """Segmenter, as evaluate takes it, to check the pictures of bf16 and int8: those of your maps
    and of a drawn street. They may lose one point of mean IoU.
    """

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The requested precisions, float32 first."""
        named = {"fp32", *self.precision}
        for name in get_args(PrecisionClass):
            if name in named:
                named |= set(CLASSES[name])
        if "fp8" in named:
            named.add("fp16")
        return tuple(precision for precision in get_args(Precision) if precision in named)

    @property
    def served(self) -> PrecisionClass:
        """The class of the engine in config.pbtxt."""
        return "fast" if "fast" in self.precision else "exact"


@checked(SchemaError)
@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """How a TensorRT plan, or a package of AOTInductor, is built."""

    runtime: Runtime = "tensorrt"
    """tensorrt; or aoti: AOTInductor, PyTorch's compiler, for single pictures of one size, on the
    GPU that PyTorch sees, or else the CPU. It needs torch and g++.
    """
    precision: Literal["fp16", "fp32", "fp8"] = "fp16"
    """fp16: convolutions in half, norms and the last step in float32. fp32: without TF32. fp8:
    fp16 with some convolutions in FP8, by TensorRT 10 or newer on compute capability 8.9 or newer.
    On a CPU half is slower.
    """
    profiles: tuple[str, ...] = ()
    """Ranges of batch and size as BATCH@SIZE, each one value or LEAST:TUNED:MOST, such as
    1:4:4@2048x1024; without BATCH@ a batch of 1. None means one profile per size of the bundle, or
    the largest size of its parity proof if it takes any. aoti takes one size, by default the
    largest.
    """
    norms: Literal["fastest", "native", "plugin"] = "fastest"
    """InstanceNormalization on TensorRT 10 and 11: native layer, plugin, or the faster of both."""
    builder_level: Annotated[int, Interval(ge=0, le=5)] = 3
    """TensorRT's builder optimisation level: 0 builds fastest, 5 tries most."""
    workspace_gib: Annotated[float, Interval(ge=0, le=1024)] = 0.0
    """GiB of GPU memory that a layer may use while it computes. 0 sets no limit."""
    timing_cache: Path | None = None
    """File of measured kernels: read if it exists, then written, for a faster next build."""
    version_compatible: bool = False
    """Let later versions of the same major TensorRT load the plan; it may be slower."""
    hardware: Hardware = "none"
    """Other GPUs that can load the plan: none, those from compute capability 8.0, or those of the
    same compute capability (TensorRT 10 and 11). A plan for other GPUs may be slower.
    """
    timed_runs: Annotated[int, Interval(ge=1, le=1_000_000)] = 500
    """Pictures of the latency measurement, as far as they take a minute. The 99th percentile wants
    459.
    """
    device: Annotated[int, Ge(0)] = 0
    """CUDA's number of the GPU."""

    def __post_init__(self) -> None:
        if self.runtime == "aoti":
            for field in dataclasses.fields(self):
                if field.name in OF_TENSORRT and getattr(self, field.name) != field.default:
                    flag = field.name.replace("_", "-")
                    raise SchemaError(f"--{flag} is for --runtime tensorrt alone")
            if self.precision == "fp8":
                raise SchemaError("--precision fp8 is for --runtime tensorrt alone")
        if self.norms == "plugin" and (self.version_compatible or self.hardware != "none"):
            raise SchemaError("a version- or hardware-compatible plan needs the native norms")
        for text in self.profiles:
            parse_profile(text)


def parse_profile(text: str) -> Profile:
    """Parse BATCH@SIZE, each one value or LEAST:TUNED:MOST; raises SchemaError for another form."""
    batch, at, size = text.rpartition("@")
    ranges = [part.split(":") for part in (batch if at else "1", size)]
    batches, texts = (part * 3 if len(part) == 1 else part for part in ranges)
    if len(batches) != 3 or len(texts) != 3:
        raise SchemaError(
            f"profile {text!r}: write BATCH@SIZE, each one value or LEAST:TUNED:MOST, such as "
            "1:4:4@2048x1024"
        )
    if not all(part.isascii() and part.isdecimal() for part in batches):
        raise SchemaError(f"profile {text!r}: a batch is a whole number")
    least, tuned, most = map(int, batches)
    if not 1 <= most <= _LARGEST_BATCH:
        raise SchemaError(f"profile {text!r}: a batch is from 1 to {_LARGEST_BATCH:,}")
    (low, narrow), (tall, wide), (high, broad) = map(parse_size, texts)
    return Profile(
        batch=(least, tuned, most), height=(low, tall, high), width=(narrow, wide, broad)
    )


def chosen_profiles(
    settings: PlanSettings, contract: Contract, proven: tuple[int, int]
) -> tuple[Profile, ...]:
    """The profiles to build: those of the settings, or else the contract's sizes or the largest
    proven (height, width). Raises SizeError if the model does not take one, SchemaError if one is
    named twice.
    """
    texts = settings.profiles
    if not texts:
        sizes = contract.sizes or (proven,)
        if settings.runtime == "aoti":
            sizes = (max(sizes, key=math.prod),)
        texts = tuple(f"{width}x{height}" for height, width in sizes)
    profiles = tuple(parse_profile(text) for text in texts)
    fixed = len(profiles) == 1 and profiles[0].fixed_size and profiles[0].batch == (1, 1, 1)
    if settings.runtime == "aoti" and not fixed:
        raise SchemaError(
            f"profiles {', '.join(texts)}: a package of AOTInductor takes single pictures of one "
            f"size, such as {profiles[0].width[1]}x{profiles[0].height[1]}"
        )
    if len(set(profiles)) < len(profiles):
        raise SchemaError("the same profile is named twice")
    for profile in profiles:
        for height, width in zip(profile.height, profile.width, strict=True):
            contract.check_exact_size(height, width)
        if contract.sizes is not None and profile.fixed_size is None:
            raise SizeError(f"profile {profile}: the bundle was exported for fixed sizes")
    return profiles
