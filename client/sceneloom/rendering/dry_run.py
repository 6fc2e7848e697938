"""What a run would do, without a picture: every map is read and checked, one is rendered for its
time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from sceneloom.errors import InputError, SceneLoomError
from sceneloom.file_tree import LeftOut, describe
from sceneloom.rendering.check import Damage, check_pictures, merged_rows
from sceneloom.rendering.connections import Connection
from sceneloom.rendering.interfaces import MapItem, Source
from sceneloom.rendering.loading import Loader, Prepared
from sceneloom.rendering.manifest import LISTING, Manifest, write_listing
from sceneloom.rendering.results import Failed
from sceneloom.rendering.run import Plan
from sceneloom.rendering.watching.summary import list_failures
from sceneloom.style import style_chooser
from sceneloom.text import counted, printable

_CHUNK = 64
_KEPT_FAILURES = 1000
_PRINTED = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class DryRun:
    """What was found."""

    maps: int
    """How many there are."""
    sizes: dict[tuple[int, int], int]
    """(height, width) -> how many good maps."""
    problems: dict[str, int]
    """Class of error -> how many maps."""
    failed: list[Failed]
    """The first thousand maps that would give no picture, and why."""
    padded: int
    """Good maps that would be padded, and their pictures cropped."""
    left_out: Sequence[LeftOut]
    """What the data set leaves out."""
    seconds_per_picture: float | None
    """What the probe took at the most frequent size; None without a good map."""

    @property
    def seconds(self) -> float | None:
        """Estimate of the whole run, one picture after the other: requests in flight make it less,
        larger sizes more.
        """
        if self.seconds_per_picture is None:
            return None
        return self.seconds_per_picture * sum(self.sizes.values())


def dry_run(plan: Plan) -> DryRun:
    """Read and check every map of a plan, and render one for its time; nothing is written.

    Raises:
        ServingError: the first server does not answer.
        InputError: the source cannot be read.
    """
    connection = plan.addresses[0].connect()
    try:
        choose = style_chooser(connection.contract, plan.settings)
        loader = Loader(connection.contract, plan.settings, choose)
        seen = _Seen()
        source = plan.source(connection.contract)
        for item, found in _check_all(loader, plan, source):
            seen.add(item, found)
        loader.check_styles_used()
        frequent = max(seen.sizes, key=lambda size: seen.sizes[size], default=None)
        seconds = None
        if frequent is not None:
            sample = loader.prepare(loader.load(seen.samples[frequent]))
            seconds = _probe(connection, plan, sample)
        return DryRun(
            maps=seen.sizes.total() + seen.problems.total(),
            sizes=dict(seen.sizes),
            problems=dict(seen.problems),
            failed=seen.failed,
            padded=seen.padded,
            left_out=source.left_out(),
            seconds_per_picture=seconds,
        )
    finally:
        connection.close()


class _Seen:
    """What was found so far."""

    def __init__(self) -> None:
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.problems: Counter[str] = Counter()
        self.failed: list[Failed] = []
        self.samples: dict[tuple[int, int], MapItem] = {}
        self.padded = 0

    def add(self, item: MapItem, found: tuple[tuple[int, int], bool] | Failed) -> None:
        if isinstance(found, Failed):
            self.problems[type(found.error).__name__] += 1
            if len(self.failed) < _KEPT_FAILURES:
                self.failed.append(found)
            return
        size, padded = found
        self.sizes[size] += 1
        self.padded += padded
        self.samples.setdefault(size, item)


def _check_all(
    loader: Loader, plan: Plan, source: Source
) -> Iterator[tuple[MapItem, tuple[tuple[int, int], bool] | Failed]]:
    items = iter(source)
    with ThreadPoolExecutor(plan.settings.threads) as pool:
        while chunk := list(itertools.islice(items, _CHUNK)):
            yield from zip(chunk, pool.map(partial(_check, loader), chunk), strict=True)


def _check(loader: Loader, item: MapItem) -> tuple[tuple[int, int], bool] | Failed:
    try:
        prepared = loader.prepare(loader.load(item))
    except (SceneLoomError, OSError) as error:
        return Failed(key=item.key, error=error)
    return (prepared.height, prepared.width), bool(prepared.request.padding)


def _probe(connection: Connection, plan: Plan, prepared: Prepared) -> float:
    """Seconds of one picture, request and encoding; the first one warms up."""
    connection.choose_way(prepared)
    connection.send([prepared])
    start = time.perf_counter()
    connection.send([prepared])[0].encode(plan.settings)
    return time.perf_counter() - start


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


def report_dry_run(found: DryRun) -> int:
    """Print what a dry run found; returns the exit code."""
    print(f"{counted(found.maps, 'map')}, of which {sum(found.sizes.values())} can be rendered")
    for (height, width), count in sorted(found.sizes.items(), key=lambda item: -item[1])[:_PRINTED]:
        print(f"  {count} of {width}x{height} (width x height)")
    if found.padded:
        print(f"{found.padded} would be padded to the model's next size and cropped back")
    for kind, count in sorted(found.problems.items()):
        print(f"  {count} {kind}")
    for line in describe(found.left_out):
        print(line)
    list_failures(found.failed[:_PRINTED], Counter(found.problems))
    if found.seconds is not None:
        print(
            f"one picture takes {found.seconds_per_picture:.3f} s; one after the other, all would "
            f"take {found.seconds:.0f} s, with several in flight less"
        )
    return 1 if found.problems else 0


def report_check(plans: Sequence[Plan]) -> int:
    """Check the pictures of a place and print what is damaged; returns the exit code.

    The rows of several manifests are left beside them as one listing, ``manifest.jsonl``.

    Args:
        plans: of the runs that made them: one, or one for each part of a data set.

    Raises:
        InputError: there is no manifest, or it knows no map.
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
                damaged += 1
                if damaged <= _PRINTED:
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
