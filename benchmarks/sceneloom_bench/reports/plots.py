"""Plots of a report, as PNG files: latency over the planned rate, throughput over requests in
flight, a bar per optimisation, percentile curves, and where a request's time goes in the server.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sceneloom_bench.reports.plot_frame import (
    COLOURS,
    INK,
    QUIET,
    counts_axis,
    figure_line,
    new_paper,
    panels_of,
    plain_log,
    quantity,
    row_labels,
    save,
    series_of,
    style,
)
from sceneloom_bench.reports.report import Measurement, Report
from sceneloom_bench.reports.tables import BREAKDOWN, BREAKDOWN_TITLE
from sceneloom_bench.reports.wording import (
    duration,
    figure_title,
    interval_of,
    load_text,
    value_of,
    varying,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PERCENTS = (50.0, 90.0, 99.0, 99.9, 99.99)


_PARTS = ("#56b4e9", "#e69f00", "#0072b2", "#009e73", "#cc79a7", "#b0b5bb")
_NOT_SERVED = ("not served", "never served", "outside the limits of its precision")
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


def draw_waterfall(report: Report, measurements: Sequence[Measurement], path: Path) -> None:
    """A bar per engine in the report's order: its p50, and how many times faster than the baseline
    it is; hatched where it is never served.

    Args:
        report: what they are of.
        measurements: with p50.
        path: the PNG file to write.
    """
    with style():
        group = load_text(_common(measurements))
        what = ", ".join(filter(None, ("Engines", group)))
        paper = new_paper(9.5, 1.6 + 0.42 * len(measurements), report, what)
        axes = paper.subplots()
        medians = [m.figures["p50"] for m in measurements]
        scale, unit = (0.001, "s") if max(f.value for f in medians) >= 1000 else (1.0, "ms")
        longest = max(f.value if f.high is None else max(f.value, f.high) for f in medians)
        for y, m in enumerate(measurements):
            _bar(axes, report, m, y, scale)
        names = [m.name if _served(m) else f"{m.name} (not served)" for m in measurements]
        axes.set_yticks(range(len(measurements)), names)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlim(0, 1.14 * scale * longest)
        axes.set_xlabel(f"median latency, {unit}")
        _times_faster(axes, report, measurements)
        save(paper, path)


def _bar(axes: Axes, report: Report, measurement: Measurement, y: int, scale: float) -> None:
    figure = measurement.figures["p50"]
    served = _served(measurement)
    colour = COLOURS[0] if measurement.name != report.baseline else QUIET
    axes.barh(
        y,
        scale * figure.value,
        height=0.62,
        color=colour if served else "white",
        edgecolor=colour,
        hatch=None if served else "///",
    )
    end = figure.value
    if figure.low is not None and figure.high is not None:
        end = max(end, figure.high)
        axes.hlines(y, scale * figure.low, scale * figure.high, color=INK, linewidth=1.4)
    axes.annotate(
        duration(figure.value),
        (scale * end, y),
        (5, 0),
        textcoords="offset points",
        va="center",
        bbox={"facecolor": "white", "linewidth": 0, "pad": 1},
    )


def _served(measurement: Measurement) -> bool:
    return not any(words in mark for mark in measurement.marks for words in _NOT_SERVED)


def _times_faster(axes: Axes, report: Report, measurements: Sequence[Measurement]) -> None:
    """The ratios as a column at the right, outside of the bars."""
    labels = []
    for m in measurements:
        figure = m.figures.get("times_faster")
        if m.name == report.baseline:
            labels.append("the baseline")
        elif figure is None:
            labels.append("")
        else:
            interval = interval_of(figure)
            labels.append(f"{value_of(figure)}x" + (f" ({interval})" if interval else ""))
    if not any(labels):
        return
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(measurements)), labels)
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)
    axes.annotate(
        f"times faster than {report.baseline}",
        (1, 1),
        (7, 6),
        xycoords="axes fraction",
        textcoords="offset points",
        color=QUIET,
    )


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


def _common(measurements: Sequence[Measurement]) -> dict[str, object]:
    keys = set(measurements[0].load) - set(varying(measurements)) - {"mode"}
    return {key: value for key, value in measurements[0].load.items() if key in keys}
