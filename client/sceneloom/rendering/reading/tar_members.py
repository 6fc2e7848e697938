"""What a tar file holds, read header by header; the first thing that is wrong with it is an error.

Python's own reader takes a damaged header, or an end without its mark, for the end of the archive;
here nothing is passed over in silence.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO, NamedTuple, cast

from sceneloom.errors import ImageReadError

_BLOCK = tarfile.BLOCKSIZE
# Names and attributes lie before a member in blocks of any size; nobody needs more than this.
_MOST_ATTRIBUTES = 1 << 20


class Member(NamedTuple):
    """One member of a tar file."""

    name: str
    """With slashes; a leading ``./`` is left out."""
    start: int
    """Where its bytes begin."""
    size: int
    """How many there are."""
    is_file: bool
    """Whether it is a plain file: no folder, link, device or file with holes."""
    is_folder: bool
    """Whether it is a folder."""
    owner: str
    """Name of its owner."""


def tar_members(stream: IO[bytes], name: str) -> Iterator[Member]:
    """The members of an uncompressed tar file, in its order; their bytes are not read.

    Args:
        stream: the file; it can be sought in.
        name: what to call it in errors.

    Raises:
        ImageReadError: it is no tar file, truncated or damaged; the members before have been given.
    """
    last, end = "its start", 0
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", _Bounded(stream)), mode="r:") as tar:
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                if info.size < 0 or info.offset_data < end:
                    raise tarfile.ReadError("a size below zero")
                end = info.offset_data
                last = info.name.removeprefix("./")
                yield Member(
                    name=last,
                    start=info.offset_data,
                    size=info.size,
                    is_file=info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not info.sparse,
                    is_folder=info.isdir(),
                    owner=info.uname,
                )
            _check_end(stream, tar.offset)
    # The reader raises ValueErrors and the like on damaged numbers.
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        raise ImageReadError(
            f"{name}: truncated, damaged or no tar file after {last} ({error})"
        ) from None


def _check_end(stream: IO[bytes], offset: int) -> None:
    """Check that two empty blocks end the archive, and that nothing but zeros follows."""
    stream.seek(offset)
    if stream.read(2 * _BLOCK) != bytes(2 * _BLOCK):
        raise tarfile.ReadError("no end mark where it should be")
    while chunk := stream.read(1 << 16):
        if chunk.strip(b"\0"):
            raise tarfile.ReadError("more data behind the end mark")


class _Bounded:
    """A file whose reader cannot ask for more at once than headers take."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        if size > _MOST_ATTRIBUTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._stream.read(size)
