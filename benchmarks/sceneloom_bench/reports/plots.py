"""Plots of a report, as PNG files: latency over the planned rate, throughput over requests in
flight, a bar per engine, percentile curves, and the parts of a request's time in the server.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sceneloom_bench.reports import tables
from sceneloom_bench.reports.report import Measurement, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Paper

_Draw = Callable[[Report, Sequence[Measurement], Path], None]
STYLE = Path(__file__).with_name("plots.mplstyle")
_MARKERS = "os^DvPX"
INK, QUIET, BLUE = "#1f2328", "#6a737d", "#0072b2"
_PARTS = ("#56b4e9", "#e69f00", BLUE, "#009e73", "#cc79a7", "#b0b5bb")
_PERCENTS = (50.0, 90.0, 99.0, 99.9, 99.99)
_NOT_SERVED = ("not served", "never served", "outside the limits of its precision")
_BANDS = "bands are intervals, an arrow is an unknown upper end"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot of a report."""

    name: str
    """File name after the report's own name."""
    says: str
    """Alternative text."""
    draw: Callable[[Path], None]


def plots_of(report: Report) -> list[Plot]:
    """The plots that a report has figures for."""
    found: list[tuple[str, str, _Draw, Sequence[Measurement]]] = []

    def having(*names: str) -> list[Measurement]:
        return [m for m in report.measurements if any(name in m.figures for name in names)]

    opened = [m for m in having("p50", "p90", "p99") if quantity(m.load, "rate") is not None]
    flying = [m for m in having("rate") if quantity(m.load, "in_flight") is not None]
    own = having(*tables.BREAKDOWN)
    own = [m for m in own if m.load.get("mode") == "closed"] or own
    curves = [m for m in report.measurements if m.extra.get("percentiles")]
    curves = [m for m in curves if m.load.get("mode") == "open"] or curves
    if report.kind == "engine":
        for group, members in series_of(having("p50"), [], named=False).items():
            name = "-".join(re.findall(r"[A-Za-z0-9.]+", f"waterfall {group}"))
            says = ", ".join(filter(None, ("A bar per engine in the table's order", group)))
            says += "; black lines are intervals, hatched engines are never served"
            found.append((name, says, draw_waterfall, members))
    if report.kind == "server" and opened:
        says = f"Latency over the planned rate: p50, p90 and p99; {_BANDS}"
        found.append(("latency-over-rate", says, draw_latency_over_rate, opened))
    if report.kind != "mlperf" and len({m.load["in_flight"] for m in flying}) > 1:
        says = f"Throughput and p50 over the number of requests in flight; {_BANDS}"
        found.append(("throughput", says, draw_throughput, flying))
    if own:
        found.append(("request-time", tables.BREAKDOWN_TITLE.capitalize(), draw_request_time, own))
    if curves:
        found.append(("percentiles", "Latency by percentile", draw_percentiles, curves))
    return [
        Plot(name=name, says=says, draw=functools.partial(draw, report, measurements))
        for name, says, draw, measurements in found
    ]


def draw_latency_over_rate(report: Report, measurements: Sequence[Measurement], path: Path) -> None:
    """Draw p50, p90 and p99 with intervals over the planned rate, a panel per series."""
    series = series_of(measurements, ["rate", "mode"])
    names = ("p50", "p90", "p99")
    drawn = [m.figures[name].value for m in measurements for name in names if name in m.figures]
    fastest = max(quantity(m.load, "rate") or 1 for m in measurements)
    with _panels(report, "Latency over planned rate, open loop", series, path) as panels:
        for axes, found in zip(panels, series.values(), strict=True):
            for number, name in enumerate(names):
                _figure_line(axes, found, "rate", name, colour=f"C{number}", label=name)
            axes.set_xlim(0, 1.05 * fastest)
            _log_latency(axes, drawn)
            axes.set_xlabel("planned requests per second")
        for axes in panels[::2]:
            axes.set_ylabel("latency from the planned moment, ms")
        panels[0].legend(loc="upper left", reverse=True)


def draw_throughput(report: Report, measurements: Sequence[Measurement], path: Path) -> None:
    """Draw pictures per second, and p50 beside it, over the number of requests in flight."""
    series = series_of(measurements, ["in_flight", "mode"])
    with _paper(10, 4.2, report, "Throughput over requests in flight", path) as paper:
        left, right = paper.subplots(1, 2)
        for number, (label, found) in enumerate(series.items()):
            colour = f"C{number % len(_MARKERS)}"
            for axes, name in ((left, "rate"), (right, "p50")):
                _figure_line(axes, found, "in_flight", name, colour=colour, label=label)
        counts = sorted({quantity(m.load, "in_flight") or 1 for m in measurements})
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            axes.set_xticks(counts, [f"{count:g}" for count in counts])
            axes.set_xlabel("requests in flight")
            axes.set_ylim(bottom=0)
        left.set_ylabel("pictures per second")
        right.set_ylabel("median latency, ms")
        if len(series) > 1:
            columns = len(series) if len(series) < 5 else 3
            handles = left.get_legend_handles_labels()
            paper.legend(*handles, loc="outside lower center", ncols=columns)


