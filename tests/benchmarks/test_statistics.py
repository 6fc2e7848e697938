"""Intervals that hold, and say so where too little was measured."""

from __future__ import annotations

import numpy as np
import pytest

from sceneloom_bench.reports.report import Figure
from sceneloom_bench.reports.statistics import (
    latency_figures,
    median_figure,
    percentile,
    percentile_figure,
    rate_figure,
    ratio_figure,
    separate,
    within,
)


def test_percentiles_are_the_nearest_rank() -> None:
    values = list(range(100, 0, -1))
    assert [percentile(values, p) for p in (0, 1, 50, 99, 100)] == [1, 1, 50, 99, 100]


@pytest.mark.parametrize(("percent", "count"), [(50, 40), (90, 64), (99, 700)])
def test_intervals_hold_the_true_percentile_as_often_as_they_say(
    percent: float, count: int
) -> None:
    rng, held = np.random.default_rng(3), 0
    truth = -np.log(1 - percent / 100)  # of an exponential distribution
    for _ in range(300):
        figure = percentile_figure(rng.exponential(size=count).tolist(), percent, unit="s")
        assert figure.low is not None
        held += figure.low <= truth and (figure.high is None or truth <= figure.high)
    assert held >= 0.93 * 300


def test_too_few_values_have_no_end() -> None:
    assert median_figure([1.0] * 5, unit="x").low is None
    assert median_figure([1.0, 2, 3, 4, 5, 6], unit="x").low == 1
    # 0.99^n is 0.025 at 367: below that, no value is surely above the 99th percentile.
    assert percentile_figure([1.0] * 366, 99, unit="s").high is None
    assert percentile_figure([1.0] * 368, 99, unit="s").high == 1


def test_a_drifting_machine_does_not_decide_a_ratio() -> None:
    drift = [1, 3, 0.5, 2, 5, 1, 7]
    figure = ratio_figure([[2 * d, 2 * d] for d in drift], [[d] for d in drift])
    assert (figure.value, figure.low, figure.high) == (2, 2, 2)


def test_figures_of_latency_are_milliseconds() -> None:
    figures = latency_figures([[0.1] * 50, [0.2] * 50])
    assert [round(figures[n].value) for n in ("p50", "p90", "p99", "max")] == [100, 200, 200, 200]
    rate = rate_figure([[0.1] * 10] * 6, pictures=2)
    assert (rate.value, rate.low, rate.high) == pytest.approx((20, 20, 20))


def test_a_round_is_one_value_where_a_machine_drifts() -> None:
    def figures(rounds: int, each: int) -> dict[str, Figure]:
        return latency_figures([[0.1 + 0.01 * number] * each for number in range(rounds)])

    for each, known in ((2, 1), (49, 1), (50, 2), (499, 2), (500, 3)):
        found = list(figures(8, each).values())[:3]
        assert [figure.low is not None for figure in found] == [True] * known + [False] * (
            3 - known
        )
        for figure in found[:known]:
            assert (figure.low, figure.high) == pytest.approx((100, 170))
    assert figures(8, 50)["p50"].value == pytest.approx(130)  # of all values
    assert figures(5, 500)["p50"].low is None


def test_rounds_of_one_value_are_values() -> None:
    values = np.random.default_rng(0).exponential(size=400).tolist()
    found = latency_figures([[value] for value in values])
    for percent in (50, 90, 99):
        expected = percentile_figure(values, percent, unit="ms", scale=1000)
        assert found[f"p{percent}"] == expected
        assert expected.high is not None


def test_verdicts_need_intervals_that_do_not_touch() -> None:
    def figure(low: float | None, high: float | None) -> Figure:
        return Figure(value=1 if low is None else low, unit="x", low=low, high=high)

    assert separate(figure(1, 2), figure(2.1, 3))
    assert separate(figure(2.1, 3), figure(1, 2))
    assert not separate(figure(1, 2), figure(2, 3))
    assert not separate(figure(1, None), figure(2, 3))
    assert within(figure(0.5, 1.5), {"most": 0.6})
    assert not within(figure(0.7, 1.5), {"most": 0.6})
    assert not within(figure(None, None), {"least": 1.1})
