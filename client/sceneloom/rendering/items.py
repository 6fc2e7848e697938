"""What a run handles: keys, maps, sources, sinks, results.

`Source` and `Sink` are the two interfaces between which the pipeline runs; anything with their
methods takes their place.
"""

from __future__ import annotations

import dataclasses
import hashlib
import stat
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, Protocol

from sceneloom.contract import precision_of
from sceneloom.errors import ImageReadError, ImageTooLargeError, InputError, SceneLoomError
from sceneloom.file_tree import LeftOut
from sceneloom.locations import (
    filesystem,
    last_part,
    local_path,
    named_errors,
    read_range,
    reason_of,
)
from sceneloom.maps import MAP_SUFFIXES, Image
from sceneloom.request import Padding

_MOST_BYTES = 1024  # what object stores take


def check_key(key: str) -> None:
    """Check that a key names a place inside a folder, on every file system and in every archive.

    Raises:
        InputError: it is absolute, climbs out with ``..``, has an empty part, a backslash, a
            control character or what is no text, or is longer than 1024 bytes.
    """
    if reason := key_error(key):
        raise InputError(f"{key!r:.200}: cannot name a picture ({reason})")


def key_error(key: str) -> str | None:
    """Why a key is refused by `check_key`, or None where it is fine."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return "not UTF-8"
    if size > _MOST_BYTES:
        return f"{size} bytes; {_MOST_BYTES} at most"
    if "\\" in key or any(character < " " or character == "\x7f" for character in key):
        return "a backslash or a control character in it"
    if key.startswith("/"):
        return "an absolute path"
    for part in key.split("/"):
        if part in ("", ".", ".."):
            return f"a part that is {part!r}"
    return None


def shard_of(key: str, shards: int) -> int:
    """Which of so many shards a map belongs to: by the SHA-256 of its key, 0 to `shards` - 1, the
    same on every machine.
    """
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % shards


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
class Written:
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

    def put(self, key: str, data: bytes, tag: Hashable) -> list[Written]:
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

    def finish(self) -> list[Written]:
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rendered:
    """A picture that is in its place, and in the manifest."""

    key: str
    output: str
    """Where it lies below the output folder."""
    padding: Padding
    """What was added to the map for the network, and cropped off the picture."""
    seconds: float
    """From reading the map to the encoded picture."""
    attempts: int
    """Requests that were sent for it."""
    bytes: int
    """Size of the encoded picture."""
    engine: str = ""
    """What made it, such as ``openvino-fp32``; empty where the server does not say it."""

    @property
    def precision(self) -> str:
        """What convolutions were computed in, such as ``fp32``; empty where unknown."""
        return precision_of(self.engine)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A picture of a run without a sink."""

    key: str
    image: Image
    """uint8 [H, W, 3], RGB."""
    padding: Padding
    """What was added to the map for the network, and cropped off the picture."""
    seconds: float
    """From reading the map to the picture."""
    attempts: int
    """Requests that were sent for it."""
    engine: str = ""
    """What made it, such as ``openvino-fp32``; empty where unknown."""

    @property
    def precision(self) -> str:
        """What convolutions were computed in, such as ``fp32``; empty where unknown."""
        return precision_of(self.engine)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skipped:
    """A map of which an earlier run has made the picture, from the same bytes in the same way."""

    key: str
    output: str
    """Where the picture lies."""
    engine: str = ""
    """What made it; empty where the manifest does not say it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failed:
    """A map that gave no picture."""

    key: str
    error: Exception
    """A SceneLoomError, or an OSError of the place the picture was to go."""
    attempts: int = 0
    """Requests that were sent for it."""

    @property
    def reason(self) -> str:
        """One sentence that begins with the map's name."""
        text = str(self.error) or type(self.error).__name__
        file = PurePosixPath(text.split(": ")[0])
        named = file.suffix.lower() in MAP_SUFFIXES and str(file.with_suffix("")).endswith(self.key)
        return text if named else f"{self.key}: {text}"


Result = Rendered | Picture | Skipped | Failed


def check_size(name: str, size: int, max_bytes: int) -> None:
    """Refuse to read what is larger than a map can be.

    Raises:
        ImageTooLargeError: `size` is above `max_bytes`.
    """
    if size > max_bytes:
        raise ImageTooLargeError(
            f"{name}: {size:,} bytes; a map within the limit on pixels takes at most {max_bytes:,}"
        )


@dataclasses.dataclass(frozen=True)
class LocalFile:
    """A map in a file of this machine."""

    name: str

    def read(self, max_bytes: int) -> bytes:
        """Read it whole; see `MapFile`."""
        path = local_path(self.name)
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # reading a pipe could wait for ever
                raise ImageReadError(f"{self.name}: cannot be read (not a file)")
            check_size(self.name, status.st_size, max_bytes)
            with path.open("rb") as stream:
                data = stream.read(max_bytes + 1)
        except SceneLoomError:
            raise
        except (OSError, ValueError) as error:  # ValueError: a path with a null byte
            reason = reason_of(error) if isinstance(error, OSError) else str(error)
            raise ImageReadError(f"{self.name}: cannot be read ({reason})") from None
        check_size(self.name, len(data), max_bytes)
        return data


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A map in a file that fsspec reads."""

    name: str

    def read(self, max_bytes: int) -> bytes:
        """Read it whole; see `MapFile`."""
        try:
            data = self._read(max_bytes + 1)
        except OSError as error:
            raise ImageReadError(f"{self.name}: cannot be read ({reason_of(error)})") from None
        check_size(self.name, len(data), max_bytes)
        return data

    def _read(self, size: int) -> bytes:
        try:
            return read_range(self.name, 0, size)
        except OSError:
            # Stores answer a range of an empty object with an error.
            with named_errors(self.name):
                fs, path = filesystem(self.name)
                if fs.info(path)["size"] == 0:
                    return b""
            raise


@dataclasses.dataclass(frozen=True)
class FilePart:
    """A map that lies uncompressed in a larger file."""

    archive: str
    """Path or URL of the file."""
    member: str
    """What the archive calls it."""
    start: int
    """Where its bytes begin."""
    size: int
    """How many there are."""

    @property
    def name(self) -> str:
        """The archive and its name there."""
        return f"{self.archive}/{self.member}"

    def read(self, max_bytes: int) -> bytes:
        """Read it whole; see `MapFile`."""
        check_size(self.name, self.size, max_bytes)
        try:
            data = read_range(self.archive, self.start, self.size)
        except OSError as error:
            raise ImageReadError(f"{self.name}: cannot be read ({reason_of(error)})") from None
        if len(data) < self.size:
            raise ImageReadError(f"{self.name}: truncated (the archive ends inside it)")
        return data


@dataclasses.dataclass(frozen=True)
class BrokenFile:
    """What stands in a source for a map that cannot be read, so that it is reported by name."""

    name: str
    """What it is called."""
    reason: str
    """Why it cannot be read."""

    def read(self, max_bytes: int) -> bytes:
        """Say why.

        Raises:
            ImageReadError: always.
        """
        raise ImageReadError(f"{self.name}: {self.reason}")


def broken_item(place: str, number: int, name: str, reason: str) -> MapItem:
    """The item that stands for something unreadable in a source.

    Args:
        place: the archive or folder it is in.
        number: tells apart what cannot be read in one source.
        name: what it is called in errors.
        reason: why it cannot be read.
    """
    broken = BrokenFile(name, reason)
    return MapItem(key=f"{last_part(place)}#{number}", label=broken, instance=None)
