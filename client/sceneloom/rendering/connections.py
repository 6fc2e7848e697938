"""An open connection to a server or an engine: maps out, pictures back, raw or as encoded files."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, cast, get_args

from sceneloom.contract import MODEL_NAME, Contract
from sceneloom.errors import (
    InputError,
    ModelNotFoundError,
    RequestRejectedError,
    ServerUnavailableError,
)
from sceneloom.maps import Image, instance_map_png, label_map_png
from sceneloom.pictures import decode_picture, encode_picture
from sceneloom.png import SIGNATURE
from sceneloom.rendering.loading import Prepared
from sceneloom.rendering.settings import RenderSettings
from sceneloom.request import smallest_map
from sceneloom.synthesizer import Synthesizer
from sceneloom.triton.client import TritonSynthesizer
from sceneloom.triton.encoded import ENCODED_MODEL, EncodedClient, EncodedFormat, measure_link

PathChoice = Literal["auto", "raw", "encoded"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Reply:
    """What came back for one map: one of the two is there."""

    image: Image | None = None
    """uint8 [H, W, 3], RGB, cropped to the map's size."""
    encoded: bytes | None = None
    """The picture as the server encoded it, in the format that was asked for."""
    sent: int = 0
    """Bytes of the request's tensors."""
    engine: str = ""
    """What made it, as RUNTIME-PRECISION; empty where unknown."""

    @property
    def received(self) -> int:
        """Bytes of the answer's tensor."""
        return len(self.encoded or b"") if self.image is None else self.image.nbytes

    def decode(self) -> Image:
        """The picture, uint8 [H, W, 3], RGB."""
        if self.image is not None:
            return self.image
        assert self.encoded is not None
        return decode_picture(self.encoded)

    def encode(self, settings: RenderSettings) -> bytes:
        """The encoded picture."""
        if self.encoded is not None:
            return self.encoded
        assert self.image is not None
        return encode_picture(self.image, settings.format, quality=settings.quality)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Route:
    """How the pictures of a run travel; each text is a sentence for its summary."""

    encoded: bool = False
    """Whether files travel instead of arrays."""
    path: str = ""
    """Why raw or encoded; empty before the first request."""
    transport: str = ""
    """How tensors travel to the server."""
    engine: str = ""
    """The server's engine; empty where it does not say which."""


class PathChooser:
    """Chooses once, for all servers of a run, whether arrays or files travel."""

    def __init__(self, path: PathChoice) -> None:
        self.path = path
        """What was asked for: ``raw``, ``encoded`` or ``auto``."""
        self._lock = threading.Lock()
        self._chosen = None if path == "auto" else (path == "encoded", f"{path}: as asked")

    @property
    def chosen(self) -> tuple[bool, str]:
        """Whether files travel, and why; False and empty before the first request."""
        return self._chosen or (False, "")

    def choose(self, measure: Callable[[], tuple[bool, str]]) -> bool:
        """Whether files travel; the first call measures, the others wait for it."""
        with self._lock:
            if self._chosen is None:
                self._chosen = measure()
            return self._chosen[0]


class Connection(Protocol):
    """An open connection to a server, or an engine in this process; `send` is called from several
    threads.
    """

    contract: Contract
    model: str
    version: str
    """The version of it that is served; empty for an engine in this process."""
    engine: str
    """What runs it, as RUNTIME-PRECISION; empty where unknown."""
    batch: int
    """Most maps that one request is made of."""

    @property
    def route(self) -> Route:
        """How its pictures travel."""

    def send(self, batch: Sequence[Prepared]) -> list[Reply]:
        """Have maps of one size rendered; raises a ServingError."""

    def prove(self) -> None:
        """Have a real request answered; raises a ServingError where it is not."""

    def close(self) -> None:
        """Close it."""


class EngineConnection:
    """A synthesizer that the caller owns, mostly an engine in this process; closing the connection
    leaves it open.
    """

    def __init__(self, synthesizer: Synthesizer) -> None:
        self._synthesizer = synthesizer
        self.batch = 1
        """Most maps that one request is made of."""
        self.contract: Contract = synthesizer.contract
        self.model: str = getattr(synthesizer, "model", "")
        """Name of the model; empty for an engine in this process."""
        self.version: str = getattr(synthesizer, "version", "")
        """The version that is served; empty for an engine in this process."""
        self.engine: str = synthesizer.engine
        """What runs it, as RUNTIME-PRECISION; empty where unknown."""
        self.route = Route()
        """There is one way only."""

    def send(self, batch: Sequence[Prepared]) -> list[Reply]:
        """Have maps of one size rendered.

        Raises:
            ServingError: the server did not answer with pictures.
        """
        return send_raw(self._synthesizer, batch)

    def prove(self) -> None:
        """Have the smallest map rendered.

        Raises:
            ServingError: no picture came back.
        """
        render_smallest(self._synthesizer)

    def close(self) -> None:
        """Leave the synthesizer open."""


def send_raw(synthesizer: Synthesizer, batch: Sequence[Prepared]) -> list[Reply]:
    """Have maps of one size rendered from arrays; raises a ServingError."""
    images = synthesizer.run_requests([prepared.request for prepared in batch])
    return [
        Reply(
            image=prepared.request.padding.crop(image),
            sent=prepared.request.nbytes,
            engine=synthesizer.engine,
        )
        for prepared, image in zip(batch, images, strict=True)
    ]


def render_smallest(synthesizer: Synthesizer) -> None:
    """Have a map of one class and one instance rendered, of the smallest size that the model takes:
    a model's process can be dead while its server says that the model is ready.

    Raises:
        ServingError: no picture came back.
    """
    synthesizer.synthesize(*smallest_map(synthesizer.contract))


