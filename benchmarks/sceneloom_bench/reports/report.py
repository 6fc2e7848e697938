"""The one form of every benchmark's result: a JSON document, `schema.json` beside this file.

A report holds measurements; a measurement is one thing under one load (an engine, a rate, a number
of requests in flight) with figures; a figure is a value and the interval in which it lies. Nothing
else is compared or drawn, so every benchmark can be compared and drawn alike.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from sceneloom.errors import InputError
from sceneloom.text import parse_json
from sceneloom_bench.reports.form import check_form

SCHEMA = "sceneloom-bench/1"
MOST_BYTES = 64 << 20
"""A file above it is not read: reports keep histograms in place of many samples."""
Kind = Literal["engine", "server", "mlperf", "render", "perf-analyzer"]
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
    """Whether less or more of it is better; what is neither is not judged."""
    low: float | None = None
    """Lower end of the interval; None where too little was measured for one."""
    high: float | None = None
    """Upper end; None likewise: a p99 of a few values has no upper end."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """One thing under one load."""

    name: str
    """What was measured, for a table's first column; with `load`, unique in its report."""
    load: Mapping[str, str | int | float | bool] = dataclasses.field(default_factory=dict)
    """Under what: ``mode`` (closed, open, ...), ``in_flight``, ``rate``, ``arrivals``,
    ``transport``, ``batch``; empty where there is one load only.
    """
    figures: Mapping[str, Figure]
    """Name -> figure; names are the same in all reports: p50, p90, p99, max, rate (pictures per
    second), peak_memory, and what a benchmark adds.
    """
    samples: Sequence[Sequence[float]] = ()
    """The single values behind the figures, in seconds, by block or round; empty where a histogram
    or a foreign tool holds them.
    """
    marks: Sequence[str] = ()
    """What a reader must know, each a sentence: not served, below the rules' minimum, refused."""
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Anything else of this benchmark, kept and not compared."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """A whole run of one benchmark."""

    kind: Kind
    """Which benchmark."""
    title: str
    """One line that says what was measured at what size."""
    subject: Mapping[str, Any]
    """What ran: height, width, parameters, weights, bundle_sha256, engine, inputs_sha256."""
    settings: Mapping[str, Any]
    """The resolved settings, as flags name them; no path of a machine."""
    environment: Mapping[str, Any]
    """From `environment.Environment`: machine, versions, clocks, load before and after."""
    measurements: Sequence[Measurement]
    """In the order of the table."""
    baseline: str | None = None
    """The measurement that ratios named ``times_faster`` are of, where there is one."""
    marks: Sequence[str] = ()
    """What a reader must know of the whole run, each a sentence."""
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Anything else of this benchmark."""
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
        """The measurement of a name whose load holds what is given.

        Raises:
            KeyError: none or several are so.
        """
        found = [
            m for m in self.measurements if m.name == name and load.items() <= dict(m.load).items()
        ]
        if len(found) != 1:
            raise KeyError(f"{len(found)} measurements {name!r} with {load}")
        return found[0]


def write_report(report: Report, folder: Path, stem: str) -> Path:
    """Write FOLDER/STEM.json, whole or not at all; its path.

    Args:
        report: what was measured.
        folder: made where it is missing.
        stem: the file's name without its ending.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}.json"
    part = path.with_suffix(".json.part")
    part.write_text(json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n", "utf-8")
    part.replace(path)
    return path


def read_report(path: Path) -> Report:
    """Read a report.

    Raises:
        InputError: the file is not there, or is no report of this form; the text says why.
    """
    document = read_document(path)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        said = document.get("schema") if isinstance(document, dict) else None
        raise InputError(f"{path}: not a report of {SCHEMA} (its schema is {said!r})")
    try:
        check_form(document)
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
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    if len(text) > MOST_BYTES:
        raise InputError(f"{path}: larger than {MOST_BYTES >> 20} MiB, which no report is")
    try:
        return parse_json(text.decode("utf-8"), parse_constant=_refuse_constant)
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


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def flags_of(settings: Any) -> dict[str, Any]:
    """A settings dataclass as JSON for `Report.settings`: paths lose their folders, so that no
    report names a place of somebody's machine.
    """
    return {k: _plain(v) for k, v in dataclasses.asdict(settings).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.name
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def say(text: str) -> None:
    """Progress of a benchmark, for people: to standard error; standard output is for results."""
    print(text, file=sys.stderr, flush=True)
