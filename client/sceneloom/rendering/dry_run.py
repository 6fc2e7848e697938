"""What a run would do, without a picture: every map is read and checked, one is rendered for its
time.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from sceneloom.errors import SceneLoomError
from sceneloom.file_tree import LeftOut
from sceneloom.rendering.connections import Connection
from sceneloom.rendering.interfaces import MapItem, Source
from sceneloom.rendering.loading import Loader, Prepared
from sceneloom.rendering.results import Failed
from sceneloom.rendering.run import Plan
from sceneloom.style import style_chooser

_CHUNK = 64
_LISTED = 1000


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
            if len(self.failed) < _LISTED:
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
