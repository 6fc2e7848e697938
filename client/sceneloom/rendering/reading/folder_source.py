"""Maps in folders, of this machine or remote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from sceneloom.errors import InputError
from sceneloom.maps import MAP_SUFFIXES
from sceneloom.rendering.interfaces import MapItem
from sceneloom.rendering.keys import fault_of_key
from sceneloom.rendering.places import (
    file_names,
    is_folder,
    is_remote,
    join,
    lies_in,
    local_path,
    reason_of,
)
from sceneloom.rendering.reading.map_files import LocalFile, RemoteFile, broken_item
from sceneloom.rendering.reading.pairing import NamePair, pair_names


class FolderSource:
    """The label maps of a folder, and the instance maps that pair with them, in key order."""

    def __init__(self, labels: str, instances: str | None) -> None:
        """List the folders.

        Args:
            labels: folder of label maps, searched to the bottom; a path or a URL.
            instances: folder of instance maps, or None to pair none.

        Raises:
            InputError: see `pair_folders`.
            MissingDependencyError: the package for such URLs is not installed.
        """
        self._labels, self._instances = labels, instances
        self._pairs = pair_folders(labels, instances)

    @property
    def name(self) -> str:
        """The folder of label maps."""
        return self._labels

    def count(self) -> int:
        """How many label maps there are."""
        return len(self._pairs)

    def __iter__(self) -> Iterator[MapItem]:
        """The maps, in key order."""
        for number, (key, label, instance) in enumerate(self._pairs):
            if fault := fault_of_key(key):
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
        of_maps = [folder for folder in (self._labels, self._instances) if folder is not None]
        folders = {""}
        if any(lies_in(folder, place) for folder in of_maps):  # some pictures may end up there
            folders |= {key.rpartition("/")[0] for key, _, _ in self._pairs}
        return any(lies_in(join(place, f), held) for f in folders for held in of_maps)


def pair_folders(labels: str, instances: str | None) -> Sequence[NamePair]:
    """Find label maps in a folder and the instance map that belongs to each; see `pair_names`.

    Args:
        labels: folder of label maps, searched to the bottom; a path or a URL.
        instances: folder of instance maps, or None to pair none.

    Returns:
        the pairs, ordered by key.

    Raises:
        InputError: a folder does not exist or cannot be read, there are no maps, two maps would
            share one picture's name, or two instance maps fit one name.
    """
    for folder in filter(None, (labels, instances)):
        if not _is_there(folder):
            raise InputError(f"{folder}: no such folder")
    together = instances is not None and _same(labels, instances)
    pairs = pair_names(
        _names(labels),
        None if instances is None else _names(instances),
        together=together,
        place_of_label=lambda name: join(labels, name),
        place_of_instance=lambda name: join(instances or "", name),
    )
    if not pairs:
        raise InputError(f"{labels}: no label maps ({', '.join(MAP_SUFFIXES)})")
    return pairs


def _map_file(folder: str, name: str) -> LocalFile | RemoteFile:
    place = join(folder, name)
    return RemoteFile(place) if is_remote(folder) else LocalFile(place)


def _is_there(folder: str) -> bool:
    try:
        return is_folder(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be reached ({reason_of(error)})") from None


def _names(folder: str) -> list[str]:
    try:
        return file_names(folder, deep=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({reason_of(error)})") from None


def _same(first: str, second: str) -> bool:
    def resolved(folder: str) -> Path | str:
        return folder.rstrip("/") if is_remote(folder) else local_path(folder).resolve()

    return resolved(first) == resolved(second)
