"""Comparisons: verdicts where they can be told and nowhere else, the same from both sides."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import pytest
from bench_reports import (
    CPU,
    GPU,
    all_reports,
    engine_report,
    report_of,
    server_report,
)
from hypothesis import given
from hypothesis import strategies as st

from sceneloom import cli
from sceneloom.errors import InputError
from sceneloom_bench.reports.compare import (
    HOLDS,
    NOT_TOLD,
    OTHER_INPUTS,
    OTHER_MACHINE,
    UNKNOWN_INPUTS,
    Comparison,
    compare,
    describe_comparison,
    differences_of,
    headline,
)
from sceneloom_bench.reports.report import Figure, Measurement, Report, write_report


def one_figure(figure: Figure, **fields: Any) -> Report:
    measurement = Measurement(name="m", load={"batch": 1}, figures={"p50": figure})
    return report_of("engine", "t", [measurement], **fields)


def with_subject(report: Report, **subject: Any) -> Report:
    return dataclasses.replace(report, subject={**report.subject, **subject})


def verdict_of(a: Figure, b: Figure) -> tuple[str, str]:
    (found,) = compare(one_figure(a), one_figure(b)).figures
    return found.verdict, found.says


LATENCY = Figure(value=13.2, unit="ms", better="lower", low=13, high=13.5)
RATE = Figure(value=20, unit="1/s", better="higher", low=19, high=21)
MEMORY = Figure(value=2000, unit="MiB", better="lower", low=1990, high=2010)
RATIO = Figure(value=1.5, unit="x", better="higher", low=1.4, high=1.6)


def moved(figure: Figure, factor: float) -> Figure:
    assert figure.low is not None
    assert figure.high is not None
    return dataclasses.replace(
        figure, value=figure.value * factor, low=figure.low * factor, high=figure.high * factor
    )


@pytest.mark.parametrize(
    ("a", "factor", "verdict", "says"),
    [
        (LATENCY, 1 / 1.32, "better", "B is 1.32 times as fast"),
        (LATENCY, 1.5, "worse", "B is slower by 6.60 ms (50.0 %)"),
        (RATE, 2, "better", "B is 2.00 times as fast"),
        (RATE, 0.75, "worse", "B is slower by 5.00/s (25.0 %)"),
        (MEMORY, 1.5, "worse", "B is worse by 1,000 MiB (50.0 %)"),
        (MEMORY, 0.5, "better", "B is better by 1,000 MiB (50.0 %)"),
        (RATIO, 2, "better", "B is better by 1.50x (100.0 %)"),
        (LATENCY, 1.01, "not told", f"{NOT_TOLD}: the intervals touch"),
    ],
)
def test_verdicts_in_words(a: Figure, factor: float, verdict: str, says: str) -> None:
    assert verdict_of(a, moved(a, factor)) == (verdict, says)


def test_where_an_interval_is_not_known_the_reason_is_said() -> None:
    none = dataclasses.replace(LATENCY, low=None, high=None)
    open_end = dataclasses.replace(moved(LATENCY, 9), high=None)
    assert verdict_of(none, none) == ("no interval", f"{NOT_TOLD}: A and B have no interval")
    assert verdict_of(LATENCY, none)[1] == f"{NOT_TOLD}: B has no interval"
    assert verdict_of(LATENCY, open_end)[1] == f"{NOT_TOLD}: B has no upper end"
    assert verdict_of(none, open_end)[1] == f"{NOT_TOLD}: A has no interval, B has no upper end"


def test_figures_of_other_units_or_of_no_direction_are_not_judged() -> None:
    seconds = dataclasses.replace(LATENCY, unit="s")
    assert verdict_of(LATENCY, seconds)[0] == "not judged"
    neither = dataclasses.replace(LATENCY, better="neither")
    assert compare(one_figure(neither), one_figure(neither)).figures == []


@st.composite
def figures(draw: st.DrawFn, better: Literal["lower", "higher"]) -> Figure:
    value = draw(st.floats(0, 1e4))
    below, above = draw(st.floats(0, 100)), draw(st.floats(0, 100))
    low = draw(st.sampled_from([value - below, None]))
    high = draw(st.sampled_from([value + above, None]))
    unit = draw(st.sampled_from(["ms", "1/s", "MiB", "share", "x", "1"]))
    return Figure(value=value, unit=unit, better=better, low=low, high=high)


@given(st.data(), st.sampled_from(["lower", "higher"]))
def test_a_verdict_is_the_same_from_both_sides(
    data: st.DataObject, better: Literal["lower", "higher"]
) -> None:
    a = data.draw(figures(better))
    b = dataclasses.replace(data.draw(figures(better)), unit=a.unit)
    other = {"better": "worse", "worse": "better"}
    verdict, says = verdict_of(a, b)
    back, _ = verdict_of(b, a)
    assert back == other.get(verdict, verdict)
    assert (verdict in other) == says.startswith("B is")
    assert verdict_of(a, a)[0] in ("not told", "no interval")
    if verdict in other:
        assert (b.value > a.value) == ((verdict == "better") == (better == "higher"))


@pytest.mark.parametrize("report", all_reports().values(), ids=lambda r: r.kind)
def test_a_report_is_not_better_than_itself(report: Report) -> None:
    found = compare(report, report)
    assert {figure.verdict for figure in found.figures} <= {"not told", "no interval"}
    assert (found.only_a, found.only_b, found.differences, found.warnings) == ([], [], [], [])
    assert len(found.figures) >= len(report.measurements)
    assert HOLDS in describe_comparison(found)


def test_a_slower_server_is_worse_and_what_is_missing_is_listed() -> None:
    a, b = (
        server_report(transports=("grpc", "http")),
        server_report(scale=1.2, transports=("grpc",)),
    )
    found = compare(a, b)
    assert {figure.figure for figure in found.worse} == {"p50", "p90", "rate"}
    assert "closed loop (4 in flight, HTTP, batch 1)" in found.only_a
    assert found.only_b == []
    text = describe_comparison(found)
    assert "closed loop (4 in flight, gRPC, batch 1)" in text
    assert "B is slower by 13.5 ms (20.0 %)" in text
    assert "Only in A:" in text
    assert f"worse in {len(found.worse)} of {len(found.figures)} figures" in headline(found)


@pytest.mark.parametrize("subject", [{"inputs_sha256": "0" * 64}, {"height": 128, "width": 256}])
def test_other_inputs_allow_no_verdict(subject: dict[str, Any]) -> None:
    a, b = one_figure(LATENCY), with_subject(one_figure(moved(LATENCY, 2)), **subject)
    found = compare(a, b)
    assert [figure.verdict for figure in found.figures] == ["not judged"]
    assert list(found.warnings) == [OTHER_INPUTS]
    assert not found.same_inputs
    text = describe_comparison(found)
    assert f"**{OTHER_INPUTS}**" in text
    for value in subject.values():
        assert f"| {str(value)[:12]} |" in text
    assert [figure.verdict for figure in compare(a, b, other_inputs=True).figures] == ["worse"]


def test_inputs_that_nobody_names_are_said() -> None:
    report = with_subject(one_figure(LATENCY), inputs_sha256=None)
    assert list(compare(report, report).warnings) == [UNKNOWN_INPUTS]


def test_another_machine_is_said_with_both_values() -> None:
    versions = {**CPU["versions"], "torch": "2.14.0"}
    a = one_figure(LATENCY, settings={"rounds": 6, "name": "old"})
    b = one_figure(
        LATENCY, environment={**GPU, "versions": versions}, settings={"rounds": 8, "name": "new"}
    )
    found = {d.what: (d.a, d.b) for d in differences_of(a, b)}
    assert found["torch"] == ("2.13.0+cpu", "2.14.0")
    assert found["cores"] == ("2", "16")
    assert found["gpus"] == ("not said", "NVIDIA H100 80GB HBM3")
    assert found["GPU's driver_version"] == ("not said", "570.86.15")
    assert found["setting rounds"] == ("6", "8")
    assert "setting name" not in found
    text = describe_comparison(compare(a, b))
    assert f"**{OTHER_MACHINE}**" in text
    assert "| torch | 2.13.0+cpu | 2.14.0 |" in text


def test_other_benchmarks_and_doubled_measurements_are_refused() -> None:
    with pytest.raises(InputError, match="A is of bench engine and B of bench server"):
        compare(engine_report(), server_report())
    report = one_figure(LATENCY)
    twice = dataclasses.replace(report, measurements=[*report.measurements] * 2)
    with pytest.raises(InputError, match=r"B has m \(batch 1\) twice"):
        compare(report, twice)


class Files:
    """Reports in files, compared by the command."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._folder, self._capsys = folder, capsys

    def compare(self, a: Report, b: Report, *flags: str) -> tuple[int, dict[str, Any] | None, str]:
        paths = [str(write_report(r, self._folder, name)) for name, r in (("a", a), ("b", b))]
        out = self._folder / "compared.json"
        out.unlink(missing_ok=True)
        code = cli.main(["bench", "compare", *paths, "--out", str(out), *flags])
        said = self._capsys.readouterr()
        if not said.out:
            return code, None, said.err
        assert said.out.splitlines()[-2].startswith("B is better in ")
        assert said.out.splitlines()[-1] == f"report: {out}"
        return code, json.loads(out.read_text()), said.err


