"""Lines on stderr about long work: the stage, the seconds so far, the seconds left.

Libraries name their stages; a command shows them. A stage that takes long repeats its line every
`HEARTBEAT` seconds, so that no terminal stays silent::

    with progress.shown():                                        # the command
        for engine in progress.steps(engines, "measure"):         # the library
            with progress.stage("write the graph"): ...

    measure fp32 (1 of 2) ...
    measure bf16 (2 of 2), 12 s so far, about 12 s left ...

Of stages inside each other only the innermost repeats its line.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from sceneloom.text import printable

HEARTBEAT = 8.0
"""Seconds after which a running stage repeats its line."""

T = TypeVar("T")
_lock = threading.Lock()
_show: Callable[[str], None] | None = None
_running: list[threading.Event] = []


@contextlib.contextmanager
def shown(show: Callable[[str], None] | None = None) -> Iterator[None]:
    """Show the stages of this process while the context is open.

    Args:
        show: gets each line; None prints it to stderr.
    """
    global _show
    before, _show = _show, show or _print
    try:
        yield
    finally:
        _show = before


def is_shown() -> bool:
    """Whether a command shows the lines."""
    return _show is not None


@contextlib.contextmanager
def stage(name: str, *, spent: float = 0, left: float | None = None) -> Iterator[None]:
    """Name the work inside the context: a line at its begin, one every `HEARTBEAT` seconds, and one
    with its seconds at its end if it took a second or more.

    Args:
        name: the work.
        spent: seconds of earlier stages of the same work.
        left: expected seconds of this stage and the later ones.
    """
    begun = time.monotonic()
    over = threading.Event()

    def line(seconds: float, *, begins: bool = False) -> str:
        so_far = "" if begins and spent < 1 else f", {spent + seconds:.0f} s so far"
        rest = "" if left is None else f", about {max(left - seconds, 0):.0f} s left"
        return f"{name}{so_far}{rest} ..."

    def repeat() -> None:
        while not over.wait(HEARTBEAT):
            if _running[-1:] == [over]:
                say(line(time.monotonic() - begun))

    say(line(0, begins=True))
    _running.append(over)
    thread = threading.Thread(target=repeat, daemon=True, name="progress")
    if _show is not None:
        thread.start()
    try:
        yield
    finally:
        over.set()
        _running.remove(over)
        if thread.ident is not None:
            thread.join()  # the next work may fork
    if (seconds := time.monotonic() - begun) >= 1:
        say(f"{name}: {seconds:.1f} s")


class Steps:
    """Pieces of work of about equal length, each a stage ``NAME (2 of 5), 12 s so far, about 18 s
    left``.
    """

    def __init__(self, count: int) -> None:
        """Count from now on to the number of pieces."""
        self._count, self._done, self._begun = count, 0, time.monotonic()

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Do the next piece inside the context."""
        spent, done = time.monotonic() - self._begun, self._done
        count = max(self._count, done + 1)
        left = spent / done * (count - done) if done and spent >= 1 else None
        try:
            with stage(f"{name} ({done + 1} of {count})", spent=spent if done else 0, left=left):
                yield
        finally:
            self._done += 1


def steps(items: Sequence[T], name: str, describe: Callable[[T], object] = str) -> Iterator[T]:
    """Yield the items, each as one of `Steps` named ``NAME ITEM``.

    Args:
        items: the work, of about equal length each.
        name: the verb of the work, such as ``measure``.
        describe: gives the words for an item.
    """
    counted = Steps(len(items))
    for item in items:
        with counted.step(f"{name} {describe(item)}"):
            yield item


def say(line: str) -> None:
    """Show one line, if a command shows them."""
    with _lock:
        if _show is not None:
            _show(line)


def _print(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)
