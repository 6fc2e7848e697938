"""Pictures in shards: collected in a part, and in their place together when the shard is complete.

A killed run leaves its part, which the next one sweeps; the pictures in it have no row in the
manifest and are made again. No picture is ever in two shards when a run begins or ends.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Protocol

from sceneloom.errors import ImageReadError, InputError, SceneLoomError
from sceneloom.files import HeldPlace, gone, may_pass, new_part, publish, remove_part, sweep
from sceneloom.locations import (
    file_names,
    filesystem,
    is_file,
    is_remote,
    join,
    local_path,
    named_errors,
    put_remote,
    reason_of,
)
from sceneloom.rendering.folder import make_folder
from sceneloom.rendering.items import Written, check_key
from sceneloom.rendering.tar import TarPart

_KEPT_LISTS = 4


class ShardFormat(Protocol):
    """A kind of shard; its methods know nothing of numbers and manifests."""

    ending: str
    """Of a shard's name."""

    def member_of(self, key: str) -> str:
        """What a picture is called in a shard."""

    def key_of(self, member: str) -> str:
        """The key of a member."""

    def pack(self, part: TarPart, name_new: Callable[[], Path]) -> Path:
        """Make a shard of what was collected; the part can be gone on with afterwards.

        Args:
            part: what was collected.
            name_new: gives a name for another file.

        Returns:
            the finished file: the part's own or another one.

        Raises:
            OSError: the place cannot be written; the part is as it was.
        """

    def members(self, place: str) -> dict[str, tuple[int, int]]:
        """Where the members of a shard lie.

        Raises:
            ImageReadError: it is damaged.
            InputError: it was not written by SceneLoom.
        """

    def read(self, place: str, member: str, at: tuple[int, int]) -> bytes:
        """The bytes of a member that lies there."""

    def copy(self, place: str, target: Path, keep: Callable[[str], bool]) -> None:
        """Write a shard to another file, with the members that are to be kept."""


