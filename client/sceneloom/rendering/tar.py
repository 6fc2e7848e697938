"""Tar files: maps are read from WebDataset shards, pictures written to them.

Equal members give equal bytes: no time, no user, no group in their headers. A failed write is taken
back, so that a tar file is whole at any time.
"""

from __future__ import annotations

import dataclasses
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple, cast

from sceneloom.contract import InputKind
from sceneloom.errors import ImageReadError, InputError
from sceneloom.files import HIDDEN, NAMED, LeftOut, is_hidden, remove_part
from sceneloom.locations import last_part, lies_in, open_binary, parent, read_range
from sceneloom.maps import MAP_SUFFIXES
from sceneloom.pairing import SUFFIXES
from sceneloom.pictures import FORMATS, Format
from sceneloom.rendering.items import BrokenFile, FilePart, MapFile, MapItem, broken_item, key_error
from sceneloom.text import reason

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)
# Names and attributes lie before a member in blocks of any size.
_MAX_ATTRIBUTES = 1 << 20


class Member(NamedTuple):
    """One member of a tar file."""

    name: str
    """With slashes, without a leading ``./``."""
    start: int
    """Offset of its first byte."""
    size: int
    is_file: bool = True
    """Whether it is a plain file: no folder, link, device or file with holes."""
    is_folder: bool = False
    owner: str = ""


def tar_members(stream: IO[bytes], name: str) -> Iterator[Member]:
    """The members of an uncompressed, seekable tar file; their bytes are not read.

    Raises ImageReadError, after the members before, if it is no tar file, truncated or damaged.
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
            # Two empty blocks end the archive, and only zeros follow.
            stream.seek(tar.offset)
            if stream.read(len(_END)) != _END:
                raise tarfile.ReadError("no end mark where it should be")
            while chunk := stream.read(1 << 16):
                if chunk.strip(b"\0"):
                    raise tarfile.ReadError("more data behind the end mark")
    # The reader raises ValueErrors and the like on damaged numbers.
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        raise ImageReadError(
            f"{name}: truncated, damaged or no tar file after {last} ({error})"
        ) from None


class _Bounded:
    """A file that refuses to read more at once than headers take."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        if size > _MAX_ATTRIBUTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._stream.read(size)


