"""schema.json describes what is written, and refuses what is not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from bench_reports import GPU, all_reports, engine_report, report_of

from sceneloom_bench.reports.environment import Environment
from sceneloom_bench.reports.report import (
    SCHEMA_FILE,
    Figure,
    Measurement,
    Report,
    read_report,
    write_report,
)

jsonschema = pytest.importorskip("jsonschema")


@pytest.fixture(scope="module")
def schema() -> Any:
    document = json.loads(SCHEMA_FILE.read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(document)


@pytest.mark.parametrize("report", all_reports().values(), ids=lambda r: r.kind)
def test_reports_of_every_kind_are_described(schema: Any, report: Report, tmp_path: Path) -> None:
    path = write_report(report, tmp_path, report.kind)
    schema.validate(json.loads(path.read_text("utf-8")))
    assert read_report(path).to_json() == json.loads(path.read_text("utf-8"))


def test_this_machine_is_described(schema: Any) -> None:
    with Environment() as environment:
        pass
    report = report_of("render", "t", [], environment=environment.to_json())
    schema.validate(json.loads(json.dumps(report.to_json())))
    schema.validate(json.loads(json.dumps(engine_report(environment=GPU).to_json())))


@pytest.mark.parametrize("form", [Report, Measurement, Figure])
def test_every_field_of_the_code_is_described(form: type) -> None:
    document = json.loads(SCHEMA_FILE.read_text("utf-8"))
    described = {"Report": document, **{n.capitalize(): d for n, d in document["$defs"].items()}}
    properties = described[form.__name__]["properties"]
    assert set(properties) - {"schema"} == {field.name for field in dataclasses.fields(form)}
    assert set(described[form.__name__]["required"]) == set(properties)
    assert described[form.__name__]["additionalProperties"] is False
    for field in ("kind", "better"):
        if field in properties:
            assert properties[field]["enum"] == list(get_args(get_type_hints(form)[field]))


def first(document: dict[str, Any]) -> dict[str, Any]:
    measurement: dict[str, Any] = document["measurements"][0]
    return measurement


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "another form": lambda d: d.update(schema="sceneloom-bench/2"),
    "another benchmark": lambda d: d.update(kind="gpu"),
    "a key that nobody knows": lambda d: d.update(comment="fast!"),
    "no machine": lambda d: d.update(environment={}),
    "a clock that is no number": lambda d: d["environment"]["before"].update(clocks_mhz=["fast"]),
    "a version that is none": lambda d: d["environment"]["versions"].update(torch=None),
    "a hash that is none": lambda d: d["subject"].update(inputs_sha256="the usual"),
    "a figure without its end": lambda d: first(d)["figures"]["p50"].pop("high"),
    "a unit that nobody knows": lambda d: first(d)["figures"]["p50"].update(unit="fortnight"),
    "a value that is no number": lambda d: first(d)["figures"]["p50"].update(value="12 ms"),
    "a load that is no value": lambda d: first(d)["load"].update(batch=[1, 2]),
    "a batch of none": lambda d: first(d)["load"].update(batch=0),
    "samples without blocks": lambda d: first(d).update(samples=[1.0, 2.0]),
    "a mark that is no sentence": lambda d: first(d).update(marks=[7]),
}


@pytest.mark.parametrize("break_it", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_report_is_refused(schema: Any, break_it: Callable[[Any], object]) -> None:
    document = json.loads(json.dumps(engine_report().to_json()))
    schema.validate(document)
    break_it(document)
    with pytest.raises(jsonschema.ValidationError):
        schema.validate(document)
