"""Figures of a load: percentiles from an HdrHistogram, rates, and intervals over blocks of time.

Latencies of queued requests are not independent, and an interval between their order statistics
would be too narrow. An interval lies between order statistics of the percentiles and rates of at
least six consecutive blocks of the load. A block's percentile needs five values above it, so the
interval of p50 needs 60 answers, p90 300, p99 3000.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from hdrh.histogram import HdrHistogram

from sceneloom_bench.loops import Load
from sceneloom_bench.reports import statistics
from sceneloom_bench.reports.report import Figure
from sceneloom_bench.reports.statistics import around, median_figure

BLOCKS = 10
MAX_SAMPLES = 5000
"""A report of more requests keeps the histogram only."""
LISTED = (10, 25, 50, 75, 90, 95, 99, 99.9, 100)
INTERVALS_MARK = (
    "intervals under load are of six to ten stretches of it, since requests in a queue are not "
    "independent; p50 has one from 60 answers on, p90 from 300, p99 from 3000. Overhead "
    "is of pictures one at a time, in rounds that are taken to be independent"
)
MIN_BLOCKS = 6
"""Blocks that the interval of a median needs at 95 %."""
_LONGEST_US = 3_600_000_000


def histogram_of(seconds: Sequence[float]) -> Any:
    """An HdrHistogram in microseconds, with three significant digits, up to an hour."""
    histogram = HdrHistogram(1, _LONGEST_US, 3)
    for value in seconds:
        histogram.record_value(min(max(round(1e6 * value), 1), _LONGEST_US))
    return histogram


def percentile_ms(histogram: Any, percent: float) -> float:
    """A nearest-rank percentile in milliseconds."""
    # HdrHistogram itself rounds the rank: the p99 of few values would be one too low.
    count = histogram.get_total_count()
    rank = max(math.ceil(percent / 100 * count), 1)
    return float(histogram.get_value_at_percentile(100 * rank / count) / 1000)


def blocks_of(values: Sequence[float], least: int = 2) -> list[list[float]]:
    """Values in ten equal consecutive blocks, or in fewer of at least `least` values."""
    count = max(min(BLOCKS, len(values) // least), 1)
    ends = [round(number * len(values) / count) for number in range(count + 1)]
    return [list(values[a:b]) for a, b in itertools.pairwise(ends)]


def load_figures(load: Load, pictures: int) -> dict[str, Figure]:
    """Latency and rate of the answers, at least one, and the share of failures."""
    latencies = load.latencies
    figures = {}
    for percent in statistics.PERCENTILES:
        figure = Figure(
            value=percentile_ms(histogram_of(latencies), percent), unit="ms", better="lower"
        )
        blocks = blocks_of(latencies, math.ceil(100 * statistics.BEYOND / (100 - percent)))
        if len(blocks) >= MIN_BLOCKS:
            found = [percentile_ms(histogram_of(block), percent) for block in blocks]
            figure = around(figure.value, median_figure(found, unit="ms", better="lower"))
        figures[f"p{percent}"] = figure
    figures["max"] = Figure(value=1000 * max(latencies), unit="ms", better="lower")
    # Without a closed loop's last answers, when fewer than `in_flight` requests were on their way.
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
    """Percentiles, and the histogram in HdrHistogram's base64."""
    histogram = histogram_of(load.latencies)
    percentiles = [[p, percentile_ms(histogram, p)] for p in LISTED]
    return {"percentiles": percentiles, "histogram": histogram.encode().decode("ascii")}


def samples_of(load: Load) -> list[list[float]]:
    """Latencies in seconds by block; empty above `MAX_SAMPLES`."""
    latencies = load.latencies
    if len(latencies) > MAX_SAMPLES:
        return []
    return [[round(value, 6) for value in block] for block in blocks_of(latencies)]


def p99_upper_end_ms(load: Load) -> float:
    """Upper end of p99's interval, else the largest latency; a failed request is infinite."""
    values = [*load.latencies, *[math.inf] * sum(load.failures.values())]
    _, high = statistics.percentile_interval(values, 99)
    return 1000 * (max(values) if high is None else high)
