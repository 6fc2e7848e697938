"""A report in tables, for people: as Markdown here, as HTML in page.py, from the same description.

A group of measurements that share a way of loading is a table; its columns are what varies of the
load, and the figures that its measurements have. What does not vary is said once, above it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from sceneloom_bench.reports.report import Figure, Measurement, Report
from sceneloom_bench.reports.wording import (
    duration,
    figure_title,
    interval_of,
    load_text,
    load_title,
    load_value,
    machine_line,
    say,
    subject_line,
    title_of,
    unit_of,
    value_of,
    varying,
    versions_line,
    with_unit,
)

BREAKDOWN = ("queue", "compute_input", "compute", "compute_output", "steps", "transfer")
"""Where the mean request's time goes: a table of its own, or the first would be too wide."""
BREAKDOWN_TITLE = "where the mean request's time goes"
LEGEND = (
    "In brackets: the interval in which a figure lies with 95 % confidence. `at least`: too little "
    "was measured for an upper end. No brackets: no interval is known."
)
_ORDER = ("times_faster", "overhead", "overhead_ratio", "p50", "p90", "p99", "max", "rate")
"""Ratios first: they hold where seconds are one machine's at one hour."""
_LAST = ("peak_memory",)
_GROUPS = ("mode", "scenario")
_LOAD_ORDER = ("transport", "batch", "arrivals", "rate", "in_flight")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """A value, and its interval beside it."""

    text: str
    interval: str = ""

    def __str__(self) -> str:
        """Both in one line."""
        return f"{self.text} ({self.interval})" if self.interval else self.text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a report."""

    title: str
    """Empty where the report has only this one."""
    constant: str
    """What is the same in all rows; empty where nothing is."""
    headings: Sequence[str]
    numbers: Sequence[bool]
    """Which columns are numbers, and so stand at the right."""
    rows: Sequence[Sequence[Cell]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """What a report says, before it is Markdown or HTML; nothing in it is escaped."""

    title: str
    facts: Sequence[tuple[str, str]]
    """What was measured, on what, when: a word and a line each."""
    marks: Sequence[str]
    tables: Sequence[Table]
    row_marks: Sequence[tuple[str, str]]
    """Which measurement, and what must be known of it."""
    left_out: Sequence[tuple[str, str]]
    """What could not be measured, and why."""


def describe(report: Report) -> str:
    """A report for people, in Markdown, from a heading of the second level on."""
    said = description(report)
    lines = [f"## {escaped(said.title)}", ""]
    lines += [f"- {name}: {escaped(line)}" for name, line in said.facts]
    if said.marks:
        lines += ["", "**Read this first:**", ""]
        lines += [f"- {escaped(mark)}" for mark in said.marks]
    for table in said.tables:
        lines += ["", *markdown_table(table)]
    lines += ["", LEGEND]
    for heading, found in (("Marks", said.row_marks), ("Not measured", said.left_out)):
        if found:
            lines += ["", f"{heading}:", ""]
            lines += [f"- {escaped(name)}: {escaped(mark)}" for name, mark in found]
    return "\n".join(lines) + "\n"


def description(report: Report) -> Description:
    """What a report says, to be written as Markdown or HTML."""
    facts = [
        ("Measured", subject_line(report)),
        ("Machine", machine_line(report)),
        ("Versions", versions_line(report)),
        ("Date", f"{report.date}, measured for {_seconds(report)}"),
    ]
    left_out = report.extra.get("cannot_run")
    facts += [
        (key.replace("_", " ").capitalize(), say(value))
        for key, value in report.extra.items()
        if isinstance(value, str | int | float) and key != "not_measured"
    ]
    return Description(
        title=report.title,
        facts=[(name, line) for name, line in facts if line],
        marks=list(report.marks),
        tables=tables_of(report),
        row_marks=row_marks(report.measurements),
        left_out=[(k, str(v)) for k, v in left_out.items()] if isinstance(left_out, dict) else [],
    )


def _seconds(report: Report) -> str:
    seconds = report.environment.get("seconds")
    return "?" if seconds is None else duration(1000 * float(seconds))


def row_marks(measurements: Sequence[Measurement]) -> list[tuple[str, str]]:
    """Each mark once, with the measurements that have it."""
    having: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        for mark in measurement.marks:
            having.setdefault(mark, []).append(measurement)
    shared = set(measurements[0].load if measurements else ()) - set(varying(measurements))
    return [
        ("; ".join(title_of(m, sorted(shared)) for m in marked), mark)
        for mark, marked in having.items()
    ]


def tables_of(report: Report) -> list[Table]:
    """A table per way of loading, and one more for where a request's time goes."""
    groups: dict[str, list[Measurement]] = {}
    for measurement in report.measurements:
        groups.setdefault(_group(report, measurement), []).append(measurement)
    titled = len(groups) > 1 or report.kind in ("server", "mlperf")
    tables = []
    for group, measurements in groups.items():
        title = group[:1].upper() + group[1:] if titled else ""
        names = _figure_names(measurements)
        main = [name for name in names if name not in BREAKDOWN]
        parts = [name for name in BREAKDOWN if name in names]
        if main or not parts:
            tables.append(_table(measurements, main, title, report.baseline))
        if parts and not any(_stands_apart(report, m) for m in measurements):
            having = [m for m in measurements if set(parts) & set(m.figures)]
            own = f"{title}: {BREAKDOWN_TITLE}" if title else BREAKDOWN_TITLE.capitalize()
            tables.append(_table(having, parts, own, report.baseline))
    return tables


