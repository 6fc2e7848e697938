"""A server that stands still for a second raises an open loop's p99, and a closed loop hides it."""

from __future__ import annotations

from typing import Any

import pytest

from sceneloom.errors import InputError
from sceneloom_bench.reports.report import Report
from stalls import StallSettings, measure

pytestmark = pytest.mark.triton


def check(report: Report, runs: int) -> None:
    raised = report.extra["raised_p99_ms"]
    assert [len(figures) for figures in raised.values()] == [runs, runs]
    assert all(figure >= 700 for figure in raised["open"]), raised
    assert all(figure < 200 for figure in raised["closed"]), raised
    for measured in report.measurements:
        assert measured.extra["requests"] >= 600
        assert measured.extra["seconds"] <= 60
        assert measured.extra["failures"] == {}
        assert (measured.figures["max"].value >= 900) == ("stalled" in measured.name)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"runs": 0}, "runs is 0; it is at least 1"),
        ({"requests": 99}, "requests is 99; it is at least 100"),
        ({"in_flight": 10**6}, "in_flight is 1000000; it is at most 1024"),
        ({"stall_seconds": float("nan")}, "stall_seconds is nan; it is a finite number"),
        ({"delay_seconds": float("inf")}, "delay_seconds is inf; it is a finite number"),
        ({"rate": float("nan")}, "rate is nan; it is a finite number"),
        ({"rate": 300}, "a model of 0.004 s cannot answer 300/s"),
    ],
)
def test_settings_that_no_run_could_end_well_with(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        StallSettings(**settings)


@pytest.mark.slow
def test_one_run() -> None:
    check(measure(StallSettings(runs=1, rate=160, delay_seconds=0.002)), 1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_of_three_runs() -> None:
    check(measure(StallSettings()), 3)
