"""Reading LoadGen's own summary, ``mlperf_log_summary.txt``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from sceneloom.errors import InputError

_PERCENTILE = re.compile(r"([\d.]+) percentile latency \(ns\)\s*:\s*(\d+)")
_EXTREME = re.compile(r"(Min|Max|Mean) latency \(ns\)\s*:\s*(\d+)")
_EARLY = re.compile(r"Early stopping ([\d.]+)th percentile estimate:\s*(\d+)")
_CHECK = re.compile(r"^  (\w[\w ]+?) satisfied\s*: (Yes|NO)$", re.MULTILINE)
_RATES = {
    "completed": r"Completed samples per second\s*:\s*([\d.e+]+)",
    "scheduled": r"Scheduled samples per second\s*:\s*([\d.e+]+)",
    "offline": r"^Samples per second\s*:\s*([\d.e+]+)",
    "with_overhead": r"QPS w/ loadgen overhead\s*:\s*([\d.e+]+)",
    "without_overhead": r"QPS w/o loadgen overhead\s*:\s*([\d.e+]+)",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What LoadGen says of one run."""

    text: str
    """All of it, verbatim."""
    scenario: str
    """As LoadGen names it."""
    valid: bool
    """Its verdict."""
    checks: Mapping[str, bool]
    """What the verdict is of, such as ``Min duration``: whether it is satisfied."""
    recommendations: Sequence[str]
    """What it would have one do, each a sentence."""
    early_stopping: Sequence[str]
    """What it says of early stopping, each a sentence."""
    latencies_ms: Mapping[str, float]
    """``p50``, ``p90``, ``p95``, ``p97``, ``p99``, ``p99.9``, ``min``, ``max``, ``mean``."""
    early_ms: Mapping[str, float]
    """``p90``, ``p99``: its estimates that hold with 99 % confidence; of SingleStream only, those
    for which there were enough queries.
    """
    rates: Mapping[str, float]
    """Per second, as far as the scenario has them: ``completed``, ``scheduled`` (Server),
    ``offline``, ``with_overhead``, ``without_overhead`` (SingleStream).
    """
    parameters: Mapping[str, str]
    """The settings it used, as it prints them."""
    remarks: Sequence[str]
    """Its warnings and errors; empty if there were none."""

    @property
    def verdict(self) -> str:
        """``LoadGen: VALID``, or ``LoadGen: INVALID`` with everything that is not satisfied."""
        if self.valid:
            return "LoadGen: VALID"
        missed = [f"not satisfied: {name}" for name, held in self.checks.items() if not held]
        return "; ".join(["LoadGen: INVALID", *missed, *self.recommendations])


def parse_summary(text: str) -> Summary:
    """Read a summary.

    Raises:
        InputError: it has no verdict: LoadGen was interrupted, or it is another file.
    """
    verdict = re.search(r"^Result is : (VALID|INVALID)$", text, re.MULTILINE)
    scenario = re.search(r"^Scenario : (\w+)", text, re.MULTILINE)
    if not verdict or not scenario:
        raise InputError("LoadGen's summary has no verdict: the run did not reach its end")
    head, _, rest = text.partition("Additional Stats")
    extremes = {name.lower(): int(ns) / 1e6 for name, ns in _EXTREME.findall(rest)}
    percentiles = {f"p{float(name):g}": int(ns) / 1e6 for name, ns in _PERCENTILE.findall(rest)}
    rates = {name: re.search(pattern, text, re.MULTILINE) for name, pattern in _RATES.items()}
    parameters = rest.partition("Test Parameters Used")[2]
    return Summary(
        text=text,
        scenario=scenario[1],
        valid=verdict[1] == "VALID",
        checks={name: said == "Yes" for name, said in _CHECK.findall(head)},
        recommendations=_bullets(head, "Recommendations:"),
        early_stopping=_bullets(head, "Early Stopping Result:"),
        latencies_ms={**percentiles, **extremes},
        early_ms={f"p{float(p):g}": int(ns) / 1e6 for p, ns in _EARLY.findall(head)},
        rates={name: float(found[1]) for name, found in rates.items() if found},
        parameters=dict(
            re.findall(r"^([a-z_]\w*(?: \(ms\)| \(ns\))?) ?: (\S+)$", parameters, re.M)
        ),
        remarks=_remarks(parameters),
    )


def _bullets(text: str, heading: str) -> list[str]:
    """The sentences ``* ...`` under a heading; a line without a star belongs to the one before."""
    found: list[str] = []
    for line in text.partition(heading + "\n")[2].splitlines():
        if line.startswith(" * "):
            found.append(line[3:].strip())
        elif line.startswith(" ") and found:
            found[-1] += f" {line.strip()}"
        else:
            break
    return found


def _remarks(text: str) -> list[str]:
    """What is said after the parameters, unless it is that nothing happened."""
    lines = [line.strip() for line in text.splitlines()]
    told = [line for line in lines if re.search(r"warning|error", line, re.IGNORECASE)]
    return [line for line in told if not re.match(r"No (warnings|errors) encountered", line)]