class TarSource:
    """The maps of tar shards, in their order on disk; of a damaged shard the readable ones."""

    def __init__(
        self,
        name: str,
        shards: Sequence[str],
        *,
        label: str = "label",
        instance: str | None,
        kind: InputKind = "labels",
        left_out: Sequence[LeftOut] = (),
    ) -> None:
        """Keep the names; nothing is read.

        Args:
            name: of the source, in messages.
            shards: paths or URLs of the tar files.
            label: the text between key and ending of a label map, or of a picture in its place;
                empty for files without.
            instance: likewise of an instance map, or None for maps without.
            kind: what lies in the place of label maps.
            left_out: other files beside the shards.
        """
        self._name = name
        self._shards = tuple(shards)
        self._count: int | None = None
        self._beside = tuple(left_out)
        self._members_left_out: list[LeftOut] = []
        parts = {"label": (f".{label}" if label else "", SUFFIXES[kind])}
        if instance is not None:
            parts = {"instance": (f".{instance}", MAP_SUFFIXES), **parts}
        self._called = f"KEY{parts['label'][0]}.png"
        names = [f"KEY{middle}.png" for middle, _ in reversed(parts.values())]
        self._other = "not called " + " or ".join(names)
        either = "|".join(
            f"(?P<{part}>{re.escape(middle)}(?:{'|'.join(map(re.escape, endings))}))"
            for part, (middle, endings) in parts.items()
        )
        self._map = re.compile(f"(.*?)(?:{either})", re.IGNORECASE | re.DOTALL)

    def count(self) -> int:
        """The number of maps; the first call reads the headers of all shards."""
        if self._count is None:
            self._count = sum(1 for _ in self)
        return self._count

    @property
    def left_out(self) -> Sequence[LeftOut]:
        """Files beside the shards, and members that are no maps, as far as they are read."""
        return [*self._beside, *self._members_left_out]

    def __iter__(self) -> Iterator[MapItem]:
        """The maps, shard by shard; raises InputError if two have one key, or there are none."""
        seen: set[str] = set()
        number = 0
        left_out: dict[str, list[LeftOut]] = {}
        for shard in self._shards:
            for found in self._groups(shard, left_out):
                if found.fault is None and found.key in seen:
                    raise InputError(
                        f"{shard}: maps with the key {found.key} come twice; a key names one "
                        "picture, and its members lie beside each other"
                    )
                seen.add(found.key)
                if found.fault is not None:
                    number += 1
                    yield broken_item(shard, number, shard, found.fault)
                elif found.label is None:
                    assert found.instance is not None
                    name = found.instance.name.removeprefix(f"{shard}/")
                    _leave_out(left_out, "without a label map", f"{last_part(shard)}/{name}")
                else:
                    number += 1
                    if fault := key_error(found.key):
                        name, fault = f"{shard}/{found.key!r}", f"cannot name a picture ({fault})"
                        yield broken_item(shard, number, name, fault)
                    else:
                        yield MapItem(key=found.key, label=found.label, instance=found.instance)
            found_here = [one for entries in left_out.values() for one in entries]
            if _total(found_here) > _total(self._members_left_out):  # another pass may be ahead
                self._members_left_out = found_here
        if not number:
            raise InputError(f"{self._name}: no files {self._called} in it")

    def holds(self, location: str) -> bool:
        """Whether shards of pictures there would lie among the shards of maps."""
        return any(lies_in(location, parent(s)) and lies_in(s, location) for s in self._shards)

    def _groups(self, shard: str, left_out: dict[str, list[LeftOut]]) -> Iterator[_Group]:
        """The maps of a shard, grouped by key, and at last its damage."""
        group: _Group | None = None
        fault = None
        try:
            with open_binary(shard) as stream:
                for member in tar_members(stream, shard):
                    match = self._map.fullmatch(member.name)
                    hidden = any(map(is_hidden, member.name.split("/")))
                    if match is None or hidden:
                        if not member.is_folder:
                            why = HIDDEN if hidden else self._other
                            _leave_out(left_out, why, f"{last_part(shard)}/{member.name}")
                        continue
                    if group is None or group.key != match[1]:
                        if group is not None:
                            yield group
                        group = _Group(match[1])
                    is_label = match["label"] is not None
                    if (group.label if is_label else group.instance) is not None:
                        raise InputError(
                            f"{shard}: {member.name} is a second map of the key {group.key}"
                        )
                    file: MapFile = FilePart(shard, member.name, member.start, member.size)
                    if not member.is_file:
                        file = BrokenFile(file.name, "a folder, link or device, not a file")
                    if is_label:
                        group.label = file
                    else:
                        group.instance = file
        except ImageReadError as error:
            fault = str(error).removeprefix(f"{shard}: ")
        except OSError as error:
            fault = f"cannot be read ({reason(error)})"
        if group is not None:
            yield group
        if fault:
            yield _Group("", fault)


def _total(left_out: Sequence[LeftOut]) -> int:
    return sum(one.count for one in left_out)


def _leave_out(left_out: dict[str, list[LeftOut]], reason: str, name: str) -> None:
    """Add a member: the first ones of each reason by name, the others as the count of the last."""
    entries = left_out.setdefault(reason, [])
    if len(entries) < NAMED:
        entries.append(LeftOut(reason=reason, name=name))
    else:
        entries[-1] = dataclasses.replace(entries[-1], count=entries[-1].count + 1)


@dataclasses.dataclass
class _Group:
    """The maps of one key, or the damage of a shard."""

    key: str
    fault: str | None = None
    label: MapFile | None = None
    instance: MapFile | None = None


OWNER = "sceneloom"
"""Owner of every member; it tells our own shards."""