@pytest.fixture
def files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Files:
    return Files(tmp_path, capsys)


def test_the_command_fails_on_a_regression_only_if_asked(files: Files) -> None:
    a, b = one_figure(LATENCY), one_figure(moved(LATENCY, 2))
    code, document, _ = files.compare(a, b)
    assert document is not None
    assert (code, document["worse"], document["schema"]) == (0, 1, "sceneloom-bench-comparison/1")
    assert files.compare(a, b, "--fail-on-regression")[0] == 1
    assert files.compare(b, a, "--fail-on-regression")[0] == 0
    assert files.compare(a, a, "--fail-on-regression")[0] == 0


def test_a_regression_check_that_judges_nothing_does_not_pass(files: Files) -> None:
    a, b = one_figure(LATENCY), with_subject(one_figure(LATENCY), inputs_sha256="0" * 64)
    code, _, error = files.compare(a, b, "--fail-on-regression")
    assert (code, "could be judged" in error) == (1, True)
    assert files.compare(a, b, "--fail-on-regression", "--other-inputs")[0] == 0
    bare = one_figure(dataclasses.replace(LATENCY, low=None))
    assert files.compare(bare, bare, "--fail-on-regression")[0] == 1


def test_what_cannot_be_compared_is_one_sentence(files: Files, tmp_path: Path) -> None:
    code, document, error = files.compare(engine_report(), server_report())
    assert (code, document, len(error.splitlines())) == (1, None, 1)
    assert (
        cli.main(["bench", "compare", str(tmp_path / "none.json"), str(tmp_path / "a.json")]) == 1
    )


def test_an_empty_comparison_says_so() -> None:
    found: Comparison = compare(report_of("engine", "t", []), report_of("engine", "t", []))
    assert "No figure is in both." in describe_comparison(found)
