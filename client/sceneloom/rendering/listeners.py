"""The view of a run: log lines, a progress bar, a summary. metrics.py has the metrics."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sceneloom.errors import ServingError
from sceneloom.files import LeftOut, describe
from sceneloom.map_reading import MapReading
from sceneloom.rendering.connections import Route
from sceneloom.rendering.items import Failed, Rendered, Result, Skipped
from sceneloom.request import Padding
from sceneloom.text import AlikeSentences, counted, printable

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclasses.dataclass(frozen=True, kw_only=True)
class Levels:
    """How full the parts of the pipeline are at a moment."""

    in_flight: int = 0
    window: int = 0
    """Requests that may be in flight."""
    reading: int = 0
    """Maps in reading."""
    waiting: int = 0
    """Maps read and waiting for their turn."""
    active: int = 0
    """Maps in decoding, sending, encoding or writing."""
    pausing: int = 0
    """Requests waiting to be sent again."""


class Listener:
    """Hears the events of a run, from one thread, which no method may hold up."""

    def on_result(self, result: Result) -> None:
        """A map has its result."""

    def on_answer(self, seconds: float, sent: int, received: int) -> None:
        """A request was answered after so many seconds; bytes of tensors sent and received."""

    def on_retry(self, error: ServingError) -> None:
        """A request failed and will be sent again."""

    def on_server(self, name: str, away: bool) -> None:
        """A server was connected to, left or came back."""


class LogLines(Listener):
    """Writes a JSON line for each result, retry, and server that leaves or comes."""

    def __init__(self, out: TextIO | None = None) -> None:
        """Write to a stream; None for stderr."""
        self._out = out or sys.stderr

    def write(self, event: str, **values: Any) -> None:
        """Write one line of JSON values."""
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
        self.write("server away" if away else "server there", server=name)


class ProgressBar(Listener):
    """A line on stderr; without a terminal, rich writes only its last state."""

    def __init__(
        self, total: Callable[[], int | None], levels: Callable[[], Levels], noun: str = "map"
    ) -> None:
        """Prepare the line, which counts maps or pictures; the total is None if unknown."""
        self._total, self._levels, self._noun = total, levels, noun
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
        """Count it."""
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
        words = f"{rate:.2f} {self._noun}s/s, {self._levels().in_flight} in flight"
        if self._retries:
            words += f", {self._retries} {'retry' if self._retries == 1 else 'retries'}"
        if self._away:
            words += f", waiting for {printable(', '.join(sorted(self._away)))}"
        self._progress.update(self._task, completed=self._done, total=self._total(), words=words)

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress.live.is_started:
            self._progress.stop()


def no_failures() -> AlikeSentences:
    """An empty list of failures: the first reasons, and a few files of each."""
    return AlikeSentences(most=20, most_names=3)


@dataclasses.dataclass
class Tally:
    """Counts the results of a run for its summary."""

    noun: str = "map"
    """A result's name: a map, or a picture, one of several looks of a map."""
    maps: int = 0
    rendered: int = 0
    skipped: int = 0
    failed: int = 0
    padded: int = 0
    requests: int = 0
    """Requests sent for the rendered pictures."""
    kinds: Counter[str] = dataclasses.field(default_factory=Counter)
    """Class of error -> failures."""
    engines: Counter[str] = dataclasses.field(default_factory=Counter)
    """Engine -> pictures."""
    failures: AlikeSentences = dataclasses.field(default_factory=no_failures)
    start: float = dataclasses.field(default_factory=time.perf_counter)

    def add(self, result: Result) -> None:
        """Count a result."""
        self.maps += 1
        if isinstance(result, Failed):
            self.failed += 1
            self.kinds[type(result.error).__name__] += 1
            self.failures.add(result.reason)
        elif isinstance(result, Skipped):
            self.skipped += 1
        elif isinstance(result, Rendered):
            self.rendered += 1
            self.padded += result.padding != Padding()
            self.requests += result.attempts
            self.engines[result.engine] += 1

    def print(
        self,
        output: str,
        manifest: Path,
        route: Route,
        left_out: Sequence[LeftOut],
        reading: Sequence[str],
        count: int | None = None,
    ) -> None:
        """Print the summary of a run; `count`: all maps or pictures of a run that was cut short."""
        total = max(self.maps, count or 0)
        seconds = time.perf_counter() - self.start
        if self.skipped and self.skipped == total:
            done = f"nothing to do: {self.skipped} of {total} are there, in {output}"
        else:
            done = (
                f"rendered {self.rendered} of {counted(total, self.noun)} in {seconds:.1f} s "
                f"({self.rendered / seconds:.2f} {self.noun}s/s) to {output}"
            )
            if self.skipped:
                done += f"; {self.skipped} {'was' if self.skipped == 1 else 'were'} there already"
            if self.padded:
                done += (
                    f"; {self.padded} {'was' if self.padded == 1 else 'were'} padded to the "
                    "model's next size and cropped back"
                )
        engine = route.engine
        if len(self.engines) > 1:
            counts = (f"{count} {name or 'unknown'}" for name, count in self.engines.items())
            engine = f"pictures by engine: {', '.join(counts)}"
        travel = (route.transport, route.files, engine)
        for words in (done, *reading, *travel, f"manifest: {manifest}"):
            if words:
                print(printable(words))
        for line in describe(left_out):
            print(line)

    def to_json(
        self, output: str, manifest: Path, left_out: Sequence[LeftOut], reading: MapReading
    ) -> dict[str, Any]:
        """The summary as JSON values, for the last line of a log."""
        return {
            "maps": self.maps,
            "rendered": self.rendered,
            "skipped": self.skipped,
            "failed": self.failed,
            "padded": self.padded,
            "requests": self.requests,
            "seconds": round(time.perf_counter() - self.start, 3),
            "failures": dict(self.kinds),
            "engines": dict(self.engines),
            "left_out": [dataclasses.asdict(one) for one in left_out],
            "reading": reading.reading_words(),
            "output": output,
            "manifest": str(manifest),
        }


def list_failures(failures: AlikeSentences, kinds: Counter[str]) -> None:
    """Print the first reasons to stderr, and the number of each class of error."""
    lines = failures.lines()
    for line in lines:
        print(f"failed: {printable(line)}", file=sys.stderr)
    if kinds.total() > len(lines):
        listed = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        print(f"... {kinds.total()} in all: {listed}", file=sys.stderr)
