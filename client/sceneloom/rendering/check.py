"""Whether the pictures of a finished run are still what they were: `sceneloom render --verify`."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from sceneloom.errors import InputError
from sceneloom.rendering.interfaces import Sink
from sceneloom.rendering.manifest import Manifest, Row
from sceneloom.rendering.run import Plan
from sceneloom.rendering.writing.formats import decode_picture
from sceneloom.synthesizer import Image

_CHUNK = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Damage:
    """A picture that is not as it was written."""

    key: str
    """Of its map."""
    output: str
    """Where it should lie."""
    reason: str
    """One sentence."""


def check_pictures(manifest: Manifest, sink: Sink, *, threads: int) -> Iterator[Row | Damage]:
    """Hash every picture that the manifest calls done.

    Args:
        manifest: of the run.
        sink: where its pictures are; only read.
        threads: how many read at once.

    Yields:
        the row of each picture that is as it was, and a `Damage` for every other, by key.
    """

    def check(row: Row) -> Row | Damage:
        data = sink.read(row.output)
        if data is None:
            return Damage(key=row.key, output=row.output, reason=f"{row.output}: is not there")
        if hashlib.sha256(data).hexdigest() == row.output_hash:
            return row
        size = "" if len(data) == row.output_bytes else f", {len(data)} bytes"
        reason = f"{row.output}: was changed (written with {row.output_bytes} bytes{size})"
        return Damage(key=row.key, output=row.output, reason=reason)

    rows = (row for row in manifest.rows() if row.status == "done")
    with ThreadPoolExecutor(threads) as pool:
        while chunk := list(itertools.islice(rows, _CHUNK)):
            yield from pool.map(check, chunk)


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
