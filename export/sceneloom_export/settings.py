"""Settings of an export: how the model is served. Light: no torch, no onnx."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Literal, get_args

from sceneloom.errors import SchemaError
from sceneloom.maps import OnUnknown
from sceneloom_serving.parity import CLASSES, Precision, PrecisionClass

ExportPrecision = Literal["exact", "fast", "fp32", "fp16", "bf16", "int8"]
"""A class of precisions, or one of them."""
_SIDE = re.compile(r"[1-9][0-9]{0,4}")
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
    unknown: OnUnknown = "error"
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


def parse_size(text: str) -> tuple[int, int]:
    """Parse WIDTHxHEIGHT, as sizes are written for people, to (height, width).

    Raises:
        SchemaError: it is not of this form.
    """
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(_SIDE.fullmatch(x) for x in parts):
        raise SchemaError(f"size {text!r}: write WIDTHxHEIGHT, such as 2048x1024")
    return int(parts[1]), int(parts[0])
