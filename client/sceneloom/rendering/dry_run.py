"""`sceneloom render --dry-run`: every map is read and checked, one is rendered for its time; and
`--verify`: the pictures of a finished run are hashed and compared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import heapq
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from sceneloom.errors import InputError, SceneLoomError
from sceneloom.file_tree import LeftOut, describe
from sceneloom.maps import Image
from sceneloom.pictures import decode_picture
from sceneloom.rendering.items import Failed, MapItem, Sink
from sceneloom.rendering.listeners import list_failures
from sceneloom.rendering.loading import Loader
from sceneloom.rendering.manifest import LISTING, Manifest, Row, write_listing
from sceneloom.rendering.run import Plan
from sceneloom.rendering.settings import Container
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
        items = iter(source)
        with ThreadPoolExecutor(plan.settings.threads) as pool:
            while chunk := list(itertools.islice(items, _CHUNK)):
                for pair in zip(chunk, pool.map(partial(_check, loader), chunk), strict=True):
                    seen.add(*pair)
        loader.check_styles_used()
        frequent = max(seen.sizes, key=lambda size: seen.sizes[size], default=None)
        seconds = None
        if frequent is not None:
            sample = loader.prepare(loader.load(seen.samples[frequent]))
            connection.send([sample])  # warms up
            start = time.perf_counter()
            connection.send([sample])[0].encode(plan.settings)
            seconds = time.perf_counter() - start
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


def _check(loader: Loader, item: MapItem) -> tuple[tuple[int, int], bool] | Failed:
    try:
        prepared = loader.prepare(loader.load(item))
    except (SceneLoomError, OSError) as error:
        return Failed(key=item.key, error=error)
    return (prepared.height, prepared.width), bool(prepared.request.padding)


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
        + (
            f"; {counted(failed, 'map')} {'has' if failed == 1 else 'have'} no picture"
            if failed
            else ""
        )
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


_PICTURES_AT_ONCE = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Damage:
    """A picture that is not as it was written."""

    key: str
    output: str
    """Where it should lie."""
    reason: str


def check_pictures(rows: Iterable[tuple[Row, Sink]], *, threads: int) -> Iterator[Row | Damage]:
    """Hash every picture that is called done.

    Args:
        rows: of manifests, each with where its picture is; only read.
        threads: how many read at once.

    Yields:
        the row of each picture that is as it was, and of each map without one, and a `Damage` for
        every other, in the order of the rows.
    """

    def check(pair: tuple[Row, Sink]) -> Row | Damage:
        row, sink = pair
        if row.status != "done":
            return row
        data = sink.read(row.output)
        if data is None:
            return Damage(key=row.key, output=row.output, reason=f"{row.output}: is not there")
        if hashlib.sha256(data).hexdigest() == row.output_hash:
            return row
        size = "" if len(data) == row.output_bytes else f", {counted(len(data), 'byte')}"
        reason = (
            f"{row.output}: was changed (written with {counted(row.output_bytes, 'byte')}{size})"
        )
        return Damage(key=row.key, output=row.output, reason=reason)

    pairs = iter(rows)
    with ThreadPoolExecutor(threads) as pool:
        while chunk := list(itertools.islice(pairs, _PICTURES_AT_ONCE)):
            yield from pool.map(check, chunk)


def merged_rows(manifests: Sequence[tuple[Manifest, Sink]]) -> Iterator[tuple[Row, Sink]]:
    """The rows of several manifests as one, each with the place of its picture.

    Args:
        manifests: such as those of the parts of a data set, each with where its pictures are.

    Yields:
        rows in the order of their keys; of rows of one key, the one that was written last.
    """

    def rows(manifest: Manifest, sink: Sink) -> Iterator[tuple[Row, Sink]]:
        return ((row, sink) for row in manifest.rows())

    merged = heapq.merge(*itertools.starmap(rows, manifests), key=_place_in_order)
    for _, same in itertools.groupby(merged, key=_place_in_order):
        yield max(same, key=lambda pair: pair[0].finished)


def _place_in_order(pair: tuple[Row, Sink]) -> tuple[bool, bytes]:
    """As SQLite orders keys: text by its bytes, then the names that are not UTF-8."""
    key = pair[0].key.encode("utf-8", "surrogateescape")
    return key.decode("utf-8", "replace") != pair[0].key, key


def rendered_pictures(plan: Plan) -> Iterator[Image]:
    """The pictures that are in their place, decoded, in the order of their keys.

    Args:
        plan: of a run that has ended; its manifest is only read.

    Yields:
        uint8 [H, W, 3], RGB.

    Raises:
        InputError: one is not there any more.
    """
    assert plan.manifest is not None
    assert plan.sink is not None
    with Manifest(plan.manifest, to_read=True) as manifest:
        for row in manifest.rows():
            if row.status == "done":
                data = plan.sink.read(row.output)
                if data is None:
                    raise InputError(f"{row.output}: is not there any more")
                yield decode_picture(data, name=row.output)
