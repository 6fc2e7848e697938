"""Plots of single requests: where the mean one's time goes, and latency by percentile."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sceneloom_bench.reports.plot_frame import (
    new_paper,
    panels_of,
    plain_log,
    row_labels,
    save,
    series_of,
    style,
)
from sceneloom_bench.reports.report import Measurement, Report
from sceneloom_bench.reports.tables import BREAKDOWN, BREAKDOWN_TITLE
from sceneloom_bench.reports.wording import duration, figure_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PERCENTS = (50.0, 90.0, 99.0, 99.9, 99.99)
_PARTS = ("#56b4e9", "#e69f00", "#0072b2", "#009e73", "#cc79a7", "#b0b5bb")


def draw_request_time(report: Report, measurements: Sequence[Measurement], path: Path) -> None:
    """The mean request in parts, stacked: the server's own account, and the way to it and back.

    Args:
        report: what they are of.
        measurements: with some of these figures.
        path: the PNG file to write.
    """
    with style():
        height = 1.7 + 0.27 * len(measurements)
        paper = new_paper(9.5, height, report, BREAKDOWN_TITLE.capitalize())
        axes = paper.subplots()
        lefts = [0.0] * len(measurements)
        parts = [name for name in BREAKDOWN if any(name in m.figures for m in measurements)]
        for name in parts:
            values = [m.figures[name].value if name in m.figures else 0 for m in measurements]
            axes.barh(
                range(len(measurements)),
                values,
                left=lefts,
                height=0.68,
                color=_PARTS[BREAKDOWN.index(name)],
                label=figure_title(name),
            )
            lefts = [left + value for left, value in zip(lefts, values, strict=True)]
        for y, total in enumerate(lefts):
            axes.annotate(
                duration(total), (total, y), (5, 0), textcoords="offset points", va="center"
            )
        axes.margins(x=0.1)
        axes.set_yticks(range(len(measurements)), row_labels(measurements))
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("mean per request, ms")
        paper.legend(
            *axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(parts)
        )
        save(paper, path)


def draw_percentiles(report: Report, measurements: Sequence[Measurement], path: Path) -> None:
    """Latency by percentile as HdrHistogram draws it: each step to the right is ten times rarer.

    Args:
        report: what they are of.
        measurements: with `percentiles` in `extra`: pairs of percent and milliseconds.
        path: the PNG file to write.
    """
    with style():
        series = series_of(measurements, ["rate", "in_flight"])
        paper, panels = panels_of(report, "Latency by percentile", series, columns=2)
        values = [v for m in measurements for p, v in m.extra["percentiles"] if v > 0]
        for axes, found in zip(panels, series.values(), strict=True):
            _curves(axes, found)
            axes.set_yscale("log")
            plain_log(axes.yaxis, values)
            axes.set_xlabel("percentile")
        for axes in panels[::2]:
            axes.set_ylabel("latency, ms")
        save(paper, path)


def _curves(axes: Axes, measurements: Sequence[Measurement]) -> None:
    import matplotlib as mpl
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    labels = row_labels(measurements)
    colours = mpl.colormaps["cividis"]
    for number, (m, label) in enumerate(zip(measurements, labels, strict=True)):
        points = [(100 / (100 - p), v) for p, v in m.extra["percentiles"] if p < 100 and v > 0]
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            color=colours(0.88 * number / max(len(measurements) - 1, 1)),
            label=label,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([100 / (100 - p) for p in _PERCENTS]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 - 100 / x:.10g} %"))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1.03), fontsize=8, reverse=True)
