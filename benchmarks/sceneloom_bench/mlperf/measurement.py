"""LoadGen's figures in the one form of all reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from sceneloom_bench.mlperf.loadgen_process import Outcome, Plan
from sceneloom_bench.mlperf.rules import below_minimum
from sceneloom_bench.reports.report import Figure, Measurement
from sceneloom_bench.reports.statistics import percentile_figure

_RATES = {"SingleStream": "with_overhead", "Server": "completed", "Offline": "offline"}


def measurement(plan: Plan, outcome: Outcome, transport: str, said: Sequence[str]) -> Measurement:
    """A run as a measurement: values are LoadGen's, the first mark is the verdict.

    A single stream's percentiles have the intervals of the requests' own times; queries that wait
    for each other are not independent, so the others' have none.

    Args:
        plan: what was asked for.
        outcome: what came of it.
        transport: how tensors travelled.
        said: marks that the targets need.
    """
    summary = outcome.summary
    figures = {
        "rate": Figure(value=summary.rates[_RATES[plan.scenario]], unit="1/s", better="higher"),
        **_latencies(plan, outcome),
    }
    return Measurement(
        name=plan.scenario,
        load=_load(plan, transport),
        figures=figures,
        samples=[outcome.seconds] if plan.scenario == "SingleStream" else (),
        marks=[
            *_verdict(outcome),
            *below_minimum(plan.scenario, seconds=outcome.took, queries=outcome.samples),
            *said,
            *(f"LoadGen: {remark}" for remark in summary.remarks),
        ],
        extra={
            "valid": summary.valid and not outcome.failed,
            "queries": outcome.samples,
            "failed": outcome.failed,
            "seconds": round(outcome.took, 3),
            "checks": dict(summary.checks),
            "early_stopping": list(summary.early_stopping),
            "latencies_ms": dict(summary.latencies_ms),
            "rates": dict(summary.rates),
            "parameters": dict(summary.parameters),
            "summary": summary.text,
        },
    )


def _verdict(outcome: Outcome) -> list[str]:
    if not outcome.failed:
        return [outcome.summary.verdict]
    requests = "request" if outcome.failed == 1 else "requests"
    return [
        f"not valid: {outcome.failed} {requests} failed, the first with: {outcome.first_error}",
        f"{outcome.summary.verdict}, which knows nothing of requests that failed",
    ]


def _load(plan: Plan, transport: str) -> dict[str, str | int | float | bool]:
    load: dict[str, str | int | float | bool] = {
        "scenario": plan.scenario,
        "transport": transport,
        "batch": plan.batch,
    }
    if plan.scenario == "Server":
        load |= {"rate": round(plan.rate, 4), "arrivals": "poisson"}
    else:
        load["in_flight"] = plan.workers
    return load


def _latencies(plan: Plan, outcome: Outcome) -> dict[str, Figure]:
    """Percentiles and maximum; a latency of Offline is a place in its queue, and none of these."""
    summary = outcome.summary
    if plan.scenario == "Offline":
        return {}
    figures = {
        name: Figure(value=summary.latencies_ms[name], unit="ms", better="lower")
        for name in ("p50", "p90", "p99", "max")
    }
    if plan.scenario != "SingleStream":
        bound = Figure(value=plan.latency_bound_ms, unit="ms")
        return {**figures, "latency_bound": bound}
    for percent in (50, 90, 99):
        figures[f"p{percent}"] = _between(
            figures[f"p{percent}"],
            percentile_figure(outcome.seconds, percent, unit="ms", scale=1000),
        )
    early = {
        f"{name}_early_stopping": Figure(value=value, unit="ms", better="lower")
        for name, value in summary.early_ms.items()
    }
    return {**figures, **early}


def _between(figure: Figure, own: Figure) -> Figure:
    """LoadGen's value with the interval of the requests' own times, which begin a little later."""
    return dataclasses.replace(
        figure,
        low=None if own.low is None else min(own.low, figure.value),
        high=None if own.high is None else max(own.high, figure.value),
    )
