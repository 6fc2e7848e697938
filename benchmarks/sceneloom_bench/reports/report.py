"""The one form of every benchmark's result: a JSON document, `schema.json` beside this file.

A report holds measurements; a measurement is one thing under one load (an engine, a rate, a number
of requests in flight) with figures; a figure is a value and the interval in which it lies. Nothing
else is compared or drawn, so every benchmark can be compared and drawn alike.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from sceneloom.errors import InputError
from sceneloom.extras import require
from sceneloom.json_text import parse_json
from sceneloom.rendering.writing.parts import write_whole
from sceneloom.text import one_line

SCHEMA = "sceneloom-bench/1"
SCHEMA_FILE = Path(__file__).with_name("schema.json")
MOST_BYTES = 64 << 20
"""A file above it is not read: reports keep histograms in place of many samples."""
LARGEST = 1e30
"""No number of a report is further from 0: its text would overflow."""
_DEEPEST = 50
_LONGEST = 200
Kind = Literal["engine", "server", "mlperf", "render", "perf-analyzer"]
"""Which benchmark; perf-analyzer is of reports of former versions."""
Better = Literal["lower", "higher", "neither"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured number and the interval in which it lies with 95 % confidence."""

    value: float
    """In `unit`; milliseconds, per second, MiB, or a ratio."""
    unit: str
    """``ms``, ``s``, ``1/s``, ``MiB``, ``GFLOP``, ``TFLOP/s``, ``GB/s``, ``x`` for ratios,
    ``share`` from 0 to 1, or ``1`` for counts.
    """
    better: Better = "neither"
    """Whether less or more of it is better; neither is not judged."""
    low: float | None = None
    """Lower end of the interval; None where too little was measured for one."""
    high: float | None = None
    """Upper end; None likewise: a p99 of a few values has no upper end."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """One thing under one load."""

    name: str
    """For a table's first column; with `load`, unique in its report."""
    load: Mapping[str, str | int | float | bool] = dataclasses.field(default_factory=dict)
    """``mode`` (closed, open, ...), ``in_flight``, ``rate``, ``arrivals``, ``transport``,
    ``batch``; empty where there is one load only.
    """
    figures: Mapping[str, Figure]
    """Names are the same in all reports: p50, p90, p99, max, rate (pictures per second),
    peak_memory, and others of a benchmark.
    """
    samples: Sequence[Sequence[float]] = ()
    """The single values behind the figures, in seconds, by block or round; empty where a histogram
    or a foreign tool holds them.
    """
    marks: Sequence[str] = ()
    """Sentences that a reader must know: not served, below the rules' minimum, refused."""
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Anything else of this benchmark, kept and not compared."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """A whole run of one benchmark."""

    kind: Kind
    title: str
    """One line, with the size."""
    subject: Mapping[str, Any]
    """height, width, parameters, weights, bundle_sha256, engine, inputs_sha256."""
    settings: Mapping[str, Any]
    """The resolved settings, as flags name them; no path of a machine."""
    environment: Mapping[str, Any]
    """From `environment.Environment`: machine, versions, clocks, load before and after."""
    measurements: Sequence[Measurement]
    baseline: str | None = None
    """The measurement that ratios named ``times_faster`` are of, where there is one."""
    marks: Sequence[str] = ()
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    date: str = dataclasses.field(
        default_factory=lambda: datetime.datetime.now(datetime.timezone.utc).isoformat(
            "T", "seconds"
        )
    )
    """When it was written, UTC."""

    def to_json(self) -> dict[str, Any]:
        """The document, as `schema.json` describes it."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    def named(self, name: str, **load: str | int | float | bool) -> Measurement:
        """The one measurement of a name whose load holds `load`; KeyError if it is not one."""
        found = [
            m for m in self.measurements if m.name == name and load.items() <= dict(m.load).items()
        ]
        if len(found) != 1:
            raise KeyError(f"{len(found)} measurements {name!r} with {load}")
        return found[0]


