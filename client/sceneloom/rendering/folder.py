"""Folders, local or remote: maps are read from them, pictures written to them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path

from sceneloom.errors import InputError
from sceneloom.file_tree import LeftOut
from sceneloom.files import HeldPlace, gone, may_pass, new_part, reason_against, sweep, write_whole
from sceneloom.locations import (
    filesystem,
    is_file,
    is_remote,
    join,
    lies_in,
    local_path,
    named_errors,
    parent,
    put_remote,
    reason_of,
)
from sceneloom.pairing import pair_folders
from sceneloom.pictures import Format
from sceneloom.rendering.items import (
    LocalFile,
    MapItem,
    RemoteFile,
    Written,
    broken_item,
    check_key,
    key_error,
)


class FolderSource:
    """The label maps of a folder, and the instance maps that pair with them, in key order."""

    def __init__(self, labels: str, instances: str | None, *, training_ids: bool = False) -> None:
        """List the folders.

        Args:
            labels: folder of label maps, searched to the bottom; a path or a URL.
            instances: folder of instance maps, or None to pair none.
            training_ids: label maps hold training ids.

        Raises:
            InputError: see `pair_folders`.
            MissingDependencyError: the package for such URLs is not installed.
        """
        self._labels, self._instances = labels, instances
        self._pairs, self._left_out = pair_folders(labels, instances, training_ids=training_ids)

    @property
    def name(self) -> str:
        """The folder of label maps."""
        return self._labels

    def count(self) -> int:
        """How many label maps there are."""
        return len(self._pairs)

    def left_out(self) -> Sequence[LeftOut]:
        """What lies in the two folders and is in no pair."""
        return self._left_out

    def __iter__(self) -> Iterator[MapItem]:
        """The maps, in key order."""
        for number, (key, label, instance) in enumerate(self._pairs):
            if fault := key_error(key):
                name = repr(join(self._labels, label))
                yield broken_item(self._labels, number, name, f"cannot name a picture ({fault})")
                continue
            yield MapItem(
                key=key,
                label=_map_file(self._labels, label),
                instance=None
                if instance is None or self._instances is None
                else _map_file(self._instances, instance),
            )

    def holds(self, place: str) -> bool:
        """Whether pictures there would be taken for maps, or lie among them."""
        key_folders = {key.rpartition("/")[0] for key, _, _ in self._pairs}
        of_maps = [folder for folder in (self._labels, self._instances) if folder is not None]
        if not is_remote(self._labels):  # links may lead out of the folder of label maps
            within = local_path(self._labels).resolve()
            places = (join(self._labels, folder) for folder in sorted(key_folders))
            of_maps += [p for p in places if not local_path(p).resolve().is_relative_to(within)]
        folders = {""}
        if any(lies_in(folder, place) for folder in of_maps):  # some pictures may end up there
            folders |= key_folders
        return any(lies_in(join(place, f), held) for f in folders for held in of_maps)


def _map_file(folder: str, name: str) -> LocalFile | RemoteFile:
    place = join(folder, name)
    return RemoteFile(place) if is_remote(folder) else LocalFile(place)


_MOST_FOLDERS = 10_000


class FolderSink:
    """A file for each picture; it is in its place when `put` returns.

    Local files are written beside their place and renamed into it. Remote ones are put in one
    request each, which object stores show whole or not at all.
    """

    def __init__(self, place: str, format: Format) -> None:
        """Keep the place; nothing is written.

        Args:
            place: path or URL of the folder.
            format: of the pictures; the ending of their names.
        """
        self._place, self._format = place, format
        self._held: HeldPlace | None = None
        self._first_of: dict[str, str] = {}  # folder -> the first picture that was put there

    @property
    def name(self) -> str:
        """The folder."""
        return self._place

    def open(self, is_known: Callable[[str], bool]) -> None:
        """Make the folder, and sweep what killed processes were writing; see `Sink`."""
        make_folder(self._place)
        if not is_remote(self._place):
            sweep(local_path(self._place), deep=True)
            self._held = HeldPlace(local_path(self._place))

    def put(self, key: str, data: bytes, tag: Hashable) -> list[Written]:
        """Write a picture; see `Sink`."""
        check_key(key)
        output = f"{key}.{self._format}"
        place = join(self._place, output)
        if is_remote(place):
            put_remote(place, lambda fs, path: fs.pipe_file(path, data))
        else:
            self._check()  # or else the folder would be made again
            try:
                write_whole(Path(place), data)
            except OSError:
                self._check()
                raise
            self._check()
        folder = parent(place)
        most = 1 if is_remote(place) else _MOST_FOLDERS  # there, each question is a request
        if folder not in self._first_of and len(self._first_of) < most:
            self._first_of[folder] = place
        return [Written(tag=tag, output=output)]

    def finish(self) -> list[Written]:
        """Nothing is held back; see `Sink`."""
        self._check()
        for folder, first in list(self._first_of.items()):
            if not is_file(first):
                raise gone(folder)
        return []

    def read(self, output: str) -> bytes | None:
        """The picture's file, or None where it is not there or cannot be read."""
        if key_error(output):
            return None
        place = join(self._place, output)
        try:
            if not is_remote(place):
                return Path(place).read_bytes()
            with named_errors(place):
                fs, path = filesystem(place)
                return bytes(fs.cat_file(path))
        except OSError:
            return None

    def close(self) -> None:
        """Let go of the folder."""
        if self._held is not None:
            self._held.close()

    def _check(self) -> None:
        if self._held is not None:
            self._held.check()


def make_folder(place: str) -> None:
    """Make a folder for pictures, and see whether it can be written to.

    Raises:
        InputError: it cannot.
        OSError: it is full or cannot be reached, which may change.
        MissingDependencyError: the package for such URLs is not installed.
    """
    try:
        if is_remote(place):
            with named_errors(place):
                fs, path = filesystem(place)
                if fs.isfile(path):
                    raise InputError(f"{place}: cannot be the folder for pictures (a file)")
            return
        folder = local_path(place)
        folder.mkdir(parents=True, exist_ok=True)
        probe = new_part(folder)
        probe.touch()
        probe.unlink()
    except OSError as error:
        against = reason_of(error) if is_remote(place) else reason_against(local_path(place), error)
        reason = f"{place}: cannot be the folder for pictures ({against})"
        raise (OSError(reason) if may_pass(error) else InputError(reason)) from None