class ShardSink:
    """Numbered shards in a folder, local or remote.

    A shard of a remote place is collected on this machine, in the folder for temporary files.
    """

    def __init__(
        self, place: str, shards: ShardFormat, *, stem: str, most_pictures: int, most_bytes: int
    ) -> None:
        """Keep the place; nothing is written.

        Args:
            place: path or URL of the folder.
            shards: what they are.
            stem: what their names begin with; only these are touched.
            most_pictures: in one shard.
            most_bytes: of pictures, after which a shard is complete.
        """
        self._place, self._shards, self._stem = place, shards, stem
        self._most_pictures, self._most_bytes = most_pictures, most_bytes
        self._name_pattern = re.compile(rf"{re.escape(stem)}-(\d{{6,}}){re.escape(shards.ending)}")
        self._lock = threading.Lock()
        self._part: TarPart | None = None
        self._tags: dict[str, Hashable] = {}  # of the pictures in the part, in its order
        self._stored: list[Written] = []  # in their place, and not given back yet
        self._next = 0
        self._shard_of: dict[str, int] = {}
        self._replaced: defaultdict[int, set[str]] = defaultdict(set)
        self._lists: OrderedDict[str, dict[str, tuple[int, int]]] = OrderedDict()
        self._lists_lock = threading.Lock()
        self._is_known: Callable[[str], bool] = lambda output: False
        self._unsettled: dict[int, str] = {}  # shards whose rows may not be written -> an output
        self._held: HeldPlace | None = None

    @property
    def name(self) -> str:
        """The folder."""
        return self._place

    def open(self, is_known: Callable[[str], bool]) -> None:
        """Make the folder, and take from its shards what the manifest does not know; see `Sink`."""
        make_folder(self._place)
        self._is_known = is_known
        sweep(self._parts_folder(), deep=False)
        try:
            # All are looked at before the first is changed.
            listed = {n: set(self._shards.members(self._at(n))) for n in self._numbers()}
            known = {
                number: {m for m in members if is_known(f"{self._shard_name(number)}#{m}")}
                for number, members in listed.items()
            }
            # A manifest that knows some of them knows why it does not know the others.
            foreign = [n for n in listed if not self._is_unsettled(n)]
            if foreign and not any(known.values()):
                raise InputError(
                    f"{self._at(foreign[0])}: a shard of pictures of which this manifest knows "
                    "nothing; name their manifest, or remove them"
                )
            for number, members in listed.items():
                self._next = max(self._next, number + 1)
                self._keep(number, members, known[number])
                self._settle(number)
                self._shard_of.update({self._shards.key_of(m): number for m in known[number]})
            if not is_remote(self._place):
                self._held = HeldPlace(local_path(self._place))
        except ImageReadError as error:
            raise InputError(
                f"{error}; move the file away, and its pictures are made again"
            ) from None
        except OSError as error:
            reason = f"{self._place}: cannot be the folder for pictures ({reason_of(error)})"
            raise (OSError(reason) if may_pass(error) else InputError(reason)) from None

    def put(self, key: str, data: bytes, tag: Hashable) -> list[Written]:
        """Collect a picture; see `Sink`."""
        check_key(key)
        with self._lock:
            self._check()
            if key in self._tags:  # two pictures of one key never share a shard
                self._complete()
            try:
                if self._part is None:
                    self._part = TarPart(new_part(self._parts_folder()))
                self._part.add(self._shards.member_of(key), data)
            except OSError as error:
                self._check()
                raise OSError(error.errno, error.strerror, self._at(self._next)) from None
            self._tags[key] = tag
            if len(self._tags) >= self._most_pictures or self._part.size >= self._most_bytes:
                try:
                    self._complete()
                except OSError:
                    self._part.take_back()
                    del self._tags[key]
                    raise
            return self._take_stored()

    def finish(self) -> list[Written]:
        """Complete the last shard, and take older pictures of equal key out of the others; see
        `Sink`.

        Raises:
            OSError: the last shard cannot be written, or the folder or a shard of this run was
                removed or moved.
        """
        with self._lock:
            self._check()
            there = sorted(set(self._shard_of.values()))
            for number in there[:1] if is_remote(self._place) else there:
                if not is_file(self._at(number)):
                    raise gone(self._at(number))
            self._complete()
            for number, keys in self._replaced.items():
                # What cannot be removed now is removed when the place is opened the next time.
                with contextlib.suppress(OSError, SceneLoomError):
                    members = set(self._shards.members(self._at(number)))
                    self._keep(
                        number, members, {m for m in members if self._shards.key_of(m) not in keys}
                    )
            self._replaced.clear()
            return self._take_stored()

    def read(self, output: str) -> bytes | None:
        """The picture of this name, or None where it is not there or cannot be read."""
        shard, _, member = output.partition("#")
        if not self._name_pattern.fullmatch(shard):
            return None
        place = join(self._place, shard)
        try:
            at = self._list(shard).get(member)
            return None if at is None else self._shards.read(place, member, at)
        except (OSError, SceneLoomError):
            return None

    def close(self) -> None:
        """Drop what is held; see `Sink`."""
        with self._lock:
            self._drop()
            try:
                self._is_known("")  # says whether the manifest is still there
                self._settle_known()
            except OSError:
                # The rows are gone: the next run makes the pictures of all shards again.
                with contextlib.suppress(OSError):
                    self._check()
                    for number in set(self._shard_of.values()):
                        _put_mark(self._mark(number))
            if self._held is not None:
                self._held.close()

    def _complete(self) -> None:
        """Put the part in its place as a shard."""
        if self._part is None or not self._tags:
            return
        place, name = self._at(self._next), self._shard_name(self._next)
        packed: Path | None = None
        try:
            packed = self._shards.pack(self._part, lambda: new_part(self._parts_folder()))
            with contextlib.suppress(OSError):  # a mark that is left says nothing of a known shard
                self._settle_known()
            _put_mark(self._mark(self._next))
            self._publish(packed, place)
        except OSError as error:
            if packed is not None and packed != self._part.path:
                remove_part(packed)
            self._check()
            raise OSError(error.errno, error.strerror, place) from None
        for key, tag in self._tags.items():
            if (older := self._shard_of.get(key)) is not None:
                self._replaced[older].add(key)
            self._shard_of[key] = self._next
            output = f"{name}#{self._shards.member_of(key)}"
            self._stored.append(Written(tag=tag, output=output))
            self._unsettled[self._next] = output
        self._next += 1
        self._drop()

    def _mark(self, number: int) -> str:
        """Lies beside a shard until its pictures have their rows: a shard without rows and without
        mark is another manifest's.
        """
        return join(self._place, f".{self._shard_name(number)}.unsettled")

    def _is_unsettled(self, number: int) -> bool:
        return is_file(self._mark(number))

    def _settle(self, number: int) -> None:
        if self._is_unsettled(number):
            _remove(self._mark(number))

    def _settle_known(self) -> None:
        """Remove the marks of shards that have their rows by now."""
        for number, output in list(self._unsettled.items()):
            if self._is_known(output):
                self._settle(number)
                del self._unsettled[number]

    def _check(self) -> None:
        if self._held is not None:
            self._held.check()

    def _take_stored(self) -> list[Written]:
        stored, self._stored = self._stored, []
        return stored

    def _drop(self) -> None:
        if self._part is not None:
            self._part.close()
        self._part, self._tags = None, {}

    def _keep(self, number: int, members: set[str], kept: set[str]) -> None:
        """Leave only some members in a shard."""
        if kept == members:
            return
        place = self._at(number)
        with self._lists_lock:
            self._lists.pop(self._shard_name(number), None)
        if not kept:
            _remove(place)
            return
        part = new_part(self._parts_folder())
        self._shards.copy(place, part, kept.__contains__)
        try:
            self._publish(part, place)
        except OSError:
            remove_part(part)
            raise

    def _list(self, shard: str) -> dict[str, tuple[int, int]]:
        """Where a shard's members lie; the lists read last are kept."""
        with self._lists_lock:
            if shard not in self._lists:
                self._lists[shard] = self._shards.members(join(self._place, shard))
            self._lists.move_to_end(shard)
            while len(self._lists) > _KEPT_LISTS:
                self._lists.popitem(last=False)
            return self._lists[shard]

    def _publish(self, part: Path, place: str) -> None:
        if not is_remote(place):
            publish(part, local_path(place))
            return
        put_remote(place, lambda fs, path: fs.put_file(str(part), path))
        remove_part(part)

    def _parts_folder(self) -> Path:
        return Path(tempfile.gettempdir()) if is_remote(self._place) else local_path(self._place)

    def _numbers(self) -> list[int]:
        """The shards that are there."""
        try:
            names = file_names(self._place)
        except FileNotFoundError:  # a remote folder that nothing lies in
            return []
        return sorted(int(match[1]) for match in map(self._name_pattern.fullmatch, names) if match)

    def _shard_name(self, number: int) -> str:
        return f"{self._stem}-{number:06d}{self._shards.ending}"

    def _at(self, number: int) -> str:
        return join(self._place, self._shard_name(number))


def _put_mark(place: str) -> None:
    if not is_remote(place):
        local_path(place).touch()
        return
    put_remote(place, lambda fs, path: fs.pipe_file(path, b""))


def _remove(place: str) -> None:
    if not is_remote(place):
        local_path(place).unlink()
        return
    with named_errors(place):
        fs, path = filesystem(place)
        fs.rm_file(path)
