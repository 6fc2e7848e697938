"""The adaptive window against servers whose answers take what a queue would make them take."""

from __future__ import annotations

import heapq
import random

import pytest

from sceneloom.errors import InputError
from sceneloom.rendering.servers import AdaptiveWindow


def drive(window: AdaptiveWindow, *, service: float, overhead: float, answers: int) -> list[int]:
    """A server that works on one request at a time; returns the limits after each answer."""
    now, free_at, running, limits = 0.0, 0.0, [], []
    while len(limits) < answers:
        while len(running) < window.limit:
            begin = max(now + overhead / 2, free_at)
            free_at = begin + service * random.Random(len(limits)).uniform(0.95, 1.05)
            heapq.heappush(running, (free_at + overhead / 2, now))
        done, sent = heapq.heappop(running)
        now = done
        window.answered(done - sent, "size")
        limits.append(window.limit)
    return limits


def test_settles_where_the_server_is_busy_and_few_wait() -> None:
    limits = drive(AdaptiveWindow(), service=1.0, overhead=0.3, answers=2000)
    settled = sorted(limits[200:])
    assert 2 <= settled[len(settled) // 2] <= 6
    assert settled[int(len(settled) * 0.99)] <= 7


def test_grows_with_a_link_that_is_long() -> None:
    # The way takes ten times as long as the work: eleven must be under way to keep the server busy.
    limits = drive(AdaptiveWindow(), service=1.0, overhead=10.0, answers=3000)
    settled = sorted(limits[1000:])
    assert 11 <= settled[len(settled) // 2] <= 18


def test_follows_a_server_that_becomes_slower() -> None:
    window = AdaptiveWindow()
    drive(window, service=1.0, overhead=0.3, answers=500)
    limits = drive(window, service=4.0, overhead=0.3, answers=1500)
    settled = sorted(limits[700:])
    assert 2 <= settled[len(settled) // 2] <= 6


def test_a_rejection_halves_it_once_for_all_that_were_under_way() -> None:
    window = AdaptiveWindow()
    drive(window, service=1.0, overhead=20.0, answers=1000)
    before = window.limit
    assert before >= 12
    for _ in range(before):
        window.rejected()
    assert window.limit == before // 2
    for _ in range(1000):
        window.rejected()
    assert window.limit == 1


def drive_joining(
    window: AdaptiveWindow, *, service: float, largest: int, answers: int
) -> list[int]:
    """A server that works on up to `largest` requests in the time of one."""
    now, waiting, running, limits = 0.0, [], [], []
    while len(limits) < answers:
        waiting += [now] * (window.limit - len(waiting) - len(running))
        if not running:
            running, waiting = waiting[:largest], waiting[largest:]
            done = now + service * random.Random(len(limits)).uniform(0.95, 1.05)
        now = done
        for sent in running:
            window.answered(now - sent, "size")
            limits.append(window.limit)
        running = []
    return limits


@pytest.mark.parametrize("largest", [4, 8])
def test_a_server_that_joins_requests_gets_them(largest: int) -> None:
    limits = drive_joining(AdaptiveWindow(), service=1.0, largest=largest, answers=6000)
    settled = sorted(limits[3000:])
    assert settled[len(settled) // 2] >= 1.5 * largest


def test_stays_within_its_bounds() -> None:
    limits = drive(AdaptiveWindow(max_limit=8), service=0.001, overhead=10.0, answers=2000)
    assert max(limits) == 8
    window = AdaptiveWindow(fixed=5)
    window.rejected()
    limits = drive(window, service=1.0, overhead=0.0, answers=100)
    assert set(limits) == {5}


@pytest.mark.parametrize("numbers", [{"max_limit": 0}, {"fixed": -1}])
def test_refuses_windows_without_room(numbers: dict[str, int]) -> None:
    with pytest.raises(InputError, match="at least 1"):
        AdaptiveWindow(**numbers)
