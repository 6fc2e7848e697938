"""When the requests of an open loop are to be sent: planned before the first one is, so that no
answer can delay the next request.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

Arrivals = Literal["constant", "poisson"]
"""Evenly spaced, or independent of each other with exponential gaps, as many users are."""


def plan_arrivals(arrivals: Arrivals, rate: float, count: int, seed: int) -> list[float]:
    """Seconds from the start at which each request is to be sent, in order.

    All `count` come within ``count / rate`` seconds, so that every load of a rate really has it:
    exponential gaps are drawn, one more than requests, and scaled until they fill that time. It is
    a Poisson process of which the count is known; unscaled, 100 requests would have come at a rate
    that is 10 % off by chance.

    Args:
        arrivals: how they are spread.
        rate: requests per second.
        count: how many.
        seed: of the Poisson process; equal seeds give equal patterns, stretched by the rate.
    """
    if arrivals == "constant":
        return [number / rate for number in range(count)]
    ends = np.cumsum(np.random.default_rng(seed).exponential(1.0, count + 1))
    return [float(moment) for moment in ends[:-1] / ends[-1] * (count / rate)]


def count_for(rate: float, seconds: float, at_least: int) -> int:
    """How many requests a rate gives in some seconds, and not fewer than `at_least`."""
    return max(at_least, math.ceil(rate * seconds))


def rounded_rate(rate: float) -> float:
    """A rate to two significant digits: shares of a measured rate would otherwise differ in every
    run, and no two reports could be compared load by load.
    """
    return float(f"{rate:.2g}")
