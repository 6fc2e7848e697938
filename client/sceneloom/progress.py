"""Lines on stderr about long work: the stage, the seconds so far, the seconds left.

Libraries name their stages; a command shows them. A stage that takes long repeats its line every
`HEARTBEAT` seconds, so that no terminal stays silent::

    with progress.shown():                                        # the command
        for engine in progress.steps(engines, "measure"):         # the library
            with progress.stage("write the graph"): ...

    measure fp32 (1 of 2) ...
    measure bf16 (2 of 2), 12 s so far, about 12 s left ...
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


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Name the work inside the context: a line at its begin, one every `HEARTBEAT` seconds, and one
    with its seconds at its end if it took a second or more.
    """
    begun = time.monotonic()
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(HEARTBEAT):
            say(f"{name}, {time.monotonic() - begun:.0f} s so far ...")

    say(f"{name} ...")
    thread = threading.Thread(target=repeat, daemon=True, name="progress")
    if _show is not None:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if thread.ident is not None:
            thread.join()  # the next work may fork
    if (seconds := time.monotonic() - begun) >= 1:
        say(f"{name}: {seconds:.1f} s")


def steps(items: Sequence[T], name: str, describe: Callable[[T], object] = str) -> Iterator[T]:
    """Yield the items, each as a stage ``NAME ITEM (2 of 5), 12 s so far, about 18 s left``.

    Args:
        items: the work, of about equal length each.
        name: the verb of the work, such as ``measure``.
        describe: gives the words for an item.
    """
    begun = time.monotonic()
    for done, item in enumerate(items):
        words = f"{name} {describe(item)} ({done + 1} of {len(items)})"
        seconds = time.monotonic() - begun
        if done and seconds >= 1:
            left = seconds / done * (len(items) - done)
            words += f", {seconds:.0f} s so far, about {left:.0f} s left"
        with stage(words):
            yield item


def say(line: str) -> None:
    """Show one line, if a command shows them."""
    with _lock:
        if _show is not None:
            _show(line)


def _print(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)
