"""Rendering a data set: the plan of a run from places and settings."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sceneloom.connect import TransportChoice
from sceneloom.contract import MODEL_NAME, Contract
from sceneloom.errors import InputError
from sceneloom.rendering.connections import Connection, EngineConnection
from sceneloom.rendering.interfaces import Source
from sceneloom.rendering.manifest import FILE_NAME
from sceneloom.rendering.reading.sources import DataSet, ShardedSource, open_source
from sceneloom.rendering.run import Plan
from sceneloom.rendering.servers import Address
from sceneloom.rendering.settings import RenderSettings
from sceneloom.rendering.triton import PathChoice, Way, triton_address
from sceneloom.rendering.watching.listener import Listener
from sceneloom.rendering.window import AdaptiveWindow
from sceneloom.rendering.writing.formats import check_format
from sceneloom.rendering.writing.sinks import Container, ShardSettings, open_sink
from sceneloom.transport import Timeouts, scheme_of, server_address

if TYPE_CHECKING:
    from sceneloom.synthesizer import Synthesizer

_LISTED = 8
_SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Maps:
    """Where the maps are."""

    place: str | Path | Source
    """Path or URL of a folder, zip file, tar shards or Parquet; or an opened source."""
    labels: str | None = None
    """Where the label maps are in it (docs/rendering-formats.md)."""
    instances: str | None = None
    """Where the instance maps are in it."""
    shard: str = ""
    """``3/16`` for the fourth of sixteen parts, by the keys' hashes; empty for all."""

    def open(self, contract: Contract, output: str | None) -> Source:
        """Open them for a model.

        Args:
            contract: of the model.
            output: where the pictures go, which must not lie among the maps; None for nowhere.

        Raises:
            InputError: they cannot be opened, or pictures would be taken for maps.
        """
        if not isinstance(self.place, (str, Path)):
            return self.place
        source: DataSet = open_source(
            str(self.place),
            labels=self.labels,
            instances=self.instances,
            wants_instances=contract.boundaries or contract.style_channels > 0,
            training_ids=contract.schema.has_training_ids,
        )
        if output is not None and source.holds(output):
            raise InputError(
                f"{output}: holds maps, and the pictures would lie among them; choose another "
                "folder"
            )
        part = self.part
        return source if part is None else ShardedSource(source, *part)

    @property
    def part(self) -> tuple[int, int] | None:
        """Index and number of parts, or None for all maps.

        Raises:
            InputError: `shard` is of another form.
        """
        if not self.shard:
            return None
        match = _SHARD.fullmatch(self.shard)
        if match is None or not int(match[1]) < int(match[2]):
            raise InputError(f"shard is {self.shard!r}; the first of 16 is 0/16, the last 15/16")
        return int(match[1]), int(match[2])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pictures:
    """Where the pictures go."""

    place: str
    """Path or URL of a folder."""
    container: Container = "folder"
    """A file for each picture, or shards."""
    shards: ShardSettings = dataclasses.field(default_factory=ShardSettings)
    """How large shards become."""
    manifest: Path | None = None
    """The manifest's file; in the folder of the pictures unless named."""

    def manifest_path(self, part: tuple[int, int] | None) -> Path:
        """The manifest's file; parts that are rendered side by side have one each.

        Raises:
            InputError: the pictures go to a remote place, and no file was named.
        """
        if self.manifest is not None:
            if self.manifest.suffix == ".jsonl":
                raise InputError(
                    f"{self.manifest}: a manifest is not JSON Lines; its rows are written as such "
                    "beside it"
                )
            return self.manifest
        if "://" in self.place:
            raise InputError(
                f"{self.place}: the manifest is a local file; name one with --manifest"
            )
        return Path(self.place) / part_name(FILE_NAME, part)


def part_name(name: str, part: tuple[int, int] | None) -> str:
    """A file's name with the part that it belongs to: ``manifest-00003-of-00016.sqlite``."""
    if part is None:
        return name
    stem, dot, ending = name.partition(".")
    return f"{stem}-{part[0]:05d}-of-{part[1]:05d}{dot}{ending}"


