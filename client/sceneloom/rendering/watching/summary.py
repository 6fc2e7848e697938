"""What `sceneloom render` says at its end: of a run, of a dry run, and of a check of pictures."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence

from sceneloom.errors import InputError
from sceneloom.rendering.check import Damage, check_pictures
from sceneloom.rendering.dry_run import DryRun
from sceneloom.rendering.manifest import Manifest
from sceneloom.rendering.results import Failed, Rendered, Result, Skipped
from sceneloom.rendering.run import Plan
from sceneloom.rendering.triton import Way
from sceneloom.rendering.watching.listener import Listener

_LISTED = 20


class Tally(Listener):
    """Counts results, for the summary."""

    def __init__(self) -> None:
        """Begin at zero; the clock starts."""
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

    def print(self, output: str, plan: Plan, way: Way, *, show_failures: bool) -> None:
        """Print the summary, and to stderr the first maps that failed.

        Args:
            output: the place of the pictures.
            plan: of the run.
            way: how they went.
            show_failures: whether failures are listed.
        """
        if show_failures:
            list_failures(self._first, self._kinds)
        seconds = time.perf_counter() - self._start
        print(
            f"rendered {self._rendered} of {self.results} maps in {seconds:.1f} s "
            f"({self._rendered / seconds:.2f} maps/s) to {output}"
            + (f"; {self._skipped} were there already" if self._skipped else "")
            + (
                f"; {self._padded} were padded to the model's next size and cropped back"
                if self._padded
                else ""
            )
        )
        words = (way.transport, way.why, self._engine_words(way), f"manifest: {plan.manifest}")
        for line in words:
            if line:
                print(line)

    def _engine_words(self, way: Way) -> str:
        if len(self._engines) < 2:
            return way.engine
        counts = (f"{count} {engine or 'unknown'}" for engine, count in self._engines.items())
        return f"pictures by engine: {', '.join(counts)}"


def list_failures(failures: Sequence[Failed], kinds: Counter[str]) -> None:
    """Print the first failures to stderr, and how many there are of each class of error."""
    for failure in failures:
        print(f"failed: {failure.reason}", file=sys.stderr)
    if kinds.total() > len(failures):
        listed = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        print(f"... {kinds.total()} in all: {listed}", file=sys.stderr)


def report_dry_run(found: DryRun) -> int:
    """Print what a dry run found; returns the exit code."""
    print(f"{found.maps} maps, of which {sum(found.sizes.values())} can be rendered")
    for (height, width), count in sorted(found.sizes.items(), key=lambda item: -item[1])[:_LISTED]:
        print(f"  {count} of {width}x{height} (width x height)")
    if found.padded:
        print(f"{found.padded} would be padded to the model's next size and cropped back")
    for kind, count in sorted(found.problems.items()):
        print(f"  {count} {kind}")
    list_failures(found.failed[:_LISTED], Counter(found.problems))
    if found.seconds is not None:
        print(
            f"one picture takes {found.seconds_per_picture:.3f} s; one after the other, all would "
            f"take {found.seconds:.0f} s, with several in flight less"
        )
    return 1 if found.problems else 0


def report_check(plan: Plan) -> int:
    """Check the pictures of a plan's place and print what is damaged; returns the exit code.

    Raises:
        InputError: there is no manifest.
    """
    assert plan.manifest is not None
    assert plan.sink is not None
    if not plan.manifest.is_file():
        raise InputError(f"{plan.manifest}: no such manifest; nothing was rendered there")
    good, damaged = 0, 0
    with Manifest(plan.manifest) as manifest:
        for found in check_pictures(manifest, plan.sink, threads=plan.settings.threads):
            if isinstance(found, Damage):
                damaged += 1
                if damaged <= _LISTED:
                    print(f"damaged: {found.reason}", file=sys.stderr)
            else:
                good += 1
        failed = manifest.counts().get("failed", 0)
    print(
        f"{good} pictures are as they were written, {damaged} are not"
        + (f"; {failed} maps have no picture" if failed else "")
    )
    return 1 if damaged or failed else 0
