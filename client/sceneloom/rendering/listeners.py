"""What can be seen of a run: log lines, a progress bar, a summary. Metrics are in metrics.py."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sceneloom.errors import ServingError
from sceneloom.file_tree import LeftOut, describe
from sceneloom.rendering.connections import Route
from sceneloom.rendering.items import Failed, Rendered, Result, Skipped
from sceneloom.text import counted, printable

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclasses.dataclass(frozen=True, kw_only=True)
class Levels:
    """How full the parts of the pipeline are at a moment."""

    in_flight: int = 0
    """Requests in flight."""
    window: int = 0
    """Requests that may be in flight."""
    reading: int = 0
    """Maps that are being read."""
    waiting: int = 0
    """Maps that have been read and wait for their turn."""
    active: int = 0
    """Maps that are being decoded, sent, encoded or written."""
    pausing: int = 0
    """Requests that wait before they are sent again."""


class Listener:
    """Hears what happens; every method may be left as it is. All are called from one thread, which
    they must not hold up.
    """

    def on_result(self, result: Result) -> None:
        """A map is done with."""

    def on_answer(self, seconds: float, sent: int, received: int) -> None:
        """A request was answered.

        Args:
            seconds: from sending to the whole answer.
            sent: bytes of its tensors.
            received: bytes of the answer's.
        """

    def on_retry(self, error: ServingError) -> None:
        """A request failed and will be sent again."""

    def on_server(self, name: str, away: bool) -> None:
        """A server was connected to, went away or came back."""


class LogLines(Listener):
    """Writes a line for each result, retry, and server that goes or comes."""

    def __init__(self, out: TextIO | None = None) -> None:
        """Write to a stream.

        Args:
            out: stderr unless named.
        """
        self._out = out or sys.stderr

    def write(self, event: str, **values: Any) -> None:
        """Write one line.

        Args:
            event: what happened.
            values: JSON values that say more.
        """
        line = {"time": round(time.time(), 3), "event": event, **values}
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()

    def on_result(self, result: Result) -> None:
        """``rendered``, ``skipped`` or ``failed``."""
        if isinstance(result, Failed):
            kind = type(result.error).__name__
            self.write("failed", key=result.key, kind=kind, reason=result.reason)
        elif isinstance(result, Skipped):
            self.write("skipped", key=result.key, output=result.output)
        elif isinstance(result, Rendered):
            self.write(
                "rendered",
                key=result.key,
                output=result.output,
                seconds=round(result.seconds, 4),
                attempts=result.attempts,
                bytes=result.bytes,
                engine=result.engine,
                precision=result.precision,
            )

    def on_retry(self, error: ServingError) -> None:
        """``retry``."""
        self.write("retry", kind=type(error).__name__, reason=str(error))

    def on_server(self, name: str, away: bool) -> None:
        """``server there`` or ``server away``."""
        state = "server away" if away else "server there"
        self.write(state, server=name)


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
        self._start = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress.live.is_started:
            self._progress.stop()


_LISTED = 20


class Tally(Listener):
    """Counts results, for the summary."""

    def __init__(self) -> None:
        self.failed = 0
        """Maps that gave no picture."""
        self.results = 0
        """Maps that are done with."""
        self._first: list[Failed] = []
        self._kinds: Counter[str] = Counter()
        self._engines: Counter[str] = Counter()
        self._rendered = self._skipped = self._padded = self._attempts = 0
        self._start = time.perf_counter()

    def on_result(self, result: Result) -> None:
        """Count it."""
        self.results += 1
        if isinstance(result, Failed):
            self.failed += 1
            self._kinds[type(result.error).__name__] += 1
            if len(self._first) < _LISTED:
                self._first.append(result)
        elif isinstance(result, Skipped):
            self._skipped += 1
        elif isinstance(result, Rendered):
            self._rendered += 1
            self._padded += bool(result.padding)
            self._attempts += result.attempts
            self._engines[result.engine] += 1

    def print(
        self,
        output: str,
        manifest: Path,
        route: Route,
        left_out: Sequence[LeftOut],
        *,
        show_failures: bool,
    ) -> None:
        """Print the summary, and to stderr the first maps that failed.

        Args:
            output: the place of the pictures.
            manifest: its file.
            route: how the pictures travelled.
            left_out: what the data set leaves out.
            show_failures: whether failures are listed.
        """
        if show_failures:
            list_failures(self._first, self._kinds)
        seconds = time.perf_counter() - self._start
        if self._skipped and self._skipped == self.results:
            done = f"nothing to do: {self._skipped} of {self.results} are there, in {output}"
        else:
            done = (
                f"rendered {self._rendered} of {counted(self.results, 'map')} in {seconds:.1f} s "
                f"({self._rendered / seconds:.2f} maps/s) to {output}"
            )
            if self._skipped:
                done += f"; {self._skipped} {_were(self._skipped)} there already"
            if self._padded:
                done += (
                    f"; {self._padded} {_were(self._padded)} padded to the model's next size and "
                    "cropped back"
                )
        place = f"manifest: {manifest}"
        engine = route.engine
        if len(self._engines) > 1:
            counts = (f"{count} {name or 'unknown'}" for name, count in self._engines.items())
            engine = f"pictures by engine: {', '.join(counts)}"
        for words in (done, route.transport, route.path, engine, place):
            if words:
                print(printable(words))
        for line in describe(left_out):
            print(line)

    def to_json(self, output: str, manifest: Path, left_out: Sequence[LeftOut]) -> dict[str, Any]:
        """The summary as JSON values, for the last line of a log; arguments as of `print`."""
        return {
            "maps": self.results,
            "rendered": self._rendered,
            "skipped": self._skipped,
            "failed": self.failed,
            "padded": self._padded,
            "requests": self._attempts,
            "seconds": round(time.perf_counter() - self._start, 3),
            "failures": dict(self._kinds),
            "engines": dict(self._engines),
            "left_out": [dataclasses.asdict(one) for one in left_out],
            "output": output,
            "manifest": str(manifest),
        }


def list_failures(failures: Sequence[Failed], kinds: Counter[str]) -> None:
    """Print the first failures to stderr, and how many there are of each class of error."""
    for failure in failures:
        print(f"failed: {printable(failure.reason)}", file=sys.stderr)
    if kinds.total() > len(failures):
        listed = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        print(f"... {kinds.total()} in all: {listed}", file=sys.stderr)


def _were(count: int) -> str:
    return "was" if count == 1 else "were"
