"""Which of several measured ways is taken: the fastest, and of those that are as fast the first.

Two measurements of one machine differ by some per cent. Without a fixed order the same export
would choose another engine each time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

TIE = 1.05
"""Times that differ by less than this factor count as equal."""
_Name = TypeVar("_Name")


def first_of_the_fastest(seconds: Mapping[_Name, float]) -> _Name:
    """The first of those that are within `TIE` of the fastest.

    Args:
        seconds: name -> time, at least one, in the order of preference.
    """
    limit = TIE * min(seconds.values())
    return next(name for name, taken in seconds.items() if taken <= limit)
