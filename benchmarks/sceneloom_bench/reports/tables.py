"""A report in tables, for people: as Markdown here, as HTML in page.py, from the same description;
and the wording of figures, loads, sizes and machines in tables, plots, pages and comparisons.

A group of measurements that share a way of loading is a table; its columns are the varying part of
the load, and the figures of its measurements. The constant part stands once, above it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sceneloom_bench.reports.report import Figure, Measurement, Report

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
FIGURE_TITLES = {
    "rate": "pictures/s",
    "times_faster": "times faster",
    "peak_memory": "peak memory",
    "overhead_ratio": "overhead, times as long",
    "tflops": "arithmetic",
    "gbs": "copied",
    "device": "p50 on the device",
    "difference": "largest difference, grey levels",
    "idle": "server idle",
    "steps": "encoded path's own steps",
    "peak_share": "share of measured peak",
}
"""Figures whose title is not their name with spaces."""
LOAD_TITLES = {"rate": "planned rate, 1/s", "scenario": "scenario", "in_flight": "in flight"}
_UNITS = {"1/s": "/s", "x": "x", "share": "%", "1": ""}
_WORDS = {
    ("mode", "closed"): "closed loop",
    ("mode", "open"): "open loop",
    ("arrivals", "constant"): "constant arrivals",
    ("arrivals", "poisson"): "Poisson arrivals",
    ("transport", "grpc"): "gRPC",
    ("transport", "grpc-shm"): "gRPC with shared memory",
    ("transport", "http"): "HTTP",
    ("transport", "encoded"): "encoded pictures",
}
_GPU_WORDS = {
    "driver_version": "driver",
    "memory.total": "memory",
    "clocks.sm": "SM clock",
    "clocks.max.sm": "at most",
    "clocks.mem": "memory clock",
    "power.limit": "power limit",
    "utilization.gpu": "used",
    "temperature.gpu": "at",
    "persistence_mode": "persistence",
    "mig.mode.current": "MIG",
}
_HASH_DIGITS = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """A value, and its interval beside it."""

    text: str
    interval: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.interval})" if self.interval else self.text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a report."""

    title: str
    """Empty where the report has only this one."""
    constant: str
    """The load that all rows share; empty if they share none."""
    headings: Sequence[str]
    numbers: Sequence[bool]
    """Which columns are numbers, and so stand at the right."""
    rows: Sequence[Sequence[Cell]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """A report in words, before it is Markdown or HTML; nothing in it is escaped."""

    title: str
    facts: Sequence[tuple[str, str]]
    """Subject, machine and date: a word and a line each."""
    marks: Sequence[str]
    tables: Sequence[Table]
    row_marks: Sequence[tuple[str, str]]
    left_out: Sequence[tuple[str, str]]
    """Name and reason of an unmeasured one."""


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
    """A report in words, to be written as Markdown or HTML."""
    seconds = report.environment.get("seconds")
    took = "?" if seconds is None else duration(1000 * float(seconds))
    facts = [
        ("Measured", subject_line(report)),
        ("Machine", machine_line(report)),
        ("Versions", versions_line(report)),
        ("Date", f"{report.date}, measured for {took}"),
    ]
    left_out = report.extra.get("cannot_run")
    facts += [
        (key.replace("_", " ").capitalize(), text_of(value))
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
    for m in report.measurements:
        words = load_text({key: m.load[key] for key in _GROUPS if key in m.load})
        group = f"{words}: {m.name}" if _stands_apart(report, m) else words
        groups.setdefault(group, []).append(m)
    titled = len(groups) > 1 or report.kind in ("server", "mlperf")
    tables = []
    for group, measurements in groups.items():
        title = group[:1].upper() + group[1:] if titled else ""
        names = list(dict.fromkeys(name for m in measurements for name in m.figures))
        first = [name for name in _ORDER if name in names]
        middle = [name for name in names if name not in (*_ORDER, *_LAST, *BREAKDOWN)]
        main = [*first, *middle, *(name for name in _LAST if name in names)]
        parts = [name for name in BREAKDOWN if name in names]
        if main or not parts:
            tables.append(_table(measurements, main, title, report.baseline))
        if parts and not any(_stands_apart(report, m) for m in measurements):
            having = [m for m in measurements if set(parts) & set(m.figures)]
            own = f"{title}: {BREAKDOWN_TITLE}" if title else BREAKDOWN_TITLE.capitalize()
            tables.append(_table(having, parts, own, report.baseline))
    return tables


def _stands_apart(report: Report, measurement: Measurement) -> bool:
    """Open loops of different names answer different questions."""
    mode = measurement.load.get("mode")
    named = measurement.name != load_text({"mode": mode or ""})
    return report.kind == "server" and mode == "open" and named


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
    columns = {name: _column(measurements, name, baseline) for name in names}
    rows = []
    for number, m in enumerate(measurements):
        row = [Cell(text=m.name)] if named else []
        row += [Cell(text=load_value(k, m.load[k]) if k in m.load else "") for k in keys]
        rows.append([*row, *(cells[number] for _, cells in columns.values())])
    return Table(
        title=title,
        constant=", ".join(constant),
        headings=[
            *(["measured"] if named else []),
            *map(load_title, keys),
            *(heading for heading, _ in columns.values()),
        ],
        numbers=[
            *([False] if named else []),
            *(not any(isinstance(m.load.get(key), str) for m in measurements) for key in keys),
            *(True for _ in names),
        ],
        rows=rows,
    )


def _column(
    measurements: Sequence[Measurement], name: str, baseline: str | None
) -> tuple[str, list[Cell]]:
    """Heading and cells of a figure. The unit stands in the heading if all cells share it."""
    figures = [m.figures.get(name) for m in measurements]
    units = {(f.unit, unit_of(f)) for f in figures if f is not None}
    title, baseline_ratio = figure_title(name), name == "times_faster" and baseline
    if baseline_ratio:
        title += f" than {baseline}"
    if len(units) == 1 and title != "pictures/s":
        ((unit, shown),) = units
        shown = "1/s" if shown == "/s" else shown
        title += f", {shown}" if shown and unit != "x" else ""
    cells = []
    for m, figure in zip(measurements, figures, strict=True):
        if figure is None:
            is_base = baseline_ratio and m.name == baseline
            cells.append(Cell(text="1 (the baseline)" if is_base else ""))
        elif len(units) > 1:
            cells.append(Cell(text=with_unit(figure)))
        else:
            cells.append(Cell(text=value_of(figure), interval=interval_of(figure)))
    return title, cells


def markdown_table(table: Table) -> list[str]:
    """A table as lines of Markdown, with its title and what does not vary above it."""
    lines = [f"### {escaped(table.title)}", ""] if table.title else []
    if table.constant:
        lines += [escaped(table.constant) + ":", ""]
    sides = ["---:" if number else "---" for number in table.numbers]
    headings = " | ".join(map(escaped, table.headings))
    lines += [f"| {headings} |", "|" + "|".join(sides) + "|"]
    return lines + [f"| {' | '.join(escaped(str(cell)) for cell in row)} |" for row in table.rows]


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, in one line; also inside a table."""
    text = re.sub(r"([\\`*\[\]<>|&~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", text)
    return " ".join(text.split())


def _number(figure: Figure, value: float) -> str:
    """A value or an end of a figure, with three digits of the value, and more where the interval is
    so narrow that both ends would read alike.
    """
    scale = 100 if figure.unit == "share" else 1
    decimals = 0
    if figure.unit not in ("1", "MiB") or not float(figure.value).is_integer():
        width = 0.0
        if figure.low is not None and figure.high is not None:
            width = (figure.high - figure.low) * scale
        size = max(abs(figure.value) * scale, width)
        decimals = min(max(2 - (math.floor(math.log10(size)) if size else 0), 0), 6)
        if width > 0:
            decimals = max(decimals, min(-math.floor(math.log10(width)), decimals + 2))
    return f"{round(value * scale, decimals) + 0.0:,.{decimals}f}"


def value_of(figure: Figure) -> str:
    """The value alone, without its unit: 12,346 or 0.432; a share in percent."""
    return _number(figure, figure.value)


def interval_of(figure: Figure) -> str:
    """``12.1 to 12.9``, or which end there is; empty where there is none."""
    low, high = (None if end is None else _number(figure, end) for end in (figure.low, figure.high))
    if low is not None and high is not None:
        return f"{low} to {high}"
    if low is not None:
        return f"at least {low}"
    return "" if high is None else f"at most {high}"


def unit_of(figure: Figure) -> str:
    """The unit behind a value: ms, /s, %, x."""
    return _UNITS.get(figure.unit, figure.unit)


def with_unit(figure: Figure) -> str:
    """``12.3 ms (12.1 to 12.9)``."""
    unit, interval = unit_of(figure), interval_of(figure)
    space = "" if unit in ("/s", "x", "") else " "
    return f"{value_of(figure)}{space}{unit}" + (f" ({interval})" if interval else "")


def duration(milliseconds: float) -> str:
    """``22.35 s`` from a second on, else ``45.3 ms``."""
    seconds = milliseconds >= 1000
    figure = Figure(value=milliseconds / 1000 if seconds else milliseconds, unit="s")
    return f"{value_of(figure)} {'s' if seconds else 'ms'}"


def figure_title(name: str) -> str:
    """A figure's name for people, without its unit."""
    return FIGURE_TITLES.get(name, name.replace("_", " "))


def load_title(key: str) -> str:
    """A load's key for people."""
    return LOAD_TITLES.get(key, key.replace("_", " "))


def load_value(key: str, value: object) -> str:
    """A load's value where its key stands above it: ``4``, ``Poisson``, ``gRPC``."""
    return _WORDS.get((key, str(value)), text_of(value)).removesuffix(" arrivals")


def load_words(key: str, value: object) -> str:
    """A load's value without its key beside it: ``4 in flight``, ``Poisson arrivals``."""
    if (key, str(value)) in _WORDS:
        return _WORDS[key, str(value)]
    if isinstance(value, str):
        return value if key in ("mode", "scenario", "transport") else f"{load_title(key)} {value}"
    if key == "in_flight":
        return f"{text_of(value)} in flight"
    return f"{text_of(value)}/s planned" if key == "rate" else f"{load_title(key)} {text_of(value)}"


def load_text(load: Mapping[str, object], leave_out: Sequence[str] = ()) -> str:
    """A whole load in words, with commas."""
    return ", ".join(load_words(k, v) for k, v in load.items() if k not in leave_out)


def title_of(measurement: Measurement, leave_out: Sequence[str] = ()) -> str:
    """A measurement and its load: ``closed loop (4 in flight, gRPC)``."""
    mode = load_text({"mode": measurement.load.get("mode", "")})
    said = [*leave_out, *(["mode"] if mode == measurement.name else [])]
    load = load_text(measurement.load, said)
    return f"{measurement.name} ({load})" if load else measurement.name


def varying(measurements: Sequence[Measurement]) -> list[str]:
    """The load's keys whose values are not the same in all measurements, in their order."""
    keys = list(dict.fromkeys(key for m in measurements for key in m.load))
    values = {key: [m.load.get(key) for m in measurements] for key in keys}
    # True is not 1 here.
    return [k for k, found in values.items() if len({(isinstance(v, bool), v) for v in found}) > 1]


def text_of(value: object) -> str:
    """A value of a subject, setting or load as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(text_of, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {text_of(v)}" for k, v in value.items())
    return str(value)


def size_of(report: Report) -> str:
    """``2048x1024``; empty where the report has no size."""
    width, height = report.subject.get("width"), report.subject.get("height")
    return f"{width}x{height}" if width and height else ""


def gpus_of(report: Report) -> list[str]:
    """Names of the GPUs of the machine."""
    details = report.environment.get("gpu_details") or []
    return [str(g.get("name", "GPU")) for g in details] or list(
        map(str, report.environment.get("gpus") or [])
    )


def hardware_of(report: Report) -> str:
    """``NVIDIA H100 80GB HBM3``, else ``2 cores of AMD EPYC``."""
    gpus, machine = gpus_of(report), report.environment
    if gpus:
        return gpus[0] if len(gpus) == 1 else f"{len(gpus)} GPUs, {gpus[0]}"
    return f"{machine.get('cores', '?')} cores of {machine.get('cpu', 'an unknown CPU')}"


def shortened(key: str, value: object) -> str:
    """A subject's value, hashes at twelve digits."""
    hashed = "sha256" in key or re.fullmatch("[0-9a-f]{32,}", str(value))
    return str(value)[:_HASH_DIGITS] if hashed else text_of(value)


def subject_line(report: Report) -> str:
    """Size, parameters, weights, hashes shortened, and what else the report says of its subject."""
    subject = {k: v for k, v in report.subject.items() if v not in (None, "", [], {})}
    said = [size_of(report)] if size_of(report) else []
    parameters = subject.pop("parameters", None)
    if isinstance(parameters, int | float):
        said.append(f"{parameters / 1e6:.1f} M parameters")
    elif parameters is not None:
        said.append(f"parameters {text_of(parameters)}")
    if said and said[0] == size_of(report):
        subject = {k: v for k, v in subject.items() if k not in ("width", "height")}
    said += [
        f"{key.removesuffix('_sha256').replace('_', ' ')} {shortened(key, value)}"
        for key, value in subject.items()
    ]
    return ", ".join(said)


def machine_line(report: Report) -> str:
    """Cores, CPU, its flags, memory, GPUs, governor, clocks and load before and after."""
    machine = report.environment
    flags = " ".join(machine.get("cpu_flags") or [])
    before, after = machine.get("before") or {}, machine.get("after") or {}
    details, later = machine.get("gpu_details") or [], after.get("gpus") or []
    later = later if len(later) == len(details) else [{}] * len(details)
    clocks = []
    for moment in (before, after):
        found = moment.get("clocks_mhz") or []
        low, high = (round(min(found)), round(max(found))) if found else (0, 0)
        range_ = f"{low} MHz" if low == high else f"{low} to {high} MHz"
        clocks.append(range_ if found else "not said")
    said = [
        f"{machine.get('cores', '?')} cores of {machine.get('cpu', 'an unknown CPU')}"
        + (f" ({flags})" if flags else ""),
        f"{machine.get('memory_gib', '?')} GiB",
        *(_gpu(gpu, then) for gpu, then in zip(details, later, strict=True)),
        *([] if details else gpus_of(report) or ["no GPU"]),
        str(machine.get("system", "an unknown system")),
        f"governor {machine.get('governor') or 'not said'}",
        f"clocks {clocks[0]} before and {clocks[1]} after",
        f"load average {before.get('load_average', '?')} before and "
        f"{after.get('load_average', '?')} after",
    ]
    return "; ".join(said)


def _gpu(details: Mapping[str, Any], later: Mapping[str, Any]) -> str:
    """A GPU as it was before the run and, where that is known and differs, after it."""
    before, after = (
        {
            key: f"{value} °C" if key == "temperature.gpu" else str(value)
            for key, value in moment.items()
            if value and "N/A" not in str(value)
        }
        for moment in (details, later)
    )
    said = []
    for key, words in _GPU_WORDS.items():
        if key in before:
            moved = after.get(key, before[key]) != before[key]
            said.append(f"{words} {before[key]}" + f" before and {after.get(key)} after" * moved)
    name = before.get("name", "GPU")
    return f"{name} ({', '.join(said)})" if said else name


def versions_line(report: Report) -> str:
    """Python's and the packages' versions."""
    versions = report.environment.get("versions") or {}
    python = report.environment.get("python")
    said = [f"Python {python}"] if python else []
    return ", ".join([*said, *(f"{name} {version}" for name, version in versions.items())])
