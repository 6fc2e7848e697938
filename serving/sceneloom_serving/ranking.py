"""Which of several measured ways is taken: the fastest, and of those that are as fast the first.

Two measurements of one machine differ. Without a fixed order, and on a busy machine without rounds
that agree, the same export would choose another engine each time.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TypeVar

TIE = 1.05
"""Times that differ by less than this factor count as equal."""
AGREE = 0.9
"""Share of the rounds in which one has to be faster by more than that."""
_Name = TypeVar("_Name")


def first_of_the_fastest(rounds: Mapping[_Name, Sequence[float]]) -> _Name:
    """The first of those that no other is clearly faster than.

    Args:
        rounds: name -> its time in each round, at least one name, in the order of preference.
    """
    for name, mine in rounds.items():
        if not any(_is_faster(other, mine) for other in rounds.values()):
            return name
    return min(rounds, key=lambda name: statistics.median(rounds[name]))


def _is_faster(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=False))
    return sum(TIE * a < b for a, b in pairs) >= AGREE * len(pairs)
