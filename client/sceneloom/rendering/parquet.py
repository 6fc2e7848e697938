"""Parquet files: maps are read from their columns, pictures written as row groups."""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sceneloom import errors
from sceneloom.files import LeftOut, remove_part
from sceneloom.locations import is_remote, lies_in, local_path, open_binary, parent
from sceneloom.pictures import Format
from sceneloom.rendering.items import MapItem, broken_item, check_size, key_error
from sceneloom.rendering.tar import TarPart
from sceneloom.text import counted, reason

_MAX_COLUMNS = 4  # of a process: two columns of two row groups
_MAX_COLUMN_BYTES = 64 << 20
_BATCH_BYTES = 8 << 20
_MAX_BATCH_ROWS = 1024
_BUFFER = 1 << 20


def open_parquet(location: str) -> tuple[Any, Any]:
    """Open a Parquet file: the stream, for the caller to close, and a `pyarrow` ParquetFile.

    Raises:
        MissingDependencyError: pyarrow is not installed.
        ImageReadError: it cannot be read, is damaged or no Parquet file.
    """
    errors.require(("pyarrow",), extra="datasets", purpose="Parquet")
    import pyarrow.parquet

    try:
        # Not Python's own file: it would complain that its last reader has not closed it.
        remote = is_remote(location)
        stream = open_binary(location) if remote else pyarrow.OSFile(str(local_path(location)))
    except OSError as error:
        raise errors.ImageReadError(f"{location}: cannot be read ({reason(error)})") from None
    try:
        file = pyarrow.parquet.ParquetFile(
            stream, pre_buffer=False, buffer_size=_BUFFER, page_checksum_verification=True
        )
    except Exception as error:  # Arrow raises ValueErrors, OSErrors and its own
        stream.close()
        raise errors.ImageReadError(
            f"{location}: truncated, damaged or no Parquet file ({reason(error)})"
        ) from None
    return stream, file


def read_cell(location: str, group: int, row: int, column: str, name: str, max_bytes: int) -> bytes:
    """Read one cell of bytes.

    Args:
        location: path or URL of the file.
        group: number of the row group.
        row: number of the row in its group.
        column: its name; the field ``bytes`` of a column of pairs (bytes and path).
        name: the cell's name in
        max_bytes: most bytes to return.

    Raises:
        ImageReadError: it cannot be read.
        MissingInputError: it is empty.
        ImageTooLargeError: it has more than `max_bytes`.
    """
    decoded = _column(os.getpid(), location, group, column)  # a forked process opens its own files
    try:
        return decoded.cell(row, name, max_bytes)
    except errors.InputError:
        raise
    except MemoryError:
        raise errors.OutOfResourcesError(f"{name}: not enough memory to read it") from None
    except Exception as error:
        raise errors.ImageReadError(f"{name}: damaged ({reason(error)})") from None


@functools.lru_cache(_MAX_COLUMNS)
def _column(process: int, location: str, group: int, column: str) -> _Column:
    return _Column(location, group, column)


