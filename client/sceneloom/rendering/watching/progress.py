"""The progress of a run for people, with rich: pictures, rate, requests in flight, retries, time
left.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sceneloom.errors import ServingError
from sceneloom.rendering.results import Result, Skipped
from sceneloom.rendering.watching.listener import Levels, Listener
from sceneloom.text import printable

if TYPE_CHECKING:
    from typing_extensions import Self


class ProgressBar(Listener):
    """A line on stderr; where stderr is no terminal, rich writes only its last state."""

    def __init__(self, total: Callable[[], int | None], levels: Callable[[], Levels]) -> None:
        """Prepare the line.

        Args:
            total: number of maps, None while it is not known.
            levels: how full the pipeline is.
        """
        self._total, self._levels = total, levels
        self._made = self._retries = self._done = 0
        self._away: set[str] = set()
        self._start = time.perf_counter()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}", markup=False),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("rendering", total=None, words="")

    def on_result(self, result: Result) -> None:
        """One further."""
        self._done += 1
        self._made += not isinstance(result, Skipped)
        self._show()

    def on_retry(self, error: ServingError) -> None:
        """Count it."""
        self._retries += 1
        self._show()

    def on_server(self, name: str, away: bool) -> None:
        """Name servers that are away."""
        if away:
            self._away.add(name)
        else:
            self._away.discard(name)
        self._show()

    def _show(self) -> None:
        self._progress.start()
        rate = self._made / (time.perf_counter() - self._start)
        words = f"{rate:.2f} maps/s, {self._levels().in_flight} in flight"
        if self._retries:
            words += f", {self._retries} {'retry' if self._retries == 1 else 'retries'}"
        if self._away:
            words += f", waiting for {printable(', '.join(sorted(self._away)))}"
        self._progress.update(self._task, completed=self._done, total=self._total(), words=words)

    def __enter__(self) -> Self:
        """Return the line; it is shown once something has happened."""
        self._start = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave its last state."""
        if self._progress.live.is_started:
            self._progress.stop()
