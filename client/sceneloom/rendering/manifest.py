"""The manifest of a rendering run: one row for each map, in SQLite, written when its picture is in
its place.

The file is in WAL mode, one commit per picture (or per shard): a killed run loses no row, and a row
is never there before its picture is. A picture of which the row is missing is rendered again. Where
files cannot be mapped as shared memory (NFS and its like), nobody else can read it meanwhile.

    sqlite3 OUTPUT/manifest.sqlite 'select status, count(*) from pictures group by status'
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from sceneloom.errors import InputError
from sceneloom.files import (
    HeldPlace,
    may_pass,
    new_part,
    reason_against,
    remove_part,
    sweep,
    write_whole,
)
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
    """What a picture was made by; a picture of another origin is made again."""

    model: str
    """Name of the model."""
    model_version: str
    """The version that the server had of it; empty for an engine in this process."""
    bundle_hash: str
    """SHA-256 over the exported engines, as the contract has it."""
    parameters: str
    """What else decides the picture's bytes (format, quality, style, unknown ids), as JSON."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One map: what became of it."""

    key: str
    """Names the picture."""
    input_hash: str
    """SHA-256 over the bytes of its label map, instance map and style file; empty if unreadable."""
    origin: Origin
    """What made it."""
    status: Status
    """done: the picture is in its place. failed: there is none, for the reason in `error`."""
    attempts: int
    """Requests that were sent for it."""
    milliseconds: float
    """From reading the map to the encoded picture."""
    finished: float
    """Unix time."""
    output: str = ""
    """Where the picture lies below the output folder."""
    output_hash: str = ""
    """SHA-256 of the encoded picture."""
    output_bytes: int = 0
    height: int = 0
    """Of the picture, in pixels."""
    width: int = 0
    """Of the picture, in pixels."""
    padding_bottom: int = 0
    """Rows that were added to the map for the network and cropped off the picture."""
    padding_right: int = 0
    """Columns that were added and cropped off."""
    style: str = ""
    """How the style was chosen, as JSON; empty for a model without style."""
    engine: str = ""
    """What made the picture, such as openvino-fp32; empty where the server did not say it."""
    precision: str = ""
    """What its convolutions were computed in, such as fp32; likewise."""
    error_kind: str = ""
    """Class of the error."""
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
            to_read: it has to be there, and may be where nothing can be written.

        Raises:
            InputError: it is no manifest, another run holds it, or the place cannot be written.
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
            with _as_os_errors(path, "read"):
                self._place = HeldPlace(path)
            opened.callback(self._place.close)
            self._opened = opened.pop_all()

    def row(self, key: str) -> Row | None:
        """The row of a map, or None where it has none."""
        found = self._select("where key = ?", (key,))
        return found[0] if found else None

    def is_known(self, output: str) -> bool:
        """Whether a row says that a picture of this name is in its place.

        Raises:
            OSError: the manifest was removed or moved, or cannot be read.
        """
        query = "select 1 from pictures where output = ? and status = 'done' limit 1"
        self.check_place()
        with self._lock, _as_os_errors(self.path, "read"):
            return self._database.execute(query, (_storable(output),)).fetchone() is not None

    def record(self, rows: Iterable[Row]) -> None:
        """Write rows in one commit; a row of equal key is replaced.

        Raises:
            OSError: the place cannot be written, such as a disk that is full, or the manifest was
                removed or moved.
        """
        marks = ", ".join("?" for _ in _COLUMNS)
        statement = f"insert or replace into pictures ({', '.join(_COLUMNS)}) values ({marks})"
        values = [
            tuple(_storable(data[name]) for name in _COLUMNS)
            for data in (row.to_json() for row in rows)
        ]
        if not values:
            return
        self.check_place()
        with self._lock, _as_os_errors(self.path, "written"), self._database:
            self._database.executemany(statement, values)

    def check_place(self) -> None:
        """See whether the file is still where it was opened.

        Raises:
            OSError: it was removed or moved: what was recorded is lost with it.
        """
        self._place.check()

    def rows(self) -> Iterator[Row]:
        """All rows in the order of their keys, read as they are asked for."""
        last = ""
        while page := self._select("where key > ? order by key limit 500", (last,)):
            yield from page
            last = page[-1].key

    def counts(self) -> dict[str, int]:
        """Status -> number of rows."""
        with self._lock, _as_os_errors(self.path, "read"):
            found = self._database.execute("select status, count(*) from pictures group by status")
            return dict(found.fetchall())

    def attempts(self) -> int:
        """Requests that were sent for all pictures together."""
        with self._lock, _as_os_errors(self.path, "read"):
            (found,) = self._database.execute("select sum(attempts) from pictures").fetchone()
            return int(found or 0)

    def export(self, path: Path) -> int:
        """Write all rows as JSON Lines, in one step; returns how many.

        Raises:
            OSError: the place cannot be written.
        """
        return write_listing(self.rows(), path)

    def finish(self) -> None:
        """Leave the rows as JSON Lines beside the manifest, and close it."""
        with contextlib.suppress(OSError):  # a full disk or a lost place has been said already
            self.check_place()
            self.export(self.path.with_suffix(".jsonl"))
        self.close()

    def close(self) -> None:
        """Close the file and let others have it; calling it twice is fine."""
        with self._lock:
            if self._alone:  # others cannot open it with its write-ahead log
                with contextlib.suppress(sqlite3.Error):
                    self._database.execute("pragma journal_mode = delete")
            self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _select(self, tail: str, values: tuple[Any, ...]) -> list[Row]:
        with self._lock, _as_os_errors(self.path, "read"):
            found = self._database.execute(
                f"select {', '.join(_COLUMNS)} from pictures {tail}",
                tuple(map(_storable, values)),
            ).fetchall()
        return [_row(values) for values in found]


