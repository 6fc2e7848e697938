"""The values of a run: keys, maps, sources, sinks, results.

The pipeline reads from a `Source` and writes to a `Sink`; any object with their methods serves.
"""

from __future__ import annotations

import dataclasses
import hashlib
import stat
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, Protocol

from sceneloom import locations
from sceneloom.contract import precision_of
from sceneloom.errors import ImageReadError, ImageTooLargeError, SceneLoomError
from sceneloom.files import LeftOut
from sceneloom.maps import MAP_SUFFIXES, PICTURE_SUFFIXES, Image
from sceneloom.request import Padding
from sceneloom.text import reason

_MAX_KEY_BYTES = 1024  # the limit of object stores


def key_error(key: str) -> str | None:
    """The reason why a key cannot name a picture, or None.

    A good key is a relative path of at most 1024 bytes, without ``..``, backslashes and controls.
    """
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return "not UTF-8"
    if size > _MAX_KEY_BYTES:
        return f"{size} bytes; {_MAX_KEY_BYTES} at most"
    if "\\" in key or any(character < " " or character == "\x7f" for character in key):
        return "a backslash or a control character in it"
    if key.startswith("/"):
        return "an absolute path"
    for part in key.split("/"):
        if part in ("", ".", ".."):
            return f"a part that is {part!r}"
    return None


def shard_of(key: str, shards: int) -> int:
    """The shard of a map, 0 to `shards` - 1, from the SHA-256 of its key."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % shards


def look_ending(look: int) -> str:
    """The end of the key of a picture that is one of several looks of its map."""
    return f"_look{look}"


class MapFile(Protocol):
    """The file of one map, read on demand; can be pickled."""

    @property
    def name(self) -> str:
        """The file's path, with its archive, for errors."""

    def read(self, max_bytes: int) -> bytes:
        """Read the file, up to `max_bytes`; raises ImageReadError, ImageTooLargeError, or
        MissingInputError for an empty cell of a table.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapItem:
    """The maps of one picture."""

    key: str
    """The label map's path in its source, without ending, with slashes, and the look; names the
    picture.
    """
    label: MapFile
    """The label map, or the picture in its place."""
    instance: MapFile | None
    """The instance map, or None without one."""
    look: int | None = None
    """Number of the picture among those of its map; None if it is the only one."""

    @property
    def map_key(self) -> str:
        """The key without the look."""
        return self.key if self.look is None else self.key.removesuffix(look_ending(self.look))

    table: MapFile | None = None
    """The table of names of Isaac Replicator beside the label map, or None without one."""


class Source(Protocol):
    """A data set of maps; can be iterated again, and pickled."""

    def count(self) -> int:
        """The number of maps."""

    @property
    def left_out(self) -> Sequence[LeftOut]:
        """Files that are no maps of this source, and why; of shards, only those read so far."""

    def __iter__(self) -> Iterator[MapItem]:
        """The maps, each key once: in key order, or in the order of shards.

        An unreadable part (a damaged shard, a bad key) is an item whose label map cannot be read.
        Raises InputError if two maps have one key, or there are none.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """A complete picture under its final name."""

    tag: Any
    """The tag that `Sink.put` took with it."""
    output: str
    """Its location in the sink: ``a/b.png``, or ``shard-000003.tar#a/b.png``."""


