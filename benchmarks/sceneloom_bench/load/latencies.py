"""Figures of a load: percentiles from an HdrHistogram, rates, and intervals that a queue allows.

Latencies of requests that queue behind each other are not independent: within one busy stretch all
are long. So the intervals of p50 and of the rate are of the medians of blocks, stretches of a load
that follow each other, of which six at least are needed. p99 has too few values in a block: its
interval, and that of p90, are between order statistics as if requests were independent, which is
too narrow where a server is near its limit; `INTERVALS_MARK` says so in every report.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

from hdrh.histogram import HdrHistogram

from sceneloom_bench.load.answers import Load
from sceneloom_bench.reports.report import Figure
from sceneloom_bench.reports.statistics import PERCENTILES, median_figure, percentile_figure

BLOCKS = 10
MOST_SAMPLES = 5000
"""Of more requests, a report keeps the histogram only."""
LISTED = (10, 25, 50, 75, 90, 95, 99, 99.9, 100)
INTERVALS_MARK = (
    "intervals of p50 and rate are of ten stretches of a load; those of p90 and p99 take requests "
    "to be independent, and are too narrow where a server is near its limit"
)
_LONGEST_US = 3_600_000_000
_DIGITS = 3


def histogram_of(seconds: Sequence[float]) -> Any:
    """An HdrHistogram of latencies in whole microseconds, three significant digits, up to an
    hour.
    """
    histogram = HdrHistogram(1, _LONGEST_US, _DIGITS)
    for value in seconds:
        histogram.record_value(min(max(round(1e6 * value), 1), _LONGEST_US))
    return histogram


def percentile_ms(histogram: Any, percent: float) -> float:
    """A nearest-rank percentile of a histogram in milliseconds.

    HdrHistogram itself rounds the rank to the nearest, so of few values its p99 can be one too low.
    """
    count = histogram.get_total_count()
    rank = max(math.ceil(percent / 100 * count), 1)
    return float(histogram.get_value_at_percentile(100 * rank / count) / 1000)


def blocks_of(values: Sequence[float]) -> list[list[float]]:
    """The values in order, in ten blocks of equal count, of at least two each; in fewer where there
    are too few.
    """
    count = max(min(BLOCKS, len(values) // 2), 1)
    ends = [round(number * len(values) / count) for number in range(count + 1)]
    return [list(values[a:b]) for a, b in itertools.pairwise(ends)]


def load_figures(load: Load, pictures: int) -> dict[str, Figure]:
    """Latency and rate of what was answered, and the share of what was not.

    Args:
        load: with one answer at least.
        pictures: in a request.
    """
    latencies = load.latencies
    histogram = histogram_of(latencies)
    figures = {
        f"p{p}": _around(
            percentile_ms(histogram, p),
            percentile_figure(latencies, p, unit="ms", scale=1000),
        )
        for p in PERCENTILES
    }
    medians = [percentile_ms(histogram_of(block), 50) for block in blocks_of(latencies)]
    of_blocks = median_figure(medians, unit="ms", better="lower")
    figures["p50"] = _around(figures["p50"].value, of_blocks)
    figures["max"] = Figure(value=1000 * max(latencies), unit="ms", better="lower")
    figures["rate"] = _rate(load, pictures)
    failed = sum(load.failures.values())
    if failed:
        share = failed / len(load.requests)
        figures["failed"] = Figure(value=share, unit="share", better="lower")
    return figures


def latency_extra(load: Load) -> dict[str, Any]:
    """Percentiles and the histogram itself, in HdrHistogram's base64, for others to merge."""
    histogram = histogram_of(load.latencies)
    percentiles = [[p, percentile_ms(histogram, p)] for p in LISTED]
    return {"percentiles": percentiles, "histogram": histogram.encode().decode("ascii")}


def samples_of(load: Load) -> list[list[float]]:
    """Latencies in seconds, to the microsecond, by block; none where there are too many."""
    latencies = load.latencies
    if len(latencies) > MOST_SAMPLES:
        return []
    return [[round(value, 6) for value in block] for block in blocks_of(latencies)]


def p99_with_failures_ms(load: Load) -> float:
    """The p99 of all requests, where one that failed is never answered: infinite if more than one
    in a hundred failed.
    """
    values = sorted([*load.latencies, *[math.inf] * sum(load.failures.values())])
    value = values[math.ceil(0.99 * len(values)) - 1]
    return 1000 * value


def _rate(load: Load, pictures: int) -> Figure:
    """Pictures per second, from the moments of the answers.

    A closed loop's last answers are left out, since fewer requests than `in_flight` were on their
    way then.
    """
    answered = sorted(one.done for one in load.answered)
    kept = answered[: max(len(answered) - load.in_flight + 1, 1)]
    ends = [block[-1] for block in blocks_of(kept)]
    counts = [len(block) for block in blocks_of(kept)]
    rates = [
        pictures * count / max(end - start, 1e-9)
        for count, start, end in zip(counts, [0.0, *ends], ends, strict=False)
    ]
    value = pictures * len(kept) / max(kept[-1], 1e-9)
    return _around(value, median_figure(rates, unit="1/s", better="higher"))


def _around(value: float, figure: Figure) -> Figure:
    """A figure with this value; its interval, where it has ends, holds it."""
    low, high = figure.low, figure.high
    return dataclasses.replace(
        figure,
        value=value,
        low=None if low is None else min(low, value),
        high=None if high is None else max(high, value),
    )
