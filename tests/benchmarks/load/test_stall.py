"""A server that stands still for a second raises an open loop's p99, and a closed loop hides it."""

from __future__ import annotations

import pytest

from sceneloom_bench.load.stall import StallSettings, measure
from sceneloom_bench.reports.report import Report

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


def test_one_run() -> None:
    check(measure(StallSettings(runs=1, rate=120, delay_seconds=0.003)), 1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_of_three_runs() -> None:
    check(measure(StallSettings()), 3)
