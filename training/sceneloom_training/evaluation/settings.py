"""How pictures are evaluated, as `sceneloom evaluate` takes it from flags."""

from __future__ import annotations

import dataclasses

from sceneloom.errors import InputError
from sceneloom.maps import DEFAULT_MAX_PIXELS
from sceneloom_training.data.sizes import parse_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Sizes, how many samples, and the bootstrap."""

    size: str = ""
    """WIDTHxHEIGHT to bring photographs and maps to first; models render at it, and pictures of a
    folder must have it. Empty keeps the files' own size.
    """
    segment_size: str = ""
    """WIDTHxHEIGHT at which pictures and photographs are segmented and compared; empty takes the
    segmenter's own.
    """
    limit: int | None = None
    """Take the first samples only."""
    batch: int = 4
    """Samples that are read, synthesized and segmented at once."""
    bootstrap: int = 1000
    """Draws for the intervals."""
    bootstrap_seed: int = 0
    """Of the draws, and of the subsets of KID: equal seeds give equal intervals."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("size", "segment_size"):
            if text := getattr(self, name):
                height, width = parse_size(text, of=name)
                if height * width > DEFAULT_MAX_PIXELS:
                    raise InputError(
                        f"{name} is {text}; it is at most {DEFAULT_MAX_PIXELS:,} pixels"
                    )
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit is {self.limit}; it is at least 1")
        if not 1 <= self.batch <= 1024:
            raise InputError(f"batch is {self.batch}; it is from 1 to 1024")
        if not 1 <= self.bootstrap <= 10_000:
            raise InputError(f"bootstrap is {self.bootstrap}; it is from 1 to 10000")
        if not 0 <= self.bootstrap_seed < 2**32:
            raise InputError(f"bootstrap_seed is {self.bootstrap_seed}; it is from 0 to 2**32 - 1")

    @property
    def segmented_size(self) -> tuple[int, int] | None:
        """(height, width) to segment at, or None for the segmenter's own."""
        return parse_size(self.segment_size, of="segment_size") if self.segment_size else None
