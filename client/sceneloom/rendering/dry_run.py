"""`sceneloom render --dry-run`: read and check every map, and render one for its time;
`--verify`: compare the pictures of a finished run with their hashes.
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

from sceneloom.errors import InputError, SceneLoomError
from sceneloom.files import LeftOut, describe
from sceneloom.maps import Image
from sceneloom.pictures import decode_picture, encode_picture
from sceneloom.rendering.datasets import all_maps
from sceneloom.rendering.items import Failed, MapItem, Sink, look_ending
from sceneloom.rendering.listeners import list_failures, no_failures
from sceneloom.rendering.loading import Loader, Prepared
from sceneloom.rendering.manifest import LISTING, Manifest, Row, write_listing
from sceneloom.rendering.run import Plan
from sceneloom.rendering.settings import Container
from sceneloom.rendering.training_set import TrainingSetSink
from sceneloom.request import Padding
from sceneloom.style import style_chooser
from sceneloom.text import counted, printable

_CHUNK = 64
_MAX_FAILURES = 1000
_MAX_PRINTED = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class DryRun:
    """The findings of a dry run."""

    sizes: Counter[tuple[int, int]] = dataclasses.field(default_factory=Counter)
    """(height, width) -> number of good maps."""
    problems: Counter[str] = dataclasses.field(default_factory=Counter)
    """Class of error -> number of maps."""
    failed: list[Failed] = dataclasses.field(default_factory=list)
    """The first thousand maps that would give no picture, and why."""
    padded: int
    """Good maps that would be padded, and their pictures cropped."""
    left_out: Sequence[LeftOut]
    """The files that the data set leaves out."""
    seconds_per_picture: float | None
    """Measured with a map of the most frequent size; None without a good map."""
    looks: int = 1
    """Pictures of each map."""
    reading: Sequence[str] = ()
    """How the maps are read, in sentences."""

    @property
    def maps(self) -> int:
        """Number of maps."""
        return self.sizes.total() + self.problems.total()

    @property
    def seconds(self) -> float | None:
        """Estimate of the whole run, one picture after the other."""
        if self.seconds_per_picture is None:
            return None
        return self.seconds_per_picture * self.sizes.total() * self.looks


def dry_run(plan: Plan) -> DryRun:
    """Check every map of a plan, and render one; writes nothing. Raises ServingError."""
    connection = plan.addresses[0].connect()
    try:
        choose = style_chooser(connection.contract, plan.settings)
        loader = Loader(connection.contract, plan.settings, choose)

        def check(item: MapItem) -> tuple[tuple[int, int], bool] | Failed:
            try:
                prepared: Prepared = loader.prepare(loader.load(item))
            except (SceneLoomError, OSError) as error:
                return Failed(key=item.key, error=error)
            return (prepared.height, prepared.width), prepared.request.padding != Padding()

        sizes: Counter[tuple[int, int]] = Counter()
        problems: Counter[str] = Counter()
        failed: list[Failed] = []
        samples: dict[tuple[int, int], MapItem] = {}
        padded = 0
        source = plan.source(connection.contract)
        loader.check_styles_used(all_maps(source))
        items = (item for item in source if not item.look)  # looks differ in style alone
        with ThreadPoolExecutor(plan.settings.threads) as pool:
            while chunk := list(itertools.islice(items, _CHUNK)):
                for item, found in zip(chunk, pool.map(check, chunk), strict=True):
                    if isinstance(found, Failed):
                        problems[type(found.error).__name__] += 1
                        failed += [found] * (len(failed) < _MAX_FAILURES)
                    else:
                        sizes[found[0]] += 1
                        padded += found[1]
                        samples.setdefault(found[0], item)
        seconds = None
        if sizes:
            ((frequent, _),) = sizes.most_common(1)
            sample = loader.prepare(loader.load(samples[frequent]))
            connection.send([sample])  # warms up
            start = time.perf_counter()
            (reply,) = connection.send([sample])
            if reply.image is not None:
                encode_picture(reply.image, plan.settings.format, quality=plan.settings.quality)
            seconds = time.perf_counter() - start
        return DryRun(
            sizes=sizes,
            problems=problems,
            failed=failed,
            padded=padded,
            left_out=source.left_out,
            seconds_per_picture=seconds,
            looks=plan.settings.looks,
            reading=loader.reader.describe(),
        )
    finally:
        connection.close()


def report_dry_run(found: DryRun) -> int:
    """Print the findings of a dry run; returns the exit code."""
    print(
        f"{counted(found.maps, 'map')}, of which {found.sizes.total()} can be rendered"
        + (f", each in {found.looks} looks" if found.looks > 1 else "")
    )
    for words in found.reading:
        print(printable(words))
    for (height, width), count in found.sizes.most_common(_MAX_PRINTED):
        print(f"  {count} of {width}x{height} (width x height)")
    if found.padded:
        print(f"{found.padded} would be padded to the model's next size and cropped back")
    for kind, count in sorted(found.problems.items()):
        print(f"  {count} {kind}")
    for line in describe(found.left_out):
        print(line)
    failures = no_failures()
    for failed in found.failed:
        failures.add(failed.reason)
    list_failures(failures, found.problems)
    if found.seconds is not None:
        print(
            f"one picture takes {found.seconds_per_picture:.3f} s; one after the other, all would "
            f"take {found.seconds:.0f} s, with several in flight less"
        )
    return 1 if found.problems else 0


def report_check(plans: Sequence[Plan], container: Container) -> int:
    """Check the pictures of finished runs and print the damaged ones; returns the exit code.

    The rows of several manifests are written beside them as one listing, ``manifest.jsonl``.

    Args:
        plans: of the runs: one, or one for each part of a data set.
        container: of the pictures.

    Raises:
        InputError: a manifest is missing or empty, or its pictures are in another container.
        OSError: the listing cannot be written.
    """
    good, failed, damaged = 0, 0, 0
    with contextlib.ExitStack() as opened:
        manifests = []
        for plan in plans:
            assert plan.manifest is not None
            assert plan.sink is not None
            manifest = opened.enter_context(Manifest(plan.manifest, to_read=True))
            manifests.append((manifest, plan.sink))
        threads = plans[0].settings.threads
        for found in check_pictures(merged_rows(manifests), threads=threads):
            if isinstance(found, Damage):
                _check_container(found.output, container)
                damaged += 1
                if damaged <= _MAX_PRINTED:
                    print(f"damaged: {printable(found.reason)}", file=sys.stderr)
            elif found.status == "done":
                good += 1
            else:
                failed += 1
        listing = manifests[0][0].path.with_name(LISTING)
        if len(manifests) > 1:
            write_listing((row for row, _ in merged_rows(manifests)), listing)
    if not good + damaged + failed:
        path = printable(manifests[0][0].path)
        raise InputError(f"{path}: knows no map; nothing was rendered with it")
    text = (
        f"{counted(good, 'picture')} {'is as it was' if good == 1 else 'are as they were'} "
        f"written, {damaged} {'is' if damaged == 1 else 'are'} not"
    )
    if failed:
        text += f"; {counted(failed, 'map')} {'has' if failed == 1 else 'have'} no picture"
    print(text)
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Damage:
    """A picture that has changed or is missing."""

    key: str
    output: str
    reason: str


def check_pictures(rows: Iterable[tuple[Row, Sink]], *, threads: int) -> Iterator[Row | Damage]:
    """Compare finished pictures with their hashes: the row if it is unchanged, or `Damage`."""

    def check(pair: tuple[Row, Sink]) -> Row | Damage:
        row, sink = pair
        if row.status != "done":
            return row
        data = sink.read(row.output)
        if data is None:
            gone = " with its maps" if isinstance(sink, TrainingSetSink) else ""
            return Damage(
                key=row.key, output=row.output, reason=f"{row.output}: is not there{gone}"
            )
        if hashlib.sha256(data).hexdigest() == row.output_hash:
            return row
        size = "" if len(data) == row.output_bytes else f", {counted(len(data), 'byte')}"
        reason = (
            f"{row.output}: was changed (written with {counted(row.output_bytes, 'byte')}{size})"
        )
        return Damage(key=row.key, output=row.output, reason=reason)

    pairs = iter(rows)
    with ThreadPoolExecutor(threads) as pool:
        while chunk := list(itertools.islice(pairs, _CHUNK)):
            yield from pool.map(check, chunk)


def merged_rows(manifests: Sequence[tuple[Manifest, Sink]]) -> Iterator[tuple[Row, Sink]]:
    """The rows of several manifests in key order; of rows of one key only the latest."""

    def order(pair: tuple[Row, Sink]) -> tuple[bool, bytes]:
        """SQLite's order of keys: text by its bytes, then names that are not UTF-8."""
        key = pair[0].key.encode("utf-8", "surrogateescape")
        return key.decode("utf-8", "replace") != pair[0].key, key

    pairs = (zip(manifest.rows(), itertools.repeat(sink)) for manifest, sink in manifests)
    for _, same in itertools.groupby(heapq.merge(*pairs, key=order), key=order):
        yield max(same, key=lambda pair: pair[0].finished)


def rendered_pictures(plan: Plan, look: int | None = None) -> Iterator[Image]:
    """The pictures of a run in key order, uint8 [H, W, 3], RGB, all or those of one look; raises
    InputError.
    """
    ending = "" if look is None else look_ending(look)
    assert plan.manifest is not None
    assert plan.sink is not None
    with Manifest(plan.manifest, to_read=True) as manifest:
        for row in manifest.rows():
            if row.status == "done" and row.key.endswith(ending):
                data = plan.sink.read(row.output)
                if data is None:
                    raise InputError(f"{row.output}: is not there any more")
                yield decode_picture(data, name=row.output)