def draw_request_time(report: Report, measurements: Sequence[Measurement], path: Path) -> None:
    """Draw the mean request as a stack of its parts."""
    parts = [name for name in tables.BREAKDOWN if any(name in m.figures for m in measurements)]
    height = 1.7 + 0.27 * len(measurements)
    with _paper(9.5, height, report, tables.BREAKDOWN_TITLE.capitalize(), path) as paper:
        axes = paper.subplots()
        lefts = [0.0] * len(measurements)
        for name in parts:
            values = [m.figures[name].value if name in m.figures else 0 for m in measurements]
            colour, title = _PARTS[tables.BREAKDOWN.index(name)], tables.figure_title(name)
            axes.barh(range(len(lefts)), values, 0.68, lefts, color=colour, label=title)
            lefts = [left + value for left, value in zip(lefts, values, strict=True)]
        for y, total in enumerate(lefts):
            _beside(axes, tables.duration(total), total, y)
        axes.margins(x=0.1)
        _rows(axes, row_labels(measurements))
        axes.set_xlabel("mean per request, ms")
        handles = axes.get_legend_handles_labels()
        paper.legend(*handles, loc="outside lower center", ncols=len(parts))


def draw_percentiles(report: Report, measurements: Sequence[Measurement], path: Path) -> None:
    """Draw latency by percentile like HdrHistogram: a step to the right is ten times rarer."""
    import matplotlib as mpl

    series = series_of(measurements, ["rate", "in_flight"])
    pairs = [pair for m in measurements for pair in m.extra["percentiles"]]
    furthest = max((p for p, _ in pairs if p < 100), default=50)
    ticks = [p for p in _PERCENTS if p <= max(furthest, 50)]
    with _panels(report, "Latency by percentile", series, path) as panels:
        for axes, found in zip(panels, series.values(), strict=True):
            for number, (m, label) in enumerate(zip(found, row_labels(found), strict=True)):
                points = [(100 / (100 - p), ms) for p, ms in m.extra["percentiles"] if p < 100]
                colour = mpl.colormaps["cividis"](0.88 * number / max(len(found) - 1, 1))
                axes.plot(*zip(*points, strict=True), color=colour, marker="", label=label)
            axes.set_xscale("log")
            axes.set_xticks([100 / (100 - p) for p in ticks], [f"{p:g} %" for p in ticks])
            axes.minorticks_off()
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1.03), fontsize=8, reverse=True)
            _log_latency(axes, [ms for _, ms in pairs])
            axes.set_xlabel("percentile")
        for axes in panels[::2]:
            axes.set_ylabel("latency, ms")


def draw_waterfall(report: Report, measurements: Sequence[Measurement], path: Path) -> None:
    """Draw the p50 of each engine and its ratio to the baseline; hatch those never served."""
    group = tables.load_text(measurements[0].load, [*tables.varying(measurements), "mode"])
    medians = [m.figures["p50"] for m in measurements]
    scale, unit = (0.001, "s") if max(f.value for f in medians) >= 1000 else (1.0, "ms")
    title = ", ".join(filter(None, ("Engines", group)))
    ends, names, ratios = [], [], []
    with _paper(9.5, 1.6 + 0.42 * len(measurements), report, title, path) as paper:
        axes = paper.subplots()
        for y, (m, figure) in enumerate(zip(measurements, medians, strict=True)):
            served = not any(words in mark for mark in m.marks for words in _NOT_SERVED)
            names.append(m.name if served else f"{m.name} (not served)")
            colour = BLUE if m.name != report.baseline else QUIET
            face, hatch = (colour, None) if served else ("white", "///")
            axes.barh(y, scale * figure.value, 0.62, color=face, edgecolor=colour, hatch=hatch)
            ends.append(scale * (figure.high or figure.value))
            if figure.low is not None and figure.high is not None:
                axes.hlines(y, scale * figure.low, ends[-1], color=INK, linewidth=1.4)
            box = {"facecolor": "white", "linewidth": 0, "pad": 1}
            _beside(axes, tables.duration(figure.value), ends[-1], y, bbox=box)
            faster = m.figures.get("times_faster")
            if m.name == report.baseline:
                ratios.append("the baseline")
            elif faster is None:
                ratios.append("")
            else:
                cell = tables.Cell(
                    text=f"{tables.value_of(faster)}x", interval=tables.interval_of(faster)
                )
                ratios.append(str(cell))
        _rows(axes, names)
        axes.spines["left"].set_visible(False)
        axes.set_xlim(0, 1.14 * max(ends))
        axes.set_xlabel(f"median latency, {unit}")
        if any(ratios):
            right = axes.secondary_yaxis("right")
            right.set_yticks(range(len(ratios)), ratios)
            right.tick_params(length=0)
            right.spines["right"].set_visible(False)
            axes.set_title(f"times faster than {report.baseline}", loc="right", color=QUIET)


