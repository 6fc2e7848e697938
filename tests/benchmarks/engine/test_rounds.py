"""Rounds: who comes when, on which maps, and what is made of the times."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from sceneloom.errors import EngineError
from sceneloom_bench.engine_command import (
    NEVER_SERVED,
    EngineRow,
    engine_measurement,
    parity_of,
)
from sceneloom_bench.reports.report import Measurement
from sceneloom_bench.turns import Round, Timings, run_rounds
from sceneloom_serving.parity import Precision

PEAKS = {"matrix product float32": 10e12, "matrix product float16": 100e12}
Calls = list[tuple[str, Sequence[Sequence[int]]]]


class FakeRunner:
    """Says that a batch took so long, and gives pictures of one grey level."""

    def __init__(
        self,
        name: str,
        seconds: float,
        calls: Calls,
        level: int = 100,
        fails_in: int | None = None,
        device: float | None = None,
    ) -> None:
        self.name, self.seconds, self.calls, self.level = name, seconds, calls, level
        self.fails_in, self.device, self.turns = fails_in, device, 0

    def turn(self, batches: Sequence[Sequence[int]], show: frozenset[int]) -> Round:
        self.calls.append((self.name, batches))
        if self.turns == self.fails_in:
            raise EngineError("no memory")
        self.turns += 1
        picture = np.full((2, 2, 3), self.level, np.uint8)
        return Round(
            seconds=[self.seconds * self.turns] * len(batches),
            device_seconds=[] if self.device is None else [self.device] * len(batches),
            pictures={n: picture for batch in batches for n in batch if n in show},
        )


def test_everybody_has_every_neighbour_and_the_order_is_the_same_in_every_run() -> None:
    runs = []
    for _ in range(2):
        calls: Calls = []
        run_rounds({n: FakeRunner(n, 1.0, calls) for n in "abcd"}, 5, batch=1, rounds=23, turn=1)
        names = [name for name, _ in calls]
        runs.append(["".join(names[start : start + 4]) for start in range(0, 96, 4)])
    orders, again = runs
    assert orders == again
    assert {"".join(sorted(order)) for order in orders} == {"abcd"}
    assert len({pair for order in orders for pair in itertools.pairwise(order)}) == 12


def test_maps_are_the_same_within_a_round_and_others_in_the_next() -> None:
    calls: Calls = []
    runners = {name: FakeRunner(name, 1.0, calls) for name in "abc"}
    taken, failed = run_rounds(runners, 5, batch=2, rounds=2, turn=2)
    assert [work for name, work in calls if name == "a"] == [
        [[0, 1], [2, 3]],
        [[4, 0], [1, 2]],
        [[3, 4], [0, 1]],
    ]
    for start in (0, 3, 6):
        assert len({str(work) for _, work in calls[start : start + 3]}) == 1
    assert failed == {}
    assert taken["a"].seconds == [[2.0, 2.0], [3.0, 3.0]]  # the first turn is warm-up
    assert sorted(taken["a"].pictures) == [0, 1, 2, 3, 4]


def test_what_fails_is_left_out_with_its_reason() -> None:
    calls: Calls = []
    runners = {"a": FakeRunner("a", 1.0, calls), "b": FakeRunner("b", 1.0, calls, fails_in=2)}
    taken, failed = run_rounds(runners, 3, batch=1, rounds=4, turn=1)
    assert failed == {"b": "no memory"}
    assert list(taken) == ["a"]
    assert len(taken["a"].seconds) == 4
    assert [name for name, _ in calls].count("b") == 3


def test_memory_of_the_gpu_is_what_the_warm_up_took() -> None:
    used, calls = iter([100.0, 130.0, 130.0, 190.0]), Calls()
    runners = {name: FakeRunner(name, 1.0, calls) for name in "ab"}
    taken, _ = run_rounds(runners, 3, batch=1, rounds=2, turn=1, gpu_used=lambda: next(used))
    assert [taken[name].grown_mib for name, _ in calls[:2]] == [30.0, 60.0]


def measured(
    runner: FakeRunner,
    baseline: FakeRunner,
    *,
    batch: int = 1,
    precision: Precision = "fp32",
    marks: Sequence[str] = (),
    known: bool = True,
    peaks: Mapping[str, float] = PEAKS,
) -> Measurement:
    runners = {"torch-fp32": baseline, runner.name: runner}
    taken, _ = run_rounds(runners, 4, batch=batch, rounds=6, turn=2)
    base, mine = taken["torch-fp32"], taken[runner.name]
    row = EngineRow(
        name=runner.name,
        batch=batch,
        precision=precision,
        timings=mine,
        baseline=base if known else None,
        parity=parity_of(base, mine) if known else None,
        bare=base,
        memory_mib={"peak_memory": 512, "gpu_memory": 0.0},
        how="a fake",
        marks=marks,
    )
    return engine_measurement(row, 1000.0, peaks)


def test_ratios_are_taken_within_rounds() -> None:
    # Both take longer from round to round, as on a machine that is throttled.
    found = measured(FakeRunner("x", 0.5, []), FakeRunner("torch-fp32", 2.0, []))
    faster = found.figures["times_faster"]
    assert (faster.value, faster.low, faster.high) == (4.0, 4.0, 4.0)
    assert found.figures["overhead_ratio"].value == 0.25
    assert found.figures["overhead"].value == pytest.approx(-1500 * 4.5)  # rounds 2 to 7
    assert found.load == {"batch": 1}
    assert found.extra["parity"]["max"] == 0
    assert "gpu_memory" not in found.figures
    assert found.figures["peak_memory"].value == 512


def test_shares_of_the_peak_are_of_the_models_operations() -> None:
    found = measured(
        FakeRunner("x", 0.1, [], device=0.05), FakeRunner("torch-fp32", 1.0, []), batch=2
    )
    # 2000 GFLOP in the middle value, 0.4 s: 5 TFLOP/s of 10.
    assert found.figures["p50"].value == pytest.approx(400)
    assert found.figures["tflops"].value == pytest.approx(5)
    assert found.figures["peak_share"].value == pytest.approx(0.5)
    share = found.figures["peak_share"]
    # From the slowest round to the fastest: six rounds are six values, however many pictures.
    assert (share.low, share.high) == (pytest.approx(0.5 * 4 / 7), pytest.approx(0.5 * 4 / 2))
    for name in ("p90", "p99"):  # of two pictures in a round
        assert (found.figures[name].low, found.figures[name].high) == (None, None)
    assert found.figures["device"].value == pytest.approx(50)
    pictures = 2 * 12 / sum(2 * 0.1 * n for n in range(2, 8))
    assert found.figures["rate"].value == pytest.approx(pictures)
    half = measured(
        FakeRunner("x", 0.1, []), FakeRunner("torch-fp32", 1.0, []), batch=2, precision="fp16"
    )
    assert half.figures["peak_share"].value == pytest.approx(0.05)
    on_cpu = measured(
        FakeRunner("x", 0.1, []),
        FakeRunner("torch-fp32", 1.0, []),
        batch=2,
        precision="fp16",
        peaks={"matrix product float32": PEAKS["matrix product float32"]},
    )
    assert on_cpu.figures["peak_share"].value == pytest.approx(0.5)
    assert "its share of the measured peak is of the float32 product's" in on_cpu.marks


def test_what_is_outside_its_limits_is_marked() -> None:
    baseline = FakeRunner("torch-fp32", 1.0, [])
    off = measured(FakeRunner("openvino-fp32", 1.0, [], level=105), baseline)
    (mark,) = off.marks
    assert mark.startswith("never served: openvino-fp32 differs from PyTorch by up to 5 grey")
    assert off.figures["difference"].value == 5
    peer = measured(FakeRunner("torch-fp16", 1.0, [], level=105), baseline, precision="fp16")
    assert peer.marks[0].startswith("outside the limits of its precision: torch-fp16 differs")
    refused = measured(
        FakeRunner("openvino-int8", 1.0, [], level=0),
        baseline,
        precision="int8",
        marks=[NEVER_SERVED + "export refused it"],
    )
    assert refused.marks == [
        "never served: export refused it",
        "its share of the measured peak is of the float32 product's",
    ]


def test_without_a_baseline_there_is_no_ratio() -> None:
    found = measured(FakeRunner("x", 1.0, []), FakeRunner("torch-fp32", 1.0, []), known=False)
    assert "times_faster" not in found.figures
    assert found.marks == ["the baseline could not run a batch of 1: no ratio, no parity"]


def test_parity_is_over_the_maps_that_both_have_rendered() -> None:
    dark, light = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 9, np.uint8)
    parity = parity_of(Timings(pictures={0: dark, 1: dark}), Timings(pictures={1: light, 2: dark}))
    assert parity.max == 9
    assert parity.mean == 9
