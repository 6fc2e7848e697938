"""LoadGen's summaries as real runs wrote them, and the system under test without LoadGen."""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from noop_server import NOOP_CONTRACT
from sceneloom import TritonSynthesizer
from sceneloom.errors import InputError, MissingDependencyError, QueueFullError
from sceneloom.request import Request
from sceneloom.testing import FakeTransport
from sceneloom_bench.harness import ServedSettings, bench_maps, served_flags
from sceneloom_bench.loadgen import (
    LoadGenRun,
    Summary,
    SystemUnderTest,
    below_minimum,
    longest,
    parse_summary,
)
from sceneloom_bench.mlperf_command import MlperfSettings, highest_capacity, measure

NOWHERE = ServedSettings(url="127.0.0.1:1")


def stored(name: str) -> Summary:
    text = (Path(__file__).parent / f"{name}_summary.txt").read_text()
    found = parse_summary(text)
    assert found.text == text
    return found


def test_a_single_streams_summary() -> None:
    found = stored("single_stream")
    assert (found.scenario, found.valid, found.verdict) == ("SingleStream", True, "LoadGen: VALID")
    assert found.checks == {"Min duration": True, "Min queries": True, "Early stopping": True}
    assert found.latencies_ms == {
        "p50": 10.980339,
        "p90": 14.216137,
        "p95": 15.575125,
        "p97": 16.256443,
        "p99": 18.217621,
        "p99.9": 19.750194,
        "min": 10.304302,
        "max": 19.750194,
        "mean": 11.622174,
    }
    assert found.early_ms == {"p90": 15.901457}
    assert found.rates == {"with_overhead": 85.35, "without_overhead": 86.04}
    assert found.early_stopping[-1] == (
        "Not enough queries processed for 99.0th percentile early stopping estimate (would need to "
        "process at least 662 total queries)."
    )
    assert found.parameters["min_query_count"] == "64"
    assert found.parameters["min_duration (ms)"] == "2000"
    assert not found.remarks
    assert not found.recommendations


def test_an_invalid_servers_summary() -> None:
    found = stored("server_invalid")
    assert not found.valid
    assert found.verdict == (
        "LoadGen: INVALID; not satisfied: Performance constraints; not satisfied: Early stopping; "
        "Reduce target QPS to improve latency."
    )
    assert found.rates == {"completed": 101.05, "scheduled": 136.07}
    assert found.early_stopping[1] == "Processed 459 queries."


def test_an_offline_summary_and_its_remarks() -> None:
    found = stored("offline")
    assert found.rates == {"offline": 777.724}
    said = found.text.replace(
        "No warnings encountered", "1 warnings encountered. See detailed log."
    )
    assert parse_summary(said).remarks == ["1 warnings encountered. See detailed log. during test."]


def test_a_summary_without_a_verdict_is_refused() -> None:
    text = stored("offline").text
    for broken in ("", text.partition("Result is")[0], text.replace("Scenario", "Scene")):
        with pytest.raises(InputError, match="no verdict"):
            parse_summary(broken)


def test_what_is_below_the_rules_minimum() -> None:
    assert not below_minimum("SingleStream", seconds=600, queries=64)
    assert not below_minimum("Server", seconds=700, queries=459)
    assert below_minimum("Server", seconds=3.04, queries=458) == [
        "below the rules' minimum: 3.0 s of 600 s",
        "below the rules' minimum: 458 queries of 459",
    ]
    assert below_minimum("Offline", seconds=600, queries=100) == [
        "below the rules' minimum: 100 samples of 24576"
    ]
    # Where these come from: no query late, and no more than one in a hundred such runs by chance.
    assert 0.99**459 <= 0.01 < 0.99**458


class Completed:
    """What LoadGen would be told."""

    def __init__(self, wanted: int) -> None:
        self.ids: list[int] = []
        self.wanted = wanted
        self.all = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, ids: Sequence[int]) -> None:
        with self._lock:
            self.ids += ids
            if len(self.ids) >= self.wanted:
                self.all.set()


