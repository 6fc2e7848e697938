"""Styles of the instances of a map: the rows of the style table, by seed, by cluster, or from a
style file that `sceneloom encode-style` made of a photograph.

    style = styles_by_seed(synthesizer.contract, label_map, instance_map, seed=7)
    image = synthesizer.synthesize(label_map, instance_map, style)

Clusters and defaults travel in the contract (pix2pixHD, section 3.4); docs/formats.md specifies the
style file. Every table is float32 [K, F], row k for the k-th smallest of the K instance ids, from a
label map, uint8 [H, W] channels, and an instance map, whole numbers [H, W].
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from sceneloom.contract import Contract, StyleVector, is_style
from sceneloom.errors import InputError, MissingInputError, SchemaError
from sceneloom.files import write_whole
from sceneloom.maps import Array, Style, check_instance_map, check_label_map, instance_channels
from sceneloom.schema import FileKey
from sceneloom.text import parse_json
from sceneloom.validation import check_kind, checked, read_json
from sceneloom.version import __version__

FORMAT = 1
_MAX_INSTANCE = 2**31 - 1
StyleOf = Literal["things", "all"]
"""Instances that a seed draws styles for: those of countable classes, or all."""
_Choose = Callable[[int, int | None], tuple[float, ...] | None]
"""Instance id and label id (None for unlabelled without a channel) -> style, or None for the
default.
"""
ChooseStyle = Callable[[str, Array, Array | None], Style | None]
"""Key, label map and instance map of a picture -> style table, or None for the defaults."""


def default_styles(contract: Contract, label_map: Array, instance_map: Array) -> Style:
    """Give every instance its class's default, zeros without one; the values of the maps are not
    checked. Raises InputError if the model takes no style, or the arguments come in another order.
    """
    check_takes_style(contract)
    if label_map.dtype != np.uint8:
        raise InputError(f"a label map is uint8, not {label_map.dtype}; is it the instance map?")
    return _table(contract, label_map, instance_map, lambda instance, label: None)


def styles_by_seed(
    contract: Contract,
    label_map: Array,
    instance_map: Array,
    seed: int,
    *,
    key: str = "",
    of: StyleOf = "things",
) -> Style:
    """Draw one of its class's clusters for each instance, all with the same chance.

    The draw depends on seed, key (such as the map's name) and instance id alone: an instance keeps
    its look when others come or go, on every machine. A class without clusters takes its default.

    Things are the instances of countable classes, with ids of at least the schema's
    `instance_divisor` (without one, all instances). The rest, such as road and sky, has its class's
    default unless `of` is ``all``; things are drawn alike.

    Raises InputError if the model takes no style or has no clusters, or a map does not fit.
    """
    check_has_clusters(contract)
    check_kind(seed, int, "the seed, a whole number,")
    assert contract.schema is not None  # a model of pictures takes no style
    divisor = contract.schema.instance_divisor
    least = 0 if of == "all" or divisor is None else divisor

    def choose(instance: int, label: int | None) -> tuple[float, ...] | None:
        centres = () if label is None else contract.style_clusters.get(label, ())
        if instance < least or not centres:
            return None
        # A hash, not a generator of numpy's: those may draw differently in another version.
        text = f"{seed}/{instance}/{key}".encode("utf-8", "surrogateescape")
        return centres[int.from_bytes(hashlib.sha256(text).digest()[:8], "big") % len(centres)]

    return _checked_table(contract, label_map, instance_map, choose)


def styles_by_cluster(
    contract: Contract, label_map: Array, instance_map: Array, clusters: Mapping[int, int]
) -> Style:
    """Give each named instance a cluster of its class, and all others their default.

    `clusters` maps instance ids to indices into the `style_clusters` of their class. Raises
    InputError if the model takes no style or has no clusters, a map does not fit the contract, an
    instance is not in the map, or its class does not have the cluster.
    """
    check_has_clusters(contract)
    check_kind(clusters, Mapping, "instance id -> cluster")
    missing = dict(clusters)

    def choose(instance: int, label: int | None) -> tuple[float, ...] | None:
        if instance not in clusters:
            return None
        index = missing.pop(instance)
        centres = () if label is None else contract.style_clusters.get(label, ())
        if not 0 <= index < len(centres):
            valid = f"clusters 0 to {len(centres) - 1}" if centres else "no clusters"
            raise InputError(f"instance {instance}: no cluster {index}; its class has {valid}")
        return centres[index]

    table = _checked_table(contract, label_map, instance_map, choose)
    if missing:
        raise InputError(f"the map has no instances {reprlib.repr(sorted(missing))}")
    return table


@checked(SchemaError)
@dataclasses.dataclass(frozen=True, kw_only=True)
class StyleFile:
    """Styles of one photograph, for other maps."""

    instances: dict[FileKey, StyleVector] = dataclasses.field(default_factory=dict)
    """Instance id -> its style."""
    labels: dict[FileKey, StyleVector] = dataclasses.field(default_factory=dict)
    """Label id -> style of its instances without one in `instances`."""


def styles_from_file(
    contract: Contract, label_map: Array, instance_map: Array, styles: StyleFile
) -> Style:
    """Give every instance the file's style for its id, else for its class, else the default; raises
    InputError if the model takes no style, or a map does not fit the contract.
    """
    check_kind(styles, StyleFile, "a StyleFile")

    def choose(instance: int, label: int | None) -> tuple[float, ...] | None:
        of_class = None if label is None else styles.labels.get(label)
        return styles.instances.get(instance, of_class)

    return _checked_table(contract, label_map, instance_map, choose)


def read_styles(path: Path, contract: Contract) -> StyleFile:
    """Read a style file and check it against the contract.

    Raises InputError if the file cannot be read or the model takes no style, SchemaError if the
    file is no style file or does not fit the model.
    """
    check_takes_style(contract)
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise SchemaError(f"{path}: not a style file (not text in UTF-8)") from None
    data = parse_json(text, source=str(path), error=SchemaError)
    if not isinstance(data, dict) or type(data.get("format")) is not int:
        raise SchemaError(f"{path}: not a style file (no format number)")
    if data["format"] != FORMAT:
        raise SchemaError(
            f"{path}: style file of format {data['format']}; this version of sceneloom reads "
            f"format {FORMAT}"
        )
    if extra := sorted(set(data) - {"format", "sceneloom", "instances", "labels"}):
        raise SchemaError(f"{path}: unknown keys {extra}")
    if not {"instances", "labels"} & set(data):
        raise SchemaError(f"{path}: has neither instances nor labels")
    given = {key: value for key, value in data.items() if key in ("instances", "labels")}
    styles = read_json(StyleFile, given, source=str(path), error=SchemaError)
    try:
        for label_id, vector in styles.labels.items():
            contract.check_style(label_id, vector, "style")
    except SchemaError as error:
        raise SchemaError(f"{path}: {error}") from None
    for instance, vector in styles.instances.items():
        if instance > _MAX_INSTANCE:
            raise SchemaError(f"{path}: instance {instance} is above {_MAX_INSTANCE}")
        if not is_style(vector, contract.style_channels):
            raise SchemaError(
                f"{path}: the style of instance {instance} is {reprlib.repr(list(vector))}; it is "
                f"{contract.style_channels} finite numbers"
            )
    return styles


def write_styles(path: Path, styles: StyleFile) -> None:
    """Write a style file whole; equal styles give equal bytes.

    Raises InputError if `path` does not end in .json (it may be the photograph itself), OSError if
    the place cannot be written.
    """
    check_kind(styles, StyleFile, "a StyleFile")
    if path.suffix != ".json":
        raise InputError(f"{path}: a style file ends in .json")
    data = {
        "format": FORMAT,
        "sceneloom": __version__,
        "instances": {str(k): list(v) for k, v in sorted(styles.instances.items())},
        "labels": {str(k): list(v) for k, v in sorted(styles.labels.items())},
    }
    write_whole(path, (json.dumps(data, indent=1) + "\n").encode())


def round_style(vector: npt.ArrayLike) -> tuple[float, ...]:
    """Round a style, float [F], to the six significant digits that a picture can show."""
    return tuple(float(f"{x:.6g}") for x in np.asarray(vector, np.float64).tolist())


def check_takes_style(contract: Contract) -> None:
    """Raise InputError if the model takes no style, or the argument is no contract."""
    check_kind(contract, Contract, "the model's contract")
    if not contract.style_channels:
        raise InputError("this model takes no style: it was trained without an encoder")


def check_has_clusters(contract: Contract) -> None:
    """Raise InputError if the model takes no style or has no clusters."""
    check_takes_style(contract)
    if not contract.style_clusters:
        raise InputError(
            "this model has no style clusters: run `sceneloom styles` on its "
            "checkpoint and export it again"
        )


def _checked_table(
    contract: Contract, label_map: Array, instance_map: Array, choose: _Choose
) -> Style:
    check_takes_style(contract)
    check_label_map(contract, label_map)
    checked = check_instance_map(contract, label_map, instance_map)
    assert checked is not None
    return _table(contract, label_map, checked, choose)


def _table(contract: Contract, label_map: Array, instance_map: Array, choose: _Choose) -> Style:
    ids, channels = instance_channels(label_map, instance_map)
    table, schema = np.zeros((len(ids), contract.style_channels), np.float32), contract.schema
    assert schema is not None  # a model of pictures takes no style
    for row, (instance, channel) in enumerate(zip(ids, channels, strict=True)):
        label = schema.labels[channel].id if channel < schema.channels else None
        style = choose(instance, label)
        if style is None and label is not None:
            style = contract.style_defaults.get(label)
        if style is not None:
            table[row] = style
    return table


@dataclasses.dataclass(frozen=True, kw_only=True)
class StyleChoice:
    """Styles of the pictures of a model with an encoder."""

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

    The function that it returns raises InputError where a map has no file of its own in the folder,
    or lacks instances of its file, and SchemaError where that file is wrong. So does this one, for
    the file of all maps, for a model without style, and for a seed without clusters.
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

    def choose(key: str, labels: Array, instances: Array | None) -> Style:
        file = path / f"{key}.json"
        if not file.is_file():
            raise MissingInputError(f"{file}: no such style file; every map needs its own")
        one = OneStyleFile(contract, file)
        table = one(key, labels, instances)
        one.check_used(f"{key} has no instances")
        return table

    return choose


class OneStyleFile:
    """Gives maps the style of one file, and remembers its instances that were in no map."""

    def __init__(self, contract: Contract, path: Path) -> None:
        """Read the file; raises InputError if it is missing, SchemaError if it is wrong."""
        self._contract, self._path = contract, path
        self._styles = read_styles(path, contract)
        # With styles of classes, too, as of a reference photograph, it is meant for other maps.
        self._missing = set() if self._styles.labels else set(self._styles.instances)

    def __call__(self, key: str, labels: Array, instances: Array | None) -> Style:
        """Styles of one map; see `ChooseStyle`. Safe to call from several threads."""
        table = styles_from_file(self._contract, labels, _given(instances), self._styles)
        if self._missing:
            self._missing.difference_update(np.unique(_given(instances)).tolist())
        return table

    def check_used(self, fault: str = "no map has the instances") -> None:
        """Raise InputError with the fault and the instances of the file that were in no map."""
        if named := sorted(self._missing):
            listed = ", ".join(map(str, named[:6])) + (", ..." if len(named) > 6 else "")
            raise InputError(f"{self._path}: {fault} {listed}")


def _given(instance_map: Array | None) -> Array:
    assert instance_map is not None  # a styled model's maps are read with their instances
    return instance_map
