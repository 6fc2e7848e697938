"""`sceneloom bench compare`: two reports beside each other, with a verdict where
two intervals separate, and nowhere else.

The runs were not made in turn, so a machine that drifted in between is part of every difference: a
verdict holds for these two runs. Inputs that differ allow no verdict at all.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from tyro.conf import FlagCreatePairsOff, Positional, arg

from sceneloom.errors import InputError
from sceneloom_bench.reports.report import Figure, Measurement, Report, read_report
from sceneloom_bench.reports.statistics import separate
from sceneloom_bench.reports.tables import (
    Cell,
    Table,
    escaped,
    figure_title,
    markdown_table,
    shortened,
    text_of,
    title_of,
    unit_of,
    with_unit,
)

SCHEMA = "sceneloom-bench-comparison/1"
Verdict = Literal["better", "worse", "not told", "no interval", "not judged"]
"""Of B against A; not told where the intervals touch, not judged where the inputs differ."""
NOT_SAID = "not said"
NOT_TOLD = "no difference can be told"
OTHER_MACHINE = "A and B differ in what ran, or in what it ran on and with:"
OTHER_INPUTS = (
    "the inputs differ, so nothing is judged; --other-inputs judges all the same, and the verdicts "
    "are of the inputs, too"
)
UNKNOWN_INPUTS = "neither report names the hash of its inputs: whether they are equal is not known"
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
"""Units of which a smaller or greater value is a speed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """A fact in which the reports differ."""

    what: str
    """Such as ``cpu``, ``torch``, ``setting rounds``."""
    a: str
    b: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """A figure that both reports have."""

    name: str
    load: Mapping[str, str | int | float | bool]
    figure: str
    a: Figure
    b: Figure
    verdict: Verdict
    says: str
    """The verdict in words, or why there is none."""


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
        """Figures of which B is worse."""
        return [figure for figure in self.figures if figure.verdict == "worse"]

    def to_json(self) -> dict[str, Any]:
        """As one document."""
        return {"schema": SCHEMA, **dataclasses.asdict(self), "worse": len(self.worse)}


def main(
    a: Annotated[Path, Positional, arg(metavar="A.json")],
    b: Annotated[Path, Positional, arg(metavar="B.json")],
    *,
    other_inputs: Annotated[bool, FlagCreatePairsOff] = False,
    fail_on_regression: Annotated[bool, FlagCreatePairsOff] = False,
) -> int:
    """Compare two reports of one benchmark, figure by figure; the last line is one JSON document.

    Args:
        a: the report that B is judged against.
        b: the other.
        other_inputs: judge although the inputs differ.
        fail_on_regression: exit code 1 where a figure of B is worse and the intervals separate, or
            where nothing could be judged.
    """
    found = compare(read_report(a), read_report(b), other_inputs=other_inputs)
    print(describe_comparison(found))
    print(json.dumps(found.to_json()))
    if not fail_on_regression:
        return 0
    if not any(figure.verdict in ("better", "worse", "not told") for figure in found.figures):
        raise InputError(f"no figure of {b} could be judged: whether it is worse is not known")
    return 1 if found.worse else 0


def compare(a: Report, b: Report, *, other_inputs: bool = False) -> Comparison:
    """Compare measurements of equal name and load, and their figures of which less or more is
    better; other inputs are not judged unless wanted.

    Raises:
        InputError: they are of different benchmarks, or a measurement is twice in one.
    """
    if a.kind != b.kind:
        raise InputError(f"A is of bench {a.kind} and B of bench {b.kind}: nothing to compare")
    first, second = _by_name(a, "A"), _by_name(b, "B")
    apart = [key for key in _INPUTS if a.subject.get(key) != b.subject.get(key)]
    figures = []
    for key, measurement in first.items():
        others = second[key].figures if key in second else {}
        for name, figure in measurement.figures.items():
            if name not in others or figure.better == "neither":
                continue
            verdict: Verdict = "not judged"
            says = "other inputs"
            if not apart or other_inputs:
                verdict, says = _judge(figure, others[name])
            figures.append(
                Compared(
                    name=measurement.name,
                    load=dict(measurement.load),
                    figure=name,
                    a=figure,
                    b=others[name],
                    verdict=verdict,
                    says=says,
                )
            )
    warnings = []
    if apart:
        judged_all_the_same = "the inputs differ, and are judged all the same"
        warnings.append(judged_all_the_same if other_inputs else OTHER_INPUTS)
    elif a.subject.get("inputs_sha256") is None:
        warnings.append(UNKNOWN_INPUTS)
    if a.baseline != b.baseline:
        warnings.append(f"ratios are of {a.baseline} in A and of {b.baseline} in B")
    marks = []
    for whose, report in (("A", a), ("B", b)):
        marks += [(whose, mark) for mark in report.marks]
        marks += [(f"{whose}, {title_of(m)}", x) for m in report.measurements for x in m.marks]
    return Comparison(
        kind=a.kind,
        titles=(a.title, b.title),
        dates=(a.date, b.date),
        same_inputs=not apart,
        warnings=warnings,
        differences=differences_of(a, b),
        figures=figures,
        only_a=[title_of(m) for key, m in first.items() if key not in second],
        only_b=[title_of(m) for key, m in second.items() if key not in first],
        marks=marks,
    )


