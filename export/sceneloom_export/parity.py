"""Parity: how far an engine's pictures are from PyTorch's, in grey levels, and the limits that fail
an export.

The limits are decisions (docs/parity.md), not flags.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sceneloom.errors import ParityError
from sceneloom.synthesizer import Image, Request, Synthesizer

FP32_MAX = 1
"""Largest difference of a float32 engine, in grey levels: the two may round a half differently."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parity:
    """Differences between two sets of pictures, in grey levels (0..255)."""

    max: int
    """Largest difference."""
    p999: float
    """99.9th percentile."""
    mean: float
    """Mean."""
    psnr: float
    """Peak signal-to-noise ratio in dB; infinite if the pictures are equal."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; an infinite PSNR becomes null."""
        return {**dataclasses.asdict(self), "psnr": self.psnr if math.isfinite(self.psnr) else None}

    def __str__(self) -> str:
        """One line for people."""
        return (
            f"max {self.max}, 99.9th percentile {self.p999:g}, mean {self.mean:.4f}, "
            f"PSNR {self.psnr:.1f} dB"
        )


def compare(
    references: Sequence[npt.NDArray[np.uint8]], candidates: Sequence[npt.NDArray[np.uint8]]
) -> Parity:
    """Compare pictures.

    Args:
        references: uint8 pictures of any shape.
        candidates: as many, of equal shapes.
    """
    assert len(references) == len(candidates)
    assert references
    pairs = zip(references, candidates, strict=True)
    difference = np.concatenate(
        [np.abs(a.astype(np.int16) - b.astype(np.int16)).ravel() for a, b in pairs]
    )
    mse = float(np.mean(np.square(difference, dtype=np.float64)))
    return Parity(
        max=int(difference.max()),
        p999=float(np.percentile(difference, 99.9)),
        mean=float(difference.mean()),
        psnr=math.inf if mse == 0 else 10 * math.log10(255**2 / mse),
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

    Returns:
        the differences over all pictures.
    """
    copies = 2 if candidate.max_batch_size > 1 else 1
    expected, got = [], []
    for reference, request in zip(references, requests, strict=True):
        images = _run(candidate, request, copies)
        expected += [reference] * copies
        got += [images[i : i + 1] for i in range(copies)]
    return compare(expected, got)


def check_fp32(parity: Parity, engine: str) -> None:
    """Fail an export whose float32 engine differs by more than `FP32_MAX`.

    Raises:
        ParityError: it does.
    """
    if parity.max > FP32_MAX:
        raise ParityError(
            f"{engine} differs from PyTorch by up to {parity.max} grey levels, {FP32_MAX} is the "
            f"limit ({parity})"
        )


def _run(engine: Synthesizer, request: Request, copies: int) -> Image:
    def batch(x: npt.NDArray[Any] | None) -> Any:
        return None if x is None else np.repeat(x[None], copies, 0)

    return engine.run_batch(
        batch(request.label_map), batch(request.instance_map), batch(request.style)
    )
