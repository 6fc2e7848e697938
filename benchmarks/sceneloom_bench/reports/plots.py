"""Plots of a report, as PNG files: latency over the planned rate, throughput over requests in
flight, a bar per optimisation, percentile curves, and where a request's time goes in the server.

Colours are Okabe and Ito's, and cividis where an order is shown: people with any colour vision tell
them apart.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sceneloom_bench.reports.report import Measurement, Report
from sceneloom_bench.reports.tables import (
    BREAKDOWN,
    BREAKDOWN_TITLE,
    duration,
    figure_title,
    hardware_of,
    interval_of,
    load_text,
    size_of,
    value_of,
    varying,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Paper

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#4d4d4d")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, QUIET, GRID = "#1f2328", "#6a737d", "#e3e6ea"
_STYLE: Any = {
    "text.parse_math": False,  # a name is text, dollars too
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "hatch.linewidth": 1.2,
}
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
    """Alternative text."""
    draw: Callable[[Path], None]


def plots_of(report: Report) -> list[Plot]:
    """The plots that can be drawn of a report."""
    found: list[Plot] = []

    def add(
        name: str,
        says: str,
        draw: Callable[[Report, Sequence[Measurement], Path], None],
        measurements: Sequence[Measurement],
    ) -> None:
        drawn = functools.partial(draw, report, measurements)
        found.append(Plot(name=name, says=says, draw=drawn))

    def having(*names: str) -> list[Measurement]:
        return [m for m in report.measurements if any(name in m.figures for name in names)]

    opened = [m for m in having("p50", "p90", "p99") if quantity(m.load, "rate") is not None]
    flying = [m for m in having("rate") if quantity(m.load, "in_flight") is not None]
    own = having(*BREAKDOWN)
    own = [m for m in own if m.load.get("mode") == "closed"] or own
    curves = [m for m in report.measurements if m.extra.get("percentiles")]
    curves = [m for m in curves if m.load.get("mode") == "open"] or curves
    if report.kind == "engine":
        bars, groups = having("p50"), dict[str, list[Measurement]]()
        keys = varying(bars)
        for m in bars:
            load = {key: m.load[key] for key in keys if key in m.load}
            groups.setdefault(load_text(load), []).append(m)
        for group, members in groups.items():
            name = "-".join(re.findall(r"[A-Za-z0-9.]+", f"waterfall {group}"))
            says = ", ".join(filter(None, ("A bar per engine in the table's order", group)))
            says += "; black lines are intervals, hatched engines are never served"
            add(name, says, draw_waterfall, members)
    if report.kind == "server" and opened:
        says = f"Latency over the planned rate: p50, p90 and p99; {_BANDS}"
        add("latency-over-rate", says, draw_latency_over_rate, opened)
    if report.kind != "mlperf" and len({m.load["in_flight"] for m in flying}) > 1:
        says = f"Throughput and p50 over the number of requests in flight; {_BANDS}"
        add("throughput", says, draw_throughput, flying)
    if own:
        add("request-time", BREAKDOWN_TITLE.capitalize(), draw_request_time, own)
    if curves:
        add("percentiles", "Latency by percentile", draw_percentiles, curves)
    return found


def draw_latency_over_rate(report: Report, measurements: Sequence[Measurement], path: Path) -> None:
    """p50, p90 and p99 with their intervals over the planned rate, a panel per way of asking."""
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
    """Pictures per second, and p50 in a second panel, over the number of requests in flight."""
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


def draw_request_time(report: Report, measurements: Sequence[Measurement], path: Path) -> None:
    """The mean request in parts, stacked: the server's own account, and the way to it and back."""
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
    """Latency by percentile as HdrHistogram draws it: each step to the right is ten times rarer."""
    import matplotlib as mpl
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    with style():
        series = series_of(measurements, ["rate", "in_flight"])
        paper, panels = panels_of(report, "Latency by percentile", series, columns=2)
        values = [v for m in measurements for p, v in m.extra["percentiles"] if v > 0]
        colours = mpl.colormaps["cividis"]
        for axes, found in zip(panels, series.values(), strict=True):
            labels = row_labels(found)
            for number, (m, label) in enumerate(zip(found, labels, strict=True)):
                points = [(100 / (100 - p), v) for p, v in m.extra["percentiles"] if p < 100 and v]
                axes.plot(
                    [x for x, _ in points],
                    [y for _, y in points],
                    color=colours(0.88 * number / max(len(found) - 1, 1)),
                    label=label,
                )
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(FixedLocator([100 / (100 - p) for p in _PERCENTS]))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 - 100 / x:.10g} %"))
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1.03), fontsize=8, reverse=True)
            axes.set_yscale("log")
            plain_log(axes.yaxis, values)
            axes.set_xlabel("percentile")
        for axes in panels[::2]:
            axes.set_ylabel("latency, ms")
        save(paper, path)


def draw_waterfall(report: Report, measurements: Sequence[Measurement], path: Path) -> None:
    """A bar per engine in the report's order: its p50, and how many times faster than the baseline
    it is; hatched where it is never served.
    """
    with style():
        common = set(measurements[0].load) - set(varying(measurements)) - {"mode"}
        load = measurements[0].load
        group = load_text({key: value for key, value in load.items() if key in common})
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


