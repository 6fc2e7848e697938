"""Schedules, loops and figures, without a server: what is sent is a function of the test."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
from hypothesis import strategies as st

from sceneloom.errors import EngineError, ModelFailedError, QueueFullError, SceneLoomError
from sceneloom_bench.latencies import (
    blocks_of,
    histogram_of,
    latency_extra,
    load_figures,
    p99_upper_end_ms,
    percentile_ms,
    samples_of,
)
from sceneloom_bench.load import RESOLUTION, bisect, load_marks
from sceneloom_bench.loops import (
    Load,
    LoadFailedError,
    Sent,
    count_for,
    plan_arrivals,
    rounded_rate,
    run_closed,
    run_open,
)
from sceneloom_bench.reports.report import Figure, Measurement
from sceneloom_bench.reports.statistics import percentile, percentile_figure
from sceneloom_bench.server_command import Kept


@given(st.floats(0.1, 1000), st.integers(2, 500), st.integers(0, 2**32 - 1))
def test_arrivals_are_in_order_and_poisson_ones_of_one_seed_are_stretched(
    rate: float, count: int, seed: int
) -> None:
    constant = plan_arrivals("constant", rate, count, seed)
    assert constant[0] == 0
    assert np.allclose(np.diff(constant), 1 / rate)
    poisson = plan_arrivals("poisson", rate, count, seed)
    assert len(poisson) == count
    assert (np.diff([0, *poisson, count / rate * (1 + 1e-9)]) >= 0).all()
    assert np.allclose(poisson, np.array(plan_arrivals("poisson", 1, count, seed)) / rate)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 1000), st.integers(0, 1000))
def test_poisson_gaps_have_the_mean_and_the_spread_of_exponential_ones(
    rate: float, seed: int
) -> None:
    gaps = np.diff([0, *plan_arrivals("poisson", rate, 10_000, seed), 10_000 / rate]) * rate
    assert gaps.sum() == pytest.approx(10_000)  # so the rate is exact
    assert abs(gaps.std() - 1) < 0.12  # more than six standard errors


def test_counts_and_rates() -> None:
    assert (count_for(10, 3, 5), count_for(10, 0.1, 5)) == (30, 5)
    assert [rounded_rate(rate) for rate in (168.9, 0.1234, 3.0)] == [170, 0.12, 3]


def test_the_closed_loop_keeps_so_many_in_flight() -> None:
    lock, now, most, numbers = threading.Lock(), [0], [0], []

    def send(number: int) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
            numbers.append(number)
        time.sleep(0.005)
        with lock:
            now[0] -= 1

    load = run_closed(send, in_flight=3, seconds=0, requests=31)
    assert most == [3]
    assert sorted(numbers) == list(range(31))
    assert len(load.answered) == 31
    assert run_closed(send, in_flight=1, seconds=0.1, requests=1).seconds >= 0.1


def test_the_open_loop_counts_waiting_for_a_worker_from_the_plan() -> None:
    planned = plan_arrivals("constant", 100, 20, 0)
    load = run_open(lambda number: time.sleep(0.05), planned, max_in_flight=1)
    waited = [one for one in load.requests if one.waited]
    assert len(waited) >= 18
    assert [one.planned for one in load.requests] == planned
    # The last one was to be sent at 0.19 s and had 19 in front of it.
    assert load.latencies[-1] >= 20 * 0.05 - 0.19
    assert load.requests[-1].done - load.requests[-1].sent < 0.5 * load.latencies[-1]
    (mark,) = load_marks(load, 1, 1000)
    assert f"{len(waited)} requests found all 1 workers busy" in mark


def test_the_open_loop_goes_on_while_answers_are_missing() -> None:
    answered = threading.Event()

    def send(number: int) -> None:
        if number == 9:
            answered.set()
        assert answered.wait(10)

    load = run_open(send, plan_arrivals("constant", 100, 10, 0))
    assert not any(one.waited for one in load.requests)
    assert load.latencies[0] >= 0.09


def test_failures_are_counted_and_are_not_in_the_latencies() -> None:
    def send(number: int) -> None:
        if number % 4 == 1:
            raise QueueFullError("full")
        if number == 6:
            raise ModelFailedError("broken")

    load = run_closed(send, in_flight=1, seconds=0, requests=20)
    assert load.failures == {"QueueFullError": 5, "ModelFailedError": 1}
    figures = load_figures(load, 1)
    assert figures["failed"].value == pytest.approx(0.3)
    assert len(load.latencies) == 14
    assert load_marks(load, 256, 1e9) == [
        "6 of 20 requests failed (1 ModelFailedError, 5 QueueFullError) and are not in the "
        "latencies"
    ]
    assert p99_upper_end_ms(load) == float("inf")


@pytest.mark.parametrize("mode", ["open", "closed"])
def test_too_many_failures_in_a_row_end_a_load(mode: str) -> None:
    def send(number: int) -> None:
        if number > 5:
            raise QueueFullError("it is full")

    def load() -> Load:
        if mode == "closed":
            return run_closed(send, in_flight=2, seconds=60, requests=1, max_failures=10)
        return run_open(send, plan_arrivals("constant", 100, 6000, 0), max_failures=10)

    start = time.perf_counter()
    with pytest.raises(
        LoadFailedError, match="10 requests in a row failed, the last one with: it is"
    ) as failed:
        load()
    assert failed.value.mark == "10 requests in a row failed, the last one with QueueFullError"
    assert time.perf_counter() - start < 30


def test_a_fault_of_the_bench_itself_is_not_a_failed_request() -> None:
    def send(number: int) -> None:
        raise KeyError(number)

    with pytest.raises(KeyError):
        run_closed(send, in_flight=2, seconds=60, requests=1)
    with pytest.raises(KeyError):
        run_open(send, plan_arrivals("constant", 1, 60, 0))


def test_a_load_without_an_answer_is_an_error() -> None:
    def send(number: int) -> None:
        raise QueueFullError("it is full")

    with pytest.raises(LoadFailedError, match="all requests failed, the last one with: it is full"):
        run_closed(send, in_flight=1, seconds=0, requests=3)


def test_what_fails_takes_nothing_else_with_it() -> None:
    def fail(error: SceneLoomError) -> list[Measurement]:
        raise error

    kept = Kept()
    one = Measurement(name="one", figures={})
    assert kept.run("one", lambda: [one]) == [one]
    assert kept.run("two", lambda: fail(LoadFailedError("all failed", QueueFullError("h:1")))) == []
    assert kept.run("three", lambda: fail(EngineError("/a/folder"))) == []
    assert kept.measured == [one]
    assert isinstance(kept.failed, LoadFailedError)
    assert kept.marks == [
        "two left out: all failed, the last one with QueueFullError",
        "three left out: EngineError",
    ]
    with pytest.raises(SceneLoomError, match="from the cache"):
        kept.run("four", lambda: fail(SceneLoomError("from the cache")))


def test_a_generator_that_is_late_says_so() -> None:
    def load(late: float) -> Load:
        return Load(
            requests=[
                Sent(number, number + late, number + late + 0.01, False, "") for number in range(50)
            ]
        )

    assert load_marks(load(0.0005), 8, 10) == []
    (mark,) = load_marks(load(0.005), 8, 10)
    assert mark.startswith("the load generator is a bottleneck: it sent up to 5.00 ms late")


def test_figures_of_a_load() -> None:
    requests = [Sent(k * 0.01, k * 0.01, k * 0.01 + 0.002, False, "") for k in range(1000)]
    requests[700] = requests[700]._replace(done=requests[700].planned + 1)
    load = Load(requests=requests)
    figures = load_figures(load, 4)
    assert figures["p50"].value == pytest.approx(2, rel=1e-3)
    assert (figures["p50"].low, figures["p50"].high) == pytest.approx((2, 2), rel=1e-3)
    assert figures["p90"].high is not None
    assert figures["p99"].low is figures["p99"].high is None
    assert figures["max"].value == pytest.approx(1000)
    assert figures["rate"].value == pytest.approx(400, rel=1e-2)
    assert figures["rate"].low is not None
    assert [len(block) for block in samples_of(load)] == [100] * 10
    extra = latency_extra(load)
    merged = HdrHistogram.decode(extra["histogram"])
    merged.add(HdrHistogram.decode(extra["histogram"]))
    assert merged.get_total_count() == 2000
    assert dict(extra["percentiles"])[100] == pytest.approx(1000, rel=1e-3)


@pytest.mark.parametrize(
    ("answers", "known"), [(59, []), (60, ["p50"]), (300, ["p50", "p90"]), (3000, ["p99"])]
)
def test_intervals_are_of_blocks_that_have_a_tail(answers: int, known: list[str]) -> None:
    load = Load(requests=[Sent(k, k, k + 0.01, False, "") for k in range(answers)])
    figures = load_figures(load, 1)
    for name in ("p50", "p90", "p99"):
        told = name in known or "p99" in known
        assert (figures[name].low is not None) == (figures[name].high is not None) == told, name


def test_intervals_of_a_queue_are_wider_than_those_of_independent_requests() -> None:
    rng = np.random.default_rng(3)
    busy = np.repeat(rng.exponential(size=60), 100)  # a hundred after each other are alike
    values = busy * rng.uniform(0.9, 1.1, len(busy))
    load = Load(requests=[Sent(k, k, k + v, False, "") for k, v in enumerate(values)])
    alone = percentile_figure(list(values), 90, unit="ms", scale=1000)
    assert width(load_figures(load, 1)["p90"]) > 3 * width(alone)


def width(figure: Figure) -> float:
    assert figure.low is not None
    assert figure.high is not None
    return figure.high - figure.low


def test_the_upper_end_of_p99_is_the_largest_of_few() -> None:
    def upper(count: int) -> float:
        return p99_upper_end_ms(
            Load(requests=[Sent(0, 0, 0.001 * (k + 1), False, "") for k in range(count)])
        )

    assert [upper(count) for count in (20, 100, 459)] == pytest.approx([20, 100, 459])
    assert 1980 < upper(2000) < 2000


def test_the_end_of_a_closed_loop_is_not_in_its_rate() -> None:
    dones = [*range(1, 98), 97, 97, 200]  # the last answer of three others comes far too late
    load = Load(requests=[Sent(0, 0, done, False, "") for done in dones], in_flight=4)
    assert load_figures(load, 1)["rate"].value == pytest.approx(1)


@settings(deadline=None)
@given(st.lists(st.floats(1e-4, 1000), min_size=1, max_size=300), st.sampled_from([50, 90, 99]))
def test_the_histogram_agrees_with_the_samples(values: list[float], percent: int) -> None:
    found = percentile_ms(histogram_of(values), percent) / 1000
    assert found == pytest.approx(percentile(values, percent), rel=2e-3, abs=2e-6)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=200))
def test_blocks_are_the_values_in_order(values: list[float]) -> None:
    blocks = blocks_of(values)
    assert [value for block in blocks for value in block] == values
    assert len(blocks) == max(min(10, len(values) // 2), 1)
    assert all(blocks)


@given(st.floats(1, 100), st.floats(0, 1))
def test_bisection_brackets_the_highest_rate(high: float, share: float) -> None:
    low = 0.1 * high
    limit = low + share * (high - low)
    asked: list[float] = []

    def keeps(rate: float) -> bool:
        asked.append(rate)
        return rate <= limit

    kept, failed = bisect(keeps, low, high)
    assert kept is not None
    assert kept <= limit
    if failed is not None:
        assert limit < failed
        assert failed - kept <= RESOLUTION * failed
    assert len(set(asked)) == len(asked) <= 10


def test_bisection_says_where_it_found_no_end() -> None:
    assert bisect(lambda rate: False, 1, 10) == (None, 1)
    assert bisect(lambda rate: True, 1, 10) == (10, None)
