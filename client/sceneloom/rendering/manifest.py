"""The manifest of a run (one row per map, in SQLite), and the store of pictures and rows.

A picture is written first, then its row: a run that is killed between the two makes it again. The
file is in WAL mode, with one commit per picture (or per shard): a killed run loses no row. On file
systems without mapped shared memory (such as NFS) no other process can read it during the run.

    sqlite3 OUTPUT/manifest.sqlite 'select status, count(*) from pictures group by status'
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import quote

from sceneloom.contract import precision_of
from sceneloom.errors import InputError, ServingError
from sceneloom.files import (
    HeldLocation,
    may_pass,
    new_part,
    reason_against,
    remove_part,
    sweep,
    write_whole,
)
from sceneloom.pictures import encode_picture
from sceneloom.rendering.connections import Reply
from sceneloom.rendering.items import Failed, MapItem, Rendered, Sink, Written
from sceneloom.rendering.loading import Prepared
from sceneloom.rendering.settings import RenderSettings
from sceneloom.rendering.training_set import TrainingSetSink
from sceneloom.request import Padding
from sceneloom.text import one_line

if TYPE_CHECKING:
    from typing_extensions import Self

FORMAT = 2
_NEW_IN_FORMAT_2 = ("engine", "precision")
FILE_NAME = "manifest.sqlite"
LISTING = "manifest.jsonl"
Status = Literal["done", "failed"]
_BUSY_SECONDS = 30
_ELSEWHERE = "--manifest FILE puts it on another disk"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """The origin of a picture; pictures of another origin are made again."""

    model: str
    """Name of the model."""
    model_version: str
    """The served version; empty for an engine in this process."""
    bundle_hash: str
    """SHA-256 of the exported engines, from the contract."""
    parameters: str
    """Other settings that change the picture (format, quality, style, unknown ids), as JSON."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """The result of one map."""

    key: str
    """Names the picture."""
    input_hash: str
    """SHA-256 of its label map, instance map and style file; empty if unreadable."""
    origin: Origin
    status: Status
    """done: the picture is in its location. failed: the map has no picture, see `error`."""
    attempts: int
    milliseconds: float
    """From reading the map to the encoded picture."""
    finished: float
    output: str = ""
    """The picture's location below the output folder."""
    output_hash: str = ""
    """SHA-256 of the encoded picture."""
    output_bytes: int = 0
    height: int = 0
    width: int = 0
    padding_bottom: int = 0
    """Rows added to the map for the network, and cropped off the picture."""
    padding_right: int = 0
    """Columns added and cropped off."""
    style: str = ""
    """How the style was chosen, as JSON; empty for a model without style."""
    engine: str = ""
    """The engine, such as openvino-fp32; empty if unknown."""
    precision: str = ""
    """The precision of its convolutions, such as fp32; empty if unknown."""
    error_kind: str = ""
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """The row as one flat JSON object."""
        data = dataclasses.asdict(self)
        return {**{k: v for k, v in data.items() if k != "origin"}, **data["origin"]}


_COLUMNS = tuple(
    [f.name for f in dataclasses.fields(Row) if f.name != "origin"]
    + [f.name for f in dataclasses.fields(Origin)]
)
_NUMBERS = {"attempts", "output_bytes", "height", "width", "padding_bottom", "padding_right"}
_REALS = {"milliseconds", "finished"}


