"""From the bytes of a map to a request: read, hash, decode, check."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping

from sceneloom.contract import Contract
from sceneloom.errors import (
    InputError,
    MissingInputError,
    OutOfResourcesError,
    SceneLoomError,
)
from sceneloom.map_reading import MapReader, check_boundaries
from sceneloom.maps import InstanceMap, LabelMap, Style
from sceneloom.png import SIGNATURE
from sceneloom.rendering.items import MapItem
from sceneloom.rendering.settings import RenderSettings
from sceneloom.rendering.training_set import copy_maps
from sceneloom.request import Request, prepare
from sceneloom.style import ChooseStyle, DrawnStyles, NamedInstances

_SLACK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """A map whose files have been read."""

    item: MapItem
    label: bytes
    instance: bytes | None
    """The instance map's file, or None if the model takes none or none exists."""
    table: bytes | None = None
    """The label map's table of names, or None if none is read."""
    input_hash: str
    """SHA-256 of all files read for this picture."""
    size: tuple[int, int]
    """(height, width) from the PNG header; (0, 0) for other formats."""
    started: float
    """Start of reading, by `time.perf_counter`."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A map ready to be sent."""

    loaded: Loaded
    request: Request
    """The network's inputs."""
    style: Style | None
    """float32 [K, F], one row per instance, or None for the defaults."""
    height: int
    width: int
    copies: Mapping[str, bytes]
    """Copies of the maps, to be written with the picture: path below the output folder -> file."""


@dataclasses.dataclass(eq=False)
class Loader:
    """Reads and decodes the maps of a run; safe to use from several threads."""

    contract: Contract
    settings: RenderSettings
    choose: ChooseStyle
    """Gives the style of a map."""
    reader: MapReader = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Raise InputError if the settings do not fit the model."""
        settings, schema = self.settings, self.contract.schema
        if settings.grey and not self.contract.grey:
            raise InputError("this model's pictures have colours; leave --grey out")
        if settings.copy_labels and schema is None:
            raise InputError("this model takes pictures, not label maps; leave --copy-labels out")
        self.reader = MapReader(
            schema, settings, unknown=settings.unknown, max_pixels=settings.max_pixels
        )
        check_boundaries(settings, self.contract)

    def load(self, item: MapItem) -> Loaded:
        """Read a map's files.

        Raises InputError if one cannot be read, is too large, or a wanted instance map is missing.
        """
        started = time.perf_counter()
        max_bytes = 8 * self.settings.max_pixels + _SLACK_BYTES  # no map takes more a pixel
        label, instance, table = item.label.read(max_bytes), None, None
        if self.contract.wants_instances:
            needed = self.settings.boundaries == "instances"
            if item.instance is not None:
                with contextlib.suppress(*() if needed else (MissingInputError,)):
                    instance = item.instance.read(max_bytes)
            elif needed:
                raise MissingInputError(
                    f"{item.label.name}: no instance map of this name, and the model wants one; to "
                    "take the edges of the label map: --boundaries labels"
                )
        if self.reader.reads_tables and item.table is not None:
            table = item.table.read(max_bytes)
        digest, style = hashlib.sha256(), None
        folder = self.settings.style_file
        if folder is not None and folder.is_dir():
            with contextlib.suppress(OSError):  # choosing the style gives the error
                style = (folder / f"{item.key}.json").read_bytes()
        for part in (label, instance, style, *([] if table is None else [table])):
            digest.update(b"-" if part is None else b"%d:" % len(part))
            digest.update(part or b"")
        size = (0, 0)
        if label.startswith(SIGNATURE) and len(label) >= 24:
            size = int.from_bytes(label[20:24], "big"), int.from_bytes(label[16:20], "big")
        return Loaded(
            item=item,
            label=label,
            instance=instance,
            table=table,
            input_hash=digest.hexdigest(),
            size=size,
            started=started,
        )

    def prepare(self, loaded: Loaded) -> Prepared:
        """Decode and check a map.

        Raises:
            InputError: the map does not fit the contract; the text names its file.
            SchemaError: its style file is wrong.
            OutOfResourcesError: the memory is not enough for it.
        """
        item, settings = loaded.item, self.settings
        try:
            label_map, instance_map = self._decode(loaded)
            try:
                style = self.choose(item.map_key, label_map, instance_map, item.look or 0)
                request = prepare(self.contract, label_map, instance_map, style)
                copies = {}
                if settings.copy_labels:
                    copies = copy_maps(self.contract, item.key, label_map, instance_map)
            except InputError as error:
                # A fault of the style file names it already.
                style_file = settings.style_file
                if style_file is None or not str(error).startswith(str(style_file)):
                    error.args = (f"{item.label.name}: {error}",)
                raise
        except MemoryError:
            raise OutOfResourcesError(
                f"{item.label.name}: not enough memory for a map of this size"
            ) from None
        height, width = label_map.shape[:2]
        return Prepared(
            loaded=loaded,
            request=request,
            style=style,
            height=height,
            width=width,
            copies=copies,
        )

    def check_styles_used(
        self, maps: Iterable[MapItem], stopped: Callable[[], bool] = lambda: False
    ) -> None:
        """Raise InputError if no map has an instance that the style names, or looks would be equal.

        Reads maps until all are found, or `stopped`; rendering reports maps that cannot be read.
        """
        choose: object = self.choose
        if not isinstance(choose, NamedInstances):
            return
        settings, read = self.settings, False
        # A seed may meet a map without things, one of a series; looks may not.
        drawn = None
        if settings.looks > 1 or (
            settings.style_seed is not None and settings.boundaries == "labels"
        ):
            assert isinstance(choose, DrawnStyles)
            drawn = choose
        found = iter(maps)
        while (drawn is not None or choose.missing) and (item := next(found, None)) is not None:
            if stopped():
                return
            with contextlib.suppress(SceneLoomError, OSError):
                label_map, instance_map = self._decode(self.load(item))
                assert instance_map is not None  # a styled model takes instance maps
                choose.found_in(instance_map)
                if drawn is not None and drawn.draws_for(label_map, instance_map):
                    drawn = None
                read = True
        if read:
            choose.check_used()
            if drawn is not None:
                raise drawn.nothing_drawn()

    def _decode(self, loaded: Loaded) -> tuple[LabelMap, InstanceMap | None]:
        """The label map, and the instance map if the model takes one."""
        item, reader, name = loaded.item, self.reader, loaded.item.label.name
        label_map = reader.label_map(loaded.label, name=name, table=loaded.table)
        if loaded.instance is not None:
            assert item.instance is not None
            return label_map, reader.instance_map(loaded.instance, name=item.instance.name)
        if self.contract.wants_instances:
            return label_map, reader.edges(label_map, loaded.label, name=name)
        return label_map, None
