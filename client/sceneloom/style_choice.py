"""Which style the maps of one run are rendered in: a seed, a style file, or the model's
defaults.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sceneloom.contract import Contract
from sceneloom.errors import InputError, MissingInputError
from sceneloom.style import (
    StyleFile,
    StyleOf,
    check_has_clusters,
    check_takes_style,
    read_styles,
    styles_by_seed,
    styles_from_file,
)

ChooseStyle = Callable[
    [str, npt.NDArray[Any], npt.NDArray[Any] | None], npt.NDArray[np.float32] | None
]
"""Key, label map [H, W] and instance map [H, W] of a picture -> float32 [K, F], or None for the
defaults.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StyleChoice:
    """The style of the pictures of a model that was trained with an encoder."""

    style_seed: int | None = None
    """Draw styles for instances from the clusters of their classes; equal seeds give equal
    pictures. Without seed and file, every class has its default.
    """
    style_of: StyleOf = "things"
    """With a seed: draw for things, the instances of countable classes (ids at or above the
    schema's instance_divisor; without one, every instance), and leave all else its class's default;
    or for all instances, which costs more of what recognition finds.
    """
    style_per: Literal["map", "dataset"] = "map"
    """With a seed: draw anew for each map, or once for the whole data set, where an instance id
    looks alike in every map, as the frames of a video want it.
    """
    style_file: Path | None = None
    """Styles of a photograph, as sceneloom encode-style writes them: a file for all maps, or a
    folder with one for each, named like the picture (KEY.json).
    """

    def __post_init__(self) -> None:
        """Check that the choices go together."""
        if self.style_of not in ("things", "all"):
            raise InputError(f"style_of is {self.style_of!r}; it is things or all")
        if self.style_per not in ("map", "dataset"):
            raise InputError(f"style_per is {self.style_per!r}; it is map or dataset")
        if self.style_seed is not None and self.style_file is not None:
            raise InputError("style_seed and style_file exclude each other; choose one")
        if self.style_of == "all" and self.style_seed is None:
            raise InputError("style_of is all without a style_seed to draw from")
        if self.style_per == "dataset" and self.style_seed is None:
            raise InputError("style_per is dataset without a style_seed to draw from")


def style_chooser(contract: Contract, choice: StyleChoice) -> ChooseStyle:
    """Prepare the choice for a model; a style file for all maps is read here.

    Args:
        contract: of the model.
        choice: seed, file, or neither.

    Returns:
        the function that gives the style of one map. It raises InputError where a map has no file
        of its own in the folder, or not the instances that its file is about, and SchemaError where
        that file is wrong.

    Raises:
        InputError: the model takes no style, has no clusters for a seed, or the file is not there.
        SchemaError: the style file is wrong.
    """
    seed, path = choice.style_seed, choice.style_file
    if seed is not None:
        check_has_clusters(contract)
        per_map, of = choice.style_per == "map", choice.style_of
        return lambda key, labels, instances: styles_by_seed(
            contract, labels, _given(instances), seed, key=key if per_map else "", of=of
        )
    if path is None:
        return lambda key, labels, instances: None
    check_takes_style(contract)
    if not path.is_dir():
        return OneStyleFile(contract, path)

    def choose(
        key: str, labels: npt.NDArray[Any], instances: npt.NDArray[Any] | None
    ) -> npt.NDArray[np.float32]:
        file = _file_of(path, key)
        styles = read_styles(file, contract)
        table = styles_from_file(contract, labels, _given(instances), styles)
        if missing := named_instances(styles).difference(np.unique(_given(instances)).tolist()):
            raise InputError(f"{file}: {key} has no instances {_listed(missing)}")
        return table

    return choose


class OneStyleFile:
    """Gives every map of a run the style of one file, and remembers which of the instances that it
    names no map has had.
    """

    def __init__(self, contract: Contract, path: Path) -> None:
        """Read the file.

        Raises:
            InputError: it is not there.
            SchemaError: it is wrong.
        """
        self._contract, self._path = contract, path
        self._styles = read_styles(path, contract)
        self._missing = named_instances(self._styles)

    def __call__(
        self, key: str, labels: npt.NDArray[Any], instances: npt.NDArray[Any] | None
    ) -> npt.NDArray[np.float32]:
        """The style of one map; see `ChooseStyle`. Safe to call from several threads."""
        table = styles_from_file(self._contract, labels, _given(instances), self._styles)
        if self._missing:
            self._missing.difference_update(np.unique(_given(instances)).tolist())
        return table

    def check_used(self) -> None:
        """Check, after all maps, that each of its instances was in one.

        Raises:
            InputError: some are in no map.
        """
        if self._missing:
            raise InputError(f"{self._path}: no map has the instances {_listed(self._missing)}")


def named_instances(styles: StyleFile) -> set[int]:
    """The instances that a style file is about: all that it names, or none where it has styles of
    classes too, as a reference photograph's, which is meant for other maps.
    """
    return set() if styles.labels else set(styles.instances)


def _listed(instances: set[int]) -> str:
    named = sorted(instances)
    return ", ".join(map(str, named[:6])) + (", ..." if len(named) > 6 else "")


def _file_of(folder: Path, key: str) -> Path:
    path = folder / f"{key}.json"
    if not path.is_file():
        raise MissingInputError(f"{path}: no such style file, and every map wants its own")
    return path


def _given(instance_map: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    assert instance_map is not None  # a styled model's maps are read with their instances
    return instance_map
