"""Maps in Parquet files: columns `key`, `label` and `instance` unless others are named.

The two maps are binary cells, or pairs of bytes and path as the datasets library writes them. Items
come in the order of files and rows, not of their keys.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from sceneloom.errors import ImageReadError, InputError
from sceneloom.file_tree import LeftOut
from sceneloom.locations import lies_in, parent
from sceneloom.rendering.interfaces import MapItem
from sceneloom.rendering.keys import fault_of_key
from sceneloom.rendering.reading.map_files import broken_item
from sceneloom.rendering.reading.parquet_cells import open_parquet, read_cell
from sceneloom.text import reason

_KEYS_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True)
class ParquetCell:
    """A map in a cell of a Parquet file."""

    place: str
    """Path or URL of the file."""
    group: int
    """Number of its row group."""
    row: int
    """Number of its row in the group."""
    column: str
    """The column, as Parquet names it."""
    key: str
    """Of the map."""

    @property
    def name(self) -> str:
        """The file, the map's key and the column."""
        return f"{self.place}/{self.key} ({self.column.partition('.')[0]})"

    def read(self, max_bytes: int) -> bytes:
        """Read it whole; see `MapFile`. A Parquet file unpacks by pages, which can be larger."""
        return read_cell(self.place, self.group, self.row, self.column, self.name, max_bytes)


class ParquetSource:
    """The maps of Parquet files, in the order in which they lie there.

    A file that is damaged gives an item that says so when it is read.
    """

    def __init__(
        self,
        name: str,
        files: Sequence[str],
        *,
        label: str = "label",
        instance: str | None,
        key: str = "key",
        left_out: Sequence[LeftOut] = (),
    ) -> None:
        """Keep the names; nothing is read.

        Args:
            name: what to call the source in messages.
            files: paths or URLs.
            label: column of label maps.
            instance: column of instance maps, or None to pair none.
            key: column of keys.
            left_out: what lies beside the files.
        """
        self._name = name
        self._files = tuple(files)
        self._key, self._label, self._instance = key, label, instance
        self._beside = tuple(left_out)
        self._other_columns: dict[str, None] = {}

    @property
    def name(self) -> str:
        """What was given as the place."""
        return self._name

    def count(self) -> int:
        """How many maps there are.

        Raises:
            InputError: as iterating does.
        """
        return sum(1 for _ in self)

    def left_out(self) -> Sequence[LeftOut]:
        """What lies beside the files, and the columns that are not read, as far as the files have
        been opened.
        """
        columns = [LeftOut(reason="not a column that is read", name=c) for c in self._other_columns]
        return [*self._beside, *columns]

    def __iter__(self) -> Iterator[MapItem]:
        """The maps, file by file.

        Raises:
            InputError: two maps have one key, a file does not have the columns, or there are no
                rows.
            MissingDependencyError: pyarrow is not installed.
        """
        seen: set[str] = set()
        number = 0
        for place in self._files:
            try:
                for item in self._items(place, number):
                    number += 1
                    if item.key in seen:
                        raise InputError(f"{place}: two maps have the key {item.key}")
                    seen.add(item.key)
                    yield item
            except ImageReadError as error:
                number += 1
                fault = str(error).removeprefix(f"{place}: ")
                yield broken_item(place, number, place, fault)
        if not number:
            raise InputError(f"{self._name}: no rows in it")

    def holds(self, place: str) -> bool:
        """Whether shards of pictures there would lie among the files of maps."""
        return any(lies_in(place, parent(f)) and lies_in(f, place) for f in self._files)

    def _items(self, place: str, number: int) -> Iterator[MapItem]:
        stream, file = open_parquet(place)
        with stream:
            schema = file.schema_arrow
            columns = [
                _cell_column(schema, column, place) if column is not None else None
                for column in (self._label, self._instance)
            ]
            self._check_keys(schema, place)
            read = (self._key, self._label, self._instance)
            self._other_columns |= dict.fromkeys(n for n in schema.names if n not in read)
            for group in range(file.num_row_groups):
                for row, key in enumerate(_keys(file, place, group, self._key)):
                    number += 1
                    if fault := _fault(key):
                        shown = f"{place}: row {row} of group {group}"
                        yield broken_item(place, number, shown, f"no name for a picture ({fault})")
                        continue
                    label, instance = (
                        None if column is None else ParquetCell(place, group, row, column, key)
                        for column in columns
                    )
                    assert label is not None
                    yield MapItem(key=key, label=label, instance=instance)

    def _check_keys(self, schema: Any, place: str) -> None:
        import pyarrow

        if self._key not in schema.names:
            raise InputError(
                f"{place}: no column {self._key}, which names the pictures; it has "
                f"{', '.join(schema.names)}"
            )
        kind = schema.field(self._key).type
        if kind not in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
            raise InputError(f"{place}: the column {self._key} is {kind}; keys are strings")


def _fault(key: str | None) -> str | None:
    return "the key is empty" if key is None else fault_of_key(key)


def _keys(file: Any, place: str, group: int, column: str) -> Iterator[Any]:
    batches = file.iter_batches(
        batch_size=_KEYS_AT_ONCE, row_groups=[group], columns=[column], use_threads=False
    )
    while True:
        try:
            keys = next(batches).column(0).to_pylist()
        except StopIteration:
            return
        except Exception as error:  # Arrow raises ValueErrors, OSErrors and its own
            raise ImageReadError(f"{place}: damaged ({reason(error)})") from None
        yield from keys


def _cell_column(schema: Any, column: str, place: str) -> str:
    """The name by which Parquet finds a column's bytes.

    Raises:
        InputError: there is no such column, or it holds something else.
    """
    import pyarrow

    if column not in schema.names:
        raise InputError(
            f"{place}: no column {column}; name the columns with --labels and --instances (it has "
            f"{', '.join(schema.names)})"
        )
    kind = schema.field(column).type
    path = column
    if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind, path = kind.field("bytes").type, f"{column}.bytes"
    if kind not in (pyarrow.binary(), pyarrow.large_binary(), pyarrow.binary_view()):
        raise InputError(
            f"{place}: the column {column} is {kind}; maps are binary cells, or pairs of bytes and "
            "path"
        )
    return path
