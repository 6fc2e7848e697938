"""The progress bar of long commands, on stderr. Its seconds move during a long step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich import progress
from rich.console import Console

T = TypeVar("T")


def progress_bar() -> progress.Progress:
    """Make a bar whose tasks have a field `said`, a short text."""
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[said]}"),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def track(items: Sequence[T], description: str, *, done: int = 0) -> Iterator[T]:
    """Yield the items below a bar that counts them on from `done`."""
    with progress_bar() as bar:
        total = done + len(items)
        task = bar.add_task(description, total=total, completed=done, said="")
        for item in items:
            yield item
            bar.advance(task)
