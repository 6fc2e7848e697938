"""The form of every benchmark's result: one JSON document, checked when it is read.

A report holds measurements. A measurement is one thing under one load (an engine, a rate, a number
of requests in flight) with figures; a figure is a value and its interval.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from annotated_types import Ge, Interval, MinLen
from pydantic import StringConstraints
from pydantic_core import core_schema
from typing_extensions import NotRequired, TypedDict

from sceneloom.errors import InputError
from sceneloom.files import write_whole
from sceneloom.text import parse_json, reason
from sceneloom.validation import checked, read_json

SCHEMA = "sceneloom-bench/1"
MAX_BYTES = 64 << 20
"""A larger file is not read: reports keep histograms in place of many samples."""
MAX_NUMBER = 1e30
"""Largest absolute value of a number: a larger one overflows in text."""
_MAX_DEPTH = 50
_ALWAYS = {
    "report": ("baseline", "marks", "extra", "date"),
    "measurement": ("load", "samples", "marks", "extra"),
    "figure": ("better", "low", "high"),
}
"""Keys of every report. A new field with a default is not listed: older reports stay readable."""
Kind = Literal["engine", "server", "mlperf", "render", "perf-analyzer"]
"""The benchmark; perf-analyzer occurs in reports of former versions only."""
Better = Literal["lower", "higher", "neither"]
Unit = Literal["ms", "s", "1/s", "MiB", "GFLOP", "TFLOP/s", "GB/s", "x", "share", "1"]
"""``x`` for ratios, ``share`` from 0 to 1, ``1`` for counts."""
Sentence = Annotated[str, MinLen(1)]
Hash = Annotated[str, StringConstraints(pattern="^([0-9a-f]{12,64})?$")]
NotNegative = Annotated[float, Ge(0)]


def _form(kind: type) -> Any:
    """Check a mapping as a `TypedDict` and keep it, with the order of its keys, as it is."""

    def check(value: Any, checked: Callable[[Any], object]) -> Any:
        checked(value)
        return value

    return pydantic.GetPydanticSchema(
        lambda _, handler: core_schema.no_info_wrap_validator_function(
            check, handler.generate_schema(kind)
        )
    )


class Subject(TypedDict, total=False):
    """Known keys of `Report.subject`."""

    __pydantic_config__ = pydantic.ConfigDict(strict=True, extra="allow")  # type: ignore[misc]
    height: Annotated[int, Ge(1)] | None
    width: Annotated[int, Ge(1)] | None
    parameters: Annotated[int, Ge(0)] | None
    device: str | None
    weights: str | None
    bundle_sha256: Hash | None
    inputs_sha256: Hash | None


class Moment(TypedDict):
    """State of the machine before or after a run."""

    load_average: NotNegative
    clocks_mhz: list[NotNegative]
    gpus: NotRequired[list[dict[str, str]]]


class Machine(TypedDict):
    """`Report.environment`."""

    cpu: str
    cpu_flags: list[str]
    cores: Annotated[int, Ge(1)]
    memory_gib: NotNegative
    gpus: list[str]
    gpu_details: list[dict[str, str]]
    system: str
    python: str
    versions: dict[str, str]
    governor: str | None
    busy_before: NotNegative
    before: Moment
    after: Moment
    seconds: NotNegative


class Extra(TypedDict, total=False):
    """Known keys of `Measurement.extra`."""

    __pydantic_config__ = pydantic.ConfigDict(strict=True, extra="allow")  # type: ignore[misc]
    percentiles: list[
        Annotated[
            tuple[
                Annotated[float, Interval(ge=0, le=100)],
                Annotated[float, Interval(gt=0, le=MAX_NUMBER)],
            ],
            pydantic.Strict(False),
        ]
    ]
    """Pairs of percent and milliseconds."""


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured number and the interval in which it lies with 95 % confidence."""

    value: float
    unit: Unit
    better: Better = "neither"
    """Direction of a better value; ``neither`` is not judged."""
    low: float | None = None
    """Lower end of the interval; None if too little was measured."""
    high: float | None = None
    """Upper end; None if too little was measured, as for a p99 of few values."""

    def __post_init__(self) -> None:
        low = self.value if self.low is None else self.low
        high = self.value if self.high is None else self.high
        if not low <= self.value <= high:
            raise ValueError(f"its interval, {low:g} to {high:g}, does not hold {self.value:g}")


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """One thing under one load."""

    name: Sentence
    """First column of a table; with `load`, unique in its report."""
    load: Mapping[str, str | int | float | bool] = dataclasses.field(default_factory=dict)
    """``mode`` (closed, open, ...), ``in_flight``, ``rate`` (planned, 1/s), ``arrivals``,
    ``transport``, ``batch``, ``scenario``; empty if the report has one load only.
    """
    figures: Mapping[Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9_]*$")], Figure]
    """By name, equal in all reports: p50, p90, p99, max, rate (pictures per second), ..."""
    samples: Sequence[Sequence[float]] = ()
    """Seconds behind the figures, by block or round; empty if a histogram holds them."""
    marks: Sequence[Sentence] = ()
    """Warnings for the reader: not served, below the rules' minimum, refused."""
    extra: Annotated[Mapping[str, Any], _form(Extra)] = dataclasses.field(default_factory=dict)
    """Other results of the benchmark, not compared."""

    def __post_init__(self) -> None:
        for key in ("in_flight", "batch", "rate"):
            number = self.load.get(key, 1)
            if isinstance(number, bool | str) or number <= 0 or (key != "rate" and number < 1):
                raise ValueError(f"{key} of its load is {number}, not a number of requests")


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """A whole run of one benchmark."""

    schema: Annotated[str, StringConstraints(pattern=f"^{SCHEMA}$")] = SCHEMA
    kind: Kind
    title: Sentence
    """One line, with the size."""
    subject: Annotated[Mapping[str, Any], _form(Subject)]
    """height, width, parameters, weights, bundle_sha256, engine, inputs_sha256."""
    settings: Mapping[str, Any]
    """The resolved settings under their flags' names, without folders."""
    environment: Annotated[Mapping[str, Any], _form(Machine)]
    """From `environment.Environment`."""
    measurements: Sequence[Measurement]
    baseline: str | None = None
    """The measurement that ``times_faster`` refers to."""
    marks: Sequence[Sentence] = ()
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    date: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")] = (
        dataclasses.field(
            default_factory=lambda: datetime.datetime.now(datetime.timezone.utc).isoformat(
                "T", "seconds"
            )
        )
    )
    """Date of writing, UTC."""

    def to_json(self) -> dict[str, Any]:
        """The document."""
        return dataclasses.asdict(self)

    def named(self, name: str, **load: str | int | float | bool) -> Measurement:
        """The only measurement of a name whose load contains `load`; KeyError otherwise."""
        found = [
            m for m in self.measurements if m.name == name and load.items() <= dict(m.load).items()
        ]
        if len(found) != 1:
            raise KeyError(f"{len(found)} measurements {name!r} with {load}")
        return found[0]


