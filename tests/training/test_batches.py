"""Loading processes: order, errors, and that nothing of them is left whatever happens."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import psutil
import pytest
import torch

from sceneloom.errors import InputError, TrainingError
from sceneloom_training.batches import loading, loading_processes
from sceneloom_training.process import StopSignals
from sceneloom_training.settings import ComputeSettings, SegmenterSettings

prepare = partial(os.nice, 1)
MORE_THAN_A_PIPE = (3, 1 << 20)


@pytest.fixture(autouse=True)
def _no_loading_process_is_left() -> Iterator[None]:
    before = set(psutil.Process().children())  # of other tests in this process
    yield
    assert set(psutil.Process().children()) <= before


def square(item: int) -> dict[str, np.ndarray]:
    time.sleep(0.01 * (item % 3))  # so that they are done in another order
    return {"values": np.full(MORE_THAN_A_PIPE, item, np.uint8)}


def fail(item: int) -> int:
    if item == 3:
        raise InputError("three.png: is damaged")
    if item == 5:
        raise MemoryError
    if item == 7:
        raise ZeroDivisionError("a fault")
    return item


def die(item: int) -> np.ndarray:
    if item == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return np.zeros(MORE_THAN_A_PIPE)


def stall(item: int) -> int:
    time.sleep(600)
    return item


@pytest.mark.parametrize(
    ("cores", "device", "trainings", "workers"),
    [
        (16, "cuda", 1, 12),
        (2, "cuda", 1, 2),
        (224, "cuda", 1, 16),
        (96, "cuda", 8, 8),  # a process for each of eight GPUs
        (96, "cpu", 1, 2),
    ],
)
def test_loading_processes_follow_the_cores_where_a_gpu_trains(
    monkeypatch: pytest.MonkeyPatch, cores: int, device: str, trainings: int, workers: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    there = torch.device(device)
    assert ComputeSettings().workers == SegmenterSettings().workers is None
    assert loading_processes(None, there, trainings=trainings) == workers
    assert loading_processes(3, there, trainings=trainings) == 3
    assert loading_processes(0, there) == 0


def test_in_order_and_writable() -> None:
    with loading(square, range(8), workers=3, prepare=prepare) as made:
        found = [each["values"] for each in made]
    assert [int(each[0, 0]) for each in found] == list(range(8))
    found[0][:] = 9


@pytest.mark.parametrize(
    ("end", "error", "words"),
    [
        (4, InputError, r"^three\.png: is damaged$"),
        (6, MemoryError, "MemoryError"),
        (8, RuntimeError, "in a loading process: Traceback.*ZeroDivisionError: a fault"),
    ],
)
def test_an_error_comes_in_its_turn(end: int, error: type[Exception], words: str) -> None:
    items = [item for item in range(end) if item not in {3, 5, 7} or item == end - 1]
    with loading(fail, items, workers=2, prepare=prepare) as made:
        assert [next(made) for _ in items[:-1]] == items[:-1]
        with pytest.raises(error, match=f"(?s){words}"):
            next(made)


def test_a_process_that_is_killed_is_an_error_at_once() -> None:
    begun = time.monotonic()
    with (
        pytest.raises(TrainingError, match=r"a loading process was lost \(killed by signal 9\)"),
        loading(die, range(100), workers=2, prepare=prepare) as made,
    ):
        for _ in made:
            pass
    assert time.monotonic() - begun < 10


def test_a_signal_ends_the_wait_for_a_process_that_stands_still() -> None:
    with StopSignals() as stopped, loading(stall, [1, 2], workers=2, prepare=prepare) as made:
        alarm = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
        alarm.start()
        assert stopped.unless_stopped(lambda: next(made)) is None
        alarm.join()
        assert stopped.number == signal.SIGTERM
        assert stopped.unless_stopped(lambda: 1) is None  # it came before
