"""From the bytes of a map to a request: reading, hashing, decoding, checking."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
import time
from collections.abc import Iterator

from sceneloom.contract import Contract
from sceneloom.errors import InputError, MissingInputError, OutOfResourcesError
from sceneloom.maps import Style, read_instance_map, read_label_map
from sceneloom.png import SIGNATURE
from sceneloom.rendering.items import MapItem
from sceneloom.rendering.settings import RenderSettings
from sceneloom.request import Request, prepare
from sceneloom.style import ChooseStyle, OneStyleFile

_SLACK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """A map whose bytes have been read."""

    item: MapItem
    label: bytes
    """The label map's file."""
    instance: bytes | None
    """The instance map's file, or None where the model takes none."""
    input_hash: str
    """SHA-256 over all that was read for this picture."""
    size: tuple[int, int]
    """(height, width) as the file's header says, (0, 0) where it is no PNG."""
    started: float
    """When reading began, by `time.perf_counter`."""

    @property
    def bytes(self) -> int:
        """Memory that it holds."""
        return len(self.label) + len(self.instance or b"")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A map that is ready to be sent."""

    loaded: Loaded
    request: Request
    """The network's inputs."""
    style: Style | None
    """float32 [K, F], the rows of its instances, or None for the defaults."""
    height: int
    """Of the map, in pixels."""
    width: int
    """Of the map, in pixels."""


class Loader:
    """Reads and decodes the maps of a run; safe to use from several threads."""

    def __init__(self, contract: Contract, settings: RenderSettings, choose: ChooseStyle) -> None:
        """Keep what all maps have in common.

        Args:
            contract: of the model.
            settings: limits and what to do with unknown ids.
            choose: gives the style of a map.
        """
        self._contract = contract
        self._settings = settings
        self._choose = choose
        self._wants_instances = contract.wants_instances
        self._lock = threading.Lock()
        self._loaded = self._prepared = 0

    def load(self, item: MapItem) -> Loaded:
        """Read a map's files.

        Raises:
            InputError: one cannot be read or is too large, or there is no instance map and the
                model wants one.
        """
        started = time.perf_counter()
        most = 8 * self._settings.max_pixels + _SLACK_BYTES  # no map takes more a pixel
        label, instance = item.label.read(most), None
        if self._wants_instances:
            if item.instance is None:
                raise MissingInputError(
                    f"{item.label.name}: no instance map of this name, and the model wants one"
                )
            instance = item.instance.read(most)
        with self._lock:
            self._loaded += 1
        digest, style = hashlib.sha256(), None
        folder = self._settings.style_file
        if folder is not None and folder.is_dir():
            with contextlib.suppress(OSError):  # choosing the style says what is wrong
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
            InputError: it does not fit the contract; the text names the file.
            SchemaError: its style file is wrong.
            OutOfResourcesError: there is not enough memory for it.
        """
        item, settings = loaded.item, self._settings
        with self._lock:
            self._prepared += 1
        try:
            label_map = read_label_map(
                loaded.label,
                self._contract.schema,
                unknown=settings.unknown,
                max_pixels=settings.max_pixels,
                name=item.label.name,
            )
            instance_map = None
            if loaded.instance is not None:
                assert item.instance is not None
                instance_map = read_instance_map(
                    loaded.instance, max_pixels=settings.max_pixels, name=item.instance.name
                )
            with self._named(item):
                style = self._choose(item.key, label_map, instance_map)
                request = prepare(self._contract, label_map, instance_map, style)
        except MemoryError:
            raise OutOfResourcesError(
                f"{item.label.name}: not enough memory for a map of this size"
            ) from None
        height, width = label_map.shape
        return Prepared(loaded=loaded, request=request, style=style, height=height, width=width)

    def check_styles_used(self) -> None:
        """Check, after all maps, that a style file's instances were in one of them; nothing is
        known of maps that were skipped.

        Raises:
            InputError: some are in no map.
        """
        if isinstance(self._choose, OneStyleFile) and 0 < self._loaded <= self._prepared:
            self._choose.check_used()

    @contextlib.contextmanager
    def _named(self, item: MapItem) -> Iterator[None]:
        """Have what does not fit named by its file, unless the style's is named already."""
        try:
            yield
        except InputError as error:
            style_file = self._settings.style_file
            if style_file is None or not str(error).startswith(str(style_file)):
                error.args = (f"{item.label.name}: {error}",)
            raise
