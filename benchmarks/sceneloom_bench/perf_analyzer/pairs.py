"""Two tools' figures of the same loads, round by round: medians, and how far apart they are."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sceneloom_bench.reports.report import Figure, Measurement
from sceneloom_bench.reports.statistics import median_figure

PERF_ANALYZER, SCENELOOM = "perf_analyzer", "sceneloom"
FIGURES = (
    *("p50", "p90", "p99", "rate", "sent_late", "transfer"),
    *("queue", "compute_input", "compute", "compute_output"),
)
_COMPARED = ("p50", "p90", "p99")
Load = Mapping[str, str | int | float | bool]


@dataclasses.dataclass
class Rounds:
    """What both tools gave under one load."""

    load: Load
    """The load."""
    perf_analyzer: list[Mapping[str, Figure]] = dataclasses.field(default_factory=list)
    """By round."""
    sceneloom: list[Mapping[str, Figure]] = dataclasses.field(default_factory=list)
    """By round, in turn with the others."""
    delayed: list[float] = dataclasses.field(default_factory=list)
    """Shares of its requests that perf_analyzer sent late, by round."""
    marks: list[Sequence[str]] = dataclasses.field(default_factory=list)
    """What our own loads were marked with, by round."""

    def measurements(self) -> list[Measurement]:
        """perf_analyzer's, then ours with what it is of perf_analyzer's."""
        sets = {PERF_ANALYZER: self.perf_analyzer, SCENELOOM: self.sceneloom}
        figures = {name: medians(rounds) for name, rounds in sets.items()}
        figures[SCENELOOM] |= self._apart()
        if self.load["mode"] == "open":
            figures[PERF_ANALYZER]["sent_late"] = median_figure(
                self.delayed, unit="share", better="neither"
            )
        return [
            Measurement(
                name=name,
                load=self.load,
                figures=figures[name],
                marks=self._marks() if name == SCENELOOM else (),
                extra={"rounds": [_values(one) for one in rounds]},
            )
            for name, rounds in sets.items()
        ]

    def _marks(self) -> list[str]:
        """What each kind of mark said in the last round that had it, and how many had."""
        rounds, last = collections.Counter[str](), dict[str, str]()
        for marks in self.marks:
            for mark in marks:
                kind = re.split(r"[:\d]", mark, maxsplit=1)[0]
                rounds[kind] += 1
                last[kind] = mark
        of = len(self.marks)
        return [f"in {rounds[kind]} of {of} rounds: {mark}" for kind, mark in last.items()]

    def _apart(self) -> dict[str, Figure]:
        """Ratios and differences within each round."""
        pairs = list(zip(self.sceneloom, self.perf_analyzer, strict=True))
        found: dict[str, Figure] = {}
        for name in _COMPARED:
            ratios = [ours[name].value / theirs[name].value for ours, theirs in pairs]
            found[f"{name}_ratio"] = median_figure(ratios, unit="x")
        for name in ("p50", "transfer"):
            more = [ours[name].value - theirs[name].value for ours, theirs in pairs]
            found[f"{name}_more"] = median_figure(more, unit="ms")
        return found


def medians(rounds: Sequence[Mapping[str, Figure]]) -> dict[str, Figure]:
    """The median of each figure that every round has, with its interval."""
    return {
        name: median_figure(
            [one[name].value for one in rounds],
            unit=rounds[0][name].unit,
            better=rounds[0][name].better,
        )
        for name in FIGURES
        if all(name in one for one in rounds)
    }


def _values(figures: Mapping[str, Figure]) -> dict[str, Any]:
    return {name: round(figures[name].value, 4) for name in FIGURES if name in figures}


def explain(measured: Sequence[Measurement]) -> list[str]:
    """Sentences on what sets the tools apart, as far as the figures show it.

    Args:
        measured: pairs, as `Rounds.measurements` gives them.
    """
    said = []
    for theirs, ours in zip(measured[::2], measured[1::2], strict=True):
        if theirs.load["mode"] == "closed" and theirs.load["in_flight"] == 1:
            said.append(_client_cost(theirs, ours))
        late = theirs.figures.get("sent_late")
        if late is not None and late.value > 0:
            said.append(
                f"{_where(theirs.load)}: perf_analyzer sent {late.value:.1%} of the requests late "
                "and counts their latency from then; ours counts from the planned moment: p99 "
                f"{theirs.figures['p99'].value:.4g} and {ours.figures['p99'].value:.4g} ms"
            )
    return said


def _client_cost(theirs: Measurement, ours: Measurement) -> str:
    more = ours.figures["transfer_more"]
    spent = [one.figures["transfer"].value for one in (theirs, ours)]
    start = (
        f"{_where(theirs.load)}: outside of what the server counts a request spends "
        f"{spent[0]:.3g} ms with perf_analyzer's client in C++ and {spent[1]:.3g} ms with ours in "
        "Python"
    )
    if more.low is None or more.high is None:
        return f"{start}; too few rounds to say whether they differ"
    apart = f"{more.value:+.3g} ms ({more.low:+.3g} to {more.high:+.3g})"
    differ = "" if more.low > 0 or more.high < 0 else ", which the rounds do not tell from none"
    return f"{start}: {apart}{differ}"


def _where(load: Load) -> str:
    way = {"grpc": "gRPC", "grpc-shm": "shared memory", "http": "HTTP"}[str(load["transport"])]
    if load["mode"] == "closed":
        return f"{way}, {load['in_flight']} in flight"
    return f"{way}, {load['arrivals']} at {load['rate']:g}/s"
