"""What the instances of a map look like: the rows of the style table, chosen by seed, by cluster,
or from a style file that `sceneloom encode-style` made of a photograph.

    style = styles_by_seed(synthesizer.contract, label_map, instance_map, seed=7)
    image = synthesizer.synthesize(label_map, instance_map, style)

Clusters and defaults travel in the contract (pix2pixHD, section 3.4); docs/formats.md specifies the
style file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sceneloom.contract import Contract, is_style, json_vector
from sceneloom.errors import InputError, SceneLoomError, SchemaError
from sceneloom.inputs import check_contract, check_instance_map, check_label_map
from sceneloom.instances import instance_channels
from sceneloom.schema import json_key, parse_json
from sceneloom.version import __version__

FORMAT = 1
_MAX_INSTANCE = 2**31 - 1
StyleOf = Literal["things", "all"]
"""What a seed draws styles for: instances of countable classes, or every instance."""
_Choose = Callable[[int, int | None], tuple[float, ...] | None]
"""Instance id and label id (None where unlabelled has no channel) -> style, or None for the
default.
"""


def default_styles(
    contract: Contract, label_map: npt.NDArray[Any], instance_map: npt.NDArray[Any]
) -> npt.NDArray[np.float32]:
    """Give every instance its class's default; zeros where the contract has none.

    Args:
        contract: of a styled model.
        label_map: uint8 [H, W], channels; its values are not checked here.
        instance_map: int32 [H, W]; its values are not checked here.

    Returns:
        float32 [K, F], row k for the k-th smallest instance id.

    Raises:
        InputError: the model takes no style, or the arguments come in another order.
    """
    check_takes_style(contract)
    if label_map.dtype != np.uint8:
        raise InputError(f"a label map is uint8, not {label_map.dtype}; is it the instance map?")
    return _table(contract, label_map, instance_map, lambda instance, label: None)


def styles_by_seed(
    contract: Contract,
    label_map: npt.NDArray[Any],
    instance_map: npt.NDArray[Any],
    seed: int,
    *,
    key: str = "",
    of: StyleOf = "things",
) -> npt.NDArray[np.float32]:
    """Draw one of its class's clusters for each instance, all with the same chance.

    The draw depends on seed, key and instance id alone: an instance keeps its look when others come
    or go, on every machine. A class without clusters takes its default.

    Things are the instances of countable classes: those whose id is the schema's `instance_divisor`
    or above. The rest is stuff, such as road and sky. A schema without a divisor does not tell them
    apart: every instance is drawn for.

    Args:
        contract: of a styled model with clusters.
        label_map: uint8 [H, W], channels.
        instance_map: whole numbers [H, W].
        seed: any whole number.
        key: a further part of the seed, such as the map's name.
        of: things, where stuff has its class's default; or all. Things are drawn alike for both.

    Returns:
        float32 [K, F], row k for the k-th smallest instance id.

    Raises:
        InputError: the model takes no style or has no clusters, or a map does not fit the contract.
    """
    check_has_clusters(contract)
    if not isinstance(seed, int):
        raise InputError(
            f"a value of {type(seed).__name__} where the seed, a whole number, belongs"
        )
    divisor = contract.schema.instance_divisor
    least = 0 if of == "all" or divisor is None else divisor

    def choose(instance: int, label: int | None) -> tuple[float, ...] | None:
        if instance < least:
            return None
        centres = () if label is None else contract.style_clusters.get(label, ())
        return centres[_draw(f"{seed}/{instance}/{key}", len(centres))] if centres else None

    return _checked_table(contract, label_map, instance_map, choose)


def _draw(text: str, count: int) -> int:
    # A hash, not a generator of numpy's: those may draw differently in another version.
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % count


def styles_by_cluster(
    contract: Contract,
    label_map: npt.NDArray[Any],
    instance_map: npt.NDArray[Any],
    clusters: Mapping[int, int],
) -> npt.NDArray[np.float32]:
    """Give the instances that are named the cluster that is named, and all others their default.

    Args:
        contract: of a styled model with clusters.
        label_map: uint8 [H, W], channels.
        instance_map: whole numbers [H, W].
        clusters: instance id -> index into its class's `style_clusters`.

    Returns:
        float32 [K, F], row k for the k-th smallest instance id.

    Raises:
        InputError: the model takes no style or has no clusters, a map does not fit the contract, an
            instance is not in the map, or its class does not have the cluster.
    """
    check_has_clusters(contract)
    if not isinstance(clusters, Mapping):
        raise InputError(
            f"a value of {type(clusters).__name__} where instance id -> cluster belongs"
        )
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class StyleFile:
    """Styles of one photograph, for maps that are to look like it."""

    instances: dict[int, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    """Instance id -> its style."""
    labels: dict[int, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    """Label id -> the style of the instances that are not in `instances`."""


def styles_from_file(
    contract: Contract,
    label_map: npt.NDArray[Any],
    instance_map: npt.NDArray[Any],
    styles: StyleFile,
) -> npt.NDArray[np.float32]:
    """Give every instance the style the file has for its id, else for its class, else the default.

    Args:
        contract: of the styled model that the file was read for.
        label_map: uint8 [H, W], channels.
        instance_map: whole numbers [H, W].
        styles: as `read_styles` gives it.

    Returns:
        float32 [K, F], row k for the k-th smallest instance id.

    Raises:
        InputError: the model takes no style, or a map does not fit the contract.
    """
    if not isinstance(styles, StyleFile):
        raise InputError(f"a value of {type(styles).__name__} where a StyleFile belongs")

    def choose(instance: int, label: int | None) -> tuple[float, ...] | None:
        of_class = None if label is None else styles.labels.get(label)
        return styles.instances.get(instance, of_class)

    return _checked_table(contract, label_map, instance_map, choose)


def read_styles(path: Path, contract: Contract) -> StyleFile:
    """Read a style file and check it against the contract.

    Raises:
        InputError: the file cannot be read, or the model takes no style.
        SchemaError: it is no style file, or its styles are not this model's.
    """
    check_takes_style(contract)
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise SchemaError(f"{path}: not a style file (not text in UTF-8)") from None
    data = parse_json(text, str(path))
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
    try:
        return _checked_file(data, contract)
    except SceneLoomError as error:
        raise SchemaError(f"{path}: {error}") from None
    except (AttributeError, TypeError, OverflowError) as error:
        raise SchemaError(f"{path}: not a style file ({error})") from None


def _checked_file(data: dict[str, Any], contract: Contract) -> StyleFile:
    styles = StyleFile(
        instances={json_key(k): json_vector(v) for k, v in data.get("instances", {}).items()},
        labels={json_key(k): json_vector(v) for k, v in data.get("labels", {}).items()},
    )
    for label_id, vector in styles.labels.items():
        contract.check_style(label_id, vector, "style")
    for instance, vector in styles.instances.items():
        if instance > _MAX_INSTANCE:
            raise SchemaError(f"instance {instance} is above {_MAX_INSTANCE}")
        if not is_style(vector, contract.style_channels):
            raise SchemaError(
                f"the style of instance {instance} is {reprlib.repr(list(vector))}; it is "
                f"{contract.style_channels} finite numbers"
            )
    return styles


def write_styles(path: Path, styles: StyleFile) -> None:
    """Write a style file, in one step; equal styles give equal bytes.

    Raises:
        InputError: `path` does not end in .json; it may be the photograph itself.
        OSError: the place cannot be written.
    """
    if not isinstance(styles, StyleFile):
        raise InputError(f"a value of {type(styles).__name__} where a StyleFile belongs")
    if path.suffix != ".json":
        raise InputError(f"{path}: a style file ends in .json")
    data = {
        "format": FORMAT,
        "sceneloom": __version__,
        "instances": {str(k): list(v) for k, v in sorted(styles.instances.items())},
        "labels": {str(k): list(v) for k, v in sorted(styles.labels.items())},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(data, indent=1) + "\n", "utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def round_style(vector: npt.ArrayLike) -> tuple[float, ...]:
    """A style of six significant digits: as many as a picture can show, in few characters.

    Args:
        vector: float [F].
    """
    return tuple(float(f"{x:.6g}") for x in np.asarray(vector, np.float64).tolist())


def check_takes_style(contract: Contract) -> None:
    """Raise InputError if the model takes no style, or the argument is no contract."""
    check_contract(contract)
    if not contract.style_channels:
        raise InputError("this model takes no style: it was trained without an encoder")


def check_has_clusters(contract: Contract) -> None:
    """Raise InputError if the model takes no style, or has no clusters to choose from."""
    check_takes_style(contract)
    if not contract.style_clusters:
        raise InputError(
            "this model has no style clusters to choose from: run `sceneloom styles` on its "
            "checkpoint and export it again"
        )


def _checked_table(
    contract: Contract,
    label_map: npt.NDArray[Any],
    instance_map: npt.NDArray[Any],
    choose: _Choose,
) -> npt.NDArray[np.float32]:
    check_takes_style(contract)
    check_label_map(contract, label_map)
    checked = check_instance_map(contract, label_map, instance_map)
    assert checked is not None
    return _table(contract, label_map, checked, choose)


def _table(
    contract: Contract,
    label_map: npt.NDArray[Any],
    instance_map: npt.NDArray[Any],
    choose: _Choose,
) -> npt.NDArray[np.float32]:
    ids, channels = instance_channels(label_map, instance_map)
    table = np.zeros((len(ids), contract.style_channels), np.float32)
    for row, (instance, channel) in enumerate(zip(ids, channels, strict=True)):
        known = channel < contract.schema.channels
        label = contract.schema.labels[channel].id if known else None
        style = choose(instance, label)
        if style is None and label is not None:
            style = contract.style_defaults.get(label)
        if style is not None:
            table[row] = style
    return table
