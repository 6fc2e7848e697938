"""What `sceneloom render` says at its end: of a run, of a dry run, and of a check of pictures."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sceneloom.errors import InputError
from sceneloom.file_tree import LeftOut, describe
from sceneloom.rendering.check import Damage, check_pictures, merged_rows
from sceneloom.rendering.dry_run import DryRun
from sceneloom.rendering.manifest import LISTING, Manifest, write_listing
from sceneloom.rendering.results import Failed, Rendered, Result, Skipped
from sceneloom.rendering.run import Plan
from sceneloom.rendering.triton import Way
from sceneloom.rendering.watching.listener import Listener
from sceneloom.rendering.writing.sinks import Container
from sceneloom.text import counted, printable

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

    def print(
        self,
        output: str,
        plan: Plan,
        way: Way,
        left_out: Sequence[LeftOut],
        *,
        show_failures: bool,
    ) -> None:
        """Print the summary, and to stderr the first maps that failed.

        Args:
            output: the place of the pictures.
            plan: of the run.
            way: how they went.
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
        manifest = f"manifest: {plan.manifest}"
        for words in (done, way.transport, way.why, self._engine_words(way), manifest):
            if words:
                print(printable(words))
        for line in describe(left_out):
            print(line)

    def to_json(self, output: str, plan: Plan, left_out: Sequence[LeftOut]) -> dict[str, Any]:
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
            "manifest": str(plan.manifest),
        }

    def _engine_words(self, way: Way) -> str:
        if len(self._engines) < 2:
            return way.engine
        counts = (f"{count} {engine or 'unknown'}" for engine, count in self._engines.items())
        return f"pictures by engine: {', '.join(counts)}"


def list_failures(failures: Sequence[Failed], kinds: Counter[str]) -> None:
    """Print the first failures to stderr, and how many there are of each class of error."""
    for failure in failures:
        print(f"failed: {printable(failure.reason)}", file=sys.stderr)
    if kinds.total() > len(failures):
        listed = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        print(f"... {kinds.total()} in all: {listed}", file=sys.stderr)


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


def report_dry_run(found: DryRun) -> int:
    """Print what a dry run found; returns the exit code."""
    print(f"{counted(found.maps, 'map')}, of which {sum(found.sizes.values())} can be rendered")
    for (height, width), count in sorted(found.sizes.items(), key=lambda item: -item[1])[:_LISTED]:
        print(f"  {count} of {width}x{height} (width x height)")
    if found.padded:
        print(f"{found.padded} would be padded to the model's next size and cropped back")
    for kind, count in sorted(found.problems.items()):
        print(f"  {count} {kind}")
    for line in describe(found.left_out):
        print(line)
    list_failures(found.failed[:_LISTED], Counter(found.problems))
    if found.seconds is not None:
        print(
            f"one picture takes {found.seconds_per_picture:.3f} s; one after the other, all would "
            f"take {found.seconds:.0f} s, with several in flight less"
        )
    return 1 if found.problems else 0


def report_check(plans: Sequence[Plan], container: Container) -> int:
    """Check the pictures of a place and print what is damaged; returns the exit code.

    The rows of several manifests are left beside them as one listing, ``manifest.jsonl``.

    Args:
        plans: of the runs that made them: one, or one for each part of a data set.
        container: what the pictures are looked for in.

    Raises:
        InputError: there is no manifest, it knows no map, or its pictures are in another container.
        OSError: the listing cannot be written.
    """
    good, failed, damaged = 0, 0, 0
    with contextlib.ExitStack() as opened:
        manifests = []
        for plan in plans:
            assert plan.manifest is not None
            assert plan.sink is not None
            manifests.append(
                (opened.enter_context(Manifest(plan.manifest, to_read=True)), plan.sink)
            )
        threads = plans[0].settings.threads
        for found in check_pictures(merged_rows(manifests), threads=threads):
            if isinstance(found, Damage):
                _check_container(found.output, container)
                damaged += 1
                if damaged <= _LISTED:
                    print(f"damaged: {printable(found.reason)}", file=sys.stderr)
            elif found.status == "done":
                good += 1
            else:
                failed += 1
        listing = manifests[0][0].path.with_name(LISTING)
        if len(manifests) > 1:
            write_listing((row for row, _ in merged_rows(manifests)), listing)
    if not good + damaged + failed:
        place = printable(manifests[0][0].path)
        raise InputError(f"{place}: knows no map; nothing was rendered with it")
    print(
        f"{counted(good, 'picture')} {'is as it was' if good == 1 else 'are as they were'} "
        f"written, {damaged} {'is' if damaged == 1 else 'are'} not"
        + (f"; {counted(failed, 'map')} {_have(failed)} no picture" if failed else "")
    )
    if len(manifests) > 1:
        print(f"{counted(len(manifests), 'manifest')}, as one: {printable(listing)}")
    return 1 if damaged or failed else 0


def _check_container(output: str, container: Container) -> None:
    """Refuse to call pictures damaged that were rendered into another container."""
    made: Container = (
        "tar" if ".tar#" in output else "parquet" if ".parquet#" in output else "folder"
    )
    if made != container:
        raise InputError(f"{output}: rendered with --container {made}; verify with the same")
