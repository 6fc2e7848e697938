"""How the files of maps are read: ids or colours, of the model's label schema or of another.

    reader = MapReader(contract.schema, MapReading(map_schema="carla", label_channel="red"))
    label_map = reader.label_map("frame_000001.png")

Labels of another schema become the model's by name: of equal name, or by the built-in mapping of
street schemas to Cityscapes (`label_mappings/to_cityscapes.json`). Isaac Replicator writes a table
of names beside each map.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from sceneloom import errors
from sceneloom.contract import Contract
from sceneloom.maps import (
    DEFAULT_MAX_PIXELS,
    MOST_COLOURS,
    PALETTE_MODES,
    Array,
    InstanceMap,
    LabelMap,
    OnUnknown,
    decode_map,
    read_instance_map,
    read_label_map,
    unlabelled_hint,
)
from sceneloom.pairing import table_name
from sceneloom.photographs import read_picture
from sceneloom.schema import LabelSchema, builtin_schemas, load_schema
from sceneloom.text import counted, parse_json, reason
from sceneloom.validation import check_kind

REPLICATOR = "replicator"
"""Map schema of Isaac Replicator's files: each map has its own."""

Source: TypeAlias = str | Path | bytes
"""Path of a map, or its bytes."""

ColourChannel: TypeAlias = Literal["red", "green", "blue", "alpha"]
Boundaries: TypeAlias = Literal["instances", "labels", "components", "colours"]

_OPAQUE = 255
_WITHOUT_LABEL = ("background", "unlabelled", "unlabeled")
_LISTED = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapReading:
    """How the files of maps are read."""

    colours: bool = False
    """Read label maps by the exact colours of their schema, and instance maps with an instance for
    each colour.
    """
    label_channel: ColourChannel | None = None
    """Read label ids from this channel of colour pictures (CARLA: red, with map-schema carla), and
    instance maps with an instance for each colour.
    """
    map_schema: str | None = None
    """Label schema of the maps, if another than the model's: a built-in name, a JSON file, or
    replicator for Isaac Replicator. Its labels become the model's by name.
    """
    boundaries: Boundaries = "instances"
    """Where a model wants an instance map and none exists: refuse the map, take the edges of its
    labels, take each connected component of a label as an instance, or take the edges of its file's
    colours (CARLA's instance camera).
    """

    def __post_init__(self) -> None:
        if self.label_channel not in (None, *get_args(ColourChannel)):
            names = ", ".join(get_args(ColourChannel))
            raise errors.InputError(f"label_channel is {self.label_channel!r}; it is {names}")
        if self.boundaries not in get_args(Boundaries):
            raise errors.InputError(
                f"boundaries is {self.boundaries!r}; it is {', '.join(get_args(Boundaries))}"
            )
        if self.colours and self.label_channel is not None:
            raise errors.InputError(
                f"label_channel is {self.label_channel} and colours is true; a map has one of them"
            )
        if self.map_schema == REPLICATOR and (self.colours or self.label_channel is not None):
            raise errors.InputError(
                "map_schema is replicator, whose tables say whether maps hold colours; leave "
                "colours and label_channel out"
            )

    @property
    def reads_ids(self) -> bool:
        """Label maps hold ids of the model's schema."""
        return not self.colours and self.label_channel is None and self.map_schema is None

    @property
    def map_schema_file(self) -> Path | None:
        """The file of the maps' label schema; None for a built-in one or none."""
        if self.map_schema is None or self.map_schema in (REPLICATOR, *builtin_schemas()):
            return None
        return Path(self.map_schema)

    def reading_words(self) -> dict[str, str]:
        """The settings that differ from their defaults; a schema's file by its hash."""
        words = {}
        if self.colours:
            words["colours"] = "yes"
        if self.label_channel is not None:
            words["label_channel"] = self.label_channel
        if self.map_schema is not None:
            words["map_schema"] = self.map_schema
            if self.map_schema_file is not None:
                document = json.dumps(load_schema(self.map_schema).to_json(), sort_keys=True)
                words["map_schema"] = sha256(document.encode()).hexdigest()
        if self.boundaries != "instances":
            words["boundaries"] = self.boundaries
        return words


