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
from sceneloom.synthesizer import Request, Synthesizer

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


def run_parity(
    reference: Synthesizer, candidate: Synthesizer, requests: Sequence[Request]
) -> Parity:
    """Run both engines over the same requests, singly and, where the candidate takes it, as one
    batch of two.

    Args:
        reference: PyTorch.
        candidate: the engine to be judged.
        requests: maps at network size.

    Returns:
        the differences over all pictures.
    """
    references, candidates = [], []
    for request in requests:
        copies = 2 if candidate.max_batch_size > 1 else 1
        expected = _run(reference, request, 1)
        got = _run(candidate, request, copies)
        references += [expected] * copies
        candidates += [got[i : i + 1] for i in range(copies)]
    return compare(references, candidates)


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


def _run(engine: Synthesizer, request: Request, copies: int) -> npt.NDArray[np.uint8]:
    def batch(x: npt.NDArray[Any] | None) -> Any:
        return None if x is None else np.repeat(x[None], copies, 0)

    return engine.run_batch(
        batch(request.label_map), batch(request.instance_map), batch(request.style)
    )