def _group(report: Report, measurement: Measurement) -> str:
    """Words that all measurements of a table share. Open loops of different names answer different
    questions, and stand apart.
    """
    load = measurement.load
    words = load_text({key: load[key] for key in _GROUPS if key in load})
    return f"{words}: {measurement.name}" if _stands_apart(report, measurement) else words


def _stands_apart(report: Report, measurement: Measurement) -> bool:
    mode = measurement.load.get("mode")
    named = measurement.name != load_text({"mode": mode or ""})
    return report.kind == "server" and mode == "open" and named


def _figure_names(measurements: Sequence[Measurement]) -> list[str]:
    names = list(dict.fromkeys(name for m in measurements for name in m.figures))
    first = [name for name in _ORDER if name in names]
    last = [name for name in _LAST if name in names]
    return [*first, *(n for n in names if n not in (*first, *last)), *last]


def _table(
    measurements: Sequence[Measurement], names: Sequence[str], title: str, baseline: str | None
) -> Table:
    keys = [key for key in varying(measurements) if key not in _GROUPS]
    keys.sort(key=lambda k: _LOAD_ORDER.index(k) if k in _LOAD_ORDER else -1)
    all_names = {m.name for m in measurements}
    in_title = all(name.lower() in title.lower() for name in all_names)
    named = len(all_names) > 1 or (not keys and not in_title)
    load = {k: v for k, v in measurements[0].load.items() if k not in (*varying(measurements),)}
    load = {k: v for k, v in load.items() if k not in _GROUPS}
    constant = [*([] if named or in_title else all_names), *([load_text(load)] if load else [])]
    one_unit = {name: _one_unit(measurements, name) for name in names}
    rows = []
    for m in measurements:
        row = [Cell(text=m.name)] if named else []
        row += [Cell(text=load_value(k, m.load[k]) if k in m.load else "") for k in keys]
        row += [_cell(m, name, one_unit[name], baseline) for name in names]
        rows.append(row)
    return Table(
        title=title,
        constant=", ".join(constant),
        headings=[
            *(["measured"] if named else []),
            *map(load_title, keys),
            *(_heading(name, one_unit[name], baseline) for name in names),
        ],
        numbers=[
            *([False] if named else []),
            *(not any(isinstance(m.load.get(key), str) for m in measurements) for key in keys),
            *(True for _ in names),
        ],
        rows=rows,
    )


def _one_unit(measurements: Sequence[Measurement], name: str) -> Figure | None:
    """A figure whose unit is that of the whole column; None where units differ."""
    found = [m.figures[name] for m in measurements if name in m.figures]
    return found[0] if len({f.unit for f in found}) == 1 else None


def _heading(name: str, example: Figure | None, baseline: str | None) -> str:
    title = figure_title(name)
    if name == "times_faster" and baseline:
        title += f" than {baseline}"
    unit = (
        "" if example is None or example.unit == "x" or title == "pictures/s" else unit_of(example)
    )
    return f"{title}, {'1/s' if unit == '/s' else unit}" if unit else title


def _cell(
    measurement: Measurement, name: str, one_unit: Figure | None, baseline: str | None
) -> Cell:
    figure = measurement.figures.get(name)
    if figure is None:
        base = name == "times_faster" and measurement.name == baseline
        return Cell(text="1 (the baseline)" if base else "")
    if one_unit is None:
        return Cell(text=with_unit(figure))
    return Cell(text=value_of(figure), interval=interval_of(figure))


def markdown_table(table: Table) -> list[str]:
    """A table as lines of Markdown, with its title and what does not vary above it."""
    lines = [f"### {escaped(table.title)}", ""] if table.title else []
    if table.constant:
        lines += [escaped(table.constant) + ":", ""]
    sides = ["---:" if number else "---" for number in table.numbers]
    lines += [_line([escaped(h) for h in table.headings]), "|" + "|".join(sides) + "|"]
    return lines + [_line([escaped(str(cell)) for cell in row]) for row in table.rows]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, in one line; also inside a table."""
    text = re.sub(r"([\\`*\[\]<>|&~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", text)
    return " ".join(text.split())