class _Column:
    """A column of a row group, and its rows decoded last."""

    def __init__(self, location: str, group: int, column: str) -> None:
        self._location, self._group, self._column = location, group, column
        self._lock = threading.Lock()
        self._batches: Iterator[Any] | None = None
        self._kept: deque[tuple[int, Any]] = deque()  # first row, rows
        self._rows = self._next = 0
        self._max_rows = _MAX_BATCH_ROWS
        self._damage: tuple[int, str] | None = None  # from this row on, and the error

    def cell(self, row: int, name: str, max_bytes: int) -> bytes:
        """The bytes of a row."""
        with self._lock:
            if self._damage is not None and row >= self._damage[0]:
                raise errors.ImageReadError(f"{name}: damaged ({self._damage[1]})")
            first, rows = self._decoded(row, name, max_bytes)
            value = rows[row - first]
            if value.is_valid and hasattr(value, "keys"):
                value = value["bytes"]
            if not value.is_valid:
                raise errors.MissingInputError(f"{name}: the cell is empty")
            data = value.as_buffer()
            check_size(name, data.size, max_bytes)
            return bytes(data.to_pybytes())

    def _decoded(self, row: int, name: str, max_bytes: int) -> tuple[int, Any]:
        """The batch of a row, with the number of its first row."""
        if not self._kept or row < self._kept[0][0]:
            self._restart(name, max_bytes)
        while row >= self._next:
            assert self._batches is not None
            try:
                rows = next(self._batches).column(0)
            except Exception as error:
                if self._max_rows == 1:
                    self._damage, self._batches = (self._next, reason(error)), None
                    self._kept.clear()
                    raise
                self._max_rows = 1  # to have the rows before the damage
                self._restart(name, max_bytes)
                continue
            self._kept.append((self._next, rows))
            self._next += len(rows)
            while len(self._kept) > 1 and sum(r.nbytes for _, r in self._kept) > _MAX_COLUMN_BYTES:
                self._kept.popleft()
            if self._next == self._rows:
                self._batches = None  # and its unpacked pages
        first, rows = next(kept for kept in reversed(self._kept) if kept[0] <= row)
        return first, rows

    def _restart(self, name: str, max_bytes: int) -> None:
        self._kept.clear()
        self._next = 0
        # The file is closed after its last reader.
        _, file = open_parquet(self._location)
        rows = file.metadata.row_group(self._group)
        chunks = (rows.column(number) for number in range(rows.num_columns))
        self._rows = rows.num_rows
        unpacked = sum(
            c.total_uncompressed_size for c in chunks if c.path_in_schema == self._column
        )
        if unpacked > (max_bytes + _BUFFER) * self._rows:
            raise errors.ImageTooLargeError(
                f"{name}: {counted(self._rows, 'row')} of its group unpack to {unpacked:,} bytes; "
                f"a map within the limit on pixels takes at most {max_bytes:,}"
            )
        self._batches = file.iter_batches(
            batch_size=max(1, min(self._max_rows, _BATCH_BYTES * self._rows // max(unpacked, 1))),
            row_groups=[self._group],
            columns=[self._column],
            use_threads=False,
        )


_KEYS_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True)
class ParquetCell:
    """A map in a cell of a Parquet file."""

    location: str
    group: int
    row: int
    column: str
    key: str

    @property
    def name(self) -> str:
        """The file, the map's key and the column."""
        return f"{self.location}/{self.key} ({self.column.partition('.')[0]})"

    def read(self, max_bytes: int) -> bytes:
        """Read the whole cell; see `MapFile`. Parquet unpacks by pages, which can be larger."""
        return read_cell(self.location, self.group, self.row, self.column, self.name, max_bytes)


class ParquetSource:
    """The maps of Parquet files, in their order on disk.

    A damaged file gives a broken item.
    """

    def __init__(
        self,
        name: str,
        files: Sequence[str],
        *,
        label: str = "label",
        instance: str | None,
        key: str = "key",
        may_lack_instances: bool = False,
        left_out: Sequence[LeftOut] = (),
    ) -> None:
        self._name = name
        self._files = tuple(files)
        self._key, self._label, self._instance = key, label, instance
        self._may_lack_instances = may_lack_instances
        self._beside = tuple(left_out)
        self._other_columns: dict[str, None] = {}

    def count(self) -> int:
        """The number of maps; raises InputError as iterating does."""
        return sum(1 for _ in self)

    @property
    def left_out(self) -> Sequence[LeftOut]:
        """Files beside these, and unread columns, as far as the files have been opened."""
        columns = [LeftOut(reason="not a column that is read", name=c) for c in self._other_columns]
        return [*self._beside, *columns]

    def __iter__(self) -> Iterator[MapItem]:
        """The maps, file by file.

        Raises:
            InputError: two maps have one key, a file lacks a column, or there are no rows.
            MissingDependencyError: pyarrow is not installed.
        """
        seen: set[str] = set()
        number = 0
        for location in self._files:
            try:
                for item in self._items(location, number):
                    number += 1
                    if item.key in seen:
                        raise errors.InputError(f"{location}: two maps have the key {item.key}")
                    seen.add(item.key)
                    yield item
            except errors.ImageReadError as error:
                number += 1
                fault = str(error).removeprefix(f"{location}: ")
                yield broken_item(location, number, location, fault)
            except errors.SceneLoomError:
                raise
            except Exception as error:  # Arrow raises ValueErrors, OSErrors and its own
                number += 1
                yield broken_item(location, number, location, f"damaged ({reason(error)})")
        if not number:
            raise errors.InputError(f"{self._name}: no rows in it")

    def holds(self, location: str) -> bool:
        """Whether shards of pictures there would lie among the files of maps."""
        return any(lies_in(location, parent(f)) and lies_in(f, location) for f in self._files)

    def _items(self, location: str, number: int) -> Iterator[MapItem]:
        import pyarrow

        stream, file = open_parquet(location)
        with stream:
            schema = file.schema_arrow
            label_column = _cell_column(schema, self._label, location)
            instance_column = None
            optional = self._may_lack_instances and self._instance not in schema.names
            if self._instance is not None and not optional:
                instance_column = _cell_column(schema, self._instance, location)
            if self._key not in schema.names:
                raise errors.InputError(
                    f"{location}: no column {self._key}, which names the pictures; it has "
                    f"{', '.join(schema.names)}"
                )
            kind = schema.field(self._key).type
            if kind not in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
                raise errors.InputError(
                    f"{location}: the column {self._key} is {kind}; keys are strings"
                )
            read = (self._key, self._label, self._instance)
            self._other_columns |= dict.fromkeys(n for n in schema.names if n not in read)
            for group in range(file.num_row_groups):
                batches = file.iter_batches(
                    batch_size=_KEYS_AT_ONCE,
                    row_groups=[group],
                    columns=[self._key],
                    use_threads=False,
                )
                keys = (batch.column(0).to_pylist() for batch in batches)
                for row, key in enumerate(itertools.chain.from_iterable(keys)):
                    number += 1
                    if fault := "the key is empty" if key is None else key_error(key):
                        shown = f"{location}: row {row} of group {group}"
                        fault = f"no name for a picture ({fault})"
                        yield broken_item(location, number, shown, fault)
                        continue
                    instance = None
                    if instance_column is not None:
                        instance = ParquetCell(location, group, row, instance_column, key)
                    label = ParquetCell(location, group, row, label_column, key)
                    yield MapItem(key=key, label=label, instance=instance)


def _cell_column(schema: Any, column: str, location: str) -> str:
    """Parquet's name of a column of bytes; raises InputError if it is missing or holds others."""
    import pyarrow

    if column not in schema.names:
        raise errors.InputError(
            f"{location}: no column {column}; name the columns with --labels and --instances (it "
            f"has {', '.join(schema.names)})"
        )
    kind = schema.field(column).type
    path = column
    if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind, path = kind.field("bytes").type, f"{column}.bytes"
    if kind not in (pyarrow.binary(), pyarrow.large_binary(), pyarrow.binary_view()):
        raise errors.InputError(
            f"{location}: the column {column} is {kind}; maps are binary cells, or pairs of bytes "
            "and path"
        )
    return path


_MARK = {"sceneloom": "pictures"}
_GROUP_BYTES, _GROUP_ROWS = 16 << 20, 100
_MAX_BYTES = 1 << 31  # of a cell
_ROWS_AT_ONCE = 16


class ParquetShards:
    """Writes and reads Parquet shards; `TarShards` has the same methods."""

    ending = ".parquet"

    def __init__(self, format: Format) -> None:
        """Keep the format, for the shards' metadata.

        Raises MissingDependencyError if pyarrow is not installed.
        """
        errors.require(("pyarrow",), extra="datasets", purpose="Parquet")
        self._format = format

    def member_of(self, key: str) -> str:
        """The name of a picture in a shard: its key."""
        return key

    def key_of(self, member: str) -> str:
        """The key of a member."""
        return member

    def pack(self, part: TarPart, name_new: Callable[[], Path]) -> Path:
        """Write a part as a Parquet file; raises OSError."""
        target = name_new()
        _write(target, self._format, ((m.name, part.read(m)) for m in part.members))
        return target

    def members(self, location: str) -> dict[str, tuple[int, int]]:
        """Key of each picture -> row group and row; see `TarShards`."""
        stream, file = open_parquet(location)
        with stream:
            _check_mark(file, location)
            found = {}
            for group in range(file.num_row_groups):
                keys = file.read_row_group(group, columns=["key"], use_threads=False).column(0)
                found.update({key: (group, row) for row, key in enumerate(keys.to_pylist())})
        return found

    def read(self, location: str, member: str, at: tuple[int, int]) -> bytes:
        """The bytes of a picture."""
        return read_cell(location, *at, "image", f"{location}/{member}", _MAX_BYTES)

    def copy(self, location: str, target: Path, keep: Callable[[str], bool]) -> None:
        """Copy the pictures to keep into another file."""
        stream, file = open_parquet(location)
        with stream:
            format = _check_mark(file, location)
            batches = file.iter_batches(_ROWS_AT_ONCE, columns=["key", "image"], use_threads=False)
            rows = itertools.chain.from_iterable(
                zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)
                for batch in batches
            )
            _write(target, format, (row for row in rows if keep(row[0])))
        _column.cache_clear()  # this file will be replaced


