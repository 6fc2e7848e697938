"""Figures from samples: percentiles and ratios with intervals that assume no distribution.

Intervals of percentiles and medians are between order statistics (Conover, Practical Nonparametric
Statistics, 3.2): where too few values were measured for 95 % there is no end, and the figure says
so, rather than an interval that is too narrow.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sceneloom_bench.reports.report import Better, Figure

CONFIDENCE = 0.95
PERCENTILES = (50, 90, 99)
BEYOND = 5
"""So many values of a block are at least beyond its p90 or p99, or it is not the block's."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: the smallest value that `percent` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(percent / 100 * len(ordered)), 1) - 1]


def percentile_figure(
    values: Sequence[float],
    percent: float,
    *,
    unit: str,
    better: Better = "lower",
    scale: float = 1,
) -> Figure:
    """A percentile (0 to 100) with its interval between order statistics, for independent values,
    one at least; the figure is `scale` times the values.
    """
    ordered, n, p = sorted(values), len(values), percent / 100
    below = _binomial_cdf(n, p)
    tail = (1 - CONFIDENCE) / 2
    # With r of n values at most the quantile, r ~ Binomial(n, p): the r-th smallest is a lower end
    # if P(X < r) <= tail, an upper end if P(X >= r) <= tail.
    lows = [r for r in range(1, n + 1) if below[r - 1] <= tail]
    highs = [r for r in range(1, n + 1) if 1 - below[r - 1] <= tail]
    return Figure(
        value=scale * percentile(ordered, percent),
        unit=unit,
        better=better,
        low=scale * ordered[lows[-1] - 1] if lows else None,
        high=scale * ordered[highs[0] - 1] if highs else None,
    )


def median_figure(values: Sequence[float], *, unit: str, better: Better = "neither") -> Figure:
    """The median of per-round values (ratios, differences) with its interval; from fewer than six
    rounds there is none at 95 %.
    """
    found = percentile_figure(values, 50, unit=unit, better=better)
    middle = float(np.median(values))
    return Figure(value=middle, unit=unit, better=better, low=found.low, high=found.high)


def ratio_figure(
    slower: Sequence[Sequence[float]],
    faster: Sequence[Sequence[float]],
    *,
    better: Better = "higher",
) -> Figure:
    """How many times as long one takes as the other, from seconds by round, measured in turn: the
    ratio of medians within each round, and the median over the rounds.
    """
    ratios = [
        float(np.median(a)) / float(np.median(b)) for a, b in zip(slower, faster, strict=True)
    ]
    return median_figure(ratios, unit="x", better=better)


def latency_figures(samples: Sequence[Sequence[float]]) -> dict[str, Figure]:
    """p50, p90, p99 and max, in milliseconds, of seconds in blocks.

    On a machine that drifts, values of one block are alike, so that what is independent is a block:
    values are percentiles of all, and intervals are of the blocks' own medians and percentiles. A
    block that is too short for a p90 or p99 has none, and neither has the figure an interval then.
    Blocks of one value each are independent values.
    """
    blocks = [block for block in samples if block]
    figures = {f"p{p}": _of_blocks(blocks, p) for p in PERCENTILES}
    slowest = max(value for block in blocks for value in block)
    return {**figures, "max": Figure(value=1000 * slowest, unit="ms", better="lower")}


def _of_blocks(blocks: Sequence[Sequence[float]], percent: int) -> Figure:
    values = [value for block in blocks for value in block]
    figure = percentile_figure(values, percent, unit="ms", scale=1000)
    if len(values) == len(blocks):
        return figure
    if percent != 50 and min(map(len, blocks)) * (100 - percent) < 100 * BEYOND:
        return dataclasses.replace(figure, low=None, high=None)
    found = [1000 * float(np.percentile(block, percent)) for block in blocks]
    return around(figure.value, median_figure(found, unit="ms", better="lower"))


def rate_figure(samples: Sequence[Sequence[float]], pictures: int = 1) -> Figure:
    """Pictures per second of one request at a time, from seconds in blocks, with the interval of
    the blocks' medians.
    """
    rates = [pictures * len(block) / sum(block) for block in samples]
    interval = median_figure(rates, unit="1/s", better="higher")
    seconds = sum(sum(block) for block in samples)
    value = pictures * sum(map(len, samples)) / seconds
    return around(value, interval)


def around(value: float, figure: Figure) -> Figure:
    """A figure with this value; its interval, where it has ends, holds it."""
    low, high = figure.low, figure.high
    return dataclasses.replace(
        figure,
        value=value,
        low=None if low is None else min(low, value),
        high=None if high is None else max(high, value),
    )


def separate(a: Figure, b: Figure) -> bool:
    """Whether two figures' intervals are known and do not touch."""
    ends = (a.low, a.high, b.low, b.high)
    if any(end is None for end in ends):
        return False
    a_low, a_high, b_low, b_high = (float(end) for end in ends if end is not None)
    return a_high < b_low or b_high < a_low


def within(figure: Figure, limits: Mapping[str, Any]) -> bool:
    """Whether a figure may lie within ``least`` and ``most``: it does not only if its whole
    interval is outside.
    """
    low = figure.value if figure.low is None else figure.low
    high = figure.value if figure.high is None else figure.high
    return bool(high >= limits.get("least", -math.inf) and low <= limits.get("most", math.inf))


def _binomial_cdf(n: int, p: float) -> list[float]:
    """P(X <= k) for k of 0 to n."""
    logs = [
        math.lgamma(n + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n - k + 1)
        + k * math.log(p)
        + (n - k) * math.log1p(-p)
        for k in range(n + 1)
    ]
    return [float(min(total, 1.0)) for total in np.cumsum(np.exp(logs))]