def check_boundaries(reading: MapReading, contract: Contract) -> None:
    """Raise InputError for boundaries of maps of which the model takes none."""
    if reading.boundaries != "instances" and not contract.wants_instances:
        raise errors.InputError(
            f"boundaries is {reading.boundaries}, and this model takes no instance maps; leave "
            "boundaries out"
        )


class _Found(NamedTuple):
    """The labels of one value of a file."""

    names: tuple[str, ...]
    channels: frozenset[int | None]
    """Their channels in the model's schema; None for a label that it lacks."""


_Meanings: TypeAlias = Mapping[int, _Found]
"""File value, an id or a packed colour -> its labels."""


class MapReader:
    """Reads maps in one way, for a model's label schema; pictures for a model of pictures."""

    def __init__(
        self,
        schema: LabelSchema | None,
        reading: MapReading | None = None,
        *,
        unknown: OnUnknown = "error",
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        """Prepare; see `read_label_map` for `unknown` and `max_pixels`. `schema` is None for a
        model of pictures.

        Raises InputError if the maps' schema does not exist, or has no label of the model's.
        """
        self.schema, self.reading = schema, reading or MapReading()
        self._unknown, self._max_pixels = unknown, max_pixels
        self._meanings: _Meanings = {}
        if schema is None:
            given = [*self.reading.reading_words(), *["unknown"] * (unknown != "error")]
            if given:
                raise errors.InputError(
                    f"this model takes pictures, not label maps; leave {' and '.join(given)} out"
                )
            return
        check_kind(schema, LabelSchema, "the label schema")
        self._source = schema
        if self.reads_tables:
            _channels_by_name(schema)  # refuses a schema with two labels of one name
        elif not self.reading.reads_ids:
            if self.reading.map_schema is not None:
                self._source = load_schema(self.reading.map_schema)
            self._meanings = _schema_meanings(self._source, schema, colours=self.reading.colours)

    @property
    def reads_tables(self) -> bool:
        """Every label map has a table of its own."""
        return self.reading.map_schema == REPLICATOR

    def describe(self) -> list[str]:
        """Sentences for the summary of a run; none for maps of the model's ids."""
        reading, words = self.reading, []
        own = "" if reading.map_schema or self.schema is None else f" of {self.schema.name}"
        if reading.colours:
            words.append(f"colours{own}")
        if reading.label_channel is not None:
            words.append(f"ids{own} in the channel {reading.label_channel}")
        if reading.map_schema is not None:
            words.append(f"labels of {reading.map_schema} by name")
        lines = [f"maps: {', '.join(words)}"] if words else []
        if reading.boundaries != "instances":
            of = {"components": "connected components of its labels"}.get(
                reading.boundaries, f"edges of the label map's {reading.boundaries}"
            )
            lines.append(f"boundaries: {of} where a map has no instance map")
        return lines

    def label_map(
        self, source: Source, *, name: str | None = None, table: bytes | None = None
    ) -> LabelMap:
        """Read a label map to the channels of the model's schema, uint8 [H, W]; see
        `read_label_map`, which does it for files of ids of this schema. For a model of pictures,
        read a picture, uint8 [H, W, 3]; see `read_picture`.

        `table` is the file of names of Isaac Replicator, by default the one beside the map.

        Raises as `read_label_map`; NotALabelMapError also for a file without colours where they are
        read, UnknownLabelError for colours and names that the schema lacks, InputError for a
        missing or wrong table.
        """
        reading = self.reading
        if self.schema is None:
            return read_picture(source, max_pixels=self._max_pixels, name=name)
        if reading.reads_ids:
            return read_label_map(
                source, self.schema, unknown=self._unknown, max_pixels=self._max_pixels, name=name
            )
        meanings = self._meanings
        in_colours = reading.colours or reading.label_channel is not None
        if self.reads_tables:
            name = name or ("(bytes)" if isinstance(source, bytes) else str(source))
            if table is None:
                table = _read_table(source, name)
            meanings, in_colours = _table_meanings(table, self.schema, table_name(name) or name)
        values, name = decode_map(
            source, name, self._max_pixels, colours=PALETTE_MODES if in_colours else ()
        )
        if in_colours and values.ndim == 2:
            raise errors.NotALabelMapError(
                f"{name}: holds one value per pixel and no colours; leave "
                f"{'--colours' if reading.colours else '--label-channel'} out to read it as ids"
            )
        packed = values.ndim == 3 and reading.label_channel is None
        if packed:
            values = np.ascontiguousarray(values).view("<u4")[..., 0]
        elif reading.label_channel is not None:
            values = values[..., get_args(ColourChannel).index(reading.label_channel)]
        distinct, of_pixel = _distinct(values)
        if packed and len(distinct) > MOST_COLOURS:
            raise errors.NotALabelMapError(
                f"{name}: a picture of {len(distinct):,} colours, not a label map: a photograph, "
                "or a map that was scaled or stored with losses"
            )
        channels = np.zeros(len(distinct), np.uint8)
        without = []
        for position, value in enumerate(distinct.tolist()):
            found = meanings.get(value)
            channel = next(iter(found.channels)) if found and len(found.channels) == 1 else None
            if channel is None:
                without.append(position)
            else:
                channels[position] = channel
        if without:
            counted_pixels = np.bincount(of_pixel.ravel(), minlength=len(distinct))
            counts = {int(distinct[at]): int(counted_pixels[at]) for at in without}
            most = 2 * sum(counts.values()) > of_pixel.size
            self._check_unknown(counts, meanings, name, packed=packed, most=most)
            channels[without] = self.schema.unlabelled_channel
        translated: LabelMap = channels[of_pixel]
        return translated

    def instance_map(self, source: Source, *, name: str | None = None) -> InstanceMap:
        """Read an instance map, int32 [H, W]; see `read_instance_map`."""
        reading = self.reading
        in_colours = reading.colours or reading.label_channel is not None or self.reads_tables
        return read_instance_map(source, max_pixels=self._max_pixels, name=name, colours=in_colours)

    def edges(
        self, label_map: LabelMap, source: Source, *, name: str | None = None
    ) -> InstanceMap | None:
        """The instance map, int32 [H, W], in place of a missing one: the label ids, the connected
        components of the labels, or the colours of the label map's file; None if the reading takes
        none.
        """
        if self.schema is not None and self.reading.boundaries in ("labels", "components"):
            return instances_of_labels(label_map, self.schema, self.reading.boundaries)
        if self.reading.boundaries == "colours":
            return read_instance_map(source, max_pixels=self._max_pixels, name=name, colours=True)
        return None

    def _check_unknown(
        self, counts: dict[int, int], meanings: _Meanings, name: str, *, packed: bool, most: bool
    ) -> None:
        """Raise UnknownLabelError for values (value -> pixels) without a channel, unless they are
        to be read as unlabelled. `most`: more than half of the map's pixels.
        """
        source, target = self._source, self.schema
        assert target is not None
        # Such values are a sign of another file: an instance map, or a table of another frame.
        largest = -1 if self.reads_tables else max(255, *(label.id for label in source.labels))
        strange = not packed and any(
            value not in meanings and not 0 <= value <= largest for value in counts
        )
        if self._unknown == "unlabelled" and target.unlabelled is not None and not strange:
            return
        owner = "the map's table" if self.reads_tables else source.name
        phrases = []
        for value, pixels in sorted(counts.items(), key=lambda item: -item[1])[:_LISTED]:
            shown = f"the colour {_rgb(value)}" if packed else f"the id {value}"
            if (found := meanings.get(value)) is None:
                text = f"{shown}, which {owner} does not have"
                if packed and not self.reads_tables:
                    text += f" (nearest: {_nearest(value, source)})"
            elif len(found.names) == 1:
                text = f"{found.names[0]!r}, a name that {target.name} does not have"
            else:
                labels = " and ".join(map(repr, found.names))
                text = (
                    f"{shown}, which {labels} of {owner} share (--map-schema takes a schema with "
                    "one of them, such as cityscapes19 for Cityscapes' colours)"
                )
            phrases.append(f"{counted(pixels, 'pixel')} of {text}")
        if len(counts) > _LISTED:
            phrases.append(f"and {len(counts) - _LISTED} more")
        if packed and not self.reads_tables and _are_ids(counts, source, most=most):
            end = (
                "Their red channel holds ids: read these with --label-channel red in place of "
                "--colours (CARLA's with --map-schema carla)"
            )
        elif most and self.reading.label_channel not in (None, "red"):
            end = (
                f"Most pixels of the channel {self.reading.label_channel} are unknown: the ids are "
                "perhaps in another one (CARLA's: --label-channel red)"
            )
        else:
            end = "Such values are never read as unlabelled" if strange else unlabelled_hint(target)
        raise errors.UnknownLabelError(
            f"{name}: {'; '.join(phrases)}. {end}",
            {_rgb(value): pixels for value, pixels in counts.items()} if packed else counts,
        )


def _distinct(values: Array) -> tuple[Array, npt.NDArray[np.intp]]:
    """The distinct values of a map [H, W], and the position among them of each pixel."""
    # Maps are flat: sorting runs of equal pixels is tens of times faster than sorting pixels.
    flat = values.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    distinct, of_run = np.unique(flat[starts], return_inverse=True)
    of_pixel = np.repeat(of_run, np.diff(starts, append=flat.size))
    return distinct, of_pixel.reshape(values.shape)


def _pack(red: int, green: int, blue: int, alpha: int = _OPAQUE) -> int:
    """A colour as the little-endian number of its four bytes in memory."""
    return red | green << 8 | blue << 16 | alpha << 24


def instances_of_labels(
    label_map: LabelMap, schema: LabelSchema, boundaries: Literal["labels", "components"]
) -> InstanceMap:
    """An instance map, int32 [H, W], from a label map, uint8 [H, W] of the schema's channels: the
    label ids; or, for each component of 8-connected pixels of one label, ``id * d + number``, from
    0, where `d` is the schema's `instance_divisor` or 1000. The last number is for all further
    components.
    """
    ids = schema.to_ids(label_map).astype(np.int32)
    if boundaries == "labels":
        return ids
    import cv2

    divisor = schema.instance_divisor or 1000
    instances = np.zeros_like(ids)
    for label in np.unique(ids).tolist():
        here = ids == label
        numbers = cv2.connectedComponents(here.view(np.uint8), connectivity=8)[1][here] - 1
        instances[here] = label * divisor + np.minimum(numbers, divisor - 1)
    return instances


def _rgb(packed: int) -> tuple[int, ...]:
    """Red, green, blue, and alpha if it is not opaque."""
    colour = tuple(packed.to_bytes(4, "little"))
    return colour[:3] if colour[3] == _OPAQUE else colour


def _are_ids(colours: Iterable[int], schema: LabelSchema, *, most: bool) -> bool:
    """Whether unknown colours, of most of a map's pixels or few, hold label ids in their red."""
    ids = {label.id for label in schema.labels}
    pixels = [_rgb(colour)[:3] for colour in colours]
    reds = {red for red, _, _ in pixels}
    alone = all(green == blue == 0 for _, green, blue in pixels)
    return reds <= ids and reds != {0} and (most or alone)


def _nearest(packed: int, schema: LabelSchema) -> str:
    """Name and colour of the label with the nearest colour."""
    label = min(
        schema.labels,
        key=lambda label: sum(
            (a - b) ** 2 for a, b in zip(label.colour, _rgb(packed), strict=False)
        ),
    )
    return f"{label.name!r} {label.colour}"


def _schema_meanings(source: LabelSchema, target: LabelSchema, *, colours: bool) -> _Meanings:
    """The labels of `source`, by id or colour, as channels of `target`."""
    channels: list[int | None] = list(range(target.channels))
    if source is not target:
        channels = translate(source, target)
    found: dict[int, _Found] = {}
    for label, channel in zip(source.labels, channels, strict=True):
        value = _pack(*label.colour) if colours else label.id
        names, others = found.get(value, _Found((), frozenset()))
        found[value] = _Found((*names, label.name), others | {channel})
    if not colours:
        if source.unlabelled is not None and source.unlabelled not in found:
            unlabelled = frozenset({target.unlabelled_channel})
            found[source.unlabelled] = _Found(("unlabelled",), unlabelled)
        found |= {value: found[label] for value, label in source.aliases.items()}
    return found


def translate(source: LabelSchema, target: LabelSchema) -> list[int | None]:
    """Channel in `target` of each label of `source`: of the label of equal name, without regard to
    case, or of the name in Cityscapes; its unlabelled pixels stay so. None for a label without one.

    Raises InputError if no label has one, SchemaError if two labels of `target` have one name.
    """
    by_name = _channels_by_name(target)
    to_cityscapes = _label_mappings().get(source.name, {})
    channels: list[int | None] = []
    for label in source.labels:
        names = label.name, to_cityscapes.get(label.name) or ""
        found = (by_name.get(name.casefold()) for name in names)
        channels.append(next((channel for channel in found if channel is not None), None))
    if not any(channel is not None for channel in channels):
        raise errors.InputError(
            f"no label of {source.name} has the name of a label of {target.name}, which has "
            f"{_listed_names(target)}"
        )
    for position, label in enumerate(source.labels):
        if channels[position] is None and label.id == source.unlabelled:
            channels[position] = target.unlabelled_channel
    return channels


@functools.cache
def _label_mappings() -> dict[str, dict[str, str | None]]:
    """Schema -> label -> name of Cityscapes' label, or None."""
    file = resources.files("sceneloom") / "label_mappings" / "to_cityscapes.json"
    mappings: dict[str, dict[str, str | None]] = json.loads(file.read_text("utf-8"))
    return mappings


def _channels_by_name(schema: LabelSchema) -> dict[str, int]:
    """Folded name -> channel; raises SchemaError if two labels have one name."""
    by_name: dict[str, int] = {}
    for channel, label in enumerate(schema.labels):
        if by_name.setdefault(label.name.casefold(), channel) != channel:
            raise errors.SchemaError(
                f"schema {schema.name!r} has two labels called {label.name!r}; maps of another "
                "schema are read by name"
            )
    return by_name


def _listed_names(schema: LabelSchema) -> str:
    names = [label.name for label in schema.labels]
    return ", ".join(names[:_LISTED]) + ", ..." * (len(names) > _LISTED)


def _read_table(source: Source, name: str) -> bytes:
    """Read the table beside a map; raises InputError."""
    file = table_name(name)
    if file is None or isinstance(source, bytes):
        raise errors.InputError(
            f"{name}: no table of names beside it; Isaac Replicator's maps are called "
            "semantic_segmentation_NUMBER.png, and their tables "
            "semantic_segmentation_labels_NUMBER.json"
        )
    try:
        return Path(source).with_name(os.path.basename(file)).read_bytes()  # noqa: PTH119
    except OSError as error:
        raise errors.InputError(f"{file}: cannot be read ({reason(error)})") from None


_ID = re.compile(r"\d{1,10}", re.ASCII)
_COLOUR = re.compile(r"\(?\s*(\d{1,3}(?:\s*,\s*\d{1,3}){2,3})\s*\)?", re.ASCII)


def _table_meanings(table: bytes, target: LabelSchema, file: str) -> tuple[_Meanings, bool]:
    """The labels of a frame by id, such as ``{"2": {"class": "car"}}``, or by colour, such as
    ``{"(140, 255, 25, 255)": {"class": "car"}}``, and whether they are colours.

    Raises InputError that names the table's file.
    """
    by_name = _channels_by_name(target)
    document = parse_json(table, source=file, error=errors.InputError)
    entries = document.items() if isinstance(document, dict) else ()
    found: dict[int, _Found] = {}
    kinds = set()
    for key, entry in entries:
        name = _class_name(entry)
        colour = _COLOUR.fullmatch(key)
        numbers = [int(number) for number in colour[1].split(",")] if colour else []
        if name is None or not (_ID.fullmatch(key) or numbers) or max(numbers, default=0) > 255:
            raise errors.InputError(
                f"{file}: the entry {key!r} is no id or colour with the name of a class"
            )
        kinds.add(bool(numbers))
        channel = by_name.get(name.casefold())
        if channel is None and name.casefold() in _WITHOUT_LABEL:
            channel = target.unlabelled_channel
        found[_pack(*numbers) if numbers else int(key)] = _Found((name,), frozenset({channel}))
    if len(kinds) != 1:
        raise errors.InputError(
            f"{file}: not a table of Isaac Replicator, which names a class for each id or for each "
            "colour"
        )
    return found, kinds == {True}


def _class_name(entry: Any) -> str | None:
    """The class of a table's entry: a text, ``{"class": text}``, or the only text of an object."""
    if isinstance(entry, dict):
        entry = entry.get("class", next(iter(entry.values())) if len(entry) == 1 else None)
    return entry if isinstance(entry, str) else None
