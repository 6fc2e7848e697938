"""Parity: the difference of an engine's pictures from PyTorch's in grey levels, and every limit of
it, side by side at `SERVING_LIMITS`.

The limits are decisions (docs/parity.md), not flags. Exact precisions have hard limits. Fast ones
are proven with a margin, on at least `LEAST_MAPS` maps: the next map may reach further.

The golden probe is a real inference of a served model on one map, because a server that says
"ready" may still be broken: its block means must be those of PyTorch's picture.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sceneloom import progress
from sceneloom.contract import precision_of
from sceneloom.errors import ModelFailedError, ParityError
from sceneloom.maps import Image
from sceneloom.request import Request
from sceneloom.synthesizer import Synthesizer
from sceneloom_serving.bundle import Golden, block_means

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
"""Number format of an engine's convolutions; fp8 of some of them, the others are in half."""
PrecisionClass = Literal["exact", "fast"]
"""``exact``: float32, and half on GPUs. ``fast``: also bfloat16 and int8."""
CLASSES: dict[PrecisionClass, tuple[Precision, ...]] = {
    "exact": ("fp32", "fp16"),
    "fast": ("fp32", "fp16", "bf16", "int8"),
}
"""Class -> its precisions. fp8 is in neither: it is taken where it is named alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parity:
    """Differences between two sets of pictures, in grey levels (0..255)."""

    max: int
    p999: float
    """Largest 99.9th percentile of a picture's differences."""
    mean: float
    psnr: float
    """Least peak signal-to-noise ratio of a picture, dB, infinite if all are equal."""

    def to_json(self) -> dict[str, Any]:
        """The differences as a JSON object, with null for an infinite PSNR."""
        return {**dataclasses.asdict(self), "psnr": self.psnr if math.isfinite(self.psnr) else None}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Parity:
        """Read the JSON form; raises KeyError, TypeError or ValueError if it is another."""
        psnr = math.inf if data["psnr"] is None else float(data["psnr"])
        p999, mean = float(data["p999"]), float(data["mean"])
        return cls(max=int(data["max"]), p999=p999, mean=mean, psnr=psnr)

    def __str__(self) -> str:
        return (
            f"max {self.max}, 99.9th percentile {self.p999:g}, mean {self.mean:.4f}, "
            f"PSNR {self.psnr:.1f} dB"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a `Parity`, the least for PSNR. None is no limit."""

    max: int | None = None
    p999: float | None = None
    psnr: float | None = None


SERVING_LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(max=1),
    "fp16": Limits(p999=2, psnr=45),
    "bf16": Limits(p999=3, psnr=50.5),
    "int8": Limits(p999=4, psnr=44),
    "fp8": Limits(p999=2, psnr=45),
}
"""Limits of the reference pictures: `export` writes and `serve` chooses engines within them.
Rounding a half the other way gives one grey level.
"""
LEAST_MAPS = 8  # fewest reference maps of a fast precision's proof
MAX_LOST_IOU = 1.0  # points of mean IoU that bf16 and int8 may lose at export, with a segmenter
PICTURE_LIMITS: dict[Precision, Limits] = {
    **SERVING_LIMITS,
    "bf16": Limits(p999=4, psnr=48),
    "int8": Limits(p999=6, psnr=42),
}
"""Limits of any other picture, with which `bench` marks engines. Serving does not use them."""
GOLDEN_LIMITS: dict[str, float] = {"fp32": 2.0, "fp16": 2.0, "bf16": 4.0, "int8": 12.0, "fp8": 4.0}
"""Limits of the golden probe of a running server: largest difference of a block's mean, in grey
levels. Another model's picture is tens of levels away.
"""


def compare(
    references: Sequence[npt.NDArray[np.uint8]], candidates: Sequence[npt.NDArray[np.uint8]]
) -> Parity:
    """Compare uint8 pictures with as many of equal shapes."""
    assert references
    found = []
    for reference, candidate in zip(references, candidates, strict=True):
        difference = np.abs(reference.astype(np.int16) - candidate.astype(np.int16))
        mse = float(np.mean(np.square(difference, dtype=np.float64)))
        psnr = math.inf if mse == 0 else 10 * math.log10(255**2 / mse)
        found.append((difference, float(np.percentile(difference, 99.9)), psnr))
    pixels = sum(difference.size for difference, _, _ in found)
    return Parity(
        max=max(int(difference.max()) for difference, _, _ in found),
        p999=max(p999 for _, p999, _ in found),
        mean=sum(float(difference.sum()) for difference, _, _ in found) / pixels,
        psnr=min(psnr for _, _, psnr in found),
    )


def reference_pictures(
    reference: Synthesizer, requests: Sequence[Request], verb: str = "render"
) -> list[Image]:
    """The reference's pictures, uint8 [1, H, W, 3] each, of maps at network size. Each is a stage
    of progress, ``VERB WIDTHxHEIGHT (2 of 5)``.
    """
    pictures = []
    for number, request in enumerate(requests, 1):
        height, width = request.size
        with progress.stage(f"{verb} {width}x{height} ({number} of {len(requests)})"):
            pictures.append(reference.run_requests([request]))
    return pictures


def run_parity(
    references: Sequence[Image], candidate: Synthesizer, requests: Sequence[Request]
) -> Parity:
    """Compare an engine with `reference_pictures`. Each map runs as two if it takes batches."""
    copies = 2 if candidate.max_batch_size > 1 else 1
    expected, got = [], []
    for reference, request in zip(references, requests, strict=True):
        images = candidate.run_requests([request] * copies)
        expected += [reference] * copies
        got += [images[i : i + 1] for i in range(copies)]
    return compare(expected, got)


def check_proof(parity: Parity, precision: Precision, engine: str, maps: int) -> None:
    """Refuse an engine beyond `SERVING_LIMITS`, or on few maps; raises ParityError."""
    if precision not in CLASSES["exact"] and maps < LEAST_MAPS:
        raise ParityError(
            f"{engine}: {precision} is proven on {LEAST_MAPS} maps at least, and this bundle has "
            f"{maps}: sceneloom export --precision fast"
        )
    check_parity(parity, precision, engine, SERVING_LIMITS[precision])


def check_parity(
    parity: Parity, precision: Precision, engine: str, limits: Limits | None = None
) -> None:
    """Refuse an engine beyond limits, by default `PICTURE_LIMITS`; raises ParityError."""
    limits = limits or PICTURE_LIMITS[precision]
    broken = []
    if limits.max is not None and parity.max > limits.max:
        broken.append(f"up to {parity.max} grey levels, {limits.max} is the limit")
    if limits.p999 is not None and not parity.p999 <= limits.p999:
        broken.append(f"{parity.p999:g} at the 99.9th percentile, {limits.p999:g} is the limit")
    if limits.psnr is not None and not parity.psnr >= limits.psnr:
        broken.append(f"a PSNR of {parity.psnr:.1f} dB, {limits.psnr:g} is the limit")
    if broken:
        raise ParityError(f"{engine} differs from PyTorch by {'; by '.join(broken)} ({parity})")


def check_golden(synthesizer: Synthesizer, golden: Golden) -> float:
    """Prove a served model with a real inference, as `check_picture` does."""
    return check_picture(synthesizer.run_requests([golden.request])[0], golden, synthesizer.engine)


def check_picture(image: Image, golden: Golden, engine: str) -> float:
    """Largest difference of a block's mean, in grey levels, of the golden map's picture, uint8 [H,
    W, 3]; raises ModelFailedError above `GOLDEN_LIMITS`.
    """
    difference = float(np.abs(block_means(image) - golden.block_means).max())
    limit = GOLDEN_LIMITS.get(precision_of(engine), GOLDEN_LIMITS["fp32"])
    if not difference <= limit:
        raise ModelFailedError(
            "the served model is not the one that was exported: on the golden map its picture "
            f"differs by {difference:.1f} grey levels, {limit:g} is the limit"
        )
    return difference
