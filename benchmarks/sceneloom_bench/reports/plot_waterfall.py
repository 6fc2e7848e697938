"""Plot of engines beside each other: a bar for each, and how many times faster it is than the
baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sceneloom_bench.reports.plot_frame import COLOURS, INK, QUIET, new_paper, save, style
from sceneloom_bench.reports.report import Measurement, Report
from sceneloom_bench.reports.wording import duration, interval_of, load_text, value_of, varying

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NOT_SERVED = ("not served", "never served", "outside the limits of its precision")


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


def _common(measurements: Sequence[Measurement]) -> dict[str, object]:
    keys = set(measurements[0].load) - set(varying(measurements)) - {"mode"}
    return {key: value for key, value in measurements[0].load.items() if key in keys}
