"""The plan of a run from locations and settings."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from pathlib import Path

from sceneloom import locations
from sceneloom.contract import MODEL_NAME, Contract
from sceneloom.errors import InputError
from sceneloom.pictures import load_jxl
from sceneloom.rendering.connections import Connection, open_connection
from sceneloom.rendering.datasets import LooksSource, ShardedSource, open_sink, open_source
from sceneloom.rendering.items import Source
from sceneloom.rendering.listeners import Listener
from sceneloom.rendering.manifest import FILE_NAME
from sceneloom.rendering.run import Plan
from sceneloom.rendering.servers import Address
from sceneloom.rendering.settings import Container, RenderSettings, ShardSettings
from sceneloom.rendering.training_set import FOLDERS
from sceneloom.synthesizer import Synthesizer
from sceneloom.triton.access import Access
from sceneloom.triton.client import TransportChoice
from sceneloom.triton.transport import Timeouts, server_address

_MAX_LISTED = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Maps:
    """The maps of a run."""

    location: str | Path | Source
    """Path or URL of a folder, zip file, tar shards or Parquet; or an opened source."""
    labels: str | None = None
    """The label maps in it (docs/rendering-formats.md)."""
    instances: str | None = None
    """The instance maps in it."""
    shard: str = ""
    """``3/16`` for the fourth of sixteen parts, by the keys' hashes; empty for all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pictures:
    """The output of a run."""

    location: str
    """Path or URL of a folder."""
    container: Container = "folder"
    shards: ShardSettings = dataclasses.field(default_factory=ShardSettings)
    manifest: Path | None = None
    """The manifest's file, by default in the folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TritonServers:
    """The servers of a run."""

    urls: Sequence[str]
    """``HOST:PORT`` of their gRPC ports, ``http://HOST:PORT``, or ``https://HOST:PORT`` of
    gateways.
    """
    model: str = MODEL_NAME
    version: str = ""
    """Version of the model; empty for the latest."""
    timeouts: Timeouts = dataclasses.field(default_factory=Timeouts)
    transport: TransportChoice = "auto"
    access: Access = dataclasses.field(default_factory=Access)

    def addresses(self, settings: RenderSettings) -> list[Address]:
        """The addresses of the servers.

        Raises InputError for a wrong or repeated address.
        """
        if not self.urls:
            raise InputError("name at least one server")
        known = []
        for url in self.urls:
            address = server_address(url)
            if address in known:
                raise InputError(f"{url}: the same server twice")
            known.append(address)
        connect = functools.partial(
            open_connection,
            model=self.model,
            version=self.version,
            timeouts=self.timeouts,
            transport=self.transport,
            access=self.access,
            settings=settings,
        )
        return [Address(name=url, connect=functools.partial(connect, url)) for url in self.urls]


def engine_address(synthesizer: Synthesizer) -> Address:
    """The address of an open synthesizer, which the run leaves open."""
    name = type(synthesizer).__name__
    return Address(name=name, connect=lambda: Connection(synthesizer))


def make_plan(
    maps: Maps,
    pictures: Pictures | None,
    addresses: Sequence[Address],
    settings: RenderSettings,
    listeners: tuple[Listener, ...] = (),
) -> Plan:
    """The plan of a run; without `pictures` its results hold them.

    Raises:
        InputError: a location is of a wrong form.
        MissingDependencyError: a location or format needs a package that is not installed.
    """
    if maps.location == "":
        raise InputError("the place of the maps is empty; . is the folder you are in")
    part = None
    if maps.shard:
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", maps.shard)
        if match is None or not int(match[1]) < int(match[2]):
            raise InputError(f"shard is {maps.shard!r}; the first of 16 is 0/16, the last 15/16")
        part = int(match[1]), int(match[2])

    if settings.copy_labels and pictures is None:
        raise InputError("copy_labels writes maps beside the pictures; name a folder for these")
    if settings.copy_labels and pictures is not None and pictures.container != "folder":
        raise InputError(
            "copy_labels makes a data set in folders, which training reads; container is "
            f"{pictures.container}"
        )

    def open_maps(contract: Contract) -> Source:
        if not isinstance(maps.location, str | Path):
            return in_looks(maps.location)
        source = open_source(
            str(maps.location),
            labels=maps.labels,
            instances=maps.instances,
            wants_instances=contract.wants_instances,
            needs_instances=settings.boundaries == "instances",
            training_ids=contract.schema is not None and contract.schema.has_training_ids,
            kind=contract.kind,
        )
        written = [] if pictures is None else [pictures.location]
        if settings.copy_labels:
            written = [locations.join(folder, name) for folder in written for name in FOLDERS]
        for folder in written:
            if source.holds(folder):
                raise InputError(
                    f"{folder}: holds maps, and the pictures would lie among them; choose another "
                    "folder"
                )
        return in_looks(source if part is None else ShardedSource(source, *part))

    def in_looks(source: Source) -> Source:
        return source if settings.looks == 1 else LooksSource(source, settings.looks)

    if pictures is None:
        return Plan(source=open_maps, addresses=addresses, settings=settings, listeners=listeners)
    if "\0" in pictures.location:
        raise InputError("the place for the pictures has a null character in it")
    if not pictures.location:
        raise InputError("the place for the pictures is empty; . is the folder you are in")
    if settings.format == "jxl":
        load_jxl()  # before the run: a missing package ends it
    # Parts that are rendered side by side have a manifest and shards of their own.
    suffix = "" if part is None else f"-{part[0]:05d}-of-{part[1]:05d}"
    sink = open_sink(
        pictures.location,
        settings.format,
        container=pictures.container,
        shards=pictures.shards,
        stem=f"shard{suffix}",
        copies=settings.copy_labels,
    )
    manifest = pictures.manifest
    if manifest is not None and manifest.suffix == ".jsonl":
        raise InputError(
            f"{manifest}: a manifest is not JSON Lines; its rows are written as such beside it"
        )
    if manifest is None and "://" in pictures.location:
        raise InputError(
            f"{pictures.location}: the manifest is a local file; name one with --manifest"
        )
    return Plan(
        source=open_maps,
        addresses=addresses,
        settings=settings,
        sink=sink,
        manifest=manifest or Path(pictures.location) / FILE_NAME.replace(".", f"{suffix}.", 1),
        listeners=listeners,
    )


def shards_of_manifests(output: str) -> list[str]:
    """The parts of a data set that have a manifest in the folder `output`.

    Returns:
        values of `Maps.shard`, in order: ``3/16`` for a part, empty for a run of all maps.

    Raises InputError if parts are missing, and there is no manifest of all maps.
    """
    folder = Path(output)
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    pattern = re.compile(FILE_NAME.replace(".", r"-(\d{5,9})-of-(\d{5,9})\.", 1))
    parts = sorted((int(m[2]), int(m[1])) for m in map(pattern.fullmatch, names) if m)
    shards = [f"{index}/{count}" for count, index in parts]
    if FILE_NAME in names:
        return ["", *shards]
    for count in {count for count, _ in parts}:
        missing = [f"{n}/{count}" for n in range(count) if (count, n) not in parts]
        if missing:
            more = ", ..." if len(missing) > _MAX_LISTED else ""
            raise InputError(
                f"{output}: no manifest of the shards {', '.join(missing[:_MAX_LISTED])}{more}; "
                "render them, or check one with --shard"
            )
    return shards
