"""Styles of the instances of a map: the rows of the style table, by seed, by cluster, or from a
style file that `sceneloom encode-style` made of a photograph.

    clusters = clusters_by_seed(synthesizer.contract, label_map, instance_map, seed=7)
    style = styles_by_cluster(synthesizer.contract, label_map, instance_map, {**clusters, 26001: 3})
    image = synthesizer.synthesize(label_map, instance_map, style)

Clusters and defaults travel in the contract (pix2pixHD, section 3.4); docs/styles.md is the guide,
and docs/formats.md specifies the style file. Every table is float32 [K, F], row k for the k-th
smallest of the K instance ids, from a label map, uint8 [H, W] channels, and an instance map, whole
numbers [H, W].
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import reprlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, Protocol

import numpy as np
import numpy.typing as npt
from annotated_types import Interval

from sceneloom.contract import Contract, StyleVector, is_style
from sceneloom.errors import InputError, MissingInputError, SchemaError
from sceneloom.files import write_whole
from sceneloom.maps import Array, Style, check_instance_map, check_label_map, instance_channels
from sceneloom.schema import FileKey
from sceneloom.text import parse_json
from sceneloom.validation import check_kind, checked, read_json
from sceneloom.version import __version__

FORMAT = 1
_NEAREST = 3
_MAX_INSTANCE = 2**31 - 1
StyleOf = Literal["things", "all"]
"""Instances that a seed draws styles for: those of countable classes, or all."""
_Choose = Callable[[int, int | None], tuple[float, ...] | None]
"""Instance id and label id (None for unlabelled without a channel) -> style, or None for the
default.
"""
_ClusterOf = Callable[[int, int | None], int | None]
"""The same -> index of a cluster of the class, or None for the default."""


class ChooseStyle(Protocol):
    """The choice of a style for each map."""

    def __call__(
        self, key: str, labels: Array, instances: Array | None, look: int = 0
    ) -> Style | None:
        """Key, label map, instance map and look -> style table, or None for the defaults."""


def default_styles(contract: Contract, label_map: Array, instance_map: Array) -> Style:
    """Give every instance its class's default, zeros without one; the values of the maps are not
    checked. Raises InputError if the model takes no style, or the arguments come in another order.
    """
    check_takes_style(contract)
    if label_map.dtype != np.uint8:
        raise InputError(f"a label map is uint8, not {label_map.dtype}; is it the instance map?")
    return _table(contract, *_instances(contract, label_map, instance_map), _default)


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
    choose = _centres(contract, _drawn(contract, seed, key, of))
    return _checked_table(contract, label_map, instance_map, choose)


def clusters_by_seed(
    contract: Contract,
    label_map: Array,
    instance_map: Array,
    seed: int,
    *,
    key: str = "",
    of: StyleOf = "things",
) -> dict[int, int]:
    """The draw of `styles_by_seed` as instance id -> index of a cluster, for `styles_by_cluster`.

    Instances that keep their class's default are left out. Raises as `styles_by_seed`.
    """
    cluster_of = _drawn(contract, seed, key, of)
    ids, labels = _checked_instances(contract, label_map, instance_map)
    drawn = {
        instance: cluster_of(instance, label) for instance, label in zip(ids, labels, strict=True)
    }
    return {one: index for one, index in drawn.items() if index is not None}


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
    missing = set(clusters)

    def cluster_of(instance: int, label: int | None) -> int | None:
        missing.discard(instance)
        return clusters.get(instance)

    choose = _centres(contract, cluster_of)
    table = _checked_table(contract, label_map, instance_map, choose)
    if missing:
        raise InputError(f"the map has no instances {reprlib.repr(sorted(missing))}")
    return table


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapInstance:
    """An instance of a map."""

    id: int
    label_id: int | None
    """Its class; None for unlabelled pixels without a channel."""
    name: str
    """Its class's name; empty without one."""
    pixels: int
    top: int
    left: int
    height: int
    """Height and width of the bounding box in pixels."""
    width: int


def list_instances(contract: Contract, label_map: Array, instance_map: Array) -> list[MapInstance]:
    """The instances of a map, in ascending order of their ids, as the rows of a style table.

    Raises InputError if the model takes no style, or a map does not fit the contract.
    """
    check_takes_style(contract)
    ids, labels = _checked_instances(contract, label_map, instance_map)
    assert contract.schema is not None  # a model of pictures takes no style
    names = {label.id: label.name for label in contract.schema.labels}
    number = np.unique(instance_map, return_inverse=True)[1].reshape(-1)
    order = np.argsort(number, kind="stable")  # the pixels of each instance, one after the other
    starts = np.searchsorted(number[order], np.arange(len(ids)))
    rows, columns = np.divmod(order, instance_map.shape[1])
    top, left = np.minimum.reduceat(rows, starts), np.minimum.reduceat(columns, starts)
    bottom, right = np.maximum.reduceat(rows, starts), np.maximum.reduceat(columns, starts)
    pixels = np.diff(starts, append=len(order))
    return [
        MapInstance(
            id=instance,
            label_id=label,
            name="" if label is None else names[label],
            pixels=int(pixels[row]),
            top=int(top[row]),
            left=int(left[row]),
            height=int(bottom[row] - top[row]) + 1,
            width=int(right[row] - left[row]) + 1,
        )
        for row, (instance, label) in enumerate(zip(ids, labels, strict=True))
    ]


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