def new_paper(width: float, height: float, report: Report, what: str) -> Paper:
    """An empty sheet with a title: what is shown, at what size, on what hardware."""
    from matplotlib.figure import Figure as Paper

    paper = Paper(figsize=(width, height), layout="constrained", facecolor="white")
    where = ", ".join(filter(None, (size_of(report), hardware_of(report))))
    engine = paper.get_layout_engine()
    assert engine is not None
    engine.set(w_pad=0.1, h_pad=0.08)  # type: ignore[call-arg]
    paper.suptitle(f"{what}\n{where}", x=0.1 / width, ha="left", fontsize=11.5, linespacing=1.35)
    return paper


def panels_of(
    report: Report, what: str, series: dict[str, list[Measurement]], *, columns: int
) -> tuple[Paper, list[Axes]]:
    """A sheet with a panel per series, titled with it, so many beside each other."""
    columns = min(len(series), columns)
    rows = -(-len(series) // columns)
    width = 7.5 if columns == 1 else 1.4 + 4.3 * columns
    paper = new_paper(width, 0.9 + 3.5 * rows, report, what)
    grid = paper.subplots(rows, columns, squeeze=False, sharey=True)
    panels = list(grid.flat)
    for unused in panels[len(series) :]:
        unused.remove()
    for axes, title in zip(panels, series, strict=False):
        axes.set_title(title)
    return paper, panels[: len(series)]


def style() -> Any:
    """A context in which Matplotlib draws as all of these plots look."""
    import matplotlib as mpl

    return mpl.rc_context(_STYLE)


def save(paper: Paper, path: Path) -> None:
    """Write a PNG; equal plots, equal bytes."""
    paper.savefig(path, dpi=144, metadata={"Software": None})


def series_of(
    measurements: Sequence[Measurement], leave_out: Sequence[str]
) -> dict[str, list[Measurement]]:
    """Measurements that differ only in what is left out, by what tells them from the others."""
    keys = [key for key in varying(measurements) if key not in leave_out]
    several = len({m.name for m in measurements}) > 1
    series: dict[str, list[Measurement]] = {}
    for m in measurements:
        load = load_text({key: m.load[key] for key in keys if key in m.load})
        own = several and m.name != load_text({"mode": m.load.get("mode", "")})
        series.setdefault(", ".join(filter(None, (m.name if own else "", load))), []).append(m)
    return series


def row_labels(measurements: Sequence[Measurement]) -> list[str]:
    """The part of each measurement in which it differs from the others, or else its name."""
    named = {id(m): label for label, found in series_of(measurements, []).items() for m in found}
    return [named[id(m)] or m.name for m in measurements]


def quantity(load: Mapping[str, object], key: str) -> float | None:
    """A load's value where it is a number."""
    value = load.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def figure_line(
    axes: Axes, measurements: Sequence[Measurement], key: str, name: str, *, number: int, label: str
) -> bool:
    """Draw a figure over a load with the band of its intervals; an upper end that is not known is
    an arrow upwards. False where there is no such figure.
    """
    points = [
        (x, m.figures[name])
        for m in measurements
        if name in m.figures and (x := quantity(m.load, key)) is not None
    ]
    points.sort(key=lambda point: point[0])
    if not points:
        return False
    colour = COLOURS[number % len(COLOURS)]
    xs = [x for x, _ in points]
    axes.plot(
        xs,
        [f.value for _, f in points],
        color=colour,
        marker=MARKERS[number % len(MARKERS)],
        label=label,
        zorder=3,
    )
    axes.fill_between(
        xs,
        [f.value if f.low is None else f.low for _, f in points],
        [f.value if f.high is None else f.high for _, f in points],
        color=colour,
        alpha=0.18,
        linewidth=0,
    )
    for x, f in points:
        if f.low is not None and f.high is None:
            axes.annotate(
                "",
                (x, f.value),
                (0, 15),
                textcoords="offset points",
                arrowprops={"arrowstyle": "<-", "color": colour, "lw": 1.1, "shrinkB": 3},
            )
    return True


def plain_log(axis: Any, values: Sequence[float]) -> None:
    """A logarithmic axis whose ticks are plain numbers, as many as can be read."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    positive = [value for value in values if value > 0]
    decades = math.log10(max(positive) / min(positive)) if positive else 1
    subs: tuple[float, ...] = (1.0, 2.0, 5.0) if decades < 3 else (1.0,)
    if decades < 0.7:
        subs = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
    axis.set_major_locator(LogLocator(base=10, subs=subs, numticks=20))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def counts_axis(axes: Axes, counts: Sequence[float]) -> None:
    """An x axis of numbers of requests: a tick at each measured one, doubling where they do."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ticks = sorted(set(counts))
    if len(ticks) > 1 and ticks[-1] / ticks[0] >= 4:
        axes.set_xscale("log", base=2)
        kept = ticks[:1]
        for tick in ticks[1:]:
            if tick / kept[-1] >= (ticks[-1] / ticks[0]) ** 0.07:
                kept.append(tick)
        ticks = kept
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
