"""Work in a process of its own: what it returns, what it raises, and that its end is a sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
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


def test_what_interrupts_a_call_does_not_wait_for_it() -> None:
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt), Aside() as aside:  # noqa: PT012
            pid = aside.call(os.getpid)
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            aside.call(time.sleep, 600)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - start < 60
    assert not psutil.pid_exists(pid)


def test_it_dies_with_whoever_started_it() -> None:
    killed = (
        "import os, signal\n"
        "from sceneloom_bench.engine.aside import Aside\n"
        "if __name__ == '__main__':\n"
        "    with Aside() as aside:\n"
        "        print(aside.call(os.getpid), flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", killed]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
    until = time.monotonic() + 20
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, "it waits for work for ever"
        time.sleep(0.05)
