"""Figures of a load: percentiles from an HdrHistogram, rates, and intervals that a queue allows.

Latencies of requests that queue behind each other are not independent: within one busy stretch all
are long, and an interval between order statistics would be too narrow. So intervals are of blocks,
stretches of a load that follow each other: between order statistics of the blocks' percentiles and
rates, of which six at least are needed. A block's percentile counts only if five of its values are
above it, so p50 takes 60 answers, p90 300 and p99 3000: of fewer there is no interval, and
`compare` judges nothing by it. `INTERVALS_MARK` says so in every report.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from hdrh.histogram import HdrHistogram

from sceneloom_bench.loops import Load
from sceneloom_bench.reports.report import Figure
from sceneloom_bench.reports.statistics import (
    BEYOND,
    PERCENTILES,
    around,
    median_figure,
    percentile_figure,
)

BLOCKS = 10
MOST_SAMPLES = 5000
"""Of more requests, a report keeps the histogram only."""
LISTED = (10, 25, 50, 75, 90, 95, 99, 99.9, 100)
INTERVALS_MARK = (
    "intervals under load are of six to ten stretches of it, since requests in a queue are not "
    "independent; p50 has one from 60 answers on, p90 from 300, p99 from 3000. Overhead "
    "is of pictures one at a time, in rounds that are taken to be independent"
)
LEAST_BLOCKS = 6
"""Of fewer a median has no interval at 95 %."""
_LONGEST_US = 3_600_000_000


def histogram_of(seconds: Sequence[float]) -> Any:
    """An HdrHistogram in whole microseconds, three significant digits, up to an hour."""
    histogram = HdrHistogram(1, _LONGEST_US, 3)
    for value in seconds:
        histogram.record_value(min(max(round(1e6 * value), 1), _LONGEST_US))
    return histogram


def percentile_ms(histogram: Any, percent: float) -> float:
    """A nearest-rank percentile in milliseconds.

    HdrHistogram itself rounds the rank to the nearest, so of few values its p99 can be one too low.
    """
    count = histogram.get_total_count()
    rank = max(math.ceil(percent / 100 * count), 1)
    return float(histogram.get_value_at_percentile(100 * rank / count) / 1000)


def blocks_of(values: Sequence[float], least: int = 2) -> list[list[float]]:
    """The values in order, in ten equal blocks; in fewer if they would be shorter than `least`."""
    count = max(min(BLOCKS, len(values) // least), 1)
    ends = [round(number * len(values) / count) for number in range(count + 1)]
    return [list(values[a:b]) for a, b in itertools.pairwise(ends)]


def load_figures(load: Load, pictures: int) -> dict[str, Figure]:
    """Latency and rate of the answers, one at least, and the share of failures."""
    latencies = load.latencies
    figures = {}
    for percent in PERCENTILES:
        figure = Figure(
            value=percentile_ms(histogram_of(latencies), percent), unit="ms", better="lower"
        )
        blocks = blocks_of(latencies, math.ceil(100 * BEYOND / (100 - percent)))
        if len(blocks) >= LEAST_BLOCKS:
            found = [percentile_ms(histogram_of(block), percent) for block in blocks]
            figure = around(figure.value, median_figure(found, unit="ms", better="lower"))
        figures[f"p{percent}"] = figure
    figures["max"] = Figure(value=1000 * max(latencies), unit="ms", better="lower")
    # Without a closed loop's last answers: fewer requests than `in_flight` were on their way then.
    answered = sorted(one.done for one in load.answered)
    kept = blocks_of(answered[: max(len(answered) - load.in_flight + 1, 1)])
    ends = [block[-1] for block in kept]
    rates = [
        pictures * len(block) / max(end - start, 1e-9)
        for block, start, end in zip(kept, [0.0, *ends], ends, strict=False)
    ]
    rate = pictures * sum(map(len, kept)) / max(ends[-1], 1e-9)
    figures["rate"] = around(rate, median_figure(rates, unit="1/s", better="higher"))
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


def p99_upper_end_ms(load: Load) -> float:
    """The upper end of p99's interval, as if requests were independent, or the largest of too few.

    A request that failed is never answered, so a single one can make it infinite.
    """
    values = [*load.latencies, *[math.inf] * sum(load.failures.values())]
    high = percentile_figure(values, 99, unit="s").high
    return 1000 * (max(values) if high is None else high)
