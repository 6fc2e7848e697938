"""The bytes of one map, wherever they lie: small values that can be pickled and are read anywhere.

A map inside an archive is read from where it lies there; nothing is extracted or kept open.
"""

from __future__ import annotations

import dataclasses
import stat

from sceneloom.errors import ImageReadError, ImageTooLargeError, SceneLoomError
from sceneloom.locations import (
    filesystem,
    last_part,
    local_path,
    named_errors,
    read_range,
    reason_of,
)
from sceneloom.rendering.interfaces import MapItem


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
    """Its path."""

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
    """Its URL."""

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
