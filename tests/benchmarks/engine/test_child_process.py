"""Work in a process of its own: what it returns, what it raises, and that its end is a sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sceneloom.errors import EngineError, SizeError
from sceneloom_bench.child_process import ChildProcess


def test_what_is_returned_and_raised_there_is_so_here() -> None:
    with ChildProcess() as child:
        assert child.call(os.getpid) != os.getpid()
        with pytest.raises(EngineError, match=r"^ZeroDivisionError: "):
            child.call(divmod, 1, 0)
        with pytest.raises(SizeError, match=r"^too wide$"):
            child.call(refuse, "too wide")
        assert child.call(abs, -3) == 3


def refuse(text: str) -> None:
    raise SizeError(text)


def test_it_prints_nothing_to_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    with ChildProcess() as child:
        child.call(os.write, 1, b"a library's remark")
    shown = capfd.readouterr()
    assert "a library's remark" in shown.err
    assert shown.out == ""


def test_a_death_is_a_sentence() -> None:
    with ChildProcess() as child, pytest.raises(EngineError, match="its process ended with code 3"):
        child.call(os._exit, 3)


def test_a_call_that_does_not_return_is_a_sentence_and_no_hang() -> None:
    start = time.monotonic()
    said = r"^its process did not answer within 2 s$"
    with ChildProcess(longest=2) as child, pytest.raises(EngineError, match=said):
        child.call(time.sleep, 600)
    assert time.monotonic() - start < 60


def test_what_interrupts_a_call_does_not_wait_for_it() -> None:
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt), ChildProcess() as child:  # noqa: PT012
            pid = child.call(os.getpid)
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            child.call(time.sleep, 600)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - start < 60
    assert not psutil.pid_exists(pid)


def test_work_does_not_begin_without_its_parent(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    killed = (
        "import functools, multiprocessing, os, signal\n"
        "from sceneloom_bench.child_process import ChildProcess\n"
        "if __name__ == '__main__':\n"
        f"    ChildProcess(functools.partial(open, {str(begun)!r}, 'w'))\n"
        "    print(multiprocessing.active_children()[0].pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    wait_for_the_end_of_the_child_of(killed)
    assert not begun.exists()


def test_it_dies_with_its_parent() -> None:
    killed = (
        "import os, signal\n"
        "from sceneloom_bench.child_process import ChildProcess\n"
        "if __name__ == '__main__':\n"
        "    with ChildProcess() as child:\n"
        "        print(child.call(os.getpid), flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    wait_for_the_end_of_the_child_of(killed)


def wait_for_the_end_of_the_child_of(program: str) -> None:
    """Run a program that prints its child's process id and kills itself."""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
    until = time.monotonic() + 20
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, "the child waits for ever"
        time.sleep(0.05)
