"""A tar file while it is written: what fails is taken back, so that it is always whole so far.

Equal members give equal bytes: no time, no user, no group in their headers.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import NamedTuple

from sceneloom.files import remove_part

OWNER = "sceneloom"
"""Name of the owner of every member, by which our own shards are known."""

_END = bytes(2 * tarfile.BLOCKSIZE)


class Placed(NamedTuple):
    """A member that was written."""

    name: str
    start: int
    size: int


class TarPart:
    """A growing tar file; not safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        """Begin it.

        Raises:
            OSError: it cannot be made.
        """
        self.path = path
        """The file."""
        self.members: list[Placed] = []
        """What is in it."""
        self.size = 0
        """Bytes so far."""
        # Unbuffered: what a full disk has not taken must not be written later.
        self._stream = path.open("xb", buffering=0)

    def add(self, name: str, data: bytes) -> None:
        """Add a member.

        Raises:
            OSError: it cannot be written; the file is as it was.
        """
        header = tar_header(name, len(data))
        try:
            self._write(header)
            self._write(data)
            self._write(padding(len(data)))
        except OSError:
            self._cut(self.size)
            raise
        self.members.append(Placed(name, self.size + len(header), len(data)))
        self.size = self._stream.tell()

    def take_back(self) -> None:
        """Remove the last member."""
        self.members.pop()
        last = self.members[-1] if self.members else None
        self.size = last.start + last.size + len(padding(last.size)) if last else 0
        self._cut(self.size)

    def end(self) -> None:
        """Write the end mark; adding can go on, in its place.

        Raises:
            OSError: it cannot be written; the file is as it was.
        """
        try:
            self._write(_END)
        except OSError:
            self._cut(self.size)
            raise
        self._stream.seek(self.size)

    def read(self, member: Placed) -> bytes:
        """The bytes of a member."""
        with self.path.open("rb") as stream:
            stream.seek(member.start)
            return stream.read(member.size)

    def close(self) -> None:
        """Close the file, and remove it if it still has this name."""
        self._stream.close()
        remove_part(self.path)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._stream.write(view) :]

    def _cut(self, size: int) -> None:
        self._stream.truncate(size)
        self._stream.seek(size)


def tar_header(name: str, size: int) -> bytes:
    """The header of a member, the same for equal names and sizes."""
    info = tarfile.TarInfo(name)
    info.size, info.uname, info.mode, info.mtime = size, OWNER, 0o644, 0
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def padding(size: int) -> bytes:
    """What fills a member's last block."""
    return bytes(-size % tarfile.BLOCKSIZE)