class Sink(Protocol):
    """A location for pictures; safe to use from several threads."""

    def open(self, is_known: Callable[[str], bool]) -> None:
        """Prepare the location, and remove leftovers of killed runs.

        Sinks of shards remove the pictures that `is_known` of the manifest does not know; it raises
        OSError if the manifest is gone. Raises InputError if the location cannot hold pictures.
        """

    def put(self, key: str, data: bytes, tag: Hashable) -> list[Written]:
        """Take an encoded picture; it replaces one of equal key.

        Returns:
            the pictures that are complete now: this one, or all those of a shard.

        Raises:
            InputError: the key cannot name a picture.
            OSError: the location cannot be written, or was replaced. This picture is not taken, no
                partial file stays, and the sink still holds earlier pictures.
        """

    def finish(self) -> list[Written]:
        """Write and return the pictures still held; no `put` follows.

        Raises OSError if the location cannot be written, or is gone; held pictures are lost then.
        """

    def read(self, output: str) -> bytes | None:
        """The picture of this name, or None; works without `open`."""

    def close(self) -> None:
        """Drop held pictures; a second call does nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Made:
    key: str
    padding: Padding
    """Rows and columns added to the map for the network, and cropped off the picture."""
    seconds: float
    """From reading the map to the finished picture."""
    attempts: int
    """Requests sent for it."""
    engine: str = ""
    """The engine, such as ``openvino-fp32``; empty if unknown."""

    @property
    def precision(self) -> str:
        """The precision of convolutions, such as ``fp32``; empty if unknown."""
        return precision_of(self.engine)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rendered(_Made):
    """A picture in its location and in the manifest."""

    output: str
    """Its location below the output folder."""
    bytes: int
    """Size of the encoded picture."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Picture(_Made):
    """A picture of a run without a sink."""

    image: Image
    """uint8 [H, W, 3], RGB."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skipped:
    """A map whose picture exists, made by an earlier run from the same bytes in the same way."""

    key: str
    output: str
    """The picture's location below the output folder."""
    engine: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failed:
    """A map without a picture."""

    key: str
    error: Exception
    """A SceneLoomError, or an OSError of the output location."""
    attempts: int = 0

    @property
    def reason(self) -> str:
        """One sentence that begins with the map's name."""
        text = str(self.error) or type(self.error).__name__
        file = PurePosixPath(text.split(": ")[0])
        suffixes = (*MAP_SUFFIXES, *PICTURE_SUFFIXES)
        named = file.suffix.lower() in suffixes and str(file.with_suffix("")).endswith(self.key)
        return text if named else f"{self.key}: {text}"


Result = Rendered | Picture | Skipped | Failed


def check_size(name: str, size: int, max_bytes: int) -> None:
    """Raise ImageTooLargeError if `size` is above `max_bytes`."""
    if size > max_bytes:
        raise ImageTooLargeError(
            f"{name}: {size:,} bytes; a map within the limit on pixels takes at most {max_bytes:,}"
        )


@dataclasses.dataclass(frozen=True)
class WholeFile:
    """A map in a file of its own, local or behind fsspec."""

    name: str
    """Path or URL."""

    def read(self, max_bytes: int) -> bytes:
        """Read the whole file; see `MapFile`."""
        try:
            if locations.is_remote(self.name):
                data = self._read_remote(max_bytes + 1)
            else:
                path = locations.local_path(self.name)
                status = path.stat()
                if not stat.S_ISREG(status.st_mode):  # reading a pipe could wait for ever
                    raise ImageReadError(f"{self.name}: cannot be read (not a file)")
                check_size(self.name, status.st_size, max_bytes)
                with path.open("rb") as stream:
                    data = stream.read(max_bytes + 1)
        except SceneLoomError:
            raise
        except (OSError, ValueError) as error:  # ValueError: a path with a null byte
            raise ImageReadError(f"{self.name}: cannot be read ({reason(error)})") from None
        check_size(self.name, len(data), max_bytes)
        return data

    def _read_remote(self, size: int) -> bytes:
        try:
            return locations.read_range(self.name, 0, size)
        except OSError:
            # Stores answer a range of an empty object with an error.
            with locations.filesystem(self.name) as (fs, path):
                if fs.info(path)["size"] == 0:
                    return b""
            raise


@dataclasses.dataclass(frozen=True)
class FilePart:
    """A map stored uncompressed in a larger file."""

    archive: str
    """Path or URL of the larger file."""
    member: str
    start: int
    """Offset of its first byte."""
    size: int

    @property
    def name(self) -> str:
        """The archive and the member's name."""
        return f"{self.archive}/{self.member}"

    def read(self, max_bytes: int) -> bytes:
        """Read the whole member; see `MapFile`."""
        check_size(self.name, self.size, max_bytes)
        try:
            data = locations.read_range(self.archive, self.start, self.size)
        except OSError as error:
            raise ImageReadError(f"{self.name}: cannot be read ({reason(error)})") from None
        if len(data) < self.size:
            raise ImageReadError(f"{self.name}: truncated (the archive ends inside it)")
        return data


@dataclasses.dataclass(frozen=True)
class BrokenFile:
    """An unreadable part of a source, reported under its name."""

    name: str
    reason: str

    def read(self, max_bytes: int) -> bytes:
        """Raise ImageReadError with the reason."""
        raise ImageReadError(f"{self.name}: {self.reason}")


def broken_item(location: str, number: int, name: str, reason: str) -> MapItem:
    """An item for an unreadable part of a source.

    Args:
        location: the archive or folder.
        number: tells apart the unreadable parts of one source.
        name: the part's name in errors.
        reason: why it cannot be read.
    """
    broken = BrokenFile(name, reason)
    return MapItem(key=f"{locations.last_part(location)}#{number}", label=broken, instance=None)