class Manifest:
    """The manifest's file, held by one process at a time; safe to use from several threads."""

    def __init__(self, path: Path, *, to_read: bool = False) -> None:
        """Open it, or make it.

        Args:
            path: the file.
            to_read: it must exist; its folder may be read-only.

        Raises InputError if it is no manifest, another run holds it, or it cannot be written.
        """
        self.path = path
        self._lock = threading.RLock()
        with contextlib.ExitStack() as opened:
            if to_read and not path.is_file():
                raise InputError(f"{path}: no such manifest; nothing was rendered there")
            if to_read and not path.stat().st_size:
                raise InputError(f"{path}: is empty; nothing was rendered with it")
            if to_read and not os.access(path.parent, os.W_OK):
                self._database, self._alone = _open_unwritable(path), False
            else:
                opened.enter_context(contextlib.closing(_hold(path)))
                self._database, self._alone = _open(path)
            opened.callback(self._database.close)
            held = HeldLocation(path)
            opened.callback(held.close)
            self.check = held.check
            self._opened = opened.pop_all()

    def row(self, key: str) -> Row | None:
        """The row of a map, or None."""
        found = self._select("where key = ?", key)
        return found[0] if found else None

    def is_known(self, output: str) -> bool:
        """Whether a row has this output; raises OSError if the manifest is gone."""
        self.check()
        return bool(self._select("where output = ? and status = 'done' limit 1", output))

    def record(self, rows: Iterable[Row]) -> None:
        """Write rows in one commit, in place of those of equal keys; raises OSError."""
        marks = ", ".join("?" for _ in _COLUMNS)
        statement = f"insert or replace into pictures ({', '.join(_COLUMNS)}) values ({marks})"
        values = [
            tuple(_storable(data[name]) for name in _COLUMNS)
            for data in (row.to_json() for row in rows)
        ]
        if values:
            self.check()
            with self._using("written") as database, database:
                database.executemany(statement, values)

    def rows(self) -> Iterator[Row]:
        """All rows in key order, read in pages."""
        last = ""
        while page := self._select("where key > ? order by key limit 500", last):
            yield from page
            last = page[-1].key

    def close(self, *, listing: bool = False) -> None:
        """Close the file, after a listing of its rows beside it; a second call does nothing."""
        if listing:
            with contextlib.suppress(OSError):  # a full disk or a lost location is known already
                self.check()
                write_listing(self.rows(), self.path.with_suffix(".jsonl"))
        with self._lock:
            if self._alone:  # others cannot open it with its write-ahead log
                with contextlib.suppress(sqlite3.Error):
                    self._database.execute("pragma journal_mode = delete")
            self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _using(self, verb: str) -> Iterator[sqlite3.Connection]:
        """The database, for one thread; its errors become OSErrors."""
        with self._lock:
            try:
                yield self._database
            except sqlite3.Error as error:
                raise OSError(f"{self.path}: the manifest cannot be {verb} ({error})") from None

    def _select(self, tail: str, value: str) -> list[Row]:
        statement = f"select {', '.join(_COLUMNS)} from pictures {tail}"
        with self._using("read") as database:
            found = database.execute(statement, (_storable(value),)).fetchall()
        rows = []
        for values in found:
            decoded = (
                v.decode("utf-8", "surrogateescape") if isinstance(v, bytes) else v for v in values
            )
            data: dict[str, Any] = dict(zip(_COLUMNS, decoded, strict=True))
            origin = Origin(**{f.name: data.pop(f.name) for f in dataclasses.fields(Origin)})
            rows.append(Row(origin=origin, **data))
        return rows


def write_listing(rows: Iterable[Row], path: Path) -> None:
    """Write rows as JSON Lines, in one step; raises OSError."""
    write_whole(path, (f"{json.dumps(row.to_json(), sort_keys=True)}\n".encode() for row in rows))


