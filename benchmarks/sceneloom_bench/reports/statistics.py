"""Figures from samples: percentiles and ratios with intervals that assume no distribution.

Intervals of percentiles and medians lie between order statistics (Conover, Practical Nonparametric
Statistics, 3.2). An end that too few values support at 95 % is None.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sceneloom_bench.reports.report import Better, Figure, Unit

CONFIDENCE = 0.95
PERCENTILES = (50, 90, 99)
BEYOND = 5
"""Fewest values of a block above its p90 or p99 for the percentile to count."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile (0 to 100)."""
    ordered = sorted(values)
    return ordered[max(math.ceil(percent / 100 * len(ordered)), 1) - 1]


def percentile_interval(
    values: Sequence[float], percent: float
) -> tuple[float | None, float | None]:
    """Ends of the interval of a percentile (0 to 100) of independent values, at least one."""
    ordered, n, p = sorted(values), len(values), percent / 100
    logs = [
        math.lgamma(n + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n - k + 1)
        + k * math.log(p)
        + (n - k) * math.log1p(-p)
        for k in range(n + 1)
    ]
    below = [float(min(total, 1.0)) for total in np.cumsum(np.exp(logs))]  # P(X <= k)
    tail = (1 - CONFIDENCE) / 2
    # With r of n values at most the quantile, r ~ Binomial(n, p): the r-th smallest is a lower end
    # if P(X < r) <= tail, an upper end if P(X >= r) <= tail.
    lows = [r for r in range(1, n + 1) if below[r - 1] <= tail]
    highs = [r for r in range(1, n + 1) if 1 - below[r - 1] <= tail]
    return (ordered[lows[-1] - 1] if lows else None, ordered[highs[0] - 1] if highs else None)


def percentile_figure(
    values: Sequence[float],
    percent: float,
    *,
    unit: Unit,
    better: Better = "lower",
    scale: float = 1,
) -> Figure:
    """A percentile (0 to 100) of independent values, and its interval, times `scale`."""
    low, high = percentile_interval(values, percent)
    return Figure(
        value=scale * percentile(values, percent),
        unit=unit,
        better=better,
        low=None if low is None else scale * low,
        high=None if high is None else scale * high,
    )


def median_figure(values: Sequence[float], *, unit: Unit, better: Better = "neither") -> Figure:
    """The median of per-round values and its interval, which needs six rounds."""
    found = percentile_figure(values, 50, unit=unit, better=better)
    return dataclasses.replace(found, value=float(np.median(values)))


def ratio_figure(
    slower: Sequence[Sequence[float]],
    faster: Sequence[Sequence[float]],
    *,
    better: Better = "higher",
) -> Figure:
    """Median over the rounds of the ratio of the medians within each, from seconds by round."""
    ratios = [
        float(np.median(a)) / float(np.median(b)) for a, b in zip(slower, faster, strict=True)
    ]
    return median_figure(ratios, unit="x", better=better)


def latency_figures(samples: Sequence[Sequence[float]]) -> dict[str, Figure]:
    """p50, p90, p99 and max, in milliseconds, of seconds in blocks.

    Values of one block are alike on a machine that drifts, so an interval is that of the blocks'
    medians or percentiles. p90 and p99 have none if a block is too short for its own. Blocks of one
    value each are independent values.
    """
    blocks = [block for block in samples if block]
    values = [value for block in blocks for value in block]
    shortest, single = min(map(len, blocks)), len(values) == len(blocks)
    figures = {}
    for percent in PERCENTILES:
        figure = percentile_figure(values, percent, unit="ms", scale=1000)
        if not single and percent != 50 and shortest * (100 - percent) < 100 * BEYOND:
            figure = dataclasses.replace(figure, low=None, high=None)
        elif not single:
            found = [1000 * float(np.percentile(block, percent)) for block in blocks]
            figure = around(figure.value, median_figure(found, unit="ms", better="lower"))
        figures[f"p{percent}"] = figure
    return {**figures, "max": Figure(value=1000 * max(values), unit="ms", better="lower")}


def rate_figure(samples: Sequence[Sequence[float]], pictures: int = 1) -> Figure:
    """Pictures per second of one request at a time, from seconds in blocks."""
    rates = [pictures * len(block) / sum(block) for block in samples]
    value = pictures * sum(map(len, samples)) / sum(map(sum, samples))
    return around(value, median_figure(rates, unit="1/s", better="higher"))


def around(value: float, figure: Figure) -> Figure:
    """The figure with another value; its interval grows to hold it."""
    low, high = figure.low, figure.high
    return dataclasses.replace(
        figure,
        value=value,
        low=None if low is None else min(low, value),
        high=None if high is None else max(high, value),
    )


def separate(a: Figure, b: Figure) -> bool:
    """Whether both intervals are known and do not touch."""
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False
    return a.high < b.low or b.high < a.low


def within(figure: Figure, limits: Mapping[str, Any]) -> bool:
    """Whether any part of the interval lies between ``least`` and ``most``."""
    low = figure.value if figure.low is None else figure.low
    high = figure.value if figure.high is None else figure.high
    return bool(high >= limits.get("least", -math.inf) and low <= limits.get("most", math.inf))
