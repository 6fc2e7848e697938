"""Which instance map belongs to which label map, by their names below their folders.

Names pair up without ending and without what publishers append (``_gtFine_labelIds`` goes with
``_gtFine_instanceIds``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

from sceneloom.errors import InputError
from sceneloom.maps import MAP_SUFFIXES

# What publishers append to the name that a label map and its instance map share.
_KIND = re.compile(
    r"[_-](labelIds|labelTrainIds|instanceIds|labels?|instances?|inst)$", re.IGNORECASE
)
_INSTANCE = re.compile(r"[_-](instanceIds|instances?|inst)$", re.IGNORECASE)


class NamePair(NamedTuple):
    """The names of one picture's maps, with slashes."""

    key: str
    """The label map's name without ending; names the picture."""
    label: str
    """Below the folder of label maps."""
    instance: str | None
    """Below the folder of instance maps; None where none was found."""


def is_map_name(name: str) -> bool:
    """Whether a file of this name is read as a map: by its ending, and not hidden."""
    path = PurePosixPath(name)
    return path.suffix.lower() in MAP_SUFFIXES and not path.name.startswith(".")


def pair_names(
    labels: Iterable[str],
    instances: Iterable[str] | None,
    *,
    together: bool,
    place_of_label: Callable[[str], str],
    place_of_instance: Callable[[str], str],
) -> list[NamePair]:
    """Pair the maps of two folders.

    Args:
        labels: names of the files in the folder of label maps. Instance maps that lie beside them
            are left out, and so is what is no map.
        instances: names of the files in the folder of instance maps, or None to pair none.
        together: the two are one folder.
        place_of_label: what to call a label map in errors.
        place_of_instance: what to call an instance map in errors.

    Returns:
        the pairs, ordered by key.

    Raises:
        InputError: two maps would share one picture's name, or two instance maps fit one name.
    """
    by_stem: dict[str, str] = {}
    for name in filter(is_map_name, instances or ()):
        if together and not _is_instance_map(name):
            continue
        stem = _KIND.sub("", _without_ending(name))
        if stem in by_stem:
            raise InputError(
                f"{place_of_instance(name)} and {place_of_instance(by_stem[stem])} could both be "
                f"the instance map of {stem}"
            )
        by_stem[stem] = name
    pairs: dict[str, NamePair] = {}
    for name in filter(is_map_name, labels):
        if _is_instance_map(name):
            continue
        key = _without_ending(name)
        if key in pairs:
            raise InputError(
                f"{place_of_label(name)} and {place_of_label(pairs[key].label)} would share one "
                "picture's name"
            )
        pairs[key] = NamePair(key, name, by_stem.get(_KIND.sub("", key)))
    return [pairs[key] for key in sorted(pairs)]


def _without_ending(name: str) -> str:
    return name[: len(name) - len(PurePosixPath(name).suffix)]


def _is_instance_map(name: str) -> bool:
    return _INSTANCE.search(_without_ending(name)) is not None
