"""Plots of a report, as PNG files: latency over the planned rate, throughput over requests in
flight, a bar per optimisation, percentile curves, and where a request's time goes in the server.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from sceneloom_bench.reports.plot_frame import quantity
from sceneloom_bench.reports.plot_loads import draw_latency_over_rate, draw_throughput
from sceneloom_bench.reports.plot_requests import draw_percentiles, draw_request_time
from sceneloom_bench.reports.plot_waterfall import draw_waterfall
from sceneloom_bench.reports.report import Measurement, Report
from sceneloom_bench.reports.tables import BREAKDOWN, BREAKDOWN_TITLE
from sceneloom_bench.reports.wording import load_text, varying

_BANDS = "bands are intervals, an arrow is an upper end that is not known"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot that a report has the figures for."""

    name: str
    """Of the file, behind the report's own name."""
    says: str
    """What is to be seen, for people who do not see it."""
    draw: Callable[[Path], None]
    """Writes the PNG file."""


def plots_of(report: Report) -> list[Plot]:
    """The plots that can be drawn of a report."""
    opened = [m for m in _with_load(report, "rate") if _has(m, "p50", "p90", "p99")]
    flying = [m for m in _with_load(report, "in_flight") if _has(m, "rate")]
    own = [m for m in report.measurements if _has(m, *BREAKDOWN)]
    own = [m for m in own if m.load.get("mode") == "closed"] or own
    curves = [m for m in report.measurements if m.extra.get("percentiles")]
    curves = [m for m in curves if m.load.get("mode") == "open"] or curves
    found = []
    if report.kind == "engine":
        for group, bars in _by_load(report).items():
            name = "-".join(re.findall(r"[A-Za-z0-9.]+", f"waterfall {group}"))
            says = ", ".join(filter(None, ("A bar per engine in the table's order", group)))
            says += "; black lines are intervals, hatched engines are never served"
            found.append(_plot(name, says, draw_waterfall, report, bars))
    if report.kind == "server" and opened:
        says = f"Latency over the planned rate: p50, p90 and p99; {_BANDS}"
        found.append(_plot("latency-over-rate", says, draw_latency_over_rate, report, opened))
    if report.kind != "mlperf" and len({m.load["in_flight"] for m in flying}) > 1:
        says = f"Throughput and p50 over the number of requests in flight; {_BANDS}"
        found.append(_plot("throughput", says, draw_throughput, report, flying))
    if own:
        says = BREAKDOWN_TITLE.capitalize()
        found.append(_plot("request-time", says, draw_request_time, report, own))
    if curves:
        says = "Latency by percentile"
        found.append(_plot("percentiles", says, draw_percentiles, report, curves))
    return found


def _plot(
    name: str,
    says: str,
    draw: Callable[[Report, Sequence[Measurement], Path], None],
    report: Report,
    measurements: Sequence[Measurement],
) -> Plot:
    return Plot(name=name, says=says, draw=lambda path: draw(report, measurements, path))


def _with_load(report: Report, key: str) -> list[Measurement]:
    return [m for m in report.measurements if quantity(m.load, key) is not None]


def _has(measurement: Measurement, *names: str) -> bool:
    return any(name in measurement.figures for name in names)


def _by_load(report: Report) -> dict[str, list[Measurement]]:
    """Measurements with p50, by their load."""
    having = [m for m in report.measurements if "p50" in m.figures]
    keys = varying(having)
    groups: dict[str, list[Measurement]] = {}
    for m in having:
        load = {key: m.load[key] for key in keys if key in m.load}
        groups.setdefault(load_text(load), []).append(m)
    return groups