def differences_of(a: Report, b: Report) -> list[Difference]:
    """Unequal facts of the two: inputs, machine, versions, settings."""
    found: dict[str, tuple[str, str]] = {}
    for key in dict.fromkeys([*_INPUTS, *a.subject, *b.subject]):
        found[key.replace("_sha256", "")] = _of(a.subject, key), _of(b.subject, key)
    for key, what in _MACHINE.items():
        found[what] = _of(a.environment, key), _of(b.environment, key)
    for key in _GPU_SETTINGS:
        found[f"GPU's {key}"] = _of_gpus(a, key), _of_gpus(b, key)
    first, second = (r.environment.get("versions") or {} for r in (a, b))
    for key in dict.fromkeys([*first, *second]):
        found[key] = _of(first, key), _of(second, key)
    for key in dict.fromkeys([*a.settings, *b.settings]):
        if key != "name":
            found[f"setting {key}"] = _of(a.settings, key), _of(b.settings, key)
    return [Difference(what=w, a=one, b=other) for w, (one, other) in found.items() if one != other]


def describe_comparison(found: Comparison) -> str:
    """A comparison for people, in Markdown."""
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
        counts = {words: 0 for words in get_args(Verdict)}
        rows, last = [], ""
        for one in found.figures:
            counts[one.verdict] += 1
            title = title_of(Measurement(name=one.name, load=one.load, figures={}))
            texts = [figure_title(one.figure), with_unit(one.a), with_unit(one.b), one.says]
            rows.append(["" if title == last else title, *texts])
            last = title
        lines += [
            "",
            f"B is better in {counts['better']} and worse in {counts['worse']} of "
            f"{len(found.figures)} figures; no difference can be told in {counts['not told']}, "
            f"{counts['no interval']} have no interval, {counts['not judged']} are not judged.",
            "",
            *_table(["measured", "figure", "A", "B", "verdict"], rows),
        ]
    else:
        lines += ["", "No figure is in both."]
    for name, only in (("A", found.only_a), ("B", found.only_b)):
        if only:
            lines += ["", f"Only in {name}:", "", *(f"- {escaped(title)}" for title in only)]
    if found.marks:
        lines += ["", "Marks:", ""]
        lines += [f"- {escaped(whose)}: {escaped(mark)}" for whose, mark in found.marks]
    return "\n".join([*lines, "", HOLDS]) + "\n"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return markdown_table(
        Table(
            title="",
            constant="",
            headings=headings,
            numbers=[False] * len(headings),
            rows=[[Cell(text=text) for text in row] for row in rows],
        )
    )


def _judge(a: Figure, b: Figure) -> tuple[Verdict, str]:
    if (a.unit, a.better) != (b.unit, b.better):
        return (
            "not judged",
            f"A has it in {a.unit} ({a.better} is better), B in {b.unit} ({b.better})",
        )
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
    assert a.high is not None
    assert b.low is not None
    verdict: Verdict = "better" if (b.low > a.high) == (a.better == "higher") else "worse"
    return verdict, _words(a, b, verdict)


def _words(a: Figure, b: Figure, verdict: Verdict) -> str:
    """``B is 1.32 times as fast``, ``B is slower by 4.1 ms (32 %)``."""
    low, high = sorted((abs(a.value), abs(b.value)))
    if verdict == "better" and a.unit in _TIMES and low > 0:
        return f"B is {high / low:.2f} times as fast"
    words = {"better": "better", "worse": "slower" if a.unit in _TIMES else "worse"}[verdict]
    change = Figure(value=abs(b.value - a.value), unit=a.unit)
    share = f" ({abs(b.value / a.value - 1):.1%})".replace("%", " %") if a.value else ""
    return f"B is {words} by {with_unit(change)}{'' if unit_of(a) == '%' else share}"


def _by_name(report: Report, whose: str) -> dict[object, Measurement]:
    found: dict[object, Measurement] = {}
    for measurement in report.measurements:
        load = measurement.load.items()
        key = (measurement.name, frozenset((k, isinstance(v, bool), v) for k, v in load))
        if key in found:
            raise InputError(f"{whose} has {title_of(measurement)} twice: nothing tells them apart")
        found[key] = measurement
    return found


def _of(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    return NOT_SAID if value in (None, "", [], (), {}) else shortened(key, value)


def _of_gpus(report: Report, key: str) -> str:
    details = report.environment.get("gpu_details") or []
    return text_of([gpu.get(key, NOT_SAID) for gpu in details]) or NOT_SAID