def write_report(report: Report, folder: Path, stem: str) -> Path:
    """Write FOLDER/STEM.json, whole or not at all, and return its path."""
    path = folder / f"{stem}.json"
    text = json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n"
    write_whole(path, text.encode())
    return path


def read_report(path: Path) -> Report:
    """Read a report; raises InputError if the file is missing or is not a whole report."""
    document = read_document(path)
    said = document.get("schema") if isinstance(document, dict) else None
    if said != SCHEMA:
        raise InputError(f"{path}: not a report of {SCHEMA} (its schema is {said!r})")
    source = f"{path}: not a whole report of {SCHEMA}"
    for fault in _unfit(document, ""):
        raise InputError(f"{source}: {fault}")
    report = read_json(Report, json.dumps(document), source=source)
    for place in _missing(document):
        raise InputError(f"{source}: {place} is missing")
    return report


def read_document(path: Path) -> Any:
    """Parse a JSON file; raises InputError if it is missing, broken or above `MAX_BYTES`."""

    def refuse(name: str) -> float:
        raise ValueError(f"{name} is not a number of JSON")

    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {reason(error)}") from None
    if len(text) > MAX_BYTES:
        raise InputError(f"{path}: larger than {MAX_BYTES >> 20} MiB, the most of a report")
    try:
        return parse_json(text.decode("utf-8"), parse_constant=refuse)
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from None


def _unfit(value: Any, place: str, depth: int = 0) -> Iterator[str]:
    """Faults that no type describes: too large numbers, control characters, too deep lists."""
    if depth > _MAX_DEPTH:
        yield f"lists are nested more than {_MAX_DEPTH} deep"
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _unfit(key, f"a key of {place or 'the document'}")
            yield from _unfit(part, f"{place}.{key}" if place else key, depth + 1)
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _unfit(part, f"{place}[{number}]", depth + 1)
    elif isinstance(value, int | float) and not abs(value) <= MAX_NUMBER:
        yield f"{place} is larger than {MAX_NUMBER:g}"
    elif isinstance(value, str) and any(
        c not in "\n\r\t" and unicodedata.category(c) in ("Cc", "Cs") for c in value
    ):
        yield f"{place} has control characters: {ascii(value)[:80]}"


def _missing(document: Any) -> Iterator[str]:
    """Places of `_ALWAYS` keys that a document of the right types lacks."""
    parts = [("", "report", document)]
    for number, m in enumerate(document["measurements"]):
        place = f"measurements[{number}]."
        parts.append((place, "measurement", m))
        parts += [(f"{place}figures.{k}.", "figure", v) for k, v in m["figures"].items()]
    for place, kind, part in parts:
        yield from (f"{place}{key}" for key in _ALWAYS[kind] if key not in part)


def flags_of(settings: Any) -> dict[str, Any]:
    """A settings dataclass as JSON for `Report.settings`; paths without their folders."""
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