class TarPart:
    """A growing tar file; not safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        """Make it; raises OSError."""
        self.path = path
        self.members: list[Member] = []
        self.size = 0
        # Unbuffered: data refused by a full disk must not be written later.
        self._stream = path.open("xb", buffering=0)

    def add(self, name: str, data: bytes) -> None:
        """Add a member; raises OSError, and then the file is unchanged."""
        header = tar_header(name, len(data))
        self._write(header, data, padding(len(data)))
        self.members.append(Member(name, self.size + len(header), len(data)))
        self.size = self._stream.tell()

    def take_back(self) -> None:
        """Remove the last member."""
        self.members.pop()
        last = self.members[-1] if self.members else None
        self.size = last.start + last.size + len(padding(last.size)) if last else 0
        self._cut()

    def end(self) -> None:
        """Write the end mark, which the next `add` replaces; raises OSError as `add`."""
        self._write(_END)
        self._stream.seek(self.size)

    def read(self, member: Member) -> bytes:
        """The bytes of a member."""
        with self.path.open("rb") as stream:
            stream.seek(member.start)
            return stream.read(member.size)

    def close(self) -> None:
        """Close the file, and remove it if it still has this name."""
        self._stream.close()
        remove_part(self.path)

    def _write(self, *parts: bytes) -> None:
        try:
            for data in parts:
                view = memoryview(data)
                while view:
                    view = view[self._stream.write(view) :]
        except OSError:
            self._cut()
            raise

    def _cut(self) -> None:
        self._stream.truncate(self.size)
        self._stream.seek(self.size)


def tar_header(name: str, size: int) -> bytes:
    """The header of a member, the same for equal names and sizes."""
    info = tarfile.TarInfo(name)
    info.size, info.uname, info.mode, info.mtime = size, OWNER, 0o644, 0
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def padding(size: int) -> bytes:
    """The rest of a member's last block."""
    return bytes(-size % _BLOCK)


_CHUNK = 1 << 20


class TarShards:
    """Writes and reads tar shards; `ParquetShards` has the same methods."""

    ending = ".tar"

    def __init__(self, format: Format) -> None:
        self._format = format

    def member_of(self, key: str) -> str:
        """The name of a picture in a shard."""
        return f"{key}.{self._format}"

    def key_of(self, member: str) -> str:
        """The key of a member."""
        key, _, ending = member.rpartition(".")
        return key if ending in FORMATS else member

    def pack(self, part: TarPart, name_new: Callable[[], Path]) -> Path:
        """Make a shard of a part, which may grow further afterwards; raises OSError."""
        part.end()
        return part.path

    def members(self, location: str) -> dict[str, tuple[int, int]]:
        """Name of each member -> offset and number of bytes.

        Raises ImageReadError if the shard is damaged, InputError if SceneLoom did not write it.
        """
        return {m.name: (m.start, m.size) for m in _own_members(location)}

    def read(self, location: str, member: str, at: tuple[int, int]) -> bytes:
        """The bytes of a member."""
        return read_range(location, *at)

    def copy(self, location: str, target: Path, keep: Callable[[str], bool]) -> None:
        """Copy the members to keep into another file."""
        try:
            with open_binary(location) as source, target.open("xb") as stream:
                for member in _own_members(location):
                    if not keep(member.name):
                        continue
                    stream.write(tar_header(member.name, member.size))
                    source.seek(member.start)
                    left = member.size
                    while left:
                        chunk = source.read(min(left, _CHUNK))
                        if not chunk:
                            raise ImageReadError(f"{location}: truncated in {member.name}")
                        stream.write(chunk)
                        left -= len(chunk)
                    stream.write(padding(member.size))
                stream.write(_END)
        except BaseException:
            remove_part(target)
            raise


def _own_members(location: str) -> list[Member]:
    with open_binary(location) as stream:
        members = list(tar_members(stream, location))
    if any(member.owner != OWNER for member in members):
        raise InputError(
            f"{location}: was not written by sceneloom, and would be taken for one of its shards; "
            "choose another folder"
        )
    return members