def write_report(report: Report, folder: Path, stem: str) -> Path:
    """Write FOLDER/STEM.json, whole or not at all; its path."""
    path = folder / f"{stem}.json"
    text = json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n"
    write_whole(path, text.encode())
    return path


def read_report(path: Path) -> Report:
    """Read a report.

    Raises:
        InputError: the file is not there, or is no report of this form; the text says why.
        MissingDependencyError: jsonschema is not installed.
    """
    document = read_document(path)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        said = document.get("schema") if isinstance(document, dict) else None
        raise InputError(f"{path}: not a report of {SCHEMA} (its schema is {said!r})")
    try:
        _check_form(document)
        measurements = [
            Measurement(**{**m, "figures": _read_figures(m["figures"])})
            for m in document["measurements"]
        ]
    except ValueError as error:
        raise InputError(f"{path}: not a whole report of {SCHEMA}: {error}") from None
    fields = {k: v for k, v in document.items() if k != "schema"}
    return Report(**{**fields, "measurements": measurements})


def read_document(path: Path) -> Any:
    """Read a JSON file of the size that reports have.

    Raises:
        InputError: it is not there, is no JSON, or is larger than any report.
    """

    def refuse(name: str) -> float:
        raise ValueError(f"{name} is no number of JSON")

    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    if len(text) > MOST_BYTES:
        raise InputError(f"{path}: larger than {MOST_BYTES >> 20} MiB, which no report is")
    try:
        return parse_json(text.decode("utf-8"), parse_constant=refuse)
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from None


def _read_figures(document: Mapping[str, Any]) -> dict[str, Figure]:
    figures = {name: Figure(**one) for name, one in document.items()}
    for name, figure in figures.items():
        low = figure.value if figure.low is None else figure.low
        high = figure.value if figure.high is None else figure.high
        if not low <= figure.value <= high:
            raise ValueError(
                f"{name}'s interval, {low:g} to {high:g}, does not hold {figure.value:g}"
            )
    return figures


def _check_form(document: Any) -> None:
    """Raise ValueError with a fault of a document and its place."""
    require(["jsonschema"], extra="bench", purpose="reading a report")
    from jsonschema.exceptions import best_match

    wrong = next(_unfit(document, ""), None)
    if wrong is not None:
        raise ValueError(wrong)
    error = best_match(_validator().iter_errors(document))
    if error is not None:
        said = one_line(error.message, most=_LONGEST)
        place = error.json_path.removeprefix("$").removeprefix(".")
        raise ValueError(f"{place}: {said}" if place else said)


@functools.cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(SCHEMA_FILE.read_text("utf-8")))


def _unfit(value: Any, place: str, depth: int = 0) -> Iterator[str]:
    """Faults that no schema describes: numbers that cannot be measured, texts that cannot be shown
    (surrogates, commands to a terminal), and lists too deep to read.
    """
    if depth > _DEEPEST:
        yield "it has lists in lists, deeper than any report"
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _unfit(key, f"a key of {place or 'it'}")
            yield from _unfit(part, f"{place}.{key}" if place else key, depth + 1)
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _unfit(part, f"{place}[{number}]", depth + 1)
    elif isinstance(value, int | float) and not abs(value) <= LARGEST:
        yield f"{place} is too large a number, or none"
    elif isinstance(value, str) and any(
        c not in "\n\r\t" and unicodedata.category(c) in ("Cc", "Cs") for c in value
    ):
        yield f"{place} has characters that cannot be shown: {ascii(value)[:80]}"


def flags_of(settings: Any) -> dict[str, Any]:
    """A settings dataclass as JSON for `Report.settings`; paths lose their folders, so that no
    report names a place of a machine.
    """
    flags: dict[str, Any] = _plain(dataclasses.asdict(settings))
    return flags


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.name
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def say(text: str) -> None:
    """Progress, for people: to standard error; standard output is for results."""
    print(text, file=sys.stderr, flush=True)
