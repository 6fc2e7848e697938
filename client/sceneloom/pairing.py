"""Pairs of label maps and instance maps, by their names below their folders.

Names pair up without ending and without the publisher's suffix (``_gtFine_labelIds`` goes with
``_gtFine_instanceIds``). Where files of several published kinds lie side by side, as in Cityscapes'
gtFine, only those of label ids are label maps, or of training ids for a schema of training ids. So
it is with the files of Isaac Replicator: ``semantic_segmentation_0000.png`` goes with
``instance_segmentation_0000.png``, and each label map has a table of names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple

from sceneloom.contract import InputKind
from sceneloom.errors import InputError
from sceneloom.files import OTHER_KIND, LeftOut, describe, list_files, split_hidden
from sceneloom.locations import is_folder, is_remote, join, local_path, reason_of, remote_files
from sceneloom.maps import MAP_SUFFIXES, PICTURE_SUFFIXES

# Suffixes behind the name that a label map and its instance map share, in lower case.
_SUFFIXES = frozenset({"instanceids", "instancetrainids", "instances", "instance", "inst"})
_KINDS = _SUFFIXES | {"labelids", "labeltrainids", "labels", "label"}
# Isaac Replicator puts the kind before the number, and into names of folders.
_SEMANTIC = "semantic_segmentation"
_REPLICATOR = (_SEMANTIC, "instance_segmentation", "instance_id_segmentation")
_INSTANCE = _SUFFIXES | set(_REPLICATOR[1:])
# The kinds of Cityscapes that have a map's ending.
_PUBLISHED = frozenset(
    {
        *("labelids", "labeltrainids", "instanceids", "instancetrainids", "color"),
        *("leftimg8bit", "rightimg8bit", "disparity"),
    }
)
# The first choice of a schema, for label ids and for training ids.
_LABEL_KINDS = (
    ("labelIds", "labelTrainIds", _SEMANTIC),
    ("labelTrainIds", "labelIds", _SEMANTIC),
)
_INSTANCE_KINDS = (
    ("instanceIds", "instanceTrainIds", *_REPLICATOR[1:]),
    ("instanceTrainIds", "instanceIds", *_REPLICATOR[1:]),
)


class NamePair(NamedTuple):
    """The names of one picture's maps, with slashes."""

    key: str
    """Name of the label map without ending; names the picture."""
    label: str
    """Label map, below its folder."""
    instance: str | None
    """Instance map, below its folder, or None."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairing:
    """The maps of two folders."""

    pairs: list[NamePair]
    """Ordered by key."""
    labels_left_out: list[LeftOut]
    """Other files in the folder of label maps."""
    instances_left_out: list[LeftOut]
    """Files in the folder of instance maps without a label map."""


class _Map(NamedTuple):
    name: str
    key: str
    """Name without ending."""
    ending: str
    """In lower case."""
    stem: str
    """Key without a suffix of `_KINDS` and without the kinds of `_REPLICATOR`."""
    kind: str
    """Kind of `_REPLICATOR`, or text behind the key's last underscore or hyphen, in lower case."""


def _parse(name: str) -> _Map:
    """Split a name as `PurePath` does, ten times as fast: a data set may have millions."""
    start = name.rfind("/") + 1
    dot = name.rfind(".", start)
    key = name[:dot] if start < dot < len(name) - 1 else name
    if "_segmentation_" in key:
        for kind in _REPLICATOR:
            if f"{kind}_" in key[start:]:
                return _Map(name, key, name[len(key) :].lower(), key.replace(kind, ""), kind)
    at = max(key.rfind("_"), key.rfind("-"))
    kind = "" if at < 0 else key[at + 1 :].lower()
    stem = key[:at] if kind in _KINDS else key
    return _Map(name, key, name[len(key) :].lower(), stem, kind)


SUFFIXES: dict[InputKind, tuple[str, ...]] = {"labels": MAP_SUFFIXES, "picture": PICTURE_SUFFIXES}
"""File endings of label maps, or of the pictures in their place."""


def is_map_name(name: str) -> bool:
    """Whether a file is read as a map, or as a picture in its place, by its ending."""
    return _parse(name).ending in (*MAP_SUFFIXES, *PICTURE_SUFFIXES)


