"""Whether the pictures of a finished run are still what they were: `sceneloom render --verify`."""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from sceneloom.errors import InputError
from sceneloom.maps import Image
from sceneloom.pictures import decode_picture
from sceneloom.rendering.interfaces import Sink
from sceneloom.rendering.manifest import Manifest, Row
from sceneloom.rendering.run import Plan
from sceneloom.text import counted

_PICTURES_AT_ONCE = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Damage:
    """A picture that is not as it was written."""

    key: str
    """Of its map."""
    output: str
    """Where it should lie."""
    reason: str
    """One sentence."""


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
