"""The sentence about a report: from its own figures, and never more than its intervals allow."""

from __future__ import annotations

import dataclasses

import pytest
from bench_reports import (
    all_reports,
    engine_report,
    mlperf_report,
    render_report,
    report_of,
    server_report,
)

from sceneloom_bench.reports.headline import NEVER_SERVED, OUTSIDE_LIMITS, headline
from sceneloom_bench.reports.report import Figure, Measurement, Report


def engines(*ratios: tuple[str, Figure, str]) -> Report:
    measured = [Measurement(name="torch-fp32", load={"batch": 1}, figures={})]
    measured += [
        Measurement(
            name=name,
            load={"batch": 1},
            figures={"times_faster": ratio},
            marks=[mark] if mark else [],
        )
        for name, ratio, mark in ratios
    ]
    return report_of("engine", "t", measured, baseline="torch-fp32")


def times(value: float, low: float | None, high: float | None) -> Figure:
    return Figure(value=value, unit="x", better="higher", low=low, high=high)


CLEAR, CLOSE = times(1.77, 1.57, 1.91), times(1.65, 1.4, 2.02)


def test_the_fastest_engine_that_passed() -> None:
    first = ("openvino-fp32", CLEAR, "")
    said = (
        "openvino-fp32 is the fastest: 1.77 times as fast as PyTorch eager "
        "(95 % interval 1.57 to 1.91)"
    )
    assert headline(engines(first)) == f"{said}."
    for mark in (NEVER_SERVED, OUTSIDE_LIMITS):
        refused = ("openvino-int8", times(3, 2.9, 3.1), f"{mark}it differs")
        assert headline(engines(first, refused)) == f"{said}."
    assert headline(engines(first, ("through Triton", times(2, 1.9, 2.1), ""))) == f"{said}."
    assert headline(engines(first, ("b", times(1.2, 1.1, 1.3), ""))) == f"{said}."
    assert headline(engines(first, ("b", CLOSE, ""))) == (
        f"{said}; the intervals of openvino-fp32 and b do not separate."
    )


def test_no_winner_without_intervals_that_separate() -> None:
    assert headline(engines(("a", times(1.1, 0.9, 1.2), ""))) == (
        "The intervals do not separate: a is 1.10 times as fast as PyTorch eager "
        "(95 % interval 0.90 to 1.20)."
    )
    assert headline(engines(("a", times(1.77, None, None), ""))) == (
        "Too few rounds for an interval: a is 1.77 times as fast as PyTorch eager."
    )
    assert headline(engines(("a", times(0.5, 0.4, 0.6), ""))).startswith(
        "PyTorch eager is the fastest: a, the next, is 0.500 times as fast"
    )
    assert headline(engines()) == "No engine that passed was measured beside PyTorch eager."


def test_batches_have_a_sentence_each() -> None:
    said = headline(engine_report(batches=(1, 4)))
    assert said.startswith("Batch 1: openvino-fp32 is the fastest: ")
    assert " Batch 4: openvino-fp32 is the fastest: " in said
    assert "int8" not in said


def test_the_best_load_of_a_server() -> None:
    report = server_report()
    rates = [m.figures["rate"].value for m in report.measurements if "in_flight" in m.load]
    said = headline(report)
    assert said.startswith(f"The best throughput is {max(rates):.1f} pictures/s (95 % interval ")
    assert "in the closed loop, " in said
    assert "; its p99 is " in said
    *loads, bound = report.measurements
    bound = dataclasses.replace(bound, extra={"p99_bound_ms": 120.0})
    said = headline(dataclasses.replace(report, measurements=[*loads, bound]))
    assert said.endswith("; 26.5 pictures/s (95 % interval 26.5 to 27.8) keep a p99 of 120 ms.")


def test_the_verdicts_of_loadgen() -> None:
    single, *rest, offline = mlperf_report().measurements
    single = dataclasses.replace(single, extra={"valid": True})
    offline = dataclasses.replace(offline, extra={"valid": False})
    said = headline(dataclasses.replace(mlperf_report(), measurements=[single, *rest, offline]))
    assert said.startswith("LoadGen: SingleStream VALID (p99 ")
    assert said.endswith("Offline INVALID (31.2 pictures/s).")


def test_pictures_a_second_of_each_format() -> None:
    said = headline(render_report())
    assert said.startswith("jpg renders 30.9 pictures/s (95 % interval ")
    assert said.endswith("the intervals do not separate.")


def test_a_stall() -> None:
    raised = {"open": [930.0, 932.0], "closed": [-0.2]}
    report = dataclasses.replace(server_report(), extra={"raised_p99_ms": raised})
    assert headline(report) == (
        "The stall raises p99 by 931 ms in the open loop and 0 ms in the closed loop."
    )


@pytest.mark.parametrize("report", all_reports().values(), ids=lambda r: r.kind)
def test_one_line_ends_in_a_full_stop(report: Report) -> None:
    for each in (report, dataclasses.replace(report, measurements=[])):
        assert headline(each).endswith(".")
        assert "\n" not in headline(each)
    bare = [Measurement(name="bare", figures={"seconds": Figure(value=1, unit="s")})]
    assert headline(dataclasses.replace(report, measurements=bare)).endswith(".")
