"""The regression check fails where a whole interval is outside its limit, and nowhere else."""

from __future__ import annotations

import pytest
from bench_reports import engine_report, render_report

from regression import LIMITS, Limit, judge, read_limits
from sceneloom_bench.reports.report import Report

FASTER = {"report": "engine", "measurement": "openvino-fp32", "figure": "times_faster", "why": "x"}


@pytest.fixture
def reports() -> dict[str, Report]:
    return {"engine": engine_report(), "render": render_report()}


def test_the_committed_limits_can_be_read_and_say_why() -> None:
    limits = read_limits(LIMITS)
    assert len(limits) >= 4
    for limit in limits:
        assert limit.why
        assert (limit.least is None) != (limit.most is None)


def test_only_a_whole_interval_outside_fails(reports: dict[str, Report]) -> None:
    figure = reports["engine"].named("openvino-fp32").figures["times_faster"]
    assert figure.low is not None
    assert figure.high is not None
    kept = Limit(**FASTER, least=figure.high - 1e-6)
    broken = Limit(**FASTER, least=figure.high + 1e-6)
    too_fast = Limit(**FASTER, most=figure.low - 1e-6)
    assert judge(reports, [kept, broken, too_fast]) == [broken, too_fast]


def test_what_was_not_measured_is_not_kept(
    reports: dict[str, Report], capsys: pytest.CaptureFixture[str]
) -> None:
    missing = Limit(report="engine", measurement="a", figure="times_faster", why="x", least=1)
    assert judge(reports, [missing]) == [missing]
    assert "NOT KEPT: a, times_faster: not measured" in capsys.readouterr().out
