"""Maps in folders, of this machine or remote."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath, PurePosixPath

from sceneloom.errors import InputError
from sceneloom.file_tree import LeftOut, describe
from sceneloom.maps import MAP_SUFFIXES
from sceneloom.rendering.interfaces import MapItem
from sceneloom.rendering.keys import fault_of_key
from sceneloom.rendering.places import (
    is_folder,
    is_remote,
    join,
    last_part,
    lies_in,
    list_places,
    local_path,
    reason_of,
)
from sceneloom.rendering.reading.map_files import LocalFile, RemoteFile, broken_item
from sceneloom.rendering.reading.pairing import NamePair, pair_names


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


def pair_folders(
    labels: str, instances: str | None, *, training_ids: bool = False
) -> tuple[Sequence[NamePair], Sequence[LeftOut]]:
    """Find label maps in a folder and the instance map that belongs to each; see `pair_names`.

    Args:
        labels: folder of label maps, searched to the bottom; a path or a URL.
        instances: folder of instance maps, or None to pair none.
        training_ids: label maps hold training ids.

    Returns:
        the pairs, ordered by key, and what is in neither of them.

    Raises:
        InputError: a folder does not exist or cannot be read, there are no maps, two maps would
            share one picture's name, or two instance maps fit one name.
    """
    for folder in filter(None, (labels, instances)):
        if not _is_there(folder):
            raise InputError(f"{folder}: no such folder")
    together = instances is not None and _inner(labels, instances) == ""
    label_names, left_out = _names(labels)
    instance_names: list[str] | None = None
    if instances is not None and not together:
        instance_names, others = _names(instances)
        left_out += others
        label_names = _outside(label_names, _inner(labels, instances))
        instance_names = _outside(instance_names, _inner(instances, labels))
    pairing = pair_names(
        label_names,
        instance_names,
        together=together,
        training_ids=training_ids,
        place_of_label=lambda name: join(labels, name),
        place_of_instance=lambda name: join(instances or "", name),
    )
    left_out += _below(labels, pairing.labels_left_out)
    left_out += _below(instances or labels, pairing.instances_left_out)
    if not pairing.pairs:
        reason = f"{labels}: no label maps ({', '.join(MAP_SUFFIXES)})"
        raise InputError("; ".join([reason, *describe(left_out)]))
    return pairing.pairs, left_out


def _map_file(folder: str, name: str) -> LocalFile | RemoteFile:
    place = join(folder, name)
    return RemoteFile(place) if is_remote(folder) else LocalFile(place)


def _is_there(folder: str) -> bool:
    try:
        return is_folder(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be reached ({reason_of(error)})") from None


def _names(folder: str) -> tuple[list[str], list[LeftOut]]:
    try:
        names, left_out = list_places(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({reason_of(error)})") from None
    return names, _below(folder, left_out)


def _below(folder: str, left_out: Iterable[LeftOut]) -> list[LeftOut]:
    """Names with the folder's own in front: two folders of one data set are told apart."""
    own = last_part(folder)
    prefix = f"{own}/" if own else ""
    return [dataclasses.replace(one, name=prefix + one.name) for one in left_out]


def _linked(labels: str, folders: Iterable[str]) -> list[str]:
    """Folders of maps that links lead to, outside the folder of label maps."""
    if is_remote(labels):
        return []
    within = local_path(labels).resolve()
    places = (join(labels, folder) for folder in sorted(folders))
    return [p for p in places if not local_path(p).resolve().is_relative_to(within)]


def _inner(folder: str, inner: str) -> str | None:
    """Where a folder lies in another, empty for the same one; None where it lies outside."""

    def resolved(place: str) -> PurePath:
        return PurePosixPath(place) if is_remote(place) else local_path(place).resolve()

    outer_path, inner_path = resolved(folder), resolved(inner)
    if not inner_path.is_relative_to(outer_path):
        return None
    return inner_path.relative_to(outer_path).as_posix().removeprefix(".")


def _outside(names: list[str], inner: str | None) -> list[str]:
    """The names that are not below an inner folder."""
    return names if not inner else [n for n in names if not n.startswith(f"{inner}/")]
