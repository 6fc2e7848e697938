"""From the bytes of a map to a request: read, hash, decode, check."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
import time

from sceneloom.contract import Contract
from sceneloom.errors import InputError, MissingInputError, OutOfResourcesError
from sceneloom.maps import Style, read_instance_map, read_label_map
from sceneloom.photographs import read_picture
from sceneloom.png import SIGNATURE
from sceneloom.rendering.items import MapItem
from sceneloom.rendering.settings import RenderSettings
from sceneloom.request import Request, prepare
from sceneloom.style import ChooseStyle, OneStyleFile

_SLACK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """A map whose files have been read."""

    item: MapItem
    label: bytes
    instance: bytes | None
    """The instance map's file, or None if the model takes none."""
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


@dataclasses.dataclass(eq=False)
class Loader:
    """Reads and decodes the maps of a run; safe to use from several threads."""

    contract: Contract
    settings: RenderSettings
    choose: ChooseStyle
    """Gives the style of a map."""
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock, init=False)
    _loaded: int = dataclasses.field(default=0, init=False)
    _prepared: int = dataclasses.field(default=0, init=False)

    def __post_init__(self) -> None:
        """Raise InputError if the settings want grey of a model whose pictures have colours."""
        if self.settings.grey and not self.contract.grey:
            raise InputError("this model's pictures have colours; leave --grey out")

    def load(self, item: MapItem) -> Loaded:
        """Read a map's files.

        Raises InputError if one cannot be read, is too large, or a wanted instance map is missing.
        """
        started = time.perf_counter()
        max_bytes = 8 * self.settings.max_pixels + _SLACK_BYTES  # no map takes more a pixel
        label, instance = item.label.read(max_bytes), None
        if self.contract.wants_instances:
            if item.instance is None:
                raise MissingInputError(
                    f"{item.label.name}: no instance map of this name, and the model wants one"
                )
            instance = item.instance.read(max_bytes)
        with self._lock:
            self._loaded += 1
        digest, style = hashlib.sha256(), None
        folder = self.settings.style_file
        if folder is not None and folder.is_dir():
            with contextlib.suppress(OSError):  # choosing the style gives the error
                style = (folder / f"{item.key}.json").read_bytes()
        for part in (label, instance, style):
            digest.update(b"-" if part is None else b"%d:" % len(part))
            digest.update(part or b"")
        size = (0, 0)
        if label.startswith(SIGNATURE) and len(label) >= 24:
            size = int.from_bytes(label[20:24], "big"), int.from_bytes(label[16:20], "big")
        return Loaded(
            item=item,
            label=label,
            instance=instance,
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
        with self._lock:
            self._prepared += 1
        try:
            schema, most = self.contract.schema, settings.max_pixels
            if schema is None:
                label_map = read_picture(loaded.label, max_pixels=most, name=item.label.name)
            else:
                label_map = read_label_map(
                    loaded.label,
                    schema,
                    unknown=settings.unknown,
                    max_pixels=most,
                    name=item.label.name,
                )
            instance_map = None
            if loaded.instance is not None:
                assert item.instance is not None
                instance_map = read_instance_map(
                    loaded.instance, max_pixels=most, name=item.instance.name
                )
            try:
                style = self.choose(item.key, label_map, instance_map)
                request = prepare(self.contract, label_map, instance_map, style)
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
        return Prepared(loaded=loaded, request=request, style=style, height=height, width=width)

    def check_styles_used(self) -> None:
        """Raise InputError if no map had some instances of the style file.

        Does nothing after a run that skipped maps.
        """
        if isinstance(self.choose, OneStyleFile) and 0 < self._loaded <= self._prepared:
            self.choose.check_used()