def _hold(path: Path) -> sqlite3.Connection:
    """Hold the lock file beside a manifest: two runs into one location would undo each other."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, deep=False)
        probe = new_part(path.parent)  # SQLite's own errors do not say read-only
        probe.touch()
        probe.unlink()
    except OSError as error:
        text = f"{path.parent}: cannot be the folder for pictures and their manifest"
        text += f" ({reason_against(path.parent, error)})"
        raise (OSError(text) if may_pass(error) else InputError(text)) from None
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "not a file"
        raise InputError(f"{path}: cannot be the manifest ({kind}); name a file")
    lock = path.with_name(f".{path.name}.lock")
    held = None
    try:
        # Every system has SQLite's lock, and it ends with its process.
        held = sqlite3.connect(lock, timeout=0, check_same_thread=False, isolation_level=None)
        held.execute("begin exclusive")
    except sqlite3.Error as error:
        if held is not None:
            held.close()
        if "locked" in str(error) and _has_locks(path.parent):
            raise InputError(
                f"{path}: another run is writing it; wait for that one, or choose another place"
            ) from None
        reason = "its file system has no locks" if "locked" in str(error) else str(error)
        raise InputError(f"{path}: cannot be the manifest ({reason}); {_ELSEWHERE}") from None
    return held


def _has_locks(folder: Path) -> bool:
    """Whether files of a folder can be locked: some network file systems refuse."""
    part = new_part(folder)  # closing the lock file itself would release its locks
    try:
        with part.open("wb") as stream:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        remove_part(part)
    return True


def _open(path: Path) -> tuple[sqlite3.Connection, bool]:
    """Open a manifest or make one; raises InputError, or OSError if the disk is full.

    Returns:
        the connection, and whether only this process can read meanwhile: without files mapped as
        shared memory (network file systems) SQLite's write-ahead log serves one process.
    """
    is_new = not path.exists()
    try:
        return _open_as(path, alone=False), False
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise InputError(f"{path}: another program is writing it ({error})") from None
        beside = [path.with_name(path.name + ending) for ending in ("-wal", "-shm")]
        try:
            database = _open_as(path, alone=True)
        except sqlite3.Error as met:
            for made in (path, *beside) if is_new else ():
                remove_part(made)
            reason = f"{path}: cannot be the manifest ({met}); {_ELSEWHERE}"
            raise (OSError(reason) if "is full" in str(met) else InputError(reason)) from None
        remove_part(beside[1])  # the first try's
        return database, True
    except sqlite3.Error as error:
        raise InputError(f"{path}: cannot be the manifest ({error})") from None


def _open_unwritable(path: Path) -> sqlite3.Connection:
    """Open a manifest in a read-only folder."""
    log = path.with_name(path.name + "-wal")
    if log.is_file() and log.stat().st_size:
        raise InputError(
            f"{path}: its last rows are in {log.name}, which can be read in a folder that can be "
            "written to only; copy both files, and name the copy with --manifest"
        )
    address = f"file:{quote(str(path.absolute()))}?immutable=1"
    try:
        database = sqlite3.connect(address, uri=True, check_same_thread=False)
        with contextlib.ExitStack() as opened:
            opened.callback(database.close)
            if _check_format(path, database) == 1:  # its columns cannot be added here
                added = ", ".join(f"'' as {name}" for name in _NEW_IN_FORMAT_2)
                database.execute(
                    f"create temp view pictures as select *, {added} from main.pictures"
                )
            opened.pop_all()
    except sqlite3.Error as error:
        raise InputError(f"{path}: cannot be read as a manifest ({error})") from None
    return database


def _open_as(path: Path, *, alone: bool) -> sqlite3.Connection:
    database = sqlite3.connect(
        path, timeout=_BUSY_SECONDS, check_same_thread=False, isolation_level="IMMEDIATE"
    )
    with contextlib.ExitStack() as opened:
        opened.callback(database.close)
        if alone:
            database.execute("pragma locking_mode = exclusive")
        version = _check_format(path, database)
        database.execute("pragma journal_mode = wal")
        database.execute("pragma synchronous = normal")  # a killed process loses nothing
        with database:
            # Python begins no transaction for these: a run that ends between two of them would
            # leave a manifest without a format, which every later run refuses.
            database.execute("begin immediate")
            kinds = {**dict.fromkeys(_NUMBERS, "integer"), **dict.fromkeys(_REALS, "real")}
            columns = ", ".join(f"{name} {kinds.get(name, 'text')} not null" for name in _COLUMNS)
            database.execute(f"create table if not exists pictures ({columns}, primary key (key))")
            if version == 1:
                there = {name for _, name, *_ in database.execute("pragma table_info(pictures)")}
                for name in (name for name in _NEW_IN_FORMAT_2 if name not in there):
                    database.execute(
                        f"alter table pictures add column {name} text not null default ''"
                    )
            database.execute("create index if not exists by_output on pictures (output)")
            database.execute(f"pragma user_version = {FORMAT}")
        opened.pop_all()
    return database


def _check_format(path: Path, database: sqlite3.Connection) -> int:
    """The manifest's format, 0 if new; raises InputError if it is unknown, or damaged."""
    (version,) = database.execute("pragma user_version").fetchone()
    (tables,) = database.execute("select count(*) from sqlite_master").fetchone()
    if version not in (1, FORMAT) and (version or tables):
        raise InputError(
            f"{path}: not a manifest of format 1 to {FORMAT}, which this version of sceneloom "
            "reads; choose another place"
        )
    (sound,) = database.execute("pragma quick_check(1)").fetchone()
    if sound != "ok":
        raise InputError(f"{path}: the manifest is damaged ({one_line(sound)}); move it away")
    return int(version)


def _storable(value: Any) -> Any:
    # A file name that is not UTF-8 has lone surrogates, which SQLite does not take.
    surrogates = isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value)
    return value.encode("utf-8", "surrogateescape") if surrogates else value


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
        """The row of an unchanged picture of this run, of this input or of any, or None."""
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
        return self.record(self.place(row, data, prepared.copies))

    def place(self, row: Row, data: bytes, copies: Mapping[str, bytes]) -> list[Written]:
        """Put a picture in its location, after the copies of its maps; raises as `Sink.put`."""
        if copies:
            assert isinstance(self.sink, TrainingSetSink)
            self.sink.put_copies(copies)
        return self.sink.put(row.key, data, row)

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
        """Write the pictures still held; raises OSError if the location or the manifest is gone."""
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
    """The row of a picture without location, and the picture encoded; raises InputError."""
    data = reply.encoded
    if data is None:
        assert reply.image is not None
        image = reply.image[..., :1] if settings.grey else reply.image
        data = encode_picture(image, settings.format, quality=settings.quality)
    if reply.bundle_hash:  # behind a gateway the bundle may change in the middle of a run
        origin = dataclasses.replace(origin, bundle_hash=reply.bundle_hash)
    loaded, padding = prepared.loaded, prepared.request.padding
    if (look := loaded.item.look) is not None:
        assert settings.style_seed is not None
        words = {**json.loads(style), "seed": settings.style_seed + look, "look": look}
        style = json.dumps(words)
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
