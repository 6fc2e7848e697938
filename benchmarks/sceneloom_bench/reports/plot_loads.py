"""Plots of a server under load: figures over the planned rate, and over requests in flight."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sceneloom_bench.reports.plot_frame import (
    counts_axis,
    figure_line,
    new_paper,
    panels_of,
    plain_log,
    quantity,
    save,
    series_of,
    style,
)
from sceneloom_bench.reports.report import Measurement, Report


def draw_latency_over_rate(report: Report, measurements: Sequence[Measurement], path: Path) -> None:
    """p50, p90 and p99 with their intervals over the planned rate, a panel per way of asking.

    Args:
        report: what they are of.
        measurements: open loops: `rate` in their load.
        path: the PNG file to write.
    """
    with style():
        series = series_of(measurements, ["rate", "mode"])
        what = "Latency over planned rate, open loop"
        paper, panels = panels_of(report, what, series, columns=2)
        drawn = [
            f.value
            for m in measurements
            for n, f in m.figures.items()
            if n in ("p50", "p90", "p99")
        ]
        fastest = max(quantity(m.load, "rate") or 1 for m in measurements)
        for axes, found in zip(panels, series.values(), strict=True):
            for number, name in enumerate(("p50", "p90", "p99")):
                figure_line(axes, found, "rate", name, number=number, label=name)
            axes.set_yscale("log")
            axes.set_xlim(0, 1.05 * fastest)
            plain_log(axes.yaxis, drawn)
            axes.set_xlabel("planned requests per second")
        for axes in panels[::2]:
            axes.set_ylabel("latency from the planned moment, ms")
        panels[0].legend(loc="upper left", reverse=True)
        save(paper, path)


def draw_throughput(report: Report, measurements: Sequence[Measurement], path: Path) -> None:
    """Pictures per second, and p50 in a second panel, over the number of requests in flight.

    Args:
        report: what they are of.
        measurements: closed loops: `in_flight` in their load.
        path: the PNG file to write.
    """
    with style():
        paper = new_paper(10, 4.2, report, "Throughput over requests in flight")
        left, right = paper.subplots(1, 2)
        series = series_of(measurements, ["in_flight", "mode"])
        for number, (label, found) in enumerate(series.items()):
            for axes, name in ((left, "rate"), (right, "p50")):
                figure_line(axes, found, "in_flight", name, number=number, label=label)
        for axes in (left, right):
            counts_axis(axes, [quantity(m.load, "in_flight") or 1 for m in measurements])
            axes.set_xlabel("requests in flight")
            axes.set_ylim(bottom=0)
        left.set_ylabel("pictures per second")
        right.set_ylabel("median latency, ms")
        if len(series) > 1:
            columns = len(series) if len(series) < 5 else 3
            handles = left.get_legend_handles_labels()
            paper.legend(*handles, loc="outside lower center", ncols=columns)
        save(paper, path)
