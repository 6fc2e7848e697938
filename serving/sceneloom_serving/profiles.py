"""Optimisation profiles: the ranges of batch and size that a TensorRT plan takes, each tuned for
one point of them.

A profile whose ranges are single values is the fastest; several profiles let one plan serve single
pictures and batches alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from sceneloom.contract import (
    INPUT_INSTANCES,
    INPUT_LABELS,
    INPUT_STYLE,
    STYLE_ROWS,
    Contract,
)
from sceneloom.errors import SchemaError

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

    Args:
        profiles: of the plan.
        batch: pictures to run.
        height: of each.
        width: of each.

    Returns:
        the profile's index and how many of the pictures it takes at once: all, in the profile that
        is tuned nearest to them, or else as many as any takes; None if no profile takes the size.
    """
    for count in range(batch, 0, -1):
        takers = [i for i, p in enumerate(profiles) if p.takes(count, height, width)]
        if takers:
            return min(takers, key=lambda i: _distance(profiles[i], count, height, width)), count
    return None


def _distance(profile: Profile, batch: int, height: int, width: int) -> tuple[int, int]:
    size = abs(profile.height[1] - height) + abs(profile.width[1] - width)
    return abs(profile.batch[1] - batch), size
