"""The result of a report in one sentence, from the report's own figures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from sceneloom_bench.reports import tables
from sceneloom_bench.reports.report import Figure, Report
from sceneloom_bench.reports.statistics import separate

THROUGH_TRITON = "through Triton"
"""Name of a served engine beside the bare ones."""
NEVER_SERVED, OUTSIDE_LIMITS = "never served: ", "outside the limits of its precision: "
"""Beginnings of the marks of engines whose pictures differ too much."""
_WORDS = {"torch-fp32": "PyTorch eager"}


def headline(report: Report) -> str:
    """The winner and its lead, the best load, or the verdict; no line end."""
    if not report.measurements:
        return "Nothing was measured."
    if "raised_p99_ms" in report.extra:
        rises = report.extra["raised_p99_ms"].items()
        said = (f"{round(statistics.median(ms))} ms in the {loop} loop" for loop, ms in rises)
        return f"The stall raises p99 by {' and '.join(said)}."
    describe = {"engine": _engines, "mlperf": _verdicts, "render": _formats}
    return describe.get(report.kind, _best_load)(report)


def _engines(report: Report) -> str:
    rows: dict[object, dict[str, Figure]] = {}
    for m in report.measurements:
        if m.name != report.baseline and "times_faster" not in m.figures:
            continue
        row = rows.setdefault(m.load.get("batch"), {})
        refused = any(mark.startswith((NEVER_SERVED, OUTSIDE_LIMITS)) for mark in m.marks)
        if m.name not in (report.baseline, THROUGH_TRITON) and not refused:
            row[m.name] = m.figures["times_faster"]
    base = _WORDS.get(report.baseline or "", report.baseline or "the baseline")
    said = {batch: _fastest(base, ratios) for batch, ratios in rows.items()}
    if len(said) == 1:
        return f"{next(iter(said.values()))}."
    lines = [f"Batch {batch}: {words}." for batch, words in said.items()]
    return " ".join(lines) or "No engine was measured."


def _fastest(base: str, ratios: Mapping[str, Figure]) -> str:
    if not ratios:
        return f"No engine that passed was measured beside {base}"
    best, *others = sorted(ratios, key=lambda name: -ratios[name].value)
    ratio, times = ratios[best], f"{tables.value_of(ratios[best])} times as fast"
    if not separate(ratio, Figure(value=1, unit="x", low=1, high=1)):
        known = ratio.low is not None and ratio.high is not None
        why = "The intervals do not separate" if known else "Too few rounds for an interval"
        return f"{why}: {best} is {times} as {base}{_interval(ratio)}"
    if ratio.value < 1:
        return f"{base} is the fastest: {best}, the next, is {times}{_interval(ratio)}"
    touching = [name for name in others if not separate(ratio, ratios[name])]
    more = f"; the intervals of {best} and {touching[0]} do not separate" if touching else ""
    return f"{best} is the fastest: {times} as {base}{_interval(ratio)}{more}"


def _best_load(report: Report) -> str:
    loads = [m for m in report.measurements if {"rate", "p99"} <= m.figures.keys()]
    loads = [m for m in loads if m.load.get("mode") in ("closed", "open")]
    if not loads:
        return "No load was measured."
    best = max(loads, key=lambda m: m.figures["rate"].value)
    said = f"The best throughput is {_rate(best.figures['rate'])} in the "
    said += f"{tables.load_text(best.load)}; its p99 is {tables.with_unit(best.figures['p99'])}"
    for m in report.measurements:
        if "p99_bound_ms" in m.extra and m.figures["rate"].value:
            bound = tables.duration(m.extra["p99_bound_ms"])
            said += f"; {_rate(m.figures['rate'])} keep a p99 of {bound}"
    return f"{said}."


def _verdicts(report: Report) -> str:
    said = []
    for m in report.measurements:
        valid = m.extra.get("valid")
        verdict = "no verdict" if valid is None else "VALID" if valid else "INVALID"
        figures = [_rate(m.figures["rate"])] if "rate" in m.figures else []
        figures += [f"p99 {tables.with_unit(m.figures['p99'])}"] if "p99" in m.figures else []
        said.append(f"{m.load.get('scenario', m.name)} {verdict} ({', '.join(figures)})")
    return f"LoadGen: {'; '.join(said)}."


def _formats(report: Report) -> str:
    rates = {m.name: m.figures["rate"] for m in report.measurements if "rate" in m.figures}
    if not rates:
        return "No rate was measured."
    best, *others = sorted(rates, key=lambda name: -rates[name].value)
    said = f"{best} renders {_rate(rates[best])}"
    for name in others:
        words = "less" if separate(rates[best], rates[name]) else "the intervals do not separate"
        said += f"; {name} {_rate(rates[name])}: {words}"
    return f"{said}."


def _rate(figure: Figure) -> str:
    return f"{tables.value_of(figure)} pictures/s{_interval(figure)}"


def _interval(figure: Figure) -> str:
    interval = tables.interval_of(figure)
    return f" (95 % interval {interval})" if interval else ""
