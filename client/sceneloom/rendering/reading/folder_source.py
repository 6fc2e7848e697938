"""Maps in folders, of this machine or remote."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sceneloom.file_tree import LeftOut
from sceneloom.locations import (
    is_remote,
    join,
    lies_in,
    local_path,
)
from sceneloom.pairing import pair_folders
from sceneloom.rendering.interfaces import MapItem
from sceneloom.rendering.keys import fault_of_key
from sceneloom.rendering.reading.map_files import LocalFile, RemoteFile, broken_item


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
        key_folders = {key.rpartition("/")[0] for key, _, _ in self._pairs}
        of_maps = [folder for folder in (self._labels, self._instances) if folder is not None]
        of_maps += _linked(self._labels, key_folders)
        folders = {""}
        if any(lies_in(folder, place) for folder in of_maps):  # some pictures may end up there
            folders |= key_folders
        return any(lies_in(join(place, f), held) for f in folders for held in of_maps)


def _map_file(folder: str, name: str) -> LocalFile | RemoteFile:
    place = join(folder, name)
    return RemoteFile(place) if is_remote(folder) else LocalFile(place)


def _linked(labels: str, folders: Iterable[str]) -> list[str]:
    """Folders of maps that links lead to, outside the folder of label maps."""
    if is_remote(labels):
        return []
    within = local_path(labels).resolve()
    places = (join(labels, folder) for folder in sorted(folders))
    return [p for p in places if not local_path(p).resolve().is_relative_to(within)]
