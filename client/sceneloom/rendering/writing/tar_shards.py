"""Shards of pictures as tar files, as WebDataset reads them: members ``KEY.png``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sceneloom.errors import ImageReadError, InputError
from sceneloom.files import remove_part
from sceneloom.locations import open_binary, read_range
from sceneloom.pictures import FORMATS, Format
from sceneloom.rendering.reading.tar_members import Member, tar_members
from sceneloom.rendering.writing.tar_part import OWNER, TarPart, padding, tar_header

_CHUNK = 1 << 20


class TarShards:
    """How tar shards are written and read."""

    ending = ".tar"
    """Of a shard's name."""

    def __init__(self, format: Format) -> None:
        """Keep the format of new pictures."""
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
