"""Parity: how far an engine's pictures are from PyTorch's, in grey levels, and the limits that an
engine of each precision must keep to be served.

The limits are decisions (docs/parity.md), not flags. Exact precisions have hard limits. Fast ones
are proven with a margin, on at least `LEAST_MAPS` maps: a limit that is met barely is not met on
the next map.

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

from sceneloom.contract import precision_of
from sceneloom.errors import ModelFailedError, ParityError
from sceneloom.maps import Image
from sceneloom.request import Request
from sceneloom.synthesizer import Synthesizer
from sceneloom_serving.bundle import Golden, block_means

Precision = Literal["fp32", "fp16", "bf16", "int8"]
"""What an engine computes its convolutions in."""
PrecisionClass = Literal["exact", "fast"]
"""``exact``: float32, and half on GPUs. ``fast``: also bfloat16 and int8."""
CLASSES: dict[PrecisionClass, tuple[Precision, ...]] = {
    "exact": ("fp32", "fp16"),
    "fast": ("fp32", "fp16", "bf16", "int8"),
}
"""The precisions of each class."""
LEAST_MAPS = 8
"""Fewest reference maps that a fast precision is proven on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parity:
    """Differences between two sets of pictures, in grey levels (0..255)."""

    max: int
    """Largest difference."""
    p999: float
    """99.9th percentile, of the picture that has the largest."""
    mean: float
    """Mean of all pictures."""
    psnr: float
    """Peak signal-to-noise ratio in dB, of the picture that has the least; infinite if all are
    equal.
    """

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; an infinite PSNR becomes null."""
        return {**dataclasses.asdict(self), "psnr": self.psnr if math.isfinite(self.psnr) else None}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Parity:
        """Read the JSON form; raises KeyError, TypeError or ValueError where it is not one."""
        psnr = data["psnr"]
        return cls(
            max=int(data["max"]),
            p999=float(data["p999"]),
            mean=float(data["mean"]),
            psnr=math.inf if psnr is None else float(psnr),
        )

    def __str__(self) -> str:
        """One line for people."""
        return (
            f"max {self.max}, 99.9th percentile {self.p999:g}, mean {self.mean:.4f}, "
            f"PSNR {self.psnr:.1f} dB"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What an engine's pictures may differ by; None is no limit."""

    max: int | None = None
    """Largest difference, grey levels."""
    p999: float | None = None
    """99.9th percentile of the differences, grey levels."""
    psnr: float | None = None
    """Least peak signal-to-noise ratio, dB."""


LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(max=1),
    "fp16": Limits(p999=2, psnr=45),
    "bf16": Limits(p999=4, psnr=48),
    "int8": Limits(p999=6, psnr=42),
}
"""Of every picture. One grey level is what rounding a half differently gives."""
PROOFS: dict[Precision, Limits] = {
    **LIMITS,
    "bf16": Limits(p999=3, psnr=50.5),
    "int8": Limits(p999=4, psnr=44),
}
"""Of every reference picture, for an engine to be served."""


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


def reference_pictures(reference: Synthesizer, requests: Sequence[Request]) -> list[Image]:
    """What the reference (PyTorch) answers to maps at network size: uint8 [1, H, W, 3] each."""
    return [_run(reference, request, 1) for request in requests]


def run_parity(
    references: Sequence[Image], candidate: Synthesizer, requests: Sequence[Request]
) -> Parity:
    """Run an engine over maps; where it takes batches, each map as a batch of two.

    Args:
        references: the pictures of `reference_pictures`.
        candidate: the engine to be judged.
        requests: the maps they belong to.
    """
    copies = 2 if candidate.max_batch_size > 1 else 1
    expected, got = [], []
    for reference, request in zip(references, requests, strict=True):
        images = _run(candidate, request, copies)
        expected += [reference] * copies
        got += [images[i : i + 1] for i in range(copies)]
    return compare(expected, got)


def check_proof(parity: Parity, precision: Precision, engine: str, maps: int) -> None:
    """Refuse an engine that does not prove itself with its precision's margin.

    Raises:
        ParityError: names every limit that is not kept, or says that there are too few maps.
    """
    if precision not in CLASSES["exact"] and maps < LEAST_MAPS:
        raise ParityError(
            f"{engine}: {precision} is proven on {LEAST_MAPS} maps at least, and this bundle has "
            f"{maps}: sceneloom export --precision fast"
        )
    check_parity(parity, precision, engine, PROOFS[precision])


def check_parity(
    parity: Parity, precision: Precision, engine: str, limits: Limits | None = None
) -> None:
    """Refuse an engine that differs by more than the limits of its precision.

    Raises:
        ParityError: names every limit that is not kept.
    """
    limits = limits or LIMITS[precision]
    broken = []
    if limits.max is not None and parity.max > limits.max:
        broken.append(f"up to {parity.max} grey levels, {limits.max} is the limit")
    if limits.p999 is not None and not parity.p999 <= limits.p999:
        broken.append(f"{parity.p999:g} at the 99.9th percentile, {limits.p999:g} is the limit")
    if limits.psnr is not None and not parity.psnr >= limits.psnr:
        broken.append(f"a PSNR of {parity.psnr:.1f} dB, {limits.psnr:g} is the limit")
    if broken:
        raise ParityError(f"{engine} differs from PyTorch by {'; by '.join(broken)} ({parity})")


def _run(engine: Synthesizer, request: Request | Golden, copies: int) -> Image:
    def batch(x: npt.NDArray[Any] | None) -> Any:
        return None if x is None else np.repeat(x[None], copies, 0)

    return engine.run_batch(
        batch(request.label_map), batch(request.instance_map), batch(request.style)
    )


REFERENCES_FILE = "references.npz"
TOLERANCE = 2.0
"""Largest difference of a block's mean, in grey levels."""
_TOLERANCES = {"bf16": 4.0, "int8": 12.0}
"""The same for engines of a lower precision. Another model's picture is tens of levels away."""


def make_golden(reference: Synthesizer, request: Request) -> Golden:
    """Run the reference once and keep what it answered."""
    image = _run(reference, request, 1)[0]
    return Golden(
        label_map=request.label_map,
        instance_map=request.instance_map,
        style=request.style,
        block_means=block_means(image),
    )


def check_golden(synthesizer: Synthesizer, golden: Golden, engine: str = "") -> float:
    """Prove a served model with a real inference, as `check_picture` does.

    Raises:
        ModelFailedError: the picture is not the one that was exported.
        ServingError: there was no picture.
    """
    image = _run(synthesizer, golden, 1)[0]
    return check_picture(image, golden, engine)


def check_picture(image: Image, golden: Golden, engine: str = "") -> float:
    """Compare a picture of the golden map with the one that was exported.

    Args:
        image: uint8 [H, W, 3], RGB.
        golden: of the bundle that is served.
        engine: its name, which ends in the precision; without one, float32's tolerance holds.

    Returns:
        the largest difference of a block's mean, in grey levels.

    Raises:
        ModelFailedError: it differs by more than the tolerance.
    """
    difference = float(np.abs(block_means(image) - golden.block_means).max())
    tolerance = _TOLERANCES.get(precision_of(engine), TOLERANCE)
    if not difference <= tolerance:
        raise ModelFailedError(
            "the served model is not the one that was exported: on the golden map its picture "
            "differs by "
            f"{difference:.1f} grey levels, {tolerance:g} is the limit"
        )
    return difference
