"""Engines in processes of their own: what they answer, and that a death is a sentence."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from engine_fakes import CONTRACT, FlatEngine, flat_request, open_flat, open_none

from sceneloom.errors import EngineError
from sceneloom_bench.turns import EngineProcess, EngineRunner


@pytest.fixture(scope="module")
def process() -> Iterator[EngineProcess]:
    with EngineProcess(open_flat) as running:
        running.hold([flat_request(label) for label in (3, 5, 7)])
        yield running


def test_a_single_picture(process: EngineProcess) -> None:
    request = flat_request(9)
    seconds, picture = process.run(request.label_map, request.instance_map)
    assert seconds > 0
    assert picture.shape == (8, 8, 3)
    assert np.all(picture == 9)
    assert process.peak_memory_mib > 1


def test_turns_of_batches_show_what_is_asked_for(process: EngineProcess) -> None:
    assert process.largest() == 2
    turn = process.turn([[0, 1], [2, 0]], frozenset({1, 2}))
    assert len(turn.seconds) == 2
    assert turn.device_seconds == []
    assert {n: int(p.max()) for n, p in turn.pictures.items()} == {1: 5, 2: 7}


def test_turns_in_this_process_are_the_same() -> None:
    runner = EngineRunner(FlatEngine(CONTRACT, 2))
    runner.hold([flat_request(4), flat_request(6)])
    assert runner.turn([[1]], frozenset({1})).pictures[1].max() == 6


def test_an_engine_that_cannot_be_loaded_says_why() -> None:
    with (
        EngineProcess(open_none) as process,
        pytest.raises(EngineError, match=r"^FileNotFoundError: there is no model$"),
    ):
        process.ready()


def test_an_error_that_cannot_be_sent_is_a_sentence() -> None:
    said = r"^Unpicklable: not enough memory and more lines$"
    with EngineProcess(open_flat) as process:
        process.hold([flat_request(21)])
        with pytest.raises(EngineError, match=said):
            process.turn([[0]])


def test_an_answer_that_does_not_come_is_a_sentence_and_no_hang() -> None:
    said = r"^its process did not answer within 0\.01 s$"
    with (
        EngineProcess(open_flat, longest=0.01) as process,
        pytest.raises(EngineError, match=said),
    ):
        process.ready()


def test_a_process_that_is_killed_is_a_sentence_and_no_hang() -> None:
    with EngineProcess(open_flat) as process:
        process.hold([flat_request(20)])
        with pytest.raises(EngineError, match=r"was killed, as .* runs out of memory$"):
            process.turn([[0]])
        with pytest.raises(EngineError, match="its process was killed"):
            process.turn([[0]])
        assert process.peak_memory_mib == 0