def _check_mark(file: Any, location: str) -> str:
    """The format in a shard's metadata; raises InputError without our mark."""
    metadata = file.schema_arrow.metadata or {}
    if metadata.get(b"sceneloom") != b"pictures":
        raise errors.InputError(
            f"{location}: was not written by sceneloom, and would be taken for one of its shards; "
            "choose another folder"
        )
    return str(metadata.get(b"format", b"").decode())


def _write(target: Path, format: str, rows: Iterator[tuple[str, bytes]]) -> None:
    """Write pictures in small row groups, each row in its own page, so that it can be read alone.

    Raises OSError if the location cannot be written; nothing is left there.
    """
    import pyarrow
    import pyarrow.parquet

    metadata = {**_MARK, "format": format}
    fields = [pyarrow.field("key", "string"), pyarrow.field("image", pyarrow.binary())]
    schema = pyarrow.schema(fields, metadata)
    try:
        with target.open("xb", buffering=0) as stream:
            sink = _Stream(stream)
            writer = pyarrow.parquet.ParquetWriter(
                sink,
                schema,
                compression="none",  # pictures are compressed already
                use_dictionary=False,
                write_statistics=False,
                write_batch_size=1,
                write_page_checksum=True,
            )
            for keys, images in _groups(rows):
                arrays = [pyarrow.array(keys, "string"), pyarrow.array(images, pyarrow.binary())]
                writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
            writer.close()
            if sink.failure is not None:
                raise sink.failure
    except BaseException:
        remove_part(target)
        raise


def _groups(rows: Iterator[tuple[str, bytes]]) -> Iterator[tuple[list[str], list[bytes]]]:
    """Keys and pictures of each row group."""
    keys: list[str] = []
    images: list[bytes] = []
    size = 0
    for key, image in rows:
        keys.append(key)
        images.append(image)
        size += len(image)
        if len(keys) >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield keys, images
            keys, images, size = [], [], 0
    if keys:
        yield keys, images


class _Stream(io.RawIOBase):
    """The output of Arrow's writer; it keeps an error until the end, because Arrow's writer
    writes again when it is closed or collected after one.
    """

    def __init__(self, stream: io.FileIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data)
        while view and self.failure is None and not self._stream.closed:
            try:
                view = view[self._stream.write(view) :]
            except OSError as error:
                self.failure = error
        return len(data)