def shards_of_manifests(output: str) -> list[str]:
    """The parts of a data set that have a manifest in a folder of pictures.

    Args:
        output: path of the folder.

    Returns:
        ``3/16`` for each part and an empty text for a run of all maps, as `Maps.shard` has them, in
        order.

    Raises:
        InputError: parts are missing, and there is no manifest of all maps.
    """
    folder = Path(output)
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    stem, dot, ending = FILE_NAME.partition(".")
    pattern = re.compile(rf"{stem}-(\d{{5,9}})-of-(\d{{5,9}}){re.escape(dot + ending)}")
    parts = sorted((int(m[2]), int(m[1])) for m in map(pattern.fullmatch, there) if m)
    if FILE_NAME in there:
        return ["", *(f"{index}/{count}" for count, index in parts)]
    for count in {count for count, _ in parts}:
        missing = [f"{n}/{count}" for n in range(count) if (count, n) not in parts]
        if missing:
            more = ", ..." if len(missing) > _LISTED else ""
            raise InputError(
                f"{output}: no manifest of the shards {', '.join(missing[:_LISTED])}{more}; render "
                "them, or check one with --shard"
            )
    return [f"{index}/{count}" for count, index in parts]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TritonServers:
    """Which servers render, and how they are reached."""

    urls: Sequence[str]
    """``HOST:PORT`` of their gRPC ports, or ``http://HOST:PORT``."""
    model: str = MODEL_NAME
    """Name of the served model."""
    timeouts: Timeouts = dataclasses.field(default_factory=Timeouts)
    """How long to wait."""
    transport: TransportChoice = "auto"
    """How tensors travel."""
    path: PathChoice = "auto"
    """Arrays or encoded files."""

    def addresses(self, settings: RenderSettings, way: Way) -> list[Address]:
        """The servers as a run connects to them.

        Raises:
            InputError: none or one twice, or they cannot give this format.
        """
        if not self.urls:
            raise InputError("name at least one server")
        places = []
        for url in self.urls:
            scheme = scheme_of(url)
            place = (scheme, server_address(url, scheme))
            if place in places:
                raise InputError(f"{url}: the same server twice")
            places.append(place)
        return [
            triton_address(
                url,
                settings,
                way,
                model=self.model,
                timeouts=self.timeouts,
                transport=self.transport,
                path=self.path,
            )
            for url in self.urls
        ]


def engine_address(synthesizer: Synthesizer, settings: RenderSettings) -> Address:
    """A synthesizer that is open already, as a run uses it; the run leaves it open."""

    def window(connection: Connection) -> AdaptiveWindow:
        return AdaptiveWindow(largest=settings.most_in_flight, fixed=settings.in_flight)

    return Address(
        name=type(synthesizer).__name__,
        connect=lambda: EngineConnection(synthesizer),
        window=window,
    )


def make_plan(
    maps: Maps,
    pictures: Pictures | None,
    addresses: Sequence[Address],
    settings: RenderSettings,
    listeners: tuple[Listener, ...] = (),
) -> Plan:
    """The plan of a run.

    Args:
        maps: what is rendered.
        pictures: where to; None for pictures in the results.
        addresses: by whom.
        settings: how.
        listeners: hear what happens.

    Raises:
        InputError: a place is of a wrong form.
        MissingDependencyError: a package is not installed that a place or format needs.
    """
    if maps.place == "":
        raise InputError("the place of the maps is empty; . is the folder you are in")
    if pictures is None:
        return Plan(
            source=lambda contract: maps.open(contract, None),
            addresses=addresses,
            settings=settings,
            listeners=listeners,
        )
    if "\0" in pictures.place:
        raise InputError("the place for the pictures has a null character in it")
    if not pictures.place:
        raise InputError("the place for the pictures is empty; . is the folder you are in")
    check_format(settings.format)
    part = maps.part
    sink = open_sink(
        pictures.place,
        settings.format,
        container=pictures.container,
        shards=pictures.shards,
        stem=part_name("shard", part),
    )
    return Plan(
        source=lambda contract: maps.open(contract, pictures.place),
        addresses=addresses,
        settings=settings,
        sink=sink,
        manifest=pictures.manifest_path(part),
        listeners=listeners,
    )
