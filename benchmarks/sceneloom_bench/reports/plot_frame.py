"""What all plots share: paper, title, colours, axes. Colours are Okabe and Ito's, and cividis where
an order is shown: people with any colour vision tell them apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sceneloom_bench.reports.report import Measurement, Report
from sceneloom_bench.reports.wording import (
    hardware_of,
    load_text,
    size_of,
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


def new_paper(width: float, height: float, report: Report, what: str) -> Paper:
    """An empty sheet with a title: what is shown, at what size, on what hardware.

    Args:
        width: in inches, at 144 dots.
        height: likewise.
        report: what was measured where.
        what: the title's first words.
    """
    from matplotlib.figure import Figure as Paper

    paper = Paper(figsize=(width, height), layout="constrained", facecolor="white")
    where = ", ".join(filter(None, (size_of(report), hardware_of(report))))
    engine = paper.get_layout_engine()
    assert engine is not None
    engine.set(w_pad=0.1, h_pad=0.08)  # type: ignore[call-arg]
    paper.suptitle(f"{what}\n{where}", x=0.1 / width, ha="left", fontsize=11.5, linespacing=1.35)
    return paper


def panels_of(
    report: Report,
    what: str,
    series: dict[str, list[Measurement]],
    *,
    columns: int,
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
    """Measurements that differ only in what is left out, by what tells them from the others.

    Args:
        measurements: of one report.
        leave_out: keys of the load, such as the one on the x axis.
    """
    keys = [key for key in varying(measurements) if key not in leave_out]
    several = len({m.name for m in measurements}) > 1
    series: dict[str, list[Measurement]] = {}
    for m in measurements:
        load = load_text({key: m.load[key] for key in keys if key in m.load})
        own = several and m.name != load_text({"mode": m.load.get("mode", "")})
        series.setdefault(", ".join(filter(None, (m.name if own else "", load))), []).append(m)
    return series


def row_labels(measurements: Sequence[Measurement]) -> list[str]:
    """What tells each measurement from the others; its name where nothing does."""
    named = {id(m): label for label, found in series_of(measurements, []).items() for m in found}
    return [named[id(m)] or m.name for m in measurements]


def quantity(load: Mapping[str, object], key: str) -> float | None:
    """A load's value where it is a number."""
    value = load.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def figure_line(
    axes: Axes,
    measurements: Sequence[Measurement],
    key: str,
    name: str,
    *,
    number: int,
    label: str,
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