def library() -> list[Request]:
    small = bench_maps(NOOP_CONTRACT, (64, 128), 3)
    return [*small, *bench_maps(NOOP_CONTRACT, (128, 128), 1)]


def test_every_sample_is_completed_and_failures_are_counted() -> None:
    failures = [None, QueueFullError("the queue is full"), ValueError("a bug"), None]
    transport = FakeTransport(NOOP_CONTRACT, failures=failures)  # type: ignore[arg-type]
    completed = Completed(6)
    with TritonSynthesizer("fake", transport=transport) as client:
        system = SystemUnderTest(client, library(), completed, workers=1)
        for number in range(6):
            system.issue([(number, number % 4)])
        assert completed.all.wait(20)
        system.close()
    assert sorted(completed.ids) == list(range(6))
    assert (system.samples, system.failed) == (6, 2)
    assert system.first_error == "QueueFullError: the queue is full"
    assert len(system.seconds) == 6


def test_offlines_one_query_goes_in_batches_of_equal_size() -> None:
    transport = FakeTransport(NOOP_CONTRACT, max_batch_size=4)
    completed = Completed(10)
    with TritonSynthesizer("fake", transport=transport) as client:
        system = SystemUnderTest(client, library(), completed, workers=1, batch=4)
        system.issue([(number, number % 4) for number in range(10)])
        assert completed.all.wait(20)
        system.close()
    shapes = [request["label_map"].shape for request in transport.requests]
    assert shapes == [(4, 64, 128), (4, 64, 128), (2, 128, 128)]
    assert sorted(completed.ids) == list(range(10))


def test_without_loadgen_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(
        MissingDependencyError, match=r"mlperf_loadgen.*pip install 'sceneloom\[bench\]'"
    ):
        measure(MlperfSettings(server=NOWHERE))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"scenario": ()}, "one or several different"),
        ({"scenario": ("Server", "Server")}, "one or several different"),
        ({"queries": 0}, "queries is 0"),
        ({"different_maps": 1}, "different_maps is 1"),
        ({"target_rate": 0.0}, "target_rate is 0"),
        ({"seconds": -1.0}, "seconds is -1"),
        ({"timeout": 0.0}, "timeout"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        MlperfSettings(server=NOWHERE, **settings)  # type: ignore[arg-type]


def test_reports_name_no_address() -> None:
    flags = served_flags(MlperfSettings(server=NOWHERE, maps=Path("/somewhere/maps")))
    assert (flags["url"], flags["http"], flags["maps"]) == ("HOST:PORT", None, "maps")


class Sleeping:
    """Takes a while for a request, and does some at once."""

    def __init__(self, at_once: int) -> None:
        self._free = threading.Semaphore(at_once)

    def run_requests(self, requests: Sequence[Request]) -> None:
        with self._free:
            time.sleep(0.02)


def test_the_capacity_is_looked_for_until_it_rises_no_more() -> None:
    def look(at_once: int, first: int, most: int) -> tuple[Sequence[int], int, str]:
        found = highest_capacity(
            Sleeping(at_once),  # type: ignore[arg-type]
            library(),
            first=first,
            most=most,
            seconds=0.3,
        )
        return found.tried, found.in_flight, str(found)

    tried, best, said = look(8, first=2, most=64)
    assert list(tried[:4]) == [2, 4, 8, 16]
    assert 8 <= best < 64
    assert said.endswith(f"the best of {', '.join(map(str, tried))}")
    assert list(look(64, first=4, most=6)[0]) == [4, 6]
    tried, best, said = look(64, first=4, most=2)
    assert (list(tried), best) == ([4], 4)
    assert said.endswith("/s of a closed loop with 4 in flight just before")


def test_a_run_is_given_up_long_after_it_should_have_ended(plan: LoadGenRun) -> None:
    # 64 queries of 2 s are longer than the 100 s that were asked for.
    assert longest(plan) == 600 + 10 * (100 + 64 * 2)
    overload = dataclasses.replace(plan, scenario="Server", rate=30)
    assert longest(overload) == 600 + 10 * (100 + 3000 * 2)