def no_maps(folder: str, kind: InputKind) -> str:
    """The sentence for a folder without label maps, or without pictures in their place."""
    what = "label maps" if kind == "labels" else "pictures"
    return f"{folder}: no {what} ({', '.join(SUFFIXES[kind])})"


def table_name(label: str) -> str | None:
    """Name of the table that Isaac Replicator writes beside a label map, or None for another's.

    ``semantic_segmentation_0000.png`` has ``semantic_segmentation_labels_0000.json``.
    """
    start = label.rfind("/") + 1
    before, kind, number = label[start:].rpartition(f"{_SEMANTIC}_")
    if not kind:
        return None
    return f"{label[:start]}{before}{kind}labels_{number.rpartition('.')[0]}.json"


def pair_names(
    labels: Iterable[str],
    instances: Iterable[str] | None,
    *,
    together: bool,
    training_ids: bool,
    kind: InputKind,
    locate_label: Callable[[str], str],
    locate_instance: Callable[[str], str],
) -> Pairing:
    """Pair the names of the files of two folders; `instances` None pairs none.

    `together` says that the two are one folder, where instance maps are those named so; in a folder
    of its own every map is a label map. `training_ids` says that label maps hold training ids,
    `kind` that pictures lie in their place.
    `locate_label` and `locate_instance` give the location of a name, for errors.

    Raises InputError if two maps would share one picture's name, or two instance maps fit one.
    """
    labels_left_out: list[LeftOut] = []
    instances_left_out: list[LeftOut] = []
    of_labels = _split(
        map(_parse, labels),
        lambda one: one.ending in SUFFIXES[kind],
        OTHER_KIND,
        labels_left_out,
    )
    of_instances = _split(
        map(_parse, () if together or instances is None else instances),
        lambda one: one.ending in MAP_SUFFIXES,
        OTHER_KIND,
        instances_left_out,
    )
    if together:
        of_instances = [one for one in of_labels if one.kind in _INSTANCE]
        of_labels = [one for one in of_labels if one.kind not in _INSTANCE]
    if kind == "labels":
        of_labels = _of_one_kind(of_labels, _LABEL_KINDS[training_ids], labels_left_out)
    of_instances = _of_one_kind(of_instances, _INSTANCE_KINDS[training_ids], instances_left_out)
    if instances is None:
        stems = {one.stem for one in of_labels if one.kind not in _INSTANCE}
        of_labels = _split(
            of_labels,
            lambda one: one.kind not in _INSTANCE or one.stem not in stems,
            "named like an instance map",
            labels_left_out,
        )
    by_key: dict[str, _Map] = {}
    for one in of_labels:
        if (other := by_key.setdefault(one.key, one)) is not one:
            raise InputError(
                f"{locate_label(one.name)} and {locate_label(other.name)} would share one "
                "picture's name"
            )
    by_stem: dict[str, list[_Map]] = {}
    for one in of_instances:
        by_stem.setdefault(one.stem, []).append(one)
    pairs, paired = [], set()
    for key, label in sorted(by_key.items()):
        # An instance map of exactly another label map's name is that one's.
        fitting = [
            one.name
            for one in by_stem.get(label.stem, ())
            if one.key == key or one.key not in by_key
        ]
        if len(fitting) > 1:
            raise InputError(
                f"{locate_instance(fitting[1])} and {locate_instance(fitting[0])} could both "
                f"be the instance map of {label.stem}"
            )
        paired.update(fitting)
        pairs.append(NamePair(key, label.name, fitting[0] if fitting else None))
    _split(of_instances, lambda one: one.name in paired, "without a label map", instances_left_out)
    tables = {table_name(one.name) for one in of_labels if one.kind == _SEMANTIC}
    return Pairing(
        pairs=pairs,
        labels_left_out=[one for one in labels_left_out if one.name not in tables],
        instances_left_out=instances_left_out,
    )


