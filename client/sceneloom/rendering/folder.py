"""Folders, local or remote: maps are read from them, pictures written to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path, PurePosixPath

from sceneloom import locations
from sceneloom.contract import InputKind
from sceneloom.errors import InputError
from sceneloom.files import (
    HeldLocation,
    LeftOut,
    gone,
    may_pass,
    new_part,
    reason_against,
    sweep,
    write_whole,
)
from sceneloom.maps import MAP_SUFFIXES
from sceneloom.pairing import is_map_name, pair_folders, table_name
from sceneloom.pictures import Format
from sceneloom.rendering.items import MapItem, WholeFile, Written, broken_item, key_error
from sceneloom.text import reason


class FolderSource:
    """The label maps of a folder, and the instance maps that pair with them, in key order."""

    def __init__(
        self,
        labels: str,
        instances: str | None,
        *,
        training_ids: bool = False,
        kind: InputKind = "labels",
    ) -> None:
        self._labels, self._instances = labels, instances
        self._pairs, self.left_out = pair_folders(
            labels, instances, training_ids=training_ids, kind=kind
        )

    def count(self) -> int:
        """The number of label maps."""
        return len(self._pairs)

    def __iter__(self) -> Iterator[MapItem]:
        """The maps, in key order."""
        for number, (key, label, instance) in enumerate(self._pairs):
            if fault := key_error(key):
                name = repr(locations.join(self._labels, label))
                yield broken_item(self._labels, number, name, f"cannot name a picture ({fault})")
                continue
            paired = None
            if instance is not None and self._instances is not None:
                paired = WholeFile(locations.join(self._instances, instance))
            table = table_name(label)
            yield MapItem(
                key=key,
                label=WholeFile(locations.join(self._labels, label)),
                instance=paired,
                table=None if table is None else WholeFile(locations.join(self._labels, table)),
            )

    def holds(self, location: str) -> bool:
        """Whether pictures there would be taken for maps, or lie among them."""
        key_folders = {key.rpartition("/")[0] for key, _, _ in self._pairs}
        of_maps = [folder for folder in (self._labels, self._instances) if folder is not None]
        if not locations.is_remote(self._labels):  # links may lead out of the folder of label maps
            within = locations.local_path(self._labels).resolve()
            inner = (locations.join(self._labels, folder) for folder in sorted(key_folders))
            of_maps += [
                p for p in inner if not locations.local_path(p).resolve().is_relative_to(within)
            ]
        folders = {""}
        if any(
            locations.lies_in(folder, location) for folder in of_maps
        ):  # some pictures may end up there
            folders |= key_folders
        return any(
            locations.lies_in(locations.join(location, f), held)
            for f in folders
            for held in of_maps
        )


class FileSource:
    """One label map and its instance map, each a file of its own."""

    def __init__(self, label: str, instance: str | None) -> None:
        """Take the files; raises InputError if one does not exist or is no map."""
        for file in (label,) if instance is None else (label, instance):
            if not is_map_name(file):
                raise InputError(f"{file}: not a map's file; maps are {', '.join(MAP_SUFFIXES)}")
            try:
                if not locations.is_file(file):
                    raise InputError(f"{file}: no such file")
            except OSError as error:
                raise InputError(f"{file}: cannot be read ({reason(error)})") from None
        self._label, self._instance = label, instance
        self.left_out: list[LeftOut] = []

    def count(self) -> int:
        """One."""
        return 1

    def __iter__(self) -> Iterator[MapItem]:
        """The map; its key is the file's name without ending, as in a folder."""
        table = table_name(self._label)
        yield MapItem(
            key=PurePosixPath(locations.last_part(self._label)).stem,
            label=WholeFile(self._label),
            instance=None if self._instance is None else WholeFile(self._instance),
            table=None if table is None else WholeFile(table),
        )

    def holds(self, location: str) -> bool:
        """Whether pictures there would lie beside the maps, and replace one of equal name."""
        files = [file for file in (self._label, self._instance) if file is not None]
        parents = [locations.parent(file) for file in files]
        return any(
            locations.lies_in(location, folder) and locations.lies_in(folder, location)
            for folder in parents
        )


_MAX_CHECKED = 10_000


@dataclasses.dataclass(eq=False)
class FolderSink:
    """A file for each picture, complete when `put` returns.

    Local files are renamed into their location. Object stores show a file whole or not at all.
    """

    location: str
    """Path or URL of the folder."""
    format: Format
    """The ending of the files."""
    _held: HeldLocation | None = dataclasses.field(default=None, init=False)
    _first_of: dict[str, str] = dataclasses.field(default_factory=dict, init=False)  # per folder

    def open(self, is_known: Callable[[str], bool]) -> None:
        """Make the folder, and sweep the parts of killed processes; see `Sink`."""
        make_folder(self.location)
        if not locations.is_remote(self.location):
            sweep(locations.local_path(self.location), deep=True)
            self._held = HeldLocation(locations.local_path(self.location))

    def put(self, key: str, data: bytes, tag: Hashable) -> list[Written]:
        """Write a picture; see `Sink`."""
        output = f"{key}.{self.format}"
        self.write(output, data)
        return [Written(tag=tag, output=output)]

    def write(self, output: str, data: bytes) -> None:
        """Write a file whole, by its path below the folder; raises as `put`."""
        if fault := key_error(output):
            raise InputError(f"{output!r:.200}: cannot name a picture ({fault})")
        file = locations.join(self.location, output)
        if locations.is_remote(file):
            locations.put_remote(file, lambda fs, path: fs.pipe_file(path, data))
        else:
            assert self._held is not None
            self._held.check()  # or else the folder would be made again
            try:
                write_whole(Path(file), data)
            finally:
                self._held.check()
        folder = output.rpartition("/")[0]
        most = _MAX_CHECKED if self._held else 1  # in a store, each check is a request
        if folder not in self._first_of and len(self._first_of) < most:
            self._first_of[folder] = file

    def finish(self) -> list[Written]:
        """Check that the first picture of each folder still exists; see `Sink`."""
        if self._held is not None:
            self._held.check()
        for folder, first in list(self._first_of.items()):
            if not locations.is_file(first):
                raise gone(locations.join(self.location, folder))
        return []

    def read(self, output: str) -> bytes | None:
        """The picture's file, or None if it cannot be read."""
        if key_error(output):
            return None
        file = locations.join(self.location, output)
        try:
            if not locations.is_remote(file):
                return Path(file).read_bytes()
            with locations.filesystem(file) as (fs, path):
                return bytes(fs.cat_file(path))
        except OSError:
            return None

    def close(self) -> None:
        """Release the folder."""
        if self._held is not None:
            self._held.close()


def make_folder(location: str) -> None:
    """Make a folder for pictures, and check that it can be written to.

    Raises InputError, or OSError if the reason may pass (full, or out of reach).
    """
    try:
        if locations.is_remote(location):
            with locations.filesystem(location) as (fs, path):
                if fs.isfile(path):
                    raise InputError(f"{location}: cannot be the folder for pictures (a file)")
            return
        folder = locations.local_path(location)
        folder.mkdir(parents=True, exist_ok=True)
        probe = new_part(folder)
        probe.touch()
        probe.unlink()
    except OSError as error:
        remote = locations.is_remote(location)
        why = reason(error) if remote else reason_against(locations.local_path(location), error)
        text = f"{location}: cannot be the folder for pictures ({why})"
        raise (OSError(text) if may_pass(error) else InputError(text)) from None
