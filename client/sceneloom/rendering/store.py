"""Sink and manifest together: a picture first, then its row.

A run that is killed between the two makes the picture again; nothing else can happen.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

from sceneloom.contract import precision_of
from sceneloom.errors import ServingError
from sceneloom.files import may_pass
from sceneloom.pictures import encode_picture
from sceneloom.rendering.connections import Reply
from sceneloom.rendering.items import Failed, MapItem, Rendered, Sink, Written
from sceneloom.rendering.loading import Prepared
from sceneloom.rendering.manifest import Manifest, Origin, Row
from sceneloom.rendering.settings import RenderSettings
from sceneloom.request import Padding


def location_is_gone(error: OSError) -> bool:
    """Whether no further picture can be written, as on a full disk: the run stops then."""
    # An error of the manifest, or of a location that was removed or moved, has no number.
    return error.errno in (None, errno.EROFS) or may_pass(error)


class PictureStore(Protocol):
    """The store of a pipeline; thread-safe."""

    def found(self, key: str, input_hash: str) -> Row | None:
        """The row of the picture that exists already, from this input, or None."""

    def put(self, prepared: Prepared, reply: Reply, attempts: int) -> list[Rendered]:
        """Take a picture; returns the pictures that are complete now."""

    def fail(
        self, item: MapItem, error: Exception, *, input_hash: str, failures: Sequence[ServingError]
    ) -> Failed:
        """Record that a map has no picture, and why."""

    def finish(self) -> list[Rendered]:
        """Write and return the pictures still held."""


@dataclasses.dataclass(eq=False)
class Store:
    """The pictures of a run and their rows; thread-safe."""

    sink: Sink
    """Opened."""
    manifest: Manifest
    origin: Origin
    settings: RenderSettings
    style: str
    """How the style is chosen, as JSON; empty for a model without style."""
    precision: str = ""
    """Pictures of another precision are made again; empty for any."""

    def found(self, key: str, input_hash: str | None = None) -> Row | None:
        """The row of an unchanged picture of this run's model, parameters and precision, or None.

        The hash is its map's; None accepts any map.
        """
        row = self.manifest.row(key)
        if row is None or row.status != "done" or row.origin != self.origin:
            return None
        if input_hash is not None and row.input_hash != input_hash:
            return None
        if self.precision and row.precision not in ("", self.precision):
            return None
        data = self.sink.read(row.output)
        if data is None or hashlib.sha256(data).hexdigest() != row.output_hash:
            return None
        return row

    def put(self, prepared: Prepared, reply: Reply, attempts: int) -> list[Rendered]:
        """Encode a picture and put it in its location.

        Returns:
            the pictures that are complete now: this one, those of a finished shard, or none.

        Raises InputError if the format cannot hold it, OSError if the location cannot be written.
        """
        row, data = picture_row(
            prepared, reply, attempts, self.settings, origin=self.origin, style=self.style
        )
        return self.record(self.sink.put(row.key, data, row))

    def record(self, written: Iterable[Written]) -> list[Rendered]:
        """Write the rows of complete pictures, which are their tags; raises OSError."""
        rows = [dataclasses.replace(one.tag, output=one.output) for one in written]
        self.manifest.record(rows)
        return [
            Rendered(
                key=row.key,
                output=row.output,
                padding=Padding(row.padding_bottom, row.padding_right),
                seconds=row.milliseconds / 1000,
                attempts=row.attempts,
                bytes=row.output_bytes,
                engine=row.engine,
            )
            for row in rows
        ]

    def fail(
        self, item: MapItem, error: Exception, *, input_hash: str, failures: Sequence[ServingError]
    ) -> Failed:
        """Record that a map has no picture; raises OSError if the manifest cannot be written."""
        failed = Failed(key=item.key, error=error, attempts=len(failures))
        self.manifest.record([failure_row(failed, origin=self.origin, input_hash=input_hash)])
        return failed

    def finish(self) -> list[Rendered]:
        """Write the pictures still held.

        Raises OSError if the location cannot be written, or it or the manifest was removed.
        """
        finished = self.record(self.sink.finish())
        self.manifest.check()
        return finished

    def close(self) -> None:
        """Drop held pictures, list the manifest's rows as JSON Lines beside it, and close it."""
        try:
            self.sink.close()
        finally:
            self.manifest.close(listing=True)


def picture_row(
    prepared: Prepared,
    reply: Reply,
    attempts: int,
    settings: RenderSettings,
    *,
    origin: Origin,
    style: str,
) -> tuple[Row, bytes]:
    """The row of a picture without location, and the encoded picture.

    Raises InputError if the format cannot hold a picture of this size.
    """
    data = reply.encoded
    if data is None:
        assert reply.image is not None
        data = encode_picture(reply.image, settings.format, quality=settings.quality)
    loaded, padding = prepared.loaded, prepared.request.padding
    row = Row(
        key=loaded.item.key,
        input_hash=loaded.input_hash,
        origin=origin,
        status="done",
        attempts=attempts,
        milliseconds=1000 * (time.perf_counter() - loaded.started),
        finished=time.time(),
        output_hash=hashlib.sha256(data).hexdigest(),
        output_bytes=len(data),
        height=prepared.height,
        width=prepared.width,
        padding_bottom=padding.bottom,
        padding_right=padding.right,
        style=style,
        engine=reply.engine,
        precision=precision_of(reply.engine),
    )
    return row, data


def failure_row(failed: Failed, *, origin: Origin, input_hash: str) -> Row:
    """The row of a map without picture; the hash is empty if its files cannot be read."""
    return Row(
        key=failed.key,
        input_hash=input_hash,
        origin=origin,
        status="failed",
        attempts=failed.attempts,
        milliseconds=0.0,
        finished=time.time(),
        error_kind=type(failed.error).__name__,
        error=failed.reason,
    )
