"""Which files are label maps, and which instance map belongs to each, by their names below their
folders.

Names pair up without ending and without what publishers append (``_gtFine_labelIds`` goes with
``_gtFine_instanceIds``). Where files of several published kinds lie side by side, as in
Cityscapes' gtFine, only those of label ids are label maps, or of training ids for a schema of
training ids.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple

from sceneloom.errors import InputError
from sceneloom.file_tree import OTHER_KIND, LeftOut, describe
from sceneloom.locations import (
    is_folder,
    is_remote,
    join,
    last_part,
    list_places,
    local_path,
    reason_of,
)
from sceneloom.maps import MAP_SUFFIXES

# What publishers append to the name that a label map and its instance map share, in lower case.
_INSTANCE = frozenset({"instanceids", "instancetrainids", "instances", "instance", "inst"})
_KIND = _INSTANCE | {"labelids", "labeltrainids", "labels", "label"}
# The kinds of Cityscapes that have a map's ending.
_PUBLISHED = frozenset(
    {
        *("labelids", "labeltrainids", "instanceids", "instancetrainids", "color"),
        *("leftimg8bit", "rightimg8bit", "disparity"),
    }
)
# The kind that a schema wants first, for label ids and for training ids.
_LABEL_KINDS = (("labelIds", "labelTrainIds"), ("labelTrainIds", "labelIds"))
_INSTANCE_KINDS = (("instanceIds", "instanceTrainIds"), ("instanceTrainIds", "instanceIds"))


class NamePair(NamedTuple):
    """The names of one picture's maps, with slashes."""

    key: str
    """The label map's name without ending; names the picture."""
    label: str
    """Below the folder of label maps."""
    instance: str | None
    """Below the folder of instance maps; None where none was found."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairing:
    """The maps of two folders."""

    pairs: list[NamePair]
    """Ordered by key."""
    labels_left_out: list[LeftOut]
    """What is no label map in the folder of label maps (and no instance map, if it is both)."""
    instances_left_out: list[LeftOut]
    """What belongs to no label map in the folder of instance maps."""


def pair_names(
    labels: Iterable[str],
    instances: Iterable[str] | None,
    *,
    together: bool,
    training_ids: bool,
    place_of_label: Callable[[str], str],
    place_of_instance: Callable[[str], str],
) -> Pairing:
    """Pair the maps of two folders.

    Args:
        labels: names of the files in the folder of label maps.
        instances: names of the files in the folder of instance maps, or None to pair none.
        together: the two are one folder: instance maps are those that are named so. In a folder of
            its own every map is a label map, however it is named.
        training_ids: label maps hold training ids.
        place_of_label: what to call a label map in errors.
        place_of_instance: what to call an instance map in errors.

    Raises:
        InputError: two maps would share one picture's name, or two instance maps fit one name.
    """
    of_maps, labels_left_out = _split(labels, is_map_name, OTHER_KIND)
    instances_left_out: list[LeftOut] = []
    of_instances: list[str] = []
    if together:
        of_instances, of_maps = _halve(of_maps, is_instance_name)
    elif instances is not None:
        of_instances, instances_left_out = _split(instances, is_map_name, OTHER_KIND)
    of_maps, others = _of_one_kind(of_maps, _LABEL_KINDS[training_ids])
    labels_left_out += others
    of_instances, others = _of_one_kind(of_instances, _INSTANCE_KINDS[training_ids])
    instances_left_out += others
    if instances is None:
        stems = {_stem(name) for name in of_maps if not is_instance_name(name)}
        of_maps, others = _split(
            of_maps,
            lambda name: not is_instance_name(name) or _stem(name) not in stems,
            "named like an instance map",
        )
        labels_left_out += others
    pairs = _paired(of_maps, of_instances, place_of_label, place_of_instance)
    paired = {pair.instance for pair in pairs}
    _, others = _split(of_instances, lambda name: name in paired, "without a label map")
    return Pairing(
        pairs=pairs,
        labels_left_out=labels_left_out,
        instances_left_out=instances_left_out + others,
    )


def is_map_name(name: str) -> bool:
    """Whether a file of this name is read as a map, by its ending."""
    return name[len(_without_ending(name)) :].lower() in MAP_SUFFIXES


def is_instance_name(name: str) -> bool:
    """Whether a map is named like an instance map."""
    return _kind(_without_ending(name)) in _INSTANCE


def _paired(
    labels: Sequence[str],
    instances: Sequence[str],
    place_of_label: Callable[[str], str],
    place_of_instance: Callable[[str], str],
) -> list[NamePair]:
    by_key: dict[str, str] = {}
    for name in labels:
        key = _without_ending(name)
        if key in by_key:
            raise InputError(
                f"{place_of_label(name)} and {place_of_label(by_key[key])} would share one "
                "picture's name"
            )
        by_key[key] = name
    by_stem: dict[str, list[str]] = {}
    for name in instances:
        by_stem.setdefault(_stem(name), []).append(name)
    pairs = []
    for key, label in sorted(by_key.items()):
        stem = _stem(label)
        # An instance map of exactly another label map's name is that one's.
        fitting = [
            name
            for name in by_stem.get(stem, ())
            if _without_ending(name) == key or _without_ending(name) not in by_key
        ]
        if len(fitting) > 1:
            raise InputError(
                f"{place_of_instance(fitting[1])} and {place_of_instance(fitting[0])} could both "
                f"be the instance map of {stem}"
            )
        pairs.append(NamePair(key, label, fitting[0] if fitting else None))
    return pairs


def _of_one_kind(names: Sequence[str], kinds: tuple[str, str]) -> tuple[list[str], list[LeftOut]]:
    """Where one of these published kinds is there, only it and what has no published name."""
    there = {_published_kind(name) for name in names}
    kind = next((kind for kind in kinds if kind.lower() in there), None)
    if kind is None:
        return list(names), []
    taken = ("", kind.lower())
    return _split(
        names, lambda name: _published_kind(name) in taken, f"of another kind than _{kind}"
    )


def _published_kind(name: str) -> str:
    kind = _kind(_without_ending(name))
    return kind if kind in _PUBLISHED else ""


def _split(
    names: Iterable[str], taken: Callable[[str], bool], reason: str
) -> tuple[list[str], list[LeftOut]]:
    """The names that are taken, and the others with the reason."""
    good, others = _halve(names, taken)
    return good, [LeftOut(reason=reason, name=name) for name in others]


def _halve(names: Iterable[str], chosen: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    halves: tuple[list[str], list[str]] = ([], [])
    for name in names:
        halves[not chosen(name)].append(name)
    return halves


def _without_ending(name: str) -> str:
    """As `PurePath` has it, in a tenth of the time: there may be millions of names."""
    start = name.rfind("/") + 1
    dot = name.rfind(".", start)
    return name[:dot] if start < dot < len(name) - 1 else name


def _kind(key: str) -> str:
    """What follows the last underscore or hyphen of a name without ending, in lower case."""
    at = max(key.rfind("_"), key.rfind("-"))
    return "" if at < 0 else key[at + 1 :].lower()


def _stem(name: str) -> str:
    key = _without_ending(name)
    kind = _kind(key)
    return key[: -len(kind) - 1] if kind in _KIND else key


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
        try:
            there = is_folder(folder)
        except OSError as error:
            raise InputError(f"{folder}: cannot be reached ({reason_of(error)})") from None
        if not there:
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapPair:
    """The files of one picture."""

    key: str
    """Path of the label map below its folder, without its ending; names the picture."""
    label: Path
    """The label map."""
    instance: Path | None
    """The instance map, or None where none was found."""


def find_pairs(labels: Path, instances: Path | None) -> list[MapPair]:
    """The pairs of `pair_maps` alone."""
    return pair_maps(labels, instances)[0]


def pair_maps(
    labels: Path, instances: Path | None, *, training_ids: bool = False
) -> tuple[list[MapPair], Sequence[LeftOut]]:
    """Find label maps and the instance map that belongs to each.

    Files pair up by their path below the two folders, without ending and without what publishers
    append (``_gtFine_labelIds`` goes with ``_gtFine_instanceIds``).

    Args:
        labels: folder of label maps, searched to the bottom.
        instances: folder of instance maps, which may be the same, or None to pair none.
        training_ids: label maps hold training ids: of label ids and training ids side by side, the
            latter are taken.

    Returns:
        the pairs, ordered by key; and what is in none of them, and why.

    Raises:
        InputError: a folder does not exist, there are no maps, two maps would share one picture's
            name, or two instance maps fit one name.
    """
    found, left_out = pair_folders(
        str(labels), None if instances is None else str(instances), training_ids=training_ids
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