def _of_one_kind(maps: list[_Map], kinds: tuple[str, ...], left_out: list[LeftOut]) -> list[_Map]:
    """Keep the maps of the first published kind found, and those of no published kind; beside files
    of Isaac Replicator there are none.
    """
    found = {one.kind for one in maps}
    kind = next((kind for kind in kinds if kind.lower() in found), None)
    if kind is None:
        return maps
    return _split(
        maps,
        lambda one: (
            one.kind == kind.lower() or (one.kind not in _PUBLISHED and kind not in _REPLICATOR)
        ),
        f"of another kind than {kind}_" if kind in _REPLICATOR else f"of another kind than _{kind}",
        left_out,
    )


def _split(
    maps: Iterable[_Map], chosen: Callable[[_Map], bool], reason: str, left_out: list[LeftOut]
) -> list[_Map]:
    """Return the chosen maps, and add the others to `left_out`."""
    kept = []
    for one in maps:
        if chosen(one):
            kept.append(one)
        else:
            left_out.append(LeftOut(reason=reason, name=one.name))
    return kept


def pair_folders(
    labels: str,
    instances: str | None,
    *,
    training_ids: bool = False,
    kind: InputKind = "labels",
) -> tuple[Sequence[NamePair], Sequence[LeftOut]]:
    """Find the label maps of a folder and the instance map of each; see `pair_names`.

    Folders are paths or URLs, searched to the bottom; both may be the same, and None pairs no
    instance maps. Returns the pairs, ordered by key, and all that is in none of them.

    Raises InputError if a folder does not exist, cannot be read or has no maps, and as
    `pair_names`.
    """
    folders = [labels] if instances is None else [labels, instances]
    paths: list[PurePath] = []
    for folder in folders:
        try:
            there = is_folder(folder)
        except OSError as error:
            raise InputError(f"{folder}: cannot be reached ({reason_of(error)})") from None
        if not there:
            raise InputError(f"{folder}: no such folder")
        paths.append(PurePosixPath(folder) if is_remote(folder) else local_path(folder).resolve())
    together = len(paths) > 1 and paths[0] == paths[1]
    names: list[list[str]] = []
    found_beside: list[tuple[str, Sequence[LeftOut]]] = []
    for folder, path in list(zip(folders, paths, strict=True))[: 1 if together else 2]:
        try:
            if isinstance(path, Path):
                found, hidden = list_files(path)
            else:
                found, hidden = split_hidden(remote_files(folder, deep=True))
        except OSError as error:
            raise InputError(f"{folder}: cannot be read ({reason_of(error)})") from None
        for other in paths:
            if other != path and other.is_relative_to(path):
                inner = f"{other.relative_to(path).as_posix()}/"
                found = [name for name in found if not name.startswith(inner)]
        names.append(found)
        found_beside.append((folder, hidden))
    pairing = pair_names(
        names[0],
        None if instances is None else names[-1],
        together=together,
        training_ids=training_ids,
        kind=kind,
        locate_label=lambda name: join(labels, name),
        locate_instance=lambda name: join(instances or "", name),
    )
    found_beside.append((labels, pairing.labels_left_out))
    found_beside.append((folders[-1], pairing.instances_left_out))
    # Names behind the folder's own tell two folders of one data set apart.
    left_out = [
        dataclasses.replace(one, name=f"{PurePosixPath(folder).name}/{one.name}".lstrip("/"))
        for folder, others in found_beside
        for one in others
    ]
    if not pairing.pairs:
        raise InputError("; ".join([no_maps(labels, kind), *describe(left_out)]))
    return pairing.pairs, left_out


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapPair:
    """The files of one picture."""

    key: str
    """Path of the label map below its folder, without its ending; names the picture."""
    label: Path
    """Label map."""
    instance: Path | None
    """Instance map, or None."""


def pair_maps(
    labels: Path,
    instances: Path | None,
    *,
    training_ids: bool = False,
    kind: InputKind = "labels",
) -> tuple[list[MapPair], Sequence[LeftOut]]:
    """Pair two local folders, see `pair_folders`, and return paths."""
    found, left_out = pair_folders(
        str(labels),
        None if instances is None else str(instances),
        training_ids=training_ids,
        kind=kind,
    )
    pairs = [
        MapPair(
            key=key,
            label=labels / label,
            instance=None if instance is None or instances is None else instances / instance,
        )
        for key, label, instance in found
    ]
    return pairs, left_out
