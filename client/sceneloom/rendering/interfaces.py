"""What a data set is read from and written to: the two interfaces between which the pipeline runs.

Sources are in `reading/`, sinks in `writing/`; anything with these methods takes their place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Protocol

from sceneloom.file_tree import LeftOut


class MapFile(Protocol):
    """The bytes of one map, read when they are wanted; can be pickled."""

    @property
    def name(self) -> str:
        """What to call it in errors: its path, with the archive it lies in if it does."""

    def read(self, max_bytes: int) -> bytes:
        """Read it whole.

        Raises:
            ImageReadError: it cannot be read.
            ImageTooLargeError: it has more than `max_bytes` bytes, which were not read.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapItem:
    """The maps of one picture."""

    key: str
    """Names the picture: path of the label map in its source, without ending, with slashes."""
    label: MapFile
    """The label map."""
    instance: MapFile | None
    """The instance map, or None where none was found."""


class Source(Protocol):
    """A data set of maps; can be iterated again, and pickled."""

    @property
    def name(self) -> str:
        """What to call it in messages."""

    def count(self) -> int:
        """How many maps it has."""

    def left_out(self) -> Sequence[LeftOut]:
        """What lies in its place and is not taken, and why; shards that have not been gone through
        to their end may hold more.
        """

    def __iter__(self) -> Iterator[MapItem]:
        """The maps, each key once; nothing is held but names.

        Folders and zip files give them in the order of their keys, shards in the order in which
        they lie there; it is best to read them in about this order.

        Something that cannot be a map (a damaged shard, a name that would leave the output folder)
        is an item whose label map cannot be read.

        Raises:
            InputError: two maps have one key, or there are none.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stored:
    """A picture that is in its place, whole, under its final name."""

    tag: Any
    """What `Sink.put` was given with it."""
    output: str
    """Where it lies below the sink's place: ``a/b.png``, or ``shard-000003.tar#a/b.png``."""


class Sink(Protocol):
    """Where pictures go; safe to use from several threads."""

    @property
    def name(self) -> str:
        """What to call it in messages."""

    def open(self, is_known: Callable[[str], bool]) -> None:
        """Make the place ready, and remove what killed runs left there.

        Args:
            is_known: whether the manifest has an output of this name; raises OSError where the
                manifest is gone. A sink whose unit is a shard
                removes pictures that it does not know from its shards; a folder leaves other files
                alone.

        Raises:
            InputError: this cannot be a place for pictures.
        """

    def put(self, key: str, data: bytes, tag: Hashable) -> list[Stored]:
        """Take an encoded picture.

        Args:
            key: names the picture; a picture of equal key is replaced.
            data: the encoded picture.
            tag: given back with it.

        Returns:
            the pictures that are in their place now: this one, or all those of a shard.

        Raises:
            InputError: the key cannot name a picture.
            OSError: the place cannot be written, or is not the one that was opened; nothing
                half-written is left, this picture was not taken, and those before it that have not
                come back are still held.
        """

    def finish(self) -> list[Stored]:
        """Put what is still held in its place, and return it; nothing is put afterwards.

        Raises:
            OSError: the place cannot be written, or it or something in it was removed meanwhile;
                the pictures that have not come back are in no place.
        """

    def read(self, output: str) -> bytes | None:
        """The picture of this name as it lies there, or None where there is none; works without
        `open`.
        """

    def close(self) -> None:
        """Drop what is held; calling it twice is fine."""
