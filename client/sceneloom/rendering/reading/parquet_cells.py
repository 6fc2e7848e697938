"""Single cells of Parquet files, read in any order and from any thread without reading it all.

A column of a row group is decoded from its first row on, some rows at a time, and the rows decoded
last are kept: whoever reads in about the order of the file finds each row there, and a row group
may be of any size.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any

from sceneloom.errors import ImageReadError, ImageTooLargeError, OutOfResourcesError, require
from sceneloom.locations import is_remote, local_path, open_binary, reason_of
from sceneloom.text import counted, reason

_KEPT_COLUMNS = 4  # of a process: two columns of two row groups
_KEPT_BYTES = 64 << 20  # of a column
_BATCH_BYTES = 8 << 20
_MOST_ROWS = 1024
_BUFFER = 1 << 20


def open_parquet(place: str) -> tuple[Any, Any]:
    """Open a Parquet file: the stream, to be closed by the caller, and a `pyarrow` ParquetFile.

    Raises:
        MissingDependencyError: pyarrow is not installed.
        ImageReadError: it cannot be read, is damaged or no Parquet file.
    """
    require(("pyarrow",), extra="datasets", purpose="Parquet")
    import pyarrow.parquet

    try:
        # Not Python's own file: it would complain that whoever read last has not closed it.
        remote = is_remote(place)
        stream = open_binary(place) if remote else pyarrow.OSFile(str(local_path(place)))
    except OSError as error:
        raise ImageReadError(f"{place}: cannot be read ({reason_of(error)})") from None
    try:
        file = pyarrow.parquet.ParquetFile(
            stream, pre_buffer=False, buffer_size=_BUFFER, page_checksum_verification=True
        )
    except Exception as error:  # Arrow raises ValueErrors, OSErrors and its own
        stream.close()
        raise ImageReadError(
            f"{place}: truncated, damaged or no Parquet file ({reason(error)})"
        ) from None
    return stream, file


def read_cell(place: str, group: int, row: int, column: str, name: str, max_bytes: int) -> bytes:
    """Read one cell of bytes.

    Args:
        place: path or URL of the file.
        group: number of the row group.
        row: number of the row in its group.
        column: its name; the field ``bytes`` where it holds pairs of bytes and path.
        name: what to call the cell in errors.
        max_bytes: most bytes to give.

    Raises:
        ImageReadError: it cannot be read or is empty.
        ImageTooLargeError: it has more than `max_bytes`.
    """
    decoded = _column(place, group, column)
    try:
        return decoded.cell(row, name, max_bytes)
    except (ImageReadError, ImageTooLargeError):
        raise
    except MemoryError:
        raise OutOfResourcesError(f"{name}: not enough memory to read it") from None
    except Exception as error:
        raise ImageReadError(f"{name}: damaged ({reason(error)})") from None


_columns: OrderedDict[tuple[int, str, int, str], _Column] = OrderedDict()
_columns_lock = threading.Lock()


def _column(place: str, group: int, column: str) -> _Column:
    """The column that is being read, or a new one; those used longest ago are forgotten."""
    key = (os.getpid(), place, group, column)  # a forked process opens files of its own
    with _columns_lock:
        found = _columns.get(key)
        if found is None:
            found = _columns[key] = _Column(place, group, column)
        _columns.move_to_end(key)
        while len(_columns) > _KEPT_COLUMNS:
            _columns.popitem(last=False)
    return found


class _Column:
    """A column of a row group, and its rows that were decoded last."""

    def __init__(self, place: str, group: int, column: str) -> None:
        self._place, self._group, self._column = place, group, column
        self._lock = threading.Lock()
        self._batches: Iterator[Any] | None = None
        self._kept: deque[tuple[int, Any]] = deque()  # first row, rows
        self._rows = self._next = 0
        self._most_rows = _MOST_ROWS
        self._damage: tuple[int, str] | None = None  # from which row on, and what

    def cell(self, row: int, name: str, max_bytes: int) -> bytes:
        """The bytes of a row."""
        with self._lock:
            if self._damage is not None and row >= self._damage[0]:
                raise ImageReadError(f"{name}: damaged ({self._damage[1]})")
            first, rows = self._decoded(row, name, max_bytes)
            value = rows[row - first]
            if value.is_valid and hasattr(value, "keys"):
                value = value["bytes"]
            if not value.is_valid:
                raise ImageReadError(f"{name}: the cell is empty")
            data = value.as_buffer()
            if data.size > max_bytes:
                raise ImageTooLargeError(
                    f"{name}: {data.size:,} bytes; a map within the limit on pixels takes at most "
                    f"{max_bytes:,}"
                )
            return bytes(data.to_pybytes())

    def _decoded(self, row: int, name: str, max_bytes: int) -> tuple[int, Any]:
        if not self._kept or row < self._kept[0][0]:
            self._restart(name, max_bytes)
        while row >= self._next:
            assert self._batches is not None
            try:
                rows = next(self._batches).column(0)
            except Exception as error:
                if self._most_rows == 1:
                    self._damage, self._batches = (self._next, reason(error)), None
                    self._kept.clear()
                    raise
                self._most_rows = 1  # to have the rows before the damage
                self._restart(name, max_bytes)
                continue
            self._kept.append((self._next, rows))
            self._next += len(rows)
            while len(self._kept) > 1 and sum(r.nbytes for _, r in self._kept) > _KEPT_BYTES:
                self._kept.popleft()
            if self._next == self._rows:
                self._batches = None  # and what it has unpacked
        for first, rows in self._kept:
            if row < first + len(rows):
                return first, rows
        raise AssertionError("the row was just decoded")

    def _restart(self, name: str, max_bytes: int) -> None:
        self._kept.clear()
        self._next = 0
        # The file is closed when nothing reads it any more.
        _, file = open_parquet(self._place)
        self._rows, unpacked = _extent(file.metadata.row_group(self._group), self._column)
        if unpacked > (max_bytes + _BUFFER) * self._rows:
            raise ImageTooLargeError(
                f"{name}: {counted(self._rows, 'row')} of its group unpack to {unpacked:,} bytes; "
                f"a map within the limit on pixels takes at most {max_bytes:,}"
            )
        self._batches = file.iter_batches(
            batch_size=max(1, min(self._most_rows, _BATCH_BYTES * self._rows // max(unpacked, 1))),
            row_groups=[self._group],
            columns=[self._column],
            use_threads=False,
        )


def _extent(group: Any, column: str) -> tuple[int, int]:
    """Rows of a row group, and the bytes that a column of it unpacks to."""
    chunks = (group.column(number) for number in range(group.num_columns))
    unpacked = (c.total_uncompressed_size for c in chunks if c.path_in_schema == column)
    return group.num_rows, sum(unpacked)


def forget(place: str) -> None:
    """Drop what is kept of a file that is replaced."""
    with _columns_lock:
        for key in [key for key in _columns if key[1] == place]:
            del _columns[key]
