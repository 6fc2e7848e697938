"""The manifest of a rendering run: one row for each map, in SQLite, written when its picture is in
its place.

The file is in WAL mode, one commit per picture (or per shard): a killed run loses no row, and a row
is never there before its picture is. A picture of which the row is missing is rendered again.

    sqlite3 OUTPUT/manifest.sqlite 'select status, count(*) from pictures group by status'
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from sceneloom.errors import InputError
from sceneloom.rendering.writing.parts import new_part, sweep

if TYPE_CHECKING:
    from typing_extensions import Self

FORMAT = 2
_NEW_IN_FORMAT_2 = ("engine", "precision")
FILE_NAME = "manifest.sqlite"
Status = Literal["done", "failed"]
_BUSY_SECONDS = 30


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
    """Its size."""
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
    """One sentence."""

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

    def __init__(self, path: Path) -> None:
        """Open it, or make it.

        Raises:
            InputError: it is no manifest, another run holds it, or the place cannot be written.
        """
        self.path = path
        """The file."""
        self._lock = threading.RLock()
        self._held = _hold(path)
        try:
            self._database = _open(path)
        except BaseException:
            self._held.close()
            raise

    def row(self, key: str) -> Row | None:
        """The row of a map, or None where it has none."""
        found = self._select("where key = ?", (key,))
        return found[0] if found else None

    def is_known(self, output: str) -> bool:
        """Whether a row says that a picture of this name is in its place."""
        query = "select 1 from pictures where output = ? and status = 'done' limit 1"
        with self._lock:
            return self._database.execute(query, (_storable(output),)).fetchone() is not None

    def record(self, rows: Iterable[Row]) -> None:
        """Write rows in one commit; a row of equal key is replaced.

        Raises:
            OSError: the place cannot be written, such as a disk that is full.
        """
        marks = ", ".join("?" for _ in _COLUMNS)
        statement = f"insert or replace into pictures ({', '.join(_COLUMNS)}) values ({marks})"
        values = [_values(row) for row in rows]
        if not values:
            return
        with self._lock:
            try:
                with self._database:
                    self._database.executemany(statement, values)
            except sqlite3.Error as error:
                raise OSError(f"{self.path}: the manifest cannot be written ({error})") from None

    def rows(self) -> Iterator[Row]:
        """All rows in the order of their keys, read as they are asked for."""
        last = ""
        while page := self._select("where key > ? order by key limit 500", (last,)):
            yield from page
            last = page[-1].key

    def counts(self) -> dict[str, int]:
        """Status -> number of rows."""
        with self._lock:
            found = self._database.execute("select status, count(*) from pictures group by status")
            return dict(found.fetchall())

    def attempts(self) -> int:
        """Requests that were sent for all pictures together."""
        with self._lock:
            (found,) = self._database.execute("select sum(attempts) from pictures").fetchone()
            return int(found or 0)

    def export(self, path: Path) -> int:
        """Write all rows as JSON Lines, in one step; returns how many.

        Raises:
            OSError: the place cannot be written.
        """
        part = new_part(path.parent)
        count = 0
        try:
            with part.open("w", encoding="utf-8") as file:
                for row in self.rows():
                    file.write(json.dumps(row.to_json(), sort_keys=True) + "\n")
                    count += 1
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return count

    def finish(self) -> None:
        """Leave the rows as JSON Lines beside the manifest, and close it."""
        with contextlib.suppress(OSError):  # a full disk has been said already
            self.export(self.path.with_suffix(".jsonl"))
        self.close()

    def close(self) -> None:
        """Close the file and let others have it; calling it twice is fine."""
        with self._lock:
            self._database.close()
            self._held.close()

    def __enter__(self) -> Self:
        """Return the manifest itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def _select(self, tail: str, values: tuple[Any, ...]) -> list[Row]:
        with self._lock:
            found = self._database.execute(
                f"select {', '.join(_COLUMNS)} from pictures {tail}",
                tuple(map(_storable, values)),
            ).fetchall()
        return [_row(values) for values in found]


def _hold(path: Path) -> sqlite3.Connection:
    """Hold the lock file beside a manifest: two runs into one place would undo each other."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, deep=False)
    except OSError as error:
        raise InputError(
            f"{path.parent}: cannot be the folder for pictures and their manifest "
            f"({error.strerror})"
        ) from None
    lock = path.with_name(f".{path.name}.lock")
    held = None
    try:
        # SQLite's lock is one that every system has, and that goes with its process.
        held = sqlite3.connect(lock, timeout=0, check_same_thread=False, isolation_level=None)
        held.execute("begin exclusive")
    except sqlite3.Error as error:
        if held is not None:
            held.close()
        if "locked" in str(error):
            raise InputError(
                f"{path}: another run is writing it; wait for that one, or choose another place"
            ) from None
        raise InputError(f"{path}: cannot be the manifest ({error})") from None
    return held


def _open(path: Path) -> sqlite3.Connection:
    database = None
    try:
        database = sqlite3.connect(
            path, timeout=_BUSY_SECONDS, check_same_thread=False, isolation_level="IMMEDIATE"
        )
        (version,) = database.execute("pragma user_version").fetchone()
        (tables,) = database.execute("select count(*) from sqlite_master").fetchone()
        if version not in (1, FORMAT) and (version or tables):
            raise InputError(
                f"{path}: not a manifest of format 1 to {FORMAT}, which this version of sceneloom "
                "reads; choose another place"
            )
        (sound,) = database.execute("pragma quick_check(1)").fetchone()
        if sound != "ok":
            raise InputError(f"{path}: the manifest is damaged ({sound}); move it away")
        database.execute("pragma journal_mode = wal")
        database.execute("pragma synchronous = normal")  # a killed process loses nothing
        with database:
            database.execute(_table())
            if version == 1:
                _add_columns(database)
            database.execute("create index if not exists by_output on pictures (output)")
            database.execute(f"pragma user_version = {FORMAT}")
    except sqlite3.Error as error:
        if database is not None:
            database.close()
        raise InputError(f"{path}: cannot be the manifest ({error})") from None
    except InputError:
        if database is not None:
            database.close()
        raise
    return database


def _add_columns(database: sqlite3.Connection) -> None:
    """What format 2 has and format 1 has not, empty in every row."""
    there = {name for _, name, *_ in database.execute("pragma table_info(pictures)")}
    for name in _NEW_IN_FORMAT_2:
        if name not in there:
            database.execute(f"alter table pictures add column {name} text not null default ''")


def _table() -> str:
    kinds = [
        f"{name} {'integer' if name in _NUMBERS else 'real' if name in _REALS else 'text'} not null"
        for name in _COLUMNS
    ]
    return f"create table if not exists pictures ({', '.join(kinds)}, primary key (key))"


def _values(row: Row) -> tuple[Any, ...]:
    data = row.to_json()
    return tuple(_storable(data[name]) for name in _COLUMNS)


def _storable(value: Any) -> Any:
    # A file name that is not UTF-8 has lone surrogates, which SQLite does not take.
    return value.encode("utf-8", "surrogateescape") if _has_surrogates(value) else value


def _has_surrogates(value: Any) -> bool:
    return isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value)


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
