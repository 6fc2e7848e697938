"""A report in tables: one description, written as Markdown here and as HTML by page.py; and the
wording of figures, loads, sizes and machines everywhere.

Measurements that share a mode of loading are a table. Its columns are the varying part of the load
and the figures; the constant part of the load stands above it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

from sceneloom_bench.reports.report import Figure, Measurement, Report

BREAKDOWN = ("queue", "compute_input", "compute", "compute_output", "steps", "transfer")
"""Parts of the mean request; in a table of their own, since one table would be too wide."""
BREAKDOWN_TITLE = "where the mean request's time goes"
LEGEND = (
    "In brackets: the interval in which a figure lies with 95 % confidence. `at least`: too little "
    "was measured for an upper end. No brackets: no interval is known."
)
_ORDER = ("times_faster", "overhead", "overhead_ratio", "p50", "p90", "p99", "max", "rate")
"""Ratios first: they hold on other machines, seconds do not."""
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
LOAD_TITLES = {"rate": "planned rate, 1/s", "in_flight": "in flight"}
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
    """A value and its interval."""

    text: str
    interval: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.interval})" if self.interval else self.text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a report."""

    title: str = ""
    """Empty for a report's only table."""
    constant: str = ""
    """The load of all rows."""
    headings: Sequence[str]
    numbers: Sequence[bool]
    """Columns of numbers, aligned right."""
    rows: Sequence[Sequence[Cell]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """A report in words, not yet escaped for Markdown or HTML."""

    title: str
    facts: Sequence[tuple[str, str]]
    """Subject, machine, date: a word and a line each."""
    marks: Sequence[str]
    tables: Sequence[Table]
    row_marks: Sequence[tuple[str, str]]
    left_out: Sequence[tuple[str, str]]
    """Name and reason of each engine without a measurement."""


def describe(report: Report) -> str:
    """A report in Markdown, from a heading of the second level on."""
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
    """A report in words."""
    machine = report.environment
    versions = {"Python": machine["python"], **machine["versions"]}
    facts = [
        ("Measured", _subject_line(report)),
        ("Machine", machine_line(report)),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("Date", f"{report.date}, measured for {duration(1000 * machine['seconds'])}"),
        *(
            (key.replace("_", " ").capitalize(), text_of(value))
            for key, value in report.extra.items()
            if isinstance(value, str | int | float) and key != "not_measured"
        ),
    ]
    having: dict[str, list[Measurement]] = {}
    for measurement in report.measurements:
        for mark in measurement.marks:
            having.setdefault(mark, []).append(measurement)
    keys = set(report.measurements[0].load if report.measurements else ())
    shared = sorted(keys - set(varying(report.measurements)))
    left_out = report.extra.get("cannot_run")
    return Description(
        title=report.title,
        facts=[(name, line) for name, line in facts if line],
        marks=report.marks,
        tables=tables_of(report),
        row_marks=[
            ("; ".join(title_of(m, shared) for m in marked), mark)
            for mark, marked in having.items()
        ],
        left_out=[(k, str(v)) for k, v in left_out.items()] if isinstance(left_out, dict) else [],
    )


def tables_of(report: Report) -> list[Table]:
    """A table per mode of loading, and one for the parts of its mean request."""

    def stands_apart(m: Measurement) -> bool:
        """Open loops of different names answer different questions."""
        open_loop = report.kind == "server" and m.load.get("mode") == "open"
        return open_loop and m.name != load_text({"mode": "open"})

    groups: dict[str, list[Measurement]] = {}
    for m in report.measurements:
        words = load_text({key: m.load[key] for key in _GROUPS if key in m.load})
        groups.setdefault(f"{words}: {m.name}" if stands_apart(m) else words, []).append(m)
    titled = len(groups) > 1 or report.kind in ("server", "mlperf")
    tables = []
    for group, measurements in groups.items():
        title = group[:1].upper() + group[1:] if titled else ""
        names = list(dict.fromkeys(name for m in measurements for name in m.figures))
        last = [name for name in names if name == "peak_memory"]
        middle = [name for name in names if name not in (*_ORDER, *last, *BREAKDOWN)]
        main = [*(name for name in _ORDER if name in names), *middle, *last]
        parts = [name for name in BREAKDOWN if name in names]
        if main or not parts:
            tables.append(_table(measurements, main, title, report.baseline))
        if parts and not any(map(stands_apart, measurements)):
            having = [m for m in measurements if set(parts) & set(m.figures)]
            own = f"{title}: {BREAKDOWN_TITLE}" if title else BREAKDOWN_TITLE.capitalize()
            tables.append(_table(having, parts, own, report.baseline))
    return tables


def _table(
    measurements: Sequence[Measurement], names: Sequence[str], title: str, baseline: str | None
) -> Table:
    keys = [key for key in varying(measurements) if key not in _GROUPS]
    keys.sort(key=lambda k: _LOAD_ORDER.index(k) if k in _LOAD_ORDER else -1)
    all_names = {m.name for m in measurements}
    in_title = all(name.lower() in title.lower() for name in all_names)
    named = len(all_names) > 1 or (not keys and not in_title)
    constant = load_text(measurements[0].load, (*varying(measurements), *_GROUPS))
    columns = [_column(measurements, name, baseline) for name in names]
    rows = []
    for number, m in enumerate(measurements):
        row = [Cell(text=m.name)] if named else []
        row += [Cell(text=load_value(k, m.load[k]) if k in m.load else "") for k in keys]
        rows.append([*row, *(cells[number] for _, cells in columns)])
    first = ["measured"] if named else []
    return Table(
        title=title,
        constant=", ".join([*([] if named or in_title else all_names), *filter(None, [constant])]),
        headings=[
            *first,
            *(LOAD_TITLES.get(key, key.replace("_", " ")) for key in keys),
            *(heading for heading, _ in columns),
        ],
        numbers=[
            *(False for _ in first),
            *(not any(isinstance(m.load.get(key), str) for m in measurements) for key in keys),
            *(True for _ in names),
        ],
        rows=rows,
    )


def _column(
    measurements: Sequence[Measurement], name: str, baseline: str | None
) -> tuple[str, list[Cell]]:
    """Heading and cells of a figure; the unit stands in the heading if all cells share it."""
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
    """A table as lines of Markdown, below its title and its constant load."""
    lines = [f"### {escaped(table.title)}", ""] if table.title else []
    if table.constant:
        lines += [escaped(table.constant) + ":", ""]
    sides = ["---:" if number else "---" for number in table.numbers]
    headings = " | ".join(map(escaped, table.headings))
    lines += [f"| {headings} |", "|" + "|".join(sides) + "|"]
    return lines + [f"| {' | '.join(escaped(str(cell)) for cell in row)} |" for row in table.rows]


def escaped(text: str) -> str:
    """Literal text for Markdown, in one line, also inside a table."""
    text = re.sub(r"([\\`*\[\]<>|&~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", text)
    return " ".join(text.split())


def _number(figure: Figure, value: float) -> str:
    """A value or an end of a figure: three digits, and more if the interval is narrower."""
    scale = 100 if figure.unit == "share" else 1
    decimals = 0
    if figure.unit not in ("1", "MiB") or not figure.value.is_integer():
        width = 0.0
        if figure.low is not None and figure.high is not None:
            width = (figure.high - figure.low) * scale
        size = max(abs(figure.value) * scale, width)
        decimals = min(max(2 - (math.floor(math.log10(size)) if size else 0), 0), 6)
        if width > 0:
            decimals = max(decimals, min(-math.floor(math.log10(width)), decimals + 2))
    return f"{round(value * scale, decimals) + 0.0:,.{decimals}f}"


def value_of(figure: Figure) -> str:
    """The value without its unit: 12,346 or 0.432; a share in percent."""
    return _number(figure, figure.value)


def interval_of(figure: Figure) -> str:
    """``12.1 to 12.9``, ``at least 12.1``, ``at most 12.9``, or empty."""
    low, high = (None if end is None else _number(figure, end) for end in (figure.low, figure.high))
    if low is not None and high is not None:
        return f"{low} to {high}"
    if low is not None:
        return f"at least {low}"
    return "" if high is None else f"at most {high}"


def unit_of(figure: Figure) -> str:
    """The unit after a value: ms, /s, %, x."""
    return _UNITS.get(figure.unit, figure.unit)


def with_unit(figure: Figure) -> str:
    """``12.3 ms (12.1 to 12.9)``."""
    unit = unit_of(figure)
    space = "" if unit in ("/s", "x", "") else " "
    return str(Cell(text=f"{value_of(figure)}{space}{unit}", interval=interval_of(figure)))


def duration(milliseconds: float) -> str:
    """``22.35 s`` from a second on, else ``45.3 ms``."""
    if milliseconds >= 1000:
        return with_unit(Figure(value=milliseconds / 1000, unit="s"))
    return with_unit(Figure(value=milliseconds, unit="ms"))


def figure_title(name: str) -> str:
    """A figure's name for people, without its unit."""
    return FIGURE_TITLES.get(name, name.replace("_", " "))


def load_value(key: str, value: object) -> str:
    """A load's value below the title of its key: ``4``, ``Poisson``, ``gRPC``."""
    return _WORDS.get((key, str(value)), text_of(value)).removesuffix(" arrivals")


def load_text(load: Mapping[str, object], leave_out: Sequence[str] = ()) -> str:
    """A load in words: ``4 in flight, Poisson arrivals``."""
    said = []
    for key, value in load.items():
        if key in leave_out:
            continue
        text = text_of(value)
        if (key, text) in _WORDS:
            said.append(_WORDS[key, text])
        elif key in ("mode", "scenario", "transport"):
            said.append(text)
        elif key in ("in_flight", "rate"):
            said.append(f"{text} in flight" if key == "in_flight" else f"{text}/s planned")
        else:
            said.append(f"{key.replace('_', ' ')} {text}")
    return ", ".join(said)


def title_of(measurement: Measurement, leave_out: Sequence[str] = ()) -> str:
    """A measurement and its load: ``closed loop (4 in flight, gRPC)``."""
    mode = load_text({"mode": measurement.load.get("mode", "")})
    said = [*leave_out, *(["mode"] if mode == measurement.name else [])]
    load = load_text(measurement.load, said)
    return f"{measurement.name} ({load})" if load else measurement.name


def varying(measurements: Sequence[Measurement]) -> list[str]:
    """Keys of the load whose values differ between the measurements, in order."""
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
    """``2048x1024``; empty for a report without a size."""
    width, height = report.subject.get("width"), report.subject.get("height")
    return f"{width}x{height}" if width and height else ""


def gpus_of(report: Report) -> list[str]:
    """Names of the machine's GPUs."""
    machine = report.environment
    return [gpu.get("name", "GPU") for gpu in machine["gpu_details"]] or machine["gpus"]


def hardware_of(report: Report) -> str:
    """``NVIDIA H100 80GB HBM3``, else ``2 cores of AMD EPYC``."""
    gpus, machine = gpus_of(report), report.environment
    if gpus:
        return gpus[0] if len(gpus) == 1 else f"{len(gpus)} GPUs, {gpus[0]}"
    return f"{machine['cores']} cores of {machine['cpu']}"


def shortened(key: str, value: object) -> str:
    """A value of the subject; the first twelve digits of a hash."""
    hashed = "sha256" in key or re.fullmatch("[0-9a-f]{32,}", str(value))
    return str(value)[:_HASH_DIGITS] if hashed else text_of(value)


def _subject_line(report: Report) -> str:
    subject = {k: v for k, v in report.subject.items() if v not in (None, "", [], {})}
    size, parameters = size_of(report), subject.pop("parameters", None)
    said = [size, "" if parameters is None else f"{parameters / 1e6:.1f} M parameters"]
    said += [
        f"{key.removesuffix('_sha256').replace('_', ' ')} {shortened(key, value)}"
        for key, value in subject.items()
        if not (size and key in ("width", "height"))
    ]
    return ", ".join(filter(None, said))


def machine_line(report: Report) -> str:
    """Cores, CPU, memory, GPUs, governor, clocks and load before and after."""
    machine = report.environment
    flags, details = " ".join(machine["cpu_flags"]), machine["gpu_details"]
    before, after = machine["before"], machine["after"]
    later = after.get("gpus") or []
    later = later if len(later) == len(details) else [{}] * len(details)
    clocks = []
    for found in (before["clocks_mhz"], after["clocks_mhz"]):
        low, high = (round(min(found)), round(max(found))) if found else (0, 0)
        range_ = f"{low} MHz" if low == high else f"{low} to {high} MHz"
        clocks.append(range_ if found else "not said")
    said = [
        f"{machine['cores']} cores of {machine['cpu']}" + (f" ({flags})" if flags else ""),
        f"{text_of(machine['memory_gib'])} GiB",
        *(_gpu(gpu, then) for gpu, then in zip(details, later, strict=True)),
        *([] if details else gpus_of(report) or ["no GPU"]),
        machine["system"],
        f"governor {machine['governor'] or 'not said'}",
        f"clocks {clocks[0]} before and {clocks[1]} after",
        f"load average {before['load_average']:g} before and {after['load_average']:g} after",
    ]
    return "; ".join(said)


def _gpu(details: Mapping[str, str], later: Mapping[str, str]) -> str:
    """A GPU before the run, and each value that differs after it."""
    before, after = (
        {
            key: f"{value} °C" if key == "temperature.gpu" else value
            for key, value in moment.items()
            if value and "N/A" not in value
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
