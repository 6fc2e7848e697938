"""Shards of pictures as Parquet files: columns `key` and `image`.

A shard is collected as a tar file and packed when it is complete: a Parquet file is nothing until
its end is written, and what a full disk breaks off could not be gone on with.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sceneloom.errors import InputError, require
from sceneloom.files import remove_part
from sceneloom.pictures import Format
from sceneloom.rendering.reading.parquet_cells import forget, open_parquet, read_cell
from sceneloom.rendering.writing.tar_part import TarPart

_MARK = {"sceneloom": "pictures"}
_GROUP_BYTES, _GROUP_ROWS = 16 << 20, 100
_MOST_BYTES = 1 << 31  # of a cell
_ROWS_AT_ONCE = 16


class ParquetShards:
    """How Parquet shards are written and read."""

    ending = ".parquet"
    """Of a shard's name."""

    def __init__(self, format: Format) -> None:
        """Keep the format of new pictures, which a shard's metadata says.

        Raises:
            MissingDependencyError: pyarrow is not installed.
        """
        require(("pyarrow",), extra="datasets", purpose="Parquet")
        self._format = format

    def member_of(self, key: str) -> str:
        """What a picture is called in a shard: by its key."""
        return key

    def key_of(self, member: str) -> str:
        """The key of a member."""
        return member

    def pack(self, part: TarPart, name_new: Callable[[], Path]) -> Path:
        """Write what was collected as a Parquet file; see `ShardFormat`."""
        target = name_new()
        _write(target, self._format, ((m.name, part.read(m)) for m in part.members))
        return target

    def members(self, place: str) -> dict[str, tuple[int, int]]:
        """Where the pictures of a shard lie: key -> row group and row.

        Raises:
            ImageReadError: it is damaged.
            InputError: it was not written by SceneLoom.
        """
        stream, file = open_parquet(place)
        with stream:
            _check_mark(file, place)
            found = {}
            for group in range(file.num_row_groups):
                keys = file.read_row_group(group, columns=["key"], use_threads=False).column(0)
                found.update({key: (group, row) for row, key in enumerate(keys.to_pylist())})
        return found

    def read(self, place: str, member: str, at: tuple[int, int]) -> bytes:
        """The bytes of a picture."""
        return read_cell(place, *at, "image", f"{place}/{member}", _MOST_BYTES)

    def copy(self, place: str, target: Path, keep: Callable[[str], bool]) -> None:
        """Write a shard again with some of its pictures; see `ShardFormat`."""
        stream, file = open_parquet(place)
        with stream:
            format = _check_mark(file, place)
            _write(target, format, (row for row in _rows(file) if keep(row[0])))
        forget(place)


def _rows(file: Any) -> Iterator[tuple[str, bytes]]:
    for batch in file.iter_batches(_ROWS_AT_ONCE, columns=["key", "image"], use_threads=False):
        yield from zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)


def _check_mark(file: Any, place: str) -> str:
    """The format that a shard's metadata names."""
    metadata = file.schema_arrow.metadata or {}
    if metadata.get(b"sceneloom") != b"pictures":
        raise InputError(
            f"{place}: was not written by sceneloom, and would be taken for one of its shards; "
            "choose another folder"
        )
    return str(metadata.get(b"format", b"").decode())


def _write(target: Path, format: str, rows: Iterator[tuple[str, bytes]]) -> None:
    """Write pictures in small row groups, each row in a page of its own: any one can be read alone.

    Raises:
        OSError: the place cannot be written; nothing is left there.
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
            sink.raise_failure()
    except BaseException:
        remove_part(target)
        raise


def _groups(rows: Iterator[tuple[str, bytes]]) -> Iterator[tuple[list[str], list[bytes]]]:
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
    """What Arrow writes to: an error is kept and raised at the end, for Arrow's writer cannot be
    closed or dropped in peace after one.
    """

    def __init__(self, stream: io.FileIO) -> None:
        self._stream = stream
        self._failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data)
        while view and self._failure is None:
            try:
                view = view[self._stream.write(view) :]
            except OSError as error:
                self._failure = error
        return len(data)

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