_SHARED_MEMORY = "grpc-shm"
_ENCODED_SUFFIX = ENCODED_MODEL.removeprefix(MODEL_NAME)


class TritonConnection:
    """An open connection to a Triton server."""

    def __init__(
        self, synthesizer: TritonSynthesizer, settings: RenderSettings, chooser: PathChooser
    ) -> None:
        """Take over a synthesizer; it is closed with the connection.

        Args:
            synthesizer: the raw path.
            settings: format, quality and what to do with unknown ids.
            chooser: of the run. With the path ``raw`` the encoded path is not looked for, with
                ``encoded`` there has to be one.

        Raises:
            ModelNotFoundError: the encoded path was asked for, and the server does not have it.
        """
        self._settings, self._chooser = settings, chooser
        self.synthesizer = synthesizer
        """The raw path."""
        self.contract: Contract = synthesizer.contract
        self.model, self.version = synthesizer.model, synthesizer.version
        """Name and version of the model."""
        self.engine = synthesizer.engine
        """What runs it, as RUNTIME-PRECISION; empty where the server does not say it."""
        most = synthesizer.max_batch_size
        self.batch = 1 if synthesizer.dynamic_batching else most
        """Most maps that one request is made of: where the server joins requests, single ones are
        as good and wait for nobody.
        """
        self._encoded: EncodedClient | None = None
        if chooser.path == "raw":
            return
        try:
            encoded = EncodedClient(
                synthesizer.transport,
                model=f"{synthesizer.model}{_ENCODED_SUFFIX}",
                timeouts=synthesizer.timeouts,
            )
            if encoded.contract != self.contract:
                raise ModelNotFoundError(
                    f"{synthesizer.transport.address}: its encoded path is another model's"
                )
            self._encoded = encoded
        except (ModelNotFoundError, ServerUnavailableError):  # not there, or not loaded
            if chooser.path == "encoded":
                raise

    def send(self, batch: Sequence[Prepared]) -> list[Reply]:
        """Have maps of one size rendered.

        Raises:
            ServingError: the server did not answer with pictures.
        """
        encoded = self._chooser.choose(lambda: self._measure(batch[0]))
        if self._encoded is None or not encoded:
            return send_raw(self.synthesizer, batch)
        return [self._send_files(self._encoded, one) for one in batch]

    @property
    def route(self) -> Route:
        """How its pictures travel."""
        synthesizer = self.synthesizer
        encoded, why = self._chooser.chosen
        engine = ""
        if synthesizer.engine:
            difference = synthesizer.difference or "not said by the server"
            fast = synthesizer.fast or "not said by the server"
            engine = (
                f"engine: {synthesizer.engine} ({synthesizer.precision}); difference from PyTorch: "
                f"{difference}; --precision fast: {fast}"
            )
        return Route(
            encoded=encoded,
            path=why,
            transport=f"{synthesizer.transport.kind}: {synthesizer.transport.why}",
            engine=engine,
        )

    def prove(self) -> None:
        """Have the smallest map rendered.

        Raises:
            ServingError: no picture came back.
        """
        render_smallest(self.synthesizer)
        if self._encoded is not None and self._chooser.chosen[0]:
            label_map, instance_map = smallest_map(self.contract)
            label = label_map_png(self.contract, label_map)
            instance = None
            if instance_map is not None:
                instance = instance_map_png(self.contract, label_map, instance_map)
            self._encoded.synthesize(label, instance)

    def close(self) -> None:
        """Close the connection."""
        self.synthesizer.close()

    def _measure(self, prepared: Prepared) -> tuple[bool, str]:
        """Whether a map of the run takes less time as a file, and why; raises a ServingError."""
        format = self._settings.format
        if self.synthesizer.transport.kind == _SHARED_MEMORY:
            return False, "raw: tensors go through shared memory"
        if self._encoded is None:
            return False, "raw: the server has no encoded path"
        if format not in get_args(EncodedFormat):
            return False, f"raw: the encoded path does not give {format}"
        try:
            label, instance = _files(self.contract, prepared)
            times = measure_link(
                self.synthesizer,
                self._encoded,
                label,
                instance,
                prepared.style,
                format=cast(EncodedFormat, format),
                quality=self._settings.quality,
                unknown=self._settings.unknown,
            )
        except (InputError, RequestRejectedError) as error:
            return False, f"raw: the first map cannot go the encoded path ({error})"
        return times.path == "encoded", (
            f"{times.path}: a picture took {times.raw:.3f} s raw and {times.encoded:.3f} s encoded"
        )

    def _send_files(self, encoded: EncodedClient, prepared: Prepared) -> Reply:
        label, instance = _files(self.contract, prepared)
        picture = encoded.synthesize(
            label,
            instance,
            prepared.style,
            format=cast(EncodedFormat, self._settings.format),
            quality=self._settings.quality,
            unknown=self._settings.unknown,
        )
        sent = len(label) + len(instance or b"")
        return Reply(encoded=picture, sent=sent, engine=self.engine)


def _files(contract: Contract, prepared: Prepared) -> tuple[bytes, bytes | None]:
    """The map's own files where they are PNG; others are written as PNG."""
    loaded, request = prepared.loaded, prepared.request
    height, width = prepared.height, prepared.width
    label, instance = loaded.label, loaded.instance
    label_map = request.label_map[:height, :width]
    if not label.startswith(SIGNATURE):
        label = label_map_png(contract, label_map)
    if instance is not None and not instance.startswith(SIGNATURE):
        assert request.instance_map is not None
        instance = instance_map_png(contract, label_map, request.instance_map[:height, :width])
    return label, instance
