"""A written report is read as it was, and a broken one is refused with its place."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench_reports import GPU, all_reports, engine_report, report_of

from sceneloom.errors import InputError
from sceneloom_bench.reports import report as report_module
from sceneloom_bench.reports.environment import Environment
from sceneloom_bench.reports.page import read_reports
from sceneloom_bench.reports.report import MAX_BYTES, Report, read_report, write_report


@pytest.mark.parametrize("report", all_reports().values(), ids=lambda r: r.kind)
def test_a_report_of_every_kind_is_read_as_it_was(report: Report, tmp_path: Path) -> None:
    path = write_report(report, tmp_path, report.kind)
    assert read_report(path).to_json() == json.loads(path.read_text("utf-8"))


def test_this_machine_is_described(tmp_path: Path) -> None:
    with Environment() as environment:
        pass
    for report in (
        report_of("render", "t", [], environment=environment.to_json()),
        engine_report(environment=GPU),
    ):
        assert read_report(write_report(report, tmp_path, "t")).environment == report.environment


def p50(document: dict[str, Any]) -> dict[str, Any]:
    figure: dict[str, Any] = first(document)["figures"]["p50"]
    return figure


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
    "no title": lambda d: d.update(title=None),
    "a title of nothing": lambda d: d.update(title=""),
    "subjects in a list": lambda d: d.update(subject=[]),
    "a date of another form": lambda d: d.update(date="yesterday"),
    "half a processor": lambda d: d["environment"].update(cores=0.5),
    "a figure's name with capitals": lambda d: first(d)["figures"].update(P50=p50(d)),
    "a percentile without its latency": lambda d: first(d)["extra"].update(percentiles=[[50]]),
    "a percentile beyond all": lambda d: first(d)["extra"].update(percentiles=[[101, 3]]),
    "a latency of nothing": lambda d: first(d)["extra"].update(percentiles=[[50, 0]]),
    "a rate of nothing": lambda d: first(d)["load"].update(rate=0),
    "a report without its marks": lambda d: d.pop("marks"),
    "a number that overflows": lambda d: p50(d).update(value=1e308, low=None, high=None),
    "digits without end": lambda d: d["environment"].update(seconds=10**400),
    "an interval that lies elsewhere": lambda d: p50(d).update(value=3, low=1, high=2),
    "an interval upside down": lambda d: p50(d).update(value=3, low=4, high=2),
    "half a character": lambda d: d.update(title="\ud800"),
    "a command to the terminal": lambda d: d.update(title="\x1b[2Jall gone"),
    "lists in lists": lambda d: d["extra"].update(deep=nested(60)),
}


def test_a_new_field_with_a_default_leaves_old_reports_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_report(engine_report(), tmp_path, "old")
    source = Path(str(report_module.__file__)).read_text("utf-8")
    for field in ('better: Better = "neither"', "marks: Sequence[Sentence] = ()"):
        assert field in source
        source = source.replace(field, f'{field}\n    note: str = "none"')
    (tmp_path / "later_report.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    report = importlib.import_module("later_report").read_report(path)
    for part in (report, report.measurements[0], report.measurements[0].figures["p50"]):
        assert part.note == "none"


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize("break_it", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_report_is_refused(break_it: Callable[[Any], object], tmp_path: Path) -> None:
    document = json.loads(json.dumps(engine_report().to_json()))
    break_it(document)
    refuse(document, tmp_path)


def refuse(document: Any, folder: Path) -> None:
    path = folder / "broken.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"broken\.json: not a (whole )?report"):
        read_report(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[" * 100_000, "nested more than"),
        (b"\xff\xfe{}", "not JSON"),
        (b"", "not JSON"),
        (b" " * (MAX_BYTES + 1), "larger than 64 MiB"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_report(path)


def test_committed_reports_are_whole() -> None:
    results = Path(__file__).parents[3] / "benchmarks" / "results"
    read = [read_reports(folder) for folder in results.iterdir()]
    assert sum(len(reports) for reports, _ in read) > 5
    # Of make gpu-report.
    assert {path.name for _, others in read for path in others} <= {
        *("parts.json", "tests.json", "training.json")
    }
