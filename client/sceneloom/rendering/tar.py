"""Tar files: maps are read from WebDataset shards, pictures written to them.

Equal members give equal bytes: no time, no user, no group in their headers. What fails while a tar
file is written is taken back, so that it is always whole so far.
"""

from __future__ import annotations

import dataclasses
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple, cast

from sceneloom.errors import ImageReadError, InputError
from sceneloom.file_tree import HIDDEN, NAMED, LeftOut, is_hidden
from sceneloom.files import remove_part
from sceneloom.locations import last_part, lies_in, open_binary, parent, read_range, reason_of
from sceneloom.maps import MAP_SUFFIXES
from sceneloom.pictures import FORMATS, Format
from sceneloom.rendering.items import (
    BrokenFile,
    FilePart,
    MapFile,
    MapItem,
    broken_item,
    key_error,
)

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
            # Two empty blocks end the archive, and nothing but zeros follows.
            stream.seek(tar.offset)
            if stream.read(2 * _BLOCK) != bytes(2 * _BLOCK):
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
    """A file whose reader cannot ask for more at once than headers take."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        if size > _MOST_ATTRIBUTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._stream.read(size)


_ENDINGS = "|".join(re.escape(suffix) for suffix in MAP_SUFFIXES)


class TarSource:
    """The maps of tar shards, in the order in which they lie there.

    A shard that is damaged gives an item that says so when it is read, after the maps that could be
    found in it.
    """

    def __init__(
        self,
        name: str,
        shards: Sequence[str],
        *,
        label: str = "label",
        instance: str | None,
        left_out: Sequence[LeftOut] = (),
    ) -> None:
        """Keep the names; nothing is read.

        Args:
            name: what to call the source in messages.
            shards: paths or URLs of the tar files.
            label: what stands between key and ending of a label map.
            instance: what stands there in an instance map, or None to pair none.
            left_out: what lies beside the shards.
        """
        self._name = name
        self._shards = tuple(shards)
        self._label, self._instance = label, instance
        self._count: int | None = None
        self._beside = tuple(left_out)
        self._members_left_out = LeftOutMembers()
        kinds = "|".join(re.escape(kind) for kind in (label, instance) if kind is not None)
        names = " or ".join(f"KEY.{kind}.png" for kind in (label, instance) if kind is not None)
        self._other = f"not called {names}"
        self._map = re.compile(rf"(.*)\.({kinds})(?:{_ENDINGS})", re.IGNORECASE | re.DOTALL)

    @property
    def name(self) -> str:
        """What was given as the place."""
        return self._name

    def count(self) -> int:
        """How many maps there are: the headers of all shards are read the first time.

        Raises:
            InputError: as iterating does.
        """
        if self._count is None:
            self._count = sum(1 for _ in self)
        return self._count

    def left_out(self) -> Sequence[LeftOut]:
        """What lies beside the shards, and the members that are no maps or belong to none, as far
        as the shards have been read.
        """
        return [*self._beside, *self._members_left_out.entries()]

    def __iter__(self) -> Iterator[MapItem]:
        """The maps, shard by shard.

        Raises:
            InputError: two maps have one key, or there are none.
        """
        seen: set[str] = set()
        number = 0
        left_out = LeftOutMembers()
        for shard in self._shards:
            for found in self._groups(shard, left_out):
                if found.fault is None and found.key in seen:
                    raise InputError(
                        f"{shard}: maps with the key {found.key} come twice; a key names one "
                        "picture, and its members lie beside each other"
                    )
                seen.add(found.key)
                if found.label is None and found.fault is None:
                    assert found.instance is not None
                    name = found.instance.name.removeprefix(f"{shard}/")
                    left_out.add("without a label map", f"{last_part(shard)}/{name}")
                    continue
                number += 1
                yield found.item(shard, number)
            if left_out.count > self._members_left_out.count:  # what another pass has not come to
                self._members_left_out = left_out
        if not number:
            raise InputError(f"{self._name}: no files KEY.{self._label}.png in it")

    def holds(self, place: str) -> bool:
        """Whether shards of pictures there would lie among the shards of maps."""
        return any(
            lies_in(place, parent(shard)) and lies_in(shard, place) for shard in self._shards
        )

    def _groups(self, shard: str, left_out: LeftOutMembers) -> Iterator[_Group]:
        """The maps of a shard, grouped by key; at last what is wrong with it, if anything is."""
        group: _Group | None = None
        fault = None
        try:
            with open_binary(shard) as stream:
                for member in tar_members(stream, shard):
                    match = self._map.fullmatch(member.name)
                    hidden = any(map(is_hidden, member.name.split("/")))
                    if match is None or hidden:
                        if not member.is_folder:
                            reason = HIDDEN if hidden else self._other
                            left_out.add(reason, f"{last_part(shard)}/{member.name}")
                        continue
                    if group is None or group.key != match[1]:
                        if group is not None:
                            yield group
                        group = _Group(match[1])
                    group.add(shard, member, is_label=match[2].lower() == self._label.lower())
        except ImageReadError as error:
            fault = str(error).removeprefix(f"{shard}: ")
        except OSError as error:
            fault = f"cannot be read ({reason_of(error)})"
        if group is not None:
            yield group
        if fault:
            yield _Group("", fault)


class LeftOutMembers:
    """Counts what archives hold besides maps; of each reason the first names are kept."""

    def __init__(self) -> None:
        self.count = 0
        """How many there are."""
        self._counts: Counter[str] = Counter()
        self._names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        """One more."""
        self.count += 1
        self._counts[reason] += 1
        names = self._names.setdefault(reason, [])
        if len(names) < NAMED:
            names.append(name)

    def entries(self) -> list[LeftOut]:
        """As `LeftOut`; the last one of a reason stands for those that are not named."""
        return [
            LeftOut(reason=reason, name=name, count=count)
            for reason, names in self._names.items()
            for name, count in zip(
                names,
                [*[1] * (len(names) - 1), self._counts[reason] - len(names) + 1],
                strict=True,
            )
        ]


@dataclasses.dataclass
class _Group:
    """The maps of one key, or what is wrong with a shard."""

    key: str
    fault: str | None = None
    label: MapFile | None = None
    instance: MapFile | None = None

    def add(self, shard: str, member: Member, *, is_label: bool) -> None:
        if (self.label if is_label else self.instance) is not None:
            raise InputError(f"{shard}: {member.name} is a second map of the key {self.key}")
        file: MapFile = FilePart(shard, member.name, member.start, member.size)
        if not member.is_file:
            file = BrokenFile(file.name, "a folder, link or device, not a file")
        if is_label:
            self.label = file
        else:
            self.instance = file

    def item(self, shard: str, number: int) -> MapItem:
        if self.fault is not None:
            return broken_item(shard, number, shard, self.fault)
        if fault := key_error(self.key):
            name = f"{shard}/{self.key!r}"
            return broken_item(shard, number, name, f"cannot name a picture ({fault})")
        assert self.label is not None
        return MapItem(key=self.key, label=self.label, instance=self.instance)


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
        self.members: list[Placed] = []
        self.size = 0
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


_CHUNK = 1 << 20


class TarShards:
    """How tar shards are written and read."""

    ending = ".tar"
    """Of a shard's name."""

    def __init__(self, format: Format) -> None:
        self._format = format

    def member_of(self, key: str) -> str:
        """What a picture is called in a shard."""
        return f"{key}.{self._format}"

    def key_of(self, member: str) -> str:
        """The key of a member."""
        key, _, ending = member.rpartition(".")
        return key if ending in FORMATS else member

    def pack(self, part: TarPart, name_new: Callable[[], Path]) -> Path:
        """Finish a part; see `ShardFormat`."""
        part.end()
        return part.path

    def members(self, place: str) -> dict[str, tuple[int, int]]:
        """Where the members of a shard lie: name -> first byte and number of bytes.

        Raises:
            ImageReadError: it is damaged.
            InputError: it was not written by SceneLoom.
        """
        return {m.name: (m.start, m.size) for m in _own_members(place)}

    def read(self, place: str, member: str, at: tuple[int, int]) -> bytes:
        """The bytes of a member."""
        return read_range(place, *at)

    def copy(self, place: str, target: Path, keep: Callable[[str], bool]) -> None:
        """Write a shard again with some of its members; see `ShardFormat`."""
        try:
            with open_binary(place) as source, target.open("xb") as stream:
                for member in _own_members(place):
                    if not keep(member.name):
                        continue
                    stream.write(tar_header(member.name, member.size))
                    source.seek(member.start)
                    left = member.size
                    while left:
                        chunk = source.read(min(left, _CHUNK))
                        if not chunk:
                            raise ImageReadError(f"{place}: truncated in {member.name}")
                        stream.write(chunk)
                        left -= len(chunk)
                    stream.write(padding(member.size))
                stream.write(bytes(1024))
        except BaseException:
            remove_part(target)
            raise


def _own_members(place: str) -> list[Member]:
    with open_binary(place) as stream:
        members = list(tar_members(stream, place))
    if any(member.owner != OWNER for member in members):
        raise InputError(
            f"{place}: was not written by sceneloom, and would be taken for one of its shards; "
            "choose another folder"
        )
    return members
