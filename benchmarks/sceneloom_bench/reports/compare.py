"""`sceneloom bench compare`: two reports beside each other, with a verdict only for two intervals
that do not touch.

A difference includes the machine's drift between the two runs, so a verdict holds for these runs.
Different inputs are not judged.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from sceneloom.errors import InputError
from sceneloom.files import write_whole
from sceneloom.text import counted
from sceneloom_bench.reports import tables
from sceneloom_bench.reports.report import Figure, Measurement, Report, read_report
from sceneloom_bench.reports.statistics import separate
from sceneloom_bench.reports.tables import escaped, with_unit

SCHEMA = "sceneloom-bench-comparison/1"
Verdict = Literal["better", "worse", "not told", "no interval", "not judged"]
"""B against A: not told if the intervals touch, not judged if the inputs differ."""
NOT_SAID = "not said"
NOT_TOLD = "no difference can be told"
OTHER_MACHINE = "A and B differ in subject, machine, versions or settings:"
OTHER_INPUTS = "the inputs differ, so nothing is judged; --other-inputs judges them all the same"
JUDGED_INPUTS = "the inputs differ, and are judged all the same"
UNKNOWN_INPUTS = "neither report names the hash of its inputs: they may differ"
HOLDS = (
    "A verdict stands only where both 95 % intervals are known and do not touch. The two runs were "
    "not made in turn, so a machine that changed in between is part of every difference: a verdict "
    "holds for these two runs."
)
_INPUTS = ("inputs_sha256", "height", "width")
_MACHINE = {
    **{key: key for key in ("cpu", "cores", "gpus", "system", "python", "governor")},
    "cpu_flags": "CPU's instruction sets",
    "memory_gib": "memory, GiB",
}
_GPU_SETTINGS = ("driver_version", "power.limit", "clocks.max.sm", "mig.mode.current")
_TIMES = ("ms", "s", "1/s")
"""Units of speed: B is faster or slower, not better or worse."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """A fact in which the reports differ."""

    what: str
    """``cpu``, ``torch``, ``setting rounds``, ..."""
    a: str
    b: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """A figure of both reports."""

    name: str
    load: Mapping[str, str | int | float | bool]
    figure: str
    a: Figure
    b: Figure
    verdict: Verdict
    says: str
    """The verdict in words, or the reason against one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two reports beside each other."""

    kind: str
    titles: tuple[str, str]
    dates: tuple[str, str]
    same_inputs: bool
    warnings: Sequence[str]
    differences: Sequence[Difference]
    figures: Sequence[Compared]
    only_a: Sequence[str]
    only_b: Sequence[str]
    marks: Sequence[tuple[str, str]]

    @property
    def worse(self) -> list[Compared]:
        """Figures that are worse in B."""
        return [figure for figure in self.figures if figure.verdict == "worse"]

    def to_json(self) -> dict[str, Any]:
        """The comparison as one document."""
        return {"schema": SCHEMA, **dataclasses.asdict(self), "worse": len(self.worse)}


def main(
    a: Annotated[Path, Positional, arg(metavar="A.json")],
    b: Annotated[Path, Positional, arg(metavar="B.json")],
    *,
    out: Annotated[Path | None, arg(metavar="FILE.json")] = None,
    other_inputs: Annotated[bool, FlagCreatePairsOff] = False,
    fail_on_regression: Annotated[bool, FlagCreatePairsOff] = False,
) -> int:
    """Compare two reports of one benchmark, figure by figure.

    Args:
        a: the report to judge against.
        b: the report to judge.
        out: file for the comparison as JSON.
        other_inputs: judge different inputs.
        fail_on_regression: exit with 1 if a figure of B is worse beyond its interval, or if no
            figure could be judged.
    """
    found = compare(read_report(a), read_report(b), other_inputs=other_inputs)
    print(describe_comparison(found))
    print(headline(found))
    if out is not None:
        write_whole(out, (json.dumps(found.to_json(), indent=1) + "\n").encode())
        print(f"report: {out}")
    if not fail_on_regression:
        return 0
    if not any(figure.verdict in ("better", "worse", "not told") for figure in found.figures):
        raise InputError(f"no figure of {b} could be judged, so a regression is not excluded")
    return 1 if found.worse else 0


def compare(a: Report, b: Report, *, other_inputs: bool = False) -> Comparison:
    """Compare the figures with a direction of measurements with equal name and load.

    `other_inputs` judges different inputs. Raises InputError if the benchmarks differ, or if a
    report has a measurement twice.
    """
    if a.kind != b.kind:
        raise InputError(f"A is of bench {a.kind} and B of bench {b.kind}: nothing to compare")
    first, second = _by_name(a, "A"), _by_name(b, "B")
    same = all(a.subject.get(key) == b.subject.get(key) for key in _INPUTS)
    figures = []
    for key, measurement in first.items():
        others = second[key].figures if key in second else {}
        for name, figure in measurement.figures.items():
            if name not in others or figure.better == "neither":
                continue
            verdict: tuple[Verdict, str] = "not judged", "other inputs"
            if same or other_inputs:
                verdict = _judge(figure, others[name])
            figures.append(
                Compared(
                    name=measurement.name,
                    load=dict(measurement.load),
                    figure=name,
                    a=figure,
                    b=others[name],
                    verdict=verdict[0],
                    says=verdict[1],
                )
            )
    warnings = []
    if not same:
        warnings.append(JUDGED_INPUTS if other_inputs else OTHER_INPUTS)
    elif a.subject.get("inputs_sha256") is None:
        warnings.append(UNKNOWN_INPUTS)
    if a.baseline != b.baseline:
        warnings.append(f"ratios are of {a.baseline} in A and of {b.baseline} in B")
    marks = []
    for whose, report in (("A", a), ("B", b)):
        marks += [(whose, mark) for mark in report.marks]
        for m in report.measurements:
            marks += [(f"{whose}, {tables.title_of(m)}", mark) for mark in m.marks]
    return Comparison(
        kind=a.kind,
        titles=(a.title, b.title),
        dates=(a.date, b.date),
        same_inputs=same,
        warnings=warnings,
        differences=differences_of(a, b),
        figures=figures,
        only_a=[tables.title_of(m) for key, m in first.items() if key not in second],
        only_b=[tables.title_of(m) for key, m in second.items() if key not in first],
        marks=marks,
    )


def differences_of(a: Report, b: Report) -> list[Difference]:
    """Facts that differ: inputs, machine, versions, settings."""

    def facts(report: Report) -> dict[str, str]:
        machine, gpus = report.environment, report.environment["gpu_details"]
        found = {key.replace("_sha256", ""): (key, v) for key, v in report.subject.items()}
        found |= {what: (key, machine[key]) for key, what in _MACHINE.items()}
        for key in _GPU_SETTINGS:
            found[f"GPU's {key}"] = key, [gpu.get(key, NOT_SAID) for gpu in gpus]
        found |= {name: (name, version) for name, version in machine["versions"].items()}
        settings = {key: value for key, value in report.settings.items() if key != "name"}
        found |= {f"setting {key}": (key, value) for key, value in settings.items()}
        return {
            what: tables.shortened(key, value)
            for what, (key, value) in found.items()
            if value not in (None, "", [], (), {})
        }

    first, second = facts(a), facts(b)
    pairs = {key: (first.get(key, NOT_SAID), second.get(key, NOT_SAID)) for key in first | second}
    return [Difference(what=what, a=x, b=y) for what, (x, y) in pairs.items() if x != y]


def describe_comparison(found: Comparison) -> str:
    """A comparison in Markdown."""
    lines = [f"## {found.kind}: B against A", ""]
    for name, title, date in zip("AB", found.titles, found.dates, strict=True):
        lines.append(f"- {name}: {escaped(title)}, {escaped(date)}")
    if found.warnings or found.differences:
        lines += ["", "**Read this first:**", ""]
        lines += [f"- **{escaped(warning)}**" for warning in found.warnings]
        if found.differences:
            lines += [f"- **{OTHER_MACHINE}**", ""]
            lines += _table(["", "A", "B"], [[d.what, d.a, d.b] for d in found.differences])
    if found.figures:
        rows, last = [], ""
        for one in found.figures:
            title = tables.title_of(Measurement(name=one.name, load=one.load, figures={}))
            texts = [tables.figure_title(one.figure), with_unit(one.a), with_unit(one.b), one.says]
            rows.append(["" if title == last else title, *texts])
            last = title
        lines += ["", *_table(["measured", "figure", "A", "B", "verdict"], rows)]
    else:
        lines += ["", "No figure is in both."]
    for name, only in (("A", found.only_a), ("B", found.only_b)):
        if only:
            lines += ["", f"Only in {name}:", "", *(f"- {escaped(title)}" for title in only)]
    if found.marks:
        lines += ["", "Marks:", ""]
        lines += [f"- {escaped(whose)}: {escaped(mark)}" for whose, mark in found.marks]
    return "\n".join([*lines, "", HOLDS]) + "\n"


def headline(found: Comparison) -> str:
    """Counts of the verdicts in one sentence."""
    counts = collections.Counter(one.verdict for one in found.figures)
    return (
        f"B is better in {counts['better']} and worse in {counts['worse']} of "
        f"{counted(len(found.figures), 'figure')}; no difference can be told in "
        f"{counts['not told']}, {counts['no interval']} have no interval, {counts['not judged']} "
        "are not judged."
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[tables.Cell(text=text) for text in row] for row in rows]
    table = tables.Table(headings=headings, numbers=[False] * len(headings), rows=cells)
    return tables.markdown_table(table)


def _judge(a: Figure, b: Figure) -> tuple[Verdict, str]:
    """The verdict, and its words: ``B is slower by 4.1 ms (32 %)``, or the reason against one."""
    if (a.unit, a.better) != (b.unit, b.better):
        told = f"A has it in {a.unit} ({a.better} is better), B in {b.unit} ({b.better})"
        return "not judged", told
    missing: dict[str, list[str]] = {}
    for whose, figure in (("A", a), ("B", b)):
        ends = (("lower end", figure.low), ("upper end", figure.high))
        lost = [name for name, end in ends if end is None]
        if lost:
            missing.setdefault("interval" if len(lost) == 2 else lost[0], []).append(whose)
    if missing:
        said = [
            f"{' and '.join(whose)} {'have' if len(whose) > 1 else 'has'} no {what}"
            for what, whose in missing.items()
        ]
        return "no interval", f"{NOT_TOLD}: {', '.join(said)}"
    if not separate(a, b):
        return "not told", f"{NOT_TOLD}: the intervals touch"
    better = (b.value > a.value) == (a.better == "higher")
    low, high = sorted((abs(a.value), abs(b.value)))
    if better and a.unit in _TIMES and low > 0:
        return "better", f"B is {high / low:.2f} times as fast"
    word = "better" if better else "slower" if a.unit in _TIMES else "worse"
    change = with_unit(Figure(value=abs(b.value - a.value), unit=a.unit))
    share = f" ({abs(b.value / a.value - 1):.1%})".replace("%", " %") if a.value else ""
    words = f"B is {word} by {change}{'' if a.unit == 'share' else share}"
    return "better" if better else "worse", words


def _by_name(report: Report, whose: str) -> dict[object, Measurement]:
    found: dict[object, Measurement] = {}
    for m in report.measurements:
        key = (m.name, frozenset((k, isinstance(v, bool), v) for k, v in m.load.items()))
        if key in found:
            raise InputError(f"{whose} has {tables.title_of(m)} twice: nothing tells them apart")
        found[key] = m
    return found
