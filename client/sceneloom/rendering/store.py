"""Sink and manifest together: a picture first, its row when it is in its place.

A run that was killed between the two makes the picture again; nothing else can happen.
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
from sceneloom.rendering.connections import Reply
from sceneloom.rendering.items import Failed, MapItem, Rendered, Sink, Skipped, Written
from sceneloom.rendering.loading import Loaded, Prepared
from sceneloom.rendering.manifest import Manifest, Origin, Row
from sceneloom.rendering.settings import RenderSettings
from sceneloom.request import Padding


def place_is_gone(error: OSError) -> bool:
    """Whether no further picture can be written, as on a full disk: the run stops then."""
    # Without a number it is the manifest's own, or a place that was removed or moved.
    return error.errno in (None, errno.EROFS) or may_pass(error)


class PictureStore(Protocol):
    """What the pipeline needs of a store; thread-safe."""

    def skip(self, loaded: Loaded) -> Skipped | None:
        """The picture that is there already, or None where it has to be made."""

    def put(self, prepared: Prepared, answer: Reply, attempts: int) -> list[Rendered]:
        """Take a picture; the pictures that are in their places now."""

    def fail(
        self, item: MapItem, error: Exception, *, input_hash: str, failures: Sequence[ServingError]
    ) -> Failed:
        """Record that a map gave no picture, and why."""

    def finish(self) -> list[Rendered]:
        """Put what is still held in its place, and return it."""

    def close(self) -> None:
        """Drop what is held."""


class Store:
    """Where the pictures of a run go, and what is known of them; thread-safe."""

    def __init__(
        self,
        sink: Sink,
        manifest: Manifest,
        origin: Origin,
        settings: RenderSettings,
        style: str,
        precision: str = "",
    ) -> None:
        """Make the sink's place ready.

        Args:
            sink: not opened yet.
            manifest: of this place.
            origin: what makes the pictures of this run.
            settings: format and quality.
            style: how the style is chosen, as JSON; empty for a model without style.
            precision: of the run; pictures that another one made are made again. Empty for
                whichever.

        Raises:
            InputError: this cannot be a place for pictures.
        """
        self._sink = sink
        self._manifest = manifest
        self.origin = origin
        """What makes the pictures of this run."""
        self._settings = settings
        self.style = style
        """How the style is chosen, as JSON."""
        self._precision = "" if settings.mix_precisions else precision
        sink.open(manifest.is_known)

    def found(self, key: str, input_hash: str | None = None) -> Row | None:
        """The row of a picture that is there as it was written, by this run's model, parameters and
        precision; None where it has to be made.

        Args:
            key: of its map.
            input_hash: what its map has to have been; None for whatever it was.
        """
        row = self._manifest.row(key)
        if row is None or row.status != "done" or row.origin != self.origin:
            return None
        if input_hash is not None and row.input_hash != input_hash:
            return None
        if self._precision and row.precision not in ("", self._precision):
            return None
        data = self._sink.read(row.output)
        if data is None or hashlib.sha256(data).hexdigest() != row.output_hash:
            return None
        return row

    def skip(self, loaded: Loaded) -> Skipped | None:
        """The picture that is there already: same input, model and parameters, and its file still
        has the hash of the manifest; None where it has to be made.
        """
        row = self.found(loaded.item.key, loaded.input_hash)
        if row is None:
            return None
        return Skipped(key=row.key, output=row.output, engine=row.engine)

    def put(self, prepared: Prepared, answer: Reply, attempts: int) -> list[Rendered]:
        """Encode a picture and put it in its place.

        Returns:
            the pictures that are there now: this one, those of a finished shard, or none.

        Raises:
            InputError: the format cannot hold a picture of this size.
            OSError: the place cannot be written.
        """
        data = answer.encode(self._settings)
        row = picture_row(
            prepared, data, attempts, origin=self.origin, style=self.style, engine=answer.engine
        )
        return self.keep(row, data)

    def keep(self, row: Row, data: bytes) -> list[Rendered]:
        """Put an encoded picture in its place.

        Args:
            row: of it, but for its output.
            data: the encoded picture.

        Returns:
            the pictures that are there now: this one, those of a finished shard, or none.

        Raises:
            OSError: the place cannot be written.
        """
        return self._settle(self._sink.put(row.key, data, row))

    def fail(
        self, item: MapItem, error: Exception, *, input_hash: str, failures: Sequence[ServingError]
    ) -> Failed:
        """Write down that a map gave no picture, and why.

        Raises:
            OSError: the manifest cannot be written.
        """
        failed = Failed(key=item.key, error=error, attempts=len(failures))
        self.keep_failure(failure_row(failed, origin=self.origin, input_hash=input_hash))
        return failed

    def keep_failure(self, row: Row) -> None:
        """Write down a map that gave no picture.

        Raises:
            OSError: the manifest cannot be written.
        """
        self._manifest.record([row])

    def finish(self) -> list[Rendered]:
        """Put what a shard still holds in its place, and see that place and manifest are still
        those that were opened.

        Raises:
            OSError: the place cannot be written, or was removed or moved.
        """
        finished = self._settle(self._sink.finish())
        self._manifest.check_place()
        return finished

    def close(self) -> None:
        """Drop what is held."""
        self._sink.close()

    def _settle(self, stored: Iterable[Written]) -> list[Rendered]:
        rows = [dataclasses.replace(s.tag, output=s.output) for s in stored]
        self._manifest.record(rows)
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


def picture_row(
    prepared: Prepared,
    data: bytes,
    attempts: int,
    *,
    origin: Origin,
    style: str,
    engine: str,
) -> Row:
    """The row of an encoded picture that has no place yet.

    Args:
        prepared: its map.
        data: the encoded picture.
        attempts: requests that were sent for it.
        origin: what made it.
        style: how its style was chosen, as JSON; empty for a model without style.
        engine: that rendered it; empty where unknown.
    """
    loaded, padding = prepared.loaded, prepared.request.padding
    return Row(
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
        engine=engine,
        precision=precision_of(engine),
    )


def failure_row(failed: Failed, *, origin: Origin, input_hash: str) -> Row:
    """The row of a map that gave no picture.

    Args:
        failed: which, and why.
        origin: what should have made it.
        input_hash: of the map's bytes; empty where they could not be read.
    """
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