def write_listing(rows: Iterable[Row], path: Path) -> int:
    """Write rows as JSON Lines, in one step; returns how many.

    Raises:
        OSError: the place cannot be written.
    """
    count = 0

    def lines() -> Iterator[bytes]:
        nonlocal count
        for row in rows:
            yield (json.dumps(row.to_json(), sort_keys=True) + "\n").encode()
            count += 1

    write_whole(path, lines())
    return count


def _hold(path: Path) -> sqlite3.Connection:
    """Hold the lock file beside a manifest: two runs into one place would undo each other."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, deep=False)
        probe = new_part(path.parent)  # SQLite's own errors do not say read-only
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = (
            f"{path.parent}: cannot be the folder for pictures and their manifest "
            f"({reason_against(path.parent, error)})"
        )
        raise (OSError(reason) if may_pass(error) else InputError(reason)) from None
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "not a file"
        raise InputError(f"{path}: cannot be the manifest ({kind}); name a file")
    lock = path.with_name(f".{path.name}.lock")
    held = None
    try:
        # SQLite's lock is one that every system has, and that goes with its process.
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
    part = new_part(folder)  # closing the lock file itself would let go of its locks
    try:
        with part.open("wb") as stream:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        remove_part(part)
    return True


@contextlib.contextmanager
def _as_os_errors(path: Path, verb: str) -> Iterator[None]:
    """Have SQLite's errors as those of a place that is gone or full."""
    try:
        yield
    except sqlite3.Error as error:
        raise OSError(f"{path}: the manifest cannot be {verb} ({error})") from None


def _open(path: Path) -> tuple[sqlite3.Connection, bool]:
    """Open a manifest or make one.

    Returns:
        the connection, and whether nobody else can read meanwhile: where files cannot be mapped as
        shared memory, as on network file systems, SQLite's write-ahead log is one process's alone.

    Raises:
        InputError: it is no manifest, or cannot be opened in either way.
        OSError: the disk is full.
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
    """Open a manifest in a folder that cannot be written to."""
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
            # leave a manifest without a format, which is refused from then on.
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
    """The format of a manifest that is sound; 0 of a new one.

    Raises:
        InputError: it is of another format, or damaged.
    """
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


def _row(values: tuple[Any, ...]) -> Row:
    data: dict[str, Any] = dict(
        zip(
            _COLUMNS,
            (v.decode("utf-8", "surrogateescape") if isinstance(v, bytes) else v for v in values),
            strict=True,
        )
    )
    origin = Origin(**{field.name: data.pop(field.name) for field in dataclasses.fields(Origin)})
    return Row(origin=origin, **data)
