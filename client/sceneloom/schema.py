"""Label schemas: which ids a label map holds, what they mean, and which channel of the network each
one is.

A schema is data, not code: the built-in ones are the JSON files in `schemas/`, and a user's own
file has the same form::

    {
      "name": "cells",
      "labels": [
        {"id": 0, "name": "background", "colour": [0, 0, 0]},
        {"id": 7, "name": "nucleus", "colour": [80, 60, 200]}
      ],
      "unlabelled": 0,
      "aliases": {"255": 0},
      "instance_divisor": 1000
    }

The position in `labels` is the channel; `id` is the value in the files. `unlabelled`, `aliases` and
`instance_divisor` may be left out.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sceneloom import json_text
from sceneloom.errors import InputError, SchemaError
from sceneloom.kinds import check_kind

MAX_CHANNELS = 256
NO_CHANNEL = 255
"""Value in a channel map for pixels that belong to no channel: their one-hot row is all zeros."""
MAX_FILE_VALUE = 65535
_UNKNOWN = 65535
_MAX_INSTANCE = 2**31 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label:
    """One class of a schema."""

    id: int
    """Value in the label map's file, 0..65535."""
    name: str
    """What the class is called by the data set's publisher."""
    colour: tuple[int, int, int]
    """RGB, 0..255, for showing label maps."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not _is_int(self.id) or not 0 <= self.id <= MAX_FILE_VALUE:
            raise SchemaError(
                f"label {self.name!r} has id {self.id!r}; ids are whole numbers from 0 to "
                f"{MAX_FILE_VALUE}"
            )
        if not self.name or not isinstance(self.name, str):
            raise SchemaError(f"the label of id {self.id} has the name {self.name!r}; it needs one")
        if len(self.colour) != 3 or any(not _is_int(c) or not 0 <= c <= 255 for c in self.colour):
            raise SchemaError(
                f"label {self.name!r} has colour {self.colour!r}; a colour is three numbers from "
                "0 to 255"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelSchema:
    """The classes of a data set, in channel order, and how its files encode them."""

    name: str
    """Short name, such as ``cityscapes``."""
    labels: tuple[Label, ...]
    """The classes; the position is the channel. 1 to 256 of them (255 if `unlabelled` has no
    channel).
    """
    unlabelled: int | None = None
    """File value that means "unlabelled"; if no label has this id, such pixels belong to no
    channel.
    """
    aliases: Mapping[int, int] = dataclasses.field(default_factory=dict)
    """Further file values that are read as the label of the id they name."""
    instance_divisor: int | None = None
    """Where instance ids at or above it encode their class as ``id // instance_divisor``
    (Cityscapes: 1000).
    """

    def __post_init__(self) -> None:
        """Check what the fields mean together."""
        if not self.name or not isinstance(self.name, str):
            raise SchemaError("a label schema needs a name")
        ids = [label.id for label in self.labels]
        limit = (
            MAX_CHANNELS if self.unlabelled is None or self.unlabelled in ids else MAX_CHANNELS - 1
        )
        if not 1 <= len(ids) <= limit:
            raise SchemaError(
                f"schema {self.name!r} has {len(ids)} labels; it can have from 1 to {limit}"
            )
        if len(set(ids)) != len(ids):
            twice = sorted({i for i in ids if ids.count(i) > 1})
            raise SchemaError(f"schema {self.name!r} has the ids {twice} more than once")
        if self.unlabelled is not None and (
            not _is_int(self.unlabelled) or not 0 <= self.unlabelled <= MAX_FILE_VALUE
        ):
            raise SchemaError(
                f"schema {self.name!r}: unlabelled is {self.unlabelled!r}, not a file value"
            )
        for value, target in self.aliases.items():
            if (
                not _is_int(value)
                or not 0 <= value <= MAX_FILE_VALUE
                or value in ids
                or value == self.unlabelled
            ):
                raise SchemaError(
                    f"schema {self.name!r}: the alias {value!r} is already an id, or is not a file "
                    "value"
                )
            if not _is_int(target) or (target not in ids and target != self.unlabelled):
                raise SchemaError(
                    f"schema {self.name!r}: the alias {value} names the id {target!r}, which it "
                    "does not have"
                )
        if self.instance_divisor is not None and (
            not _is_int(self.instance_divisor) or not 2 <= self.instance_divisor <= _MAX_INSTANCE
        ):
            raise SchemaError(
                f"schema {self.name!r}: instance_divisor is {self.instance_divisor!r}; it is from "
                f"2 to {_MAX_INSTANCE}"
            )

    @property
    def channels(self) -> int:
        """Number of one-hot channels of a network trained with this schema."""
        return len(self.labels)

    @property
    def has_training_ids(self) -> bool:
        """Whether its ids are numbered for training, as in Cityscapes' labelTrainIds: from 0 on
        without a gap, and unlabelled pixels belong to no label.
        """
        ids = [label.id for label in self.labels]
        return sorted(ids) == list(range(len(ids))) and (
            self.unlabelled is not None and self.unlabelled not in ids
        )

    @cached_property
    def table(self) -> npt.NDArray[np.uint16]:
        """File value -> channel, uint16 [65536]; `NO_CHANNEL` for unlabelled without a channel,
        65535 if unknown.
        """
        table = np.full(MAX_FILE_VALUE + 1, _UNKNOWN, np.uint16)
        for channel, label in enumerate(self.labels):
            table[label.id] = channel
        if self.unlabelled is not None and table[self.unlabelled] == _UNKNOWN:
            table[self.unlabelled] = NO_CHANNEL
        for value, target in self.aliases.items():
            table[value] = table[target]
        return table

    @cached_property
    def palette(self) -> npt.NDArray[np.uint8]:
        """Channel -> RGB colour, uint8 [256, 3]; black beyond the last channel."""
        palette = np.zeros((256, 3), np.uint8)
        for channel, label in enumerate(self.labels):
            palette[channel] = label.colour
        return palette

    @property
    def unlabelled_channel(self) -> int | None:
        """Value that unlabelled pixels have in a channel map (`NO_CHANNEL` if none), or None
        without such an id.
        """
        return None if self.unlabelled is None else int(self.table[self.unlabelled])

    def to_channels(self, values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint8], dict[int, int]]:
        """Translate file values to channels.

        Args:
            values: uint8 or uint16 [H, W], as in the file.

        Returns:
            channels uint8 [H, W] (unknown values come out as 255), and the unknown values with
            their pixel counts.
        """
        channels = self.table[values]
        unknown = values[channels == _UNKNOWN]
        found, counts = np.unique(unknown, return_counts=True)
        return channels.astype(np.uint8), {
            int(v): int(n) for v, n in zip(found, counts, strict=True)
        }

    def colourise(self, label_map: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Paint a channel map (uint8 [H, W]) in the schema's colours: uint8 [H, W, 3], RGB."""
        return self.palette[label_map]

    def instance_classes(self, instance_map: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Label id that each instance id encodes, int32 [H, W]; needs `instance_divisor`.

        Raises:
            SchemaError: this schema's instance ids do not encode their class.
        """
        if self.instance_divisor is None:
            raise SchemaError(f"instance ids of schema {self.name!r} do not encode their class")
        return np.where(
            instance_map >= self.instance_divisor,
            instance_map // self.instance_divisor,
            instance_map,
        )

    def to_json(self) -> dict[str, Any]:
        """The schema as a JSON object, the form of the files in `schemas/`."""
        out: dict[str, Any] = {
            "name": self.name,
            "labels": [{"id": x.id, "name": x.name, "colour": list(x.colour)} for x in self.labels],
        }
        if self.unlabelled is not None:
            out["unlabelled"] = self.unlabelled
        if self.aliases:
            out["aliases"] = {str(k): v for k, v in sorted(self.aliases.items())}
        if self.instance_divisor is not None:
            out["instance_divisor"] = self.instance_divisor
        return out

    @classmethod
    def from_json(cls, data: Any, *, source: str = "label schema") -> LabelSchema:
        """Read the JSON form.

        Args:
            data: the parsed JSON object.
            source: what to call it in an error, such as the file's path.

        Raises:
            SchemaError: a key is missing, unknown or out of range.
        """
        if not isinstance(data, dict):
            raise SchemaError(f"{source}: a label schema is a JSON object with name and labels")
        known = {"name", "labels", "unlabelled", "aliases", "instance_divisor"}
        if extra := sorted(set(data) - known, key=str):
            raise SchemaError(f"{source}: unknown keys {extra}; known are {sorted(known)}")
        if not isinstance(data.get("labels"), list):
            raise SchemaError(f"{source}: labels is a list of objects with id, name and colour")
        try:
            return cls(
                name=data["name"],
                labels=tuple(_label_from_json(entry) for entry in data["labels"]),
                unlabelled=data.get("unlabelled"),
                aliases={json_key(k): v for k, v in data.get("aliases", {}).items()},
                instance_divisor=data.get("instance_divisor"),
            )
        except SchemaError as error:
            raise SchemaError(f"{source}: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise SchemaError(
                f"{source}: not a label schema ({type(error).__name__}: {error})"
            ) from None


def _label_from_json(entry: Any) -> Label:
    keys = {"id", "name", "colour"}
    if not isinstance(entry, dict) or set(entry) != keys or not isinstance(entry["colour"], list):
        raise SchemaError(
            f"the label {entry!r} is not an object of id, name and colour [red, green, blue]"
        )
    return Label(id=entry["id"], name=entry["name"], colour=tuple(entry["colour"]))


def json_key(key: str) -> int:
    """The whole number that a JSON object's key is; raises SchemaError for any other spelling."""
    if not (key.isascii() and key.isdigit() and len(key) <= 10 and str(int(key)) == key):
        raise SchemaError(f"the key {key!r} is not a file value")
    return int(key)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def builtin_schemas() -> list[str]:
    """Names of the schemas that come with SceneLoom."""
    folder = resources.files("sceneloom") / "schemas"
    return sorted(
        entry.name.removesuffix(".json")
        for entry in folder.iterdir()
        if entry.name.endswith(".json")
    )


def load_schema(name_or_path: str | Path) -> LabelSchema:
    """Load a built-in schema by name, or a user's own by the path of its JSON file.

    Raises:
        SchemaError: the file is not a label schema.
        InputError: there is neither a built-in schema nor a file of this name.
    """
    check_kind(name_or_path, (str, os.PathLike), "the name or the path of a label schema")
    if str(name_or_path) in builtin_schemas():
        text = (resources.files("sceneloom") / "schemas" / f"{name_or_path}.json").read_text(
            "utf-8"
        )
        return LabelSchema.from_json(parse_json(text, str(name_or_path)), source=str(name_or_path))
    path = Path(name_or_path)
    try:
        there = path.is_file()
    except OSError:  # a name that is too long
        there = False
    if not there:
        raise InputError(
            f"no label schema {str(name_or_path)!r}: built in are {', '.join(builtin_schemas())}; "
            "a schema of your own is the path of a JSON file"
        )
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SchemaError(f"{path}: not readable as JSON ({error})") from None
    return LabelSchema.from_json(parse_json(text, str(path)), source=str(path))


def parse_json(text: str, source: str) -> Any:
    """Parse JSON; raises SchemaError that names the source."""
    try:
        return json_text.parse_json(text)
    except ValueError as error:
        raise SchemaError(f"{source}: not readable as JSON ({error})") from None