@contextlib.contextmanager
def _paper(width: float, height: float, report: Report, what: str, path: Path) -> Iterator[Paper]:
    """A sheet in inches, titled with subject, size and hardware, which writes a PNG at its end."""
    from matplotlib import style
    from matplotlib.figure import Figure as Paper

    with style.context(STYLE):
        paper = Paper(figsize=(width, height))
        where = ", ".join(filter(None, (tables.size_of(report), tables.hardware_of(report))))
        paper.suptitle(f"{what}\n{where}", x=0.1 / width, ha="left", linespacing=1.35)
        yield paper
        paper.savefig(path, metadata={"Software": None})  # equal plots, equal bytes


@contextlib.contextmanager
def _panels(
    report: Report, what: str, series: Mapping[str, list[Measurement]], path: Path
) -> Iterator[list[Axes]]:
    """A panel per series, titled with it, two in a row."""
    columns = min(len(series), 2)
    rows = -(-len(series) // columns)
    width = 7.5 if columns == 1 else 1.4 + 4.3 * columns
    with _paper(width, 0.9 + 3.5 * rows, report, what, path) as paper:
        panels = list(paper.subplots(rows, columns, squeeze=False, sharey=True).flat)
        for unused in panels[len(series) :]:
            unused.remove()
        for axes, title in zip(panels, series, strict=False):
            axes.set_title(title)
        yield panels[: len(series)]


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    """A label per horizontal bar, the first at the top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _beside(axes: Axes, text: str, x: float, y: float, **box: Any) -> None:
    axes.annotate(text, (x, y), (5, 0), textcoords="offset points", va="center", **box)


def series_of(
    measurements: Sequence[Measurement], leave_out: Sequence[str], *, named: bool = True
) -> dict[str, list[Measurement]]:
    """Measurements that differ in `leave_out` only, by their other differences in words."""
    keys = [key for key in tables.varying(measurements) if key not in leave_out]
    several = named and len({m.name for m in measurements}) > 1
    series: dict[str, list[Measurement]] = {}
    for m in measurements:
        load = tables.load_text({key: m.load[key] for key in keys if key in m.load})
        own = several and m.name != tables.load_text({"mode": m.load.get("mode", "")})
        series.setdefault(", ".join(filter(None, (m.name if own else "", load))), []).append(m)
    return series


def row_labels(measurements: Sequence[Measurement]) -> list[str]:
    """The difference of each measurement to the others in words, or its name."""
    named = {id(m): label for label, found in series_of(measurements, []).items() for m in found}
    return [named[id(m)] or m.name for m in measurements]


def quantity(load: Mapping[str, object], key: str) -> float | None:
    """A load's value if it is a number."""
    value = load.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _figure_line(
    axes: Axes, measurements: Sequence[Measurement], key: str, name: str, *, colour: str, label: str
) -> None:
    """Draw a figure over a number of the load; an arrow upwards is an unknown upper end."""
    points = [
        (x, m.figures[name])
        for m in measurements
        if name in m.figures and (x := quantity(m.load, key)) is not None
    ]
    if not points:
        return
    points.sort(key=lambda point: point[0])
    xs, figures = zip(*points, strict=True)
    marker = _MARKERS[int(colour[1:])]
    axes.plot(xs, [f.value for f in figures], color=colour, marker=marker, label=label, zorder=3)
    lows = [f.value if f.low is None else f.low for f in figures]
    highs = [f.value if f.high is None else f.high for f in figures]
    axes.fill_between(xs, lows, highs, color=colour, alpha=0.18, linewidth=0)
    arrow = {"arrowstyle": "<-", "color": colour, "lw": 1.1, "shrinkB": 3}
    for x, f in points:
        if f.low is not None and f.high is None:
            axes.annotate("", (x, f.value), (0, 15), textcoords="offset points", arrowprops=arrow)


def _log_latency(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic y axis whose ticks are plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    narrow = max(values) < 5 * min(values)
    subs = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0) if narrow else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:,.10g}")
