"""Maps in tar files, as WebDataset has them: ``KEY.label.png`` and ``KEY.instance.png``.

The members of a key lie beside each other. Only headers are read to find the maps; each map is
then read from where it lies. Items come in the order of the shards, not of their keys.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from sceneloom.errors import ImageReadError, InputError
from sceneloom.file_tree import HIDDEN, NAMED, LeftOut, is_hidden
from sceneloom.locations import last_part, lies_in, open_binary, parent, reason_of
from sceneloom.maps import MAP_SUFFIXES
from sceneloom.rendering.interfaces import MapFile, MapItem
from sceneloom.rendering.keys import fault_of_key
from sceneloom.rendering.reading.map_files import BrokenFile, FilePart, broken_item
from sceneloom.rendering.reading.tar_members import Member, tar_members

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
        """Begin at zero."""
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
        if fault := fault_of_key(self.key):
            name = f"{shard}/{self.key!r}"
            return broken_item(shard, number, name, f"cannot name a picture ({fault})")
        assert self.label is not None
        return MapItem(key=self.key, label=self.label, instance=self.instance)
