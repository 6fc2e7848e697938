"""Work in a process of its own: what it returns, what it raises, and that its end is a sentence."""

from __future__ import annotations

import os
import time

import pytest

from sceneloom.errors import EngineError
from sceneloom_bench.engine.aside import Aside


def test_what_is_returned_and_raised_there_is_so_here() -> None:
    with Aside() as aside:
        assert aside.call(os.getpid) != os.getpid()
        with pytest.raises(ZeroDivisionError):
            aside.call(divmod, 1, 0)
        assert aside.call(abs, -3) == 3


def test_a_death_is_a_sentence() -> None:
    with Aside() as aside, pytest.raises(EngineError, match="the process of _exit died"):
        aside.call(os._exit, 3)


def test_a_call_that_does_not_return_is_a_sentence_and_no_hang() -> None:
    start = time.monotonic()
    said = r"^the process of sleep did not return within 0\.2 s$"
    with Aside(longest=0.2) as aside, pytest.raises(EngineError, match=said):
        aside.call(time.sleep, 600)
    assert time.monotonic() - start < 60
