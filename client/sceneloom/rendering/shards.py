"""Pictures in shards: collected in a part, and published together when the shard is complete.

A killed run leaves its part, which the next one sweeps; its pictures have no row in the manifest
and are made again. No picture is in two shards when a run begins or ends.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable
from pathlib import Path

from sceneloom import locations
from sceneloom.errors import ImageReadError, InputError, SceneLoomError
from sceneloom.files import HeldLocation, gone, may_pass, new_part, publish, remove_part, sweep
from sceneloom.rendering.folder import make_folder
from sceneloom.rendering.items import Written, key_error
from sceneloom.rendering.parquet import ParquetShards
from sceneloom.rendering.tar import TarPart, TarShards
from sceneloom.text import reason

_MAX_LISTS = 4


class ShardSink:
    """Numbered shards in a folder; those of a remote one begin as local temporary files."""

    def __init__(
        self,
        location: str,
        shards: TarShards | ParquetShards,
        *,
        stem: str,
        max_pictures: int,
        max_bytes: int,
    ) -> None:
        """Keep the location; nothing is written.

        Args:
            location: path or URL of the folder.
            shards: their kind.
            stem: the start of their names; other files are not touched.
            max_pictures: most pictures of a shard.
            max_bytes: bytes of pictures that complete a shard.
        """
        self._location, self._shards, self._stem = location, shards, stem
        self._max_pictures, self._max_bytes = max_pictures, max_bytes
        remote = locations.is_remote(location)
        self._parts = Path(tempfile.gettempdir()) if remote else locations.local_path(location)
        self._name_pattern = re.compile(rf"{re.escape(stem)}-(\d{{6,}}){re.escape(shards.ending)}")
        self._lock = threading.Lock()
        self._part: TarPart | None = None
        self._tags: dict[str, Hashable] = {}  # of the pictures in the part, in its order
        self._written: list[Written] = []  # complete, and not yet returned
        self._next = 0
        self._shard_of: dict[str, int] = {}
        self._replaced: defaultdict[int, set[str]] = defaultdict(set)
        self._lists: OrderedDict[str, dict[str, tuple[int, int]]] = OrderedDict()
        self._lists_lock = threading.Lock()
        self._is_known: Callable[[str], bool] = lambda output: False
        self._unsettled: dict[int, str] = {}  # shards whose rows may not be written -> an output
        self._held: HeldLocation | None = None

    def open(self, is_known: Callable[[str], bool]) -> None:
        """Make the folder, and remove unknown pictures from its shards; see `Sink`."""
        make_folder(self._location)
        self._is_known = is_known
        sweep(self._parts, deep=False)
        try:
            # All are looked at before the first is changed.
            listed = {n: set(self._shards.members(self._at(n))) for n in self._numbers()}
            known = {
                number: {m for m in members if is_known(f"{self._shard_name(number)}#{m}")}
                for number, members in listed.items()
            }
            # A manifest that knows one picture of a shard knows why it does not know the others.
            foreign = [n for n in listed if not locations.is_file(self._mark(n))]
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
            if not locations.is_remote(self._location):
                self._held = HeldLocation(locations.local_path(self._location))
        except ImageReadError as error:
            raise InputError(
                f"{error}; move the file away, and its pictures are made again"
            ) from None
        except OSError as error:
            text = f"{self._location}: cannot be the folder for pictures ({reason(error)})"
            raise (OSError(text) if may_pass(error) else InputError(text)) from None

    def put(self, key: str, data: bytes, tag: Hashable) -> list[Written]:
        """Collect a picture; see `Sink`."""
        if fault := key_error(key):
            raise InputError(f"{key!r:.200}: cannot name a picture ({fault})")
        with self._lock:
            self._check()
            if key in self._tags:  # two pictures of one key never share a shard
                self._complete()
            try:
                if self._part is None:
                    self._part = TarPart(new_part(self._parts))
                self._part.add(self._shards.member_of(key), data)
            except OSError as error:
                self._check()
                raise OSError(error.errno, error.strerror, self._at(self._next)) from None
            self._tags[key] = tag
            if len(self._tags) >= self._max_pictures or self._part.size >= self._max_bytes:
                try:
                    self._complete()
                except OSError:
                    self._part.take_back()
                    del self._tags[key]
                    raise
            return self._take_written()

    def finish(self) -> list[Written]:
        """Complete the last shard, and remove replaced pictures from the others; see `Sink`."""
        with self._lock:
            self._check()
            numbers = sorted(set(self._shard_of.values()))
            for number in numbers[:1] if locations.is_remote(self._location) else numbers:
                if not locations.is_file(self._at(number)):
                    raise gone(self._at(number))
            self._complete()
            for number, keys in self._replaced.items():
                # The next `open` removes the pictures that cannot be removed now.
                with contextlib.suppress(OSError, SceneLoomError):
                    members = set(self._shards.members(self._at(number)))
                    self._keep(
                        number, members, {m for m in members if self._shards.key_of(m) not in keys}
                    )
            self._replaced.clear()
            return self._take_written()

    def read(self, output: str) -> bytes | None:
        """The picture of this name, or None if it cannot be read."""
        shard, _, member = output.partition("#")
        if not self._name_pattern.fullmatch(shard):
            return None
        location = locations.join(self._location, shard)
        try:
            with self._lists_lock:  # the lists read last are kept
                if shard not in self._lists:
                    self._lists[shard] = self._shards.members(location)
                self._lists.move_to_end(shard)
                while len(self._lists) > _MAX_LISTS:
                    self._lists.popitem(last=False)
                at = self._lists[shard].get(member)
            return None if at is None else self._shards.read(location, member, at)
        except (OSError, SceneLoomError):
            return None

    def close(self) -> None:
        """Drop held pictures; see `Sink`."""
        with self._lock:
            self._drop()
            try:
                self._is_known("")  # raises OSError if the manifest is gone
                self._settle_known()
            except OSError:
                # The rows are gone: the next run makes the pictures of all shards again.
                with contextlib.suppress(OSError):
                    self._check()
                    for number in set(self._shard_of.values()):
                        self._put_mark(number)
            if self._held is not None:
                self._held.close()

    def _complete(self) -> None:
        """Publish the part as a shard."""
        if self._part is None or not self._tags:
            return
        location, name = self._at(self._next), self._shard_name(self._next)
        packed: Path | None = None
        try:
            packed = self._shards.pack(self._part, lambda: new_part(self._parts))
            with contextlib.suppress(OSError):  # the mark of a known shard does no harm
                self._settle_known()
            self._put_mark(self._next)
            self._publish(packed, location)
        except OSError as error:
            if packed is not None and packed != self._part.path:
                remove_part(packed)
            self._check()
            raise OSError(error.errno, error.strerror, location) from None
        for key, tag in self._tags.items():
            if (older := self._shard_of.get(key)) is not None:
                self._replaced[older].add(key)
            self._shard_of[key] = self._next
            output = f"{name}#{self._shards.member_of(key)}"
            self._written.append(Written(tag=tag, output=output))
            self._unsettled[self._next] = output
        self._next += 1
        self._drop()

    def _mark(self, number: int) -> str:
        """A file beside a shard until its pictures have their rows: a shard without rows and
        without mark is another manifest's.
        """
        return locations.join(self._location, f".{self._shard_name(number)}.unsettled")

    def _put_mark(self, number: int) -> None:
        mark = self._mark(number)
        if locations.is_remote(mark):
            locations.put_remote(mark, lambda fs, path: fs.pipe_file(path, b""))
        else:
            locations.local_path(mark).touch()

    def _settle(self, number: int) -> None:
        if locations.is_file(self._mark(number)):
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

    def _take_written(self) -> list[Written]:
        written, self._written = self._written, []
        return written

    def _drop(self) -> None:
        if self._part is not None:
            self._part.close()
        self._part, self._tags = None, {}

    def _keep(self, number: int, members: set[str], kept: set[str]) -> None:
        """Remove all other members from a shard."""
        if kept == members:
            return
        location = self._at(number)
        with self._lists_lock:
            self._lists.pop(self._shard_name(number), None)
        if not kept:
            _remove(location)
            return
        part = new_part(self._parts)
        self._shards.copy(location, part, kept.__contains__)
        try:
            self._publish(part, location)
        except OSError:
            remove_part(part)
            raise

    def _publish(self, part: Path, location: str) -> None:
        if locations.is_remote(location):
            locations.put_remote(location, lambda fs, path: fs.put_file(str(part), path))
            remove_part(part)
        else:
            publish(part, locations.local_path(location))

    def _numbers(self) -> list[int]:
        """The numbers of the shards in the folder."""
        try:
            names = locations.file_names(self._location)
        except FileNotFoundError:  # an empty remote folder
            return []
        return sorted(int(match[1]) for match in map(self._name_pattern.fullmatch, names) if match)

    def _shard_name(self, number: int) -> str:
        return f"{self._stem}-{number:06d}{self._shards.ending}"

    def _at(self, number: int) -> str:
        return locations.join(self._location, self._shard_name(number))


def _remove(location: str) -> None:
    if not locations.is_remote(location):
        locations.local_path(location).unlink()
        return
    with locations.filesystem(location) as (fs, path):
        fs.rm_file(path)