def _drawn(contract: Contract, seed: int, key: str, of: StyleOf) -> _ClusterOf:
    """The draw of a seed; raises InputError if the model has no clusters."""
    check_has_clusters(contract)
    check_kind(seed, int, "the seed, a whole number,")

    def cluster_of(instance: int, label: int | None) -> int | None:
        if not (count := _drawn_from(contract, of, instance, label)):
            return None
        # A hash, not a generator of numpy's: those may draw differently in another version.
        text = f"{seed}/{instance}/{key}".encode("utf-8", "surrogateescape")
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") % count

    return cluster_of


def _drawn_from(contract: Contract, of: StyleOf, instance: int, label: int | None) -> int:
    """Number of clusters that a seed draws from for an instance; 0 for the default."""
    assert contract.schema is not None  # a model of pictures takes no style
    divisor = contract.schema.instance_divisor
    if label is None or (of == "things" and divisor is not None and instance < divisor):
        return 0
    return len(contract.style_clusters.get(label, ()))


def _centres(contract: Contract, cluster_of: _ClusterOf) -> _Choose:
    """The centres of chosen clusters; raises InputError where a class does not have the cluster."""

    def choose(instance: int, label: int | None) -> tuple[float, ...] | None:
        index = cluster_of(instance, label)
        if index is None:
            return None
        centres = () if label is None else contract.style_clusters.get(label, ())
        if not 0 <= index < len(centres):
            assert contract.schema is not None  # a model of pictures takes no style
            names = {one.id: one.name for one in contract.schema.labels}
            name = "it has no class, and so" if label is None else f"its class, {names[label]}, has"
            valid = f"clusters 0 to {len(centres) - 1}" if centres else "no clusters"
            raise InputError(f"instance {instance}: no cluster {index}; {name} {valid}")
        return centres[index]

    return choose


def _default(instance: int, label: int | None) -> None:
    return None


def _instances(
    contract: Contract, label_map: Array, instance_map: Array
) -> tuple[list[int], list[int | None]]:
    """Instance ids in ascending order, and the label id of each."""
    ids, channels = instance_channels(label_map, instance_map)
    assert contract.schema is not None  # a model of pictures takes no style
    known = contract.schema.labels[: contract.schema.channels]
    return ids, [known[channel].id if channel < len(known) else None for channel in channels]


def _checked_instances(
    contract: Contract, label_map: Array, instance_map: Array
) -> tuple[list[int], list[int | None]]:
    check_label_map(contract, label_map)
    checked = check_instance_map(contract, label_map, instance_map)
    assert checked is not None
    return _instances(contract, label_map, checked)


def _checked_table(
    contract: Contract, label_map: Array, instance_map: Array, choose: _Choose
) -> Style:
    check_takes_style(contract)
    return _table(contract, *_checked_instances(contract, label_map, instance_map), choose)


def _table(contract: Contract, ids: list[int], labels: list[int | None], choose: _Choose) -> Style:
    table = np.zeros((len(ids), contract.style_channels), np.float32)
    for row, (instance, label) in enumerate(zip(ids, labels, strict=True)):
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
    looks: Annotated[int, Interval(ge=1, le=1000)] = 1
    """Pictures of each map, named KEY_look0, KEY_look1 ...: look K has the seed style_seed + K;
    style_seed is 0 then by default.
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
    style_clusters: dict[int, int] = dataclasses.field(default_factory=dict)
    """Give instances a cluster of their class, whatever the seed draws: instance id, cluster,
    instance id, cluster ... (sceneloom styles show lists both).
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
        if self.looks > 1 and self.style_file is not None:
            raise InputError(
                f"looks is {self.looks} with a style_file, which gives every look the same style; "
                "choose one"
            )
        if self.looks > 1 and self.style_seed is None:
            object.__setattr__(self, "style_seed", 0)
        if self.style_file is not None and (self.style_seed is not None or self.style_clusters):
            raise InputError("style_file excludes style_seed and style_clusters; choose one")
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
    path = choice.style_file
    if choice.style_seed is not None or choice.style_clusters:
        return DrawnStyles(contract, choice)
    if path is None:
        return lambda key, labels, instances, look=0: None
    check_takes_style(contract)
    if not path.is_dir():
        return OneStyleFile(contract, path)

    def choose(key: str, labels: Array, instances: Array | None, look: int = 0) -> Style:
        file = path / f"{key}.json"
        if not file.is_file():
            raise MissingInputError(f"{file}: no such style file; every map needs its own")
        one = OneStyleFile(contract, file)
        one.found_in(_given(instances))
        one.check_used(f"{key} has no instances")
        return one(key, labels, instances)

    return choose


