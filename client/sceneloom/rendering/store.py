"""Sink and manifest together: a picture first, its row when it is in its place.

A run that was killed between the two makes the picture again; nothing else can happen.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import time
from collections.abc import Iterable, Sequence

from sceneloom.errors import ServingError
from sceneloom.padding import Padding
from sceneloom.rendering.connections import Answer
from sceneloom.rendering.interfaces import MapItem, Sink, Stored
from sceneloom.rendering.loading import Loaded, Prepared
from sceneloom.rendering.manifest import Manifest, Origin, Row
from sceneloom.rendering.results import Failed, Rendered, Skipped
from sceneloom.rendering.settings import RenderSettings

_PLACE_IS_GONE = {
    None,  # the manifest's own
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
}


def place_is_gone(error: OSError) -> bool:
    """Whether no further picture can be written, as on a full disk: the run stops then."""
    return error.errno in _PLACE_IS_GONE


class Store:
    """Where the pictures of a run go, and what is known of them; thread-safe."""

    def __init__(
        self, sink: Sink, manifest: Manifest, origin: Origin, settings: RenderSettings, style: str
    ) -> None:
        """Make the sink's place ready.

        Args:
            sink: not opened yet.
            manifest: of this place.
            origin: what makes the pictures of this run.
            settings: format and quality.
            style: how the style is chosen, as JSON; empty for a model without style.

        Raises:
            InputError: this cannot be a place for pictures.
        """
        self._sink = sink
        self._manifest = manifest
        self._origin = origin
        self._settings = settings
        self._style = style
        sink.open(manifest.is_known)

    def skip(self, loaded: Loaded) -> Skipped | None:
        """The picture that is there already: same input, model and parameters, and its file still
        has the hash of the manifest; None where it has to be made.
        """
        row = self._manifest.row(loaded.item.key)
        if row is None or row.status != "done":
            return None
        if row.input_hash != loaded.input_hash or row.origin != self._origin:
            return None
        data = self._sink.read(row.output)
        if data is None or hashlib.sha256(data).hexdigest() != row.output_hash:
            return None
        return Skipped(key=row.key, output=row.output)

    def put(self, prepared: Prepared, answer: Answer, attempts: int) -> list[Rendered]:
        """Encode a picture and put it in its place.

        Returns:
            the pictures that are there now: this one, those of a finished shard, or none.

        Raises:
            InputError: the format cannot hold a picture of this size.
            OSError: the place cannot be written.
        """
        data = answer.encode(self._settings)
        loaded, padding = prepared.loaded, prepared.request.padding
        row = Row(
            key=loaded.item.key,
            input_hash=loaded.input_hash,
            origin=self._origin,
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
            style=self._style,
        )
        return self._settle(self._sink.put(row.key, data, row))

    def fail(
        self, item: MapItem, error: Exception, *, input_hash: str, failures: Sequence[ServingError]
    ) -> Failed:
        """Write down that a map gave no picture, and why.

        Raises:
            OSError: the manifest cannot be written.
        """
        failed = Failed(key=item.key, error=error, attempts=len(failures))
        self._manifest.record(
            [
                Row(
                    key=item.key,
                    input_hash=input_hash,
                    origin=self._origin,
                    status="failed",
                    attempts=len(failures),
                    milliseconds=0.0,
                    finished=time.time(),
                    error_kind=type(error).__name__,
                    error=failed.reason,
                )
            ]
        )
        return failed

    def finish(self) -> list[Rendered]:
        """Put what a shard still holds in its place.

        Raises:
            OSError: the place cannot be written.
        """
        return self._settle(self._sink.finish())

    def close(self) -> None:
        """Drop what is held."""
        self._sink.close()

    def _settle(self, stored: Iterable[Stored]) -> list[Rendered]:
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
            )
            for row in rows
        ]
