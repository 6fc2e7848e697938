"""Label schemas: the ids of label maps, their names and colours, and their network channels.

A schema is data, not code: the built-in ones are the JSON files in `schemas/` (a data set's layout
takes those of its row in `sceneloom_training.data.layouts`), and a user's own file has the same
form::

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
from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from annotated_types import Interval, MinLen
from pydantic import BeforeValidator

from sceneloom.errors import InputError, SchemaError
from sceneloom.text import parse_json
from sceneloom.validation import check_kind, checked, read_json

MAX_CHANNELS = 256
NO_CHANNEL = 255
"""Value in a channel map of pixels without a channel: their one-hot row is all zeros."""
MAX_FILE_VALUE = 65535
_UNKNOWN = 65535


def _file_key(key: object) -> object:
    # Keys of JSON objects are texts. Only one spelling of a number is a key, so that none is there
    # twice.
    if isinstance(key, str):
        if not (key.isascii() and key.isdigit() and len(key) <= 10 and str(int(key)) == key):
            raise SchemaError(f"the key {key!r} is not a file value")
        return int(key)
    return key


FileValue: TypeAlias = Annotated[int, Interval(ge=0, le=MAX_FILE_VALUE)]
"""Value of a pixel in a label map's file, 0..65535."""
FileKey: TypeAlias = Annotated[int, BeforeValidator(_file_key)]
"""File value as a key of a JSON object."""
_Channel: TypeAlias = Annotated[int, Interval(ge=0, le=255)]


@checked(SchemaError)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Label:
    """One class of a schema."""

    id: FileValue
    """Value in the label map's file, 0..65535."""
    name: Annotated[str, MinLen(1)]
    """The publisher's name of the class."""
    colour: tuple[_Channel, _Channel, _Channel]
    """RGB, 0..255, for showing label maps."""


@checked(SchemaError)
@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelSchema:
    """The classes of a data set in channel order, and their encoding in its files."""

    name: Annotated[str, MinLen(1)]
    """Short name, such as ``cityscapes``."""
    labels: tuple[Label, ...]
    """The classes; the position is the channel. 1 to 256 of them (255 if `unlabelled` has no
    channel).
    """
    unlabelled: FileValue | None = None
    """File value of unlabelled pixels. Without a label of this id they belong to no channel."""
    aliases: Mapping[FileKey, int] = dataclasses.field(default_factory=dict)
    """Further file value -> id of the label that it means."""
    instance_divisor: Annotated[int, Interval(ge=2, le=2**31 - 1)] | None = None
    """Instance ids at or above it encode their class as ``id // instance_divisor`` (Cityscapes:
    1000).
    """

    def __post_init__(self) -> None:
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
        for value, target in self.aliases.items():
            if not 0 <= value <= MAX_FILE_VALUE or value in ids or value == self.unlabelled:
                raise SchemaError(
                    f"schema {self.name!r}: the alias {value!r} is already an id, or is not a file "
                    "value"
                )
            if target not in ids and target != self.unlabelled:
                raise SchemaError(
                    f"schema {self.name!r}: the alias {value} names the id {target!r}, which it "
                    "does not have"
                )

    @property
    def channels(self) -> int:
        """Number of one-hot channels."""
        return len(self.labels)

    @property
    def has_training_ids(self) -> bool:
        """The ids are training ids, as in Cityscapes' labelTrainIds: from 0 without a gap, and
        unlabelled pixels belong to no label.
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
        """Value of unlabelled pixels in a channel map; None without an unlabelled id."""
        return None if self.unlabelled is None else int(self.table[self.unlabelled])

    def to_channels(self, values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint8], dict[int, int]]:
        """Translate file values, uint8 or uint16 [H, W], to channels.

        Returns:
            channels uint8 [H, W], 255 for unknown values, and the pixel count of each unknown
            value.
        """
        channels = self.table[values]
        unknown = values[channels == _UNKNOWN]
        found, counts = np.unique(unknown, return_counts=True)
        return channels.astype(np.uint8), {
            int(v): int(n) for v, n in zip(found, counts, strict=True)
        }

    def to_ids(self, label_map: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
        """Translate channels, uint8 [H, W] of this schema, to label ids, uint16 [H, W]."""
        ids = np.zeros(MAX_CHANNELS, np.uint16)
        ids[: len(self.labels)] = [label.id for label in self.labels]
        if self.unlabelled is not None and self.unlabelled_channel == NO_CHANNEL:
            ids[NO_CHANNEL] = self.unlabelled
        return ids[label_map]

    def colourise(self, label_map: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A channel map (uint8 [H, W]) in the schema's colours: uint8 [H, W, 3], RGB."""
        return self.palette[label_map]

    def instance_classes(self, instance_map: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Label id that each instance id encodes, int32 [H, W].

        Raises:
            SchemaError: the schema has no `instance_divisor`.
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
        """Read the JSON form, or raise SchemaError that begins with `source`."""
        return read_json(cls, data, source=source, error=SchemaError)


def builtin_schemas() -> list[str]:
    """Names of the built-in schemas."""
    folder = resources.files("sceneloom") / "schemas"
    return sorted(
        entry.name.removesuffix(".json")
        for entry in folder.iterdir()
        if entry.name.endswith(".json")
    )


def load_schema(name_or_path: str | Path) -> LabelSchema:
    """Load a built-in schema by name, or another by the path of its JSON file.

    Raises:
        SchemaError: the file is not a label schema.
        InputError: neither a built-in schema nor a file has this name.
    """
    check_kind(name_or_path, (str, os.PathLike), "the name or the path of a label schema")
    if str(name_or_path) in builtin_schemas():
        text = (resources.files("sceneloom") / "schemas" / f"{name_or_path}.json").read_text(
            "utf-8"
        )
        return LabelSchema.from_json(parse_json(text), source=str(name_or_path))
    path = Path(name_or_path)
    try:
        exists = path.is_file()
    except OSError:  # a name that is too long
        exists = False
    if not exists:
        raise InputError(
            f"no label schema {str(name_or_path)!r}: built in are {', '.join(builtin_schemas())}; "
            "a schema of your own is the path of a JSON file"
        )
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SchemaError(f"{path}: not readable as JSON ({error})") from None
    data = parse_json(text, source=str(path), error=SchemaError)
    return LabelSchema.from_json(data, source=str(path))