class NamedInstances:
    """A choice of styles for named instances, which remembers those that were in no map."""

    def __init__(self, instances: Iterable[int], source: str) -> None:
        """Take the instances, and the name of their source for errors."""
        self.missing = set(instances)
        """The instances that were in no map so far."""
        self._source, self._first = source, min(self.missing, default=0)
        self._nearest: list[int] = []

    def found_in(self, instance_map: Array) -> None:
        """Note the instances of a map."""
        if self.missing:
            ids = np.unique(instance_map).tolist()
            self.missing.difference_update(ids)
            known = {*self._nearest, *ids}
            self._nearest = sorted(known, key=lambda one: abs(one - self._first))[:_NEAREST]

    def check_used(self, fault: str = "no map has the instances") -> None:
        """Raise InputError with the fault and the instances that were in no map."""
        if named := sorted(self.missing):
            listed = ", ".join(map(str, named[:6])) + (", ..." if len(named) > 6 else "")
            near = f"; the nearest to {self._first} are {', '.join(map(str, self._nearest))}"
            raise InputError(
                f"{self._source}: {fault} {listed}{near if self._nearest else ''}. `sceneloom "
                "styles show MODEL --map FILE` lists the instances of a map"
            )


class DrawnStyles(NamedInstances):
    """Draws styles by seed, and gives named instances their cluster."""

    def __init__(self, contract: Contract, choice: StyleChoice) -> None:
        """Take the choice; raises InputError if the model has no clusters."""
        super().__init__(choice.style_clusters, "style_clusters")
        self._contract, self._choice = contract, choice
        try:
            check_has_clusters(contract)
        except InputError as error:
            if choice.looks > 1:
                raise InputError(f"all {choice.looks} looks would be equal: {error}") from None
            raise

    def __call__(self, key: str, labels: Array, instances: Array | None, look: int = 0) -> Style:
        """Styles of one map; see `ChooseStyle`. Safe to call from several threads."""
        contract, choice = self._contract, self._choice
        drawn: _ClusterOf = _default
        if choice.style_seed is not None:
            key = key if choice.style_per == "map" else ""
            drawn = _drawn(contract, choice.style_seed + look, key, choice.style_of)

        def cluster_of(instance: int, label: int | None) -> int | None:
            return choice.style_clusters.get(instance, drawn(instance, label))

        return _checked_table(contract, labels, _given(instances), _centres(contract, cluster_of))

    def draws_for(self, labels: Array, instances: Array) -> bool:
        """Whether the look of an instance of a map depends on the seed."""
        found = _checked_instances(self._contract, labels, instances)
        return any(
            instance not in self._choice.style_clusters
            and _drawn_from(self._contract, self._choice.style_of, instance, label) > 1
            for instance, label in zip(*found, strict=True)
        )

    def nothing_drawn(self) -> InputError:
        """The error of a run in whose maps `draws_for` finds no instance."""
        choice, schema = self._choice, self._contract.schema
        assert schema is not None  # a model of pictures takes no style
        text = (
            f"all {choice.looks} looks would be equal"
            if choice.looks > 1
            else "the seed changes nothing"
        )
        text += ": no map has an instance to draw a style for"
        if choice.style_of == "things" and schema.instance_divisor is not None:
            text += (
                f". Drawn are things, instances with ids of at least {schema.instance_divisor}; "
                "with --boundaries labels the ids are the labels'. Draw for all instances with "
                "--style-of all, give instance maps, or for CARLA's instance camera --boundaries "
                "colours"
            )
        return InputError(text)


class OneStyleFile(NamedInstances):
    """Gives maps the style of one file."""

    def __init__(self, contract: Contract, path: Path) -> None:
        """Read the file; raises InputError if it is missing, SchemaError if it is wrong."""
        self._contract = contract
        self._styles = read_styles(path, contract)
        # With styles of classes, too, as of a reference photograph, it is meant for other maps.
        super().__init__(() if self._styles.labels else self._styles.instances, str(path))

    def __call__(self, key: str, labels: Array, instances: Array | None, look: int = 0) -> Style:
        """Styles of one map; see `ChooseStyle`. Safe to call from several threads."""
        return styles_from_file(self._contract, labels, _given(instances), self._styles)


def _given(instance_map: Array | None) -> Array:
    assert instance_map is not None  # a styled model's maps are read with their instances
    return instance_map
