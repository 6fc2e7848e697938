"""An open connection to a server or an engine: maps out, pictures back, raw or as encoded files."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from sceneloom import errors
from sceneloom.contract import Contract
from sceneloom.maps import Image, instance_map_png, label_map_png
from sceneloom.pictures import EncodedFormat, decode_picture, encode_picture
from sceneloom.png import SIGNATURE
from sceneloom.rendering.loading import Prepared
from sceneloom.rendering.settings import RenderSettings
from sceneloom.request import smallest_map, stack
from sceneloom.synthesizer import Synthesizer
from sceneloom.triton.access import Access
from sceneloom.triton.client import TransportChoice, TritonSynthesizer
from sceneloom.triton.encoded import EncodedClient, encoded_name, measure_link
from sceneloom.triton.transport import Timeouts

if TYPE_CHECKING:
    from sceneloom.triton.gateway_transport import GatewayTransport

PathChoice = Literal["auto", "raw", "encoded"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Reply:
    """The answer for one map, either as `image` or as `encoded`."""

    image: Image | None = None
    """uint8 [H, W, 3], RGB, cropped to the map's size."""
    encoded: bytes | None = None
    """The picture in the format of the settings, encoded by the server."""
    sent: int
    received: int
    """Bytes of the answer's tensor."""
    engine: str
    bundle_hash: str = ""
    """Hash of the bundle that drew, where a gateway names it; else the connection's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Route:
    """How the pictures of a run travel, in sentences for its summary."""

    encoded: bool = False
    """Whether files travel instead of arrays."""
    path: str = ""
    """Why raw or encoded; empty before the first request."""
    transport: str = ""
    """How tensors travel to the server."""
    engine: str = ""
    """The server's engine; empty if unknown."""


@dataclasses.dataclass(eq=False)
class RunPath:
    """The path of a run, raw or encoded, for all its servers."""

    wanted: PathChoice
    chosen: tuple[bool, str] | None = None
    """Whether files travel, and why; None until the first request."""
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


class Connection:
    """An open connection; this one is to a synthesizer of the caller, which stays open."""

    batch = 1
    """Most maps of one request."""

    def __init__(self, synthesizer: Synthesizer, close: Callable[[], None] = lambda: None) -> None:
        self._synthesizer, self.close = synthesizer, close
        self.contract: Contract = synthesizer.contract
        self.engine: str = synthesizer.engine
        # An engine in this process has no name and version.
        self.model: str = getattr(synthesizer, "model", "")
        self.version: str = getattr(synthesizer, "version", "")

    @property
    def route(self) -> Route:
        """How its pictures travel; complete after an answer."""
        return Route()

    def send(self, batch: Sequence[Prepared]) -> list[Reply]:
        """Render maps of one size, from any thread; raises ServingError."""
        arrays = stack([prepared.request for prepared in batch])
        images = self._synthesizer.run_batch(*arrays)
        sent = sum(array.nbytes for array in arrays if array is not None) // len(batch)
        cropped = [p.request.padding.crop(image) for p, image in zip(batch, images, strict=True)]
        return [
            Reply(image=image, sent=sent, received=image.nbytes, engine=self.engine)
            for image in cropped
        ]

    def prove(self) -> None:
        """Render the smallest map, for a model can be dead while its server calls it ready."""
        self._synthesizer.synthesize(*smallest_map(self.contract))


def open_connection(
    url: str,
    *,
    model: str,
    version: str = "",
    timeouts: Timeouts,
    transport: TransportChoice,
    access: Access,
    settings: RenderSettings,
    path: RunPath,
) -> Connection:
    """Connect to a Triton server or a gateway; raises as `TritonSynthesizer`."""
    synthesizer = TritonSynthesizer(
        url, model=model, version=version, timeouts=timeouts, transport=transport, access=access
    )
    if synthesizer.transport.kind == "gateway":
        return GatewayConnection(synthesizer, settings)
    return TritonConnection(synthesizer, version, settings, path)


def engine_words(synthesizer: TritonSynthesizer) -> str:
    """The server's engine in a sentence; empty if unknown."""
    if not synthesizer.engine:
        return ""
    difference = synthesizer.difference or "not said by the server"
    fast = synthesizer.fast or "not said by the server"
    return (
        f"engine: {synthesizer.engine} ({synthesizer.precision}); difference from PyTorch: "
        f"{difference}; --precision fast: {fast}"
    )


class GatewayConnection(Connection):
    """An open connection to a gateway: files both ways.

    Pictures of a format that the gateway gives are kept as they came; others come as PNG.
    """

    def __init__(self, synthesizer: TritonSynthesizer, settings: RenderSettings) -> None:
        super().__init__(synthesizer, synthesizer.close)
        self._triton, self._settings = synthesizer, settings
        transport: Any = synthesizer.transport
        self._gateway: GatewayTransport = transport
        self._as_it_came = settings.format in get_args(EncodedFormat) and not settings.grey

    def send(self, batch: Sequence[Prepared]) -> list[Reply]:
        """Render maps; raises ServingError."""
        settings, replies = self._settings, []
        for prepared in batch:
            label, instance = _files(self.contract, prepared, settings)
            drawn = self._gateway.draw(
                label,
                instance,
                prepared.style,
                size=(prepared.height, prepared.width),
                timeout=self._triton.timeouts.infer,
                format=cast(EncodedFormat, settings.format) if self._as_it_came else "png",
                quality=settings.quality,
            )
            replies.append(
                Reply(
                    image=None if self._as_it_came else decode_picture(drawn.file),
                    encoded=drawn.file if self._as_it_came else None,
                    sent=len(label) + len(instance or b""),
                    received=len(drawn.file),
                    engine=self.engine,
                    bundle_hash=drawn.bundle_hash,
                )
            )
        return replies

    @property
    def route(self) -> Route:
        """How its pictures travel."""
        came = "kept as they came" if self._as_it_came else f"written as {self._settings.format}"
        back = self._settings.format if self._as_it_came else "png"
        return Route(
            encoded=True,
            path=f"encoded: PNG files of maps to the gateway; pictures come as {back}, {came}",
            transport=f"gateway: {self._gateway.why}",
            engine=engine_words(self._triton),
        )


class TritonConnection(Connection):
    """An open connection to a Triton server."""

    def __init__(
        self, synthesizer: TritonSynthesizer, version: str, settings: RenderSettings, path: RunPath
    ) -> None:
        """Look for the encoded path if the run may use it, and for the requested `version` of the
        model; see `EncodedClient`.
        """
        self._settings, self._path = settings, path
        super().__init__(synthesizer, synthesizer.close)
        self._triton = synthesizer
        # A server that joins requests does as well with single ones, without waiting for others.
        self.batch = 1 if synthesizer.dynamic_batching else synthesizer.max_batch_size
        self._encoded: EncodedClient | None = None
        self._why_raw = ""
        if self.contract.kind == "picture":
            self._why_raw = "raw: the encoded path takes label maps, and this model pictures"
            if path.wanted == "encoded":
                self.close()
                raise errors.InputError(self._why_raw.removeprefix("raw: "))
        elif synthesizer.transport.kind == "grpc-shm":
            self._why_raw = "raw: tensors go through shared memory"
        elif settings.grey:
            self._why_raw = "raw: the encoded path does not give grey pictures"
        elif settings.format not in get_args(EncodedFormat):
            self._why_raw = f"raw: the encoded path does not give {settings.format}"
        encodes = not self._why_raw if path.chosen is None else path.chosen[0]
        if not encodes:
            return
        try:
            encoded = EncodedClient(
                synthesizer.transport,
                model=encoded_name(synthesizer.model),
                version=version,
                timeouts=synthesizer.timeouts,
            )
            other_version = encoded.version not in ("", "-1", self.version)
            if other_version or encoded.contract != self.contract:
                raise errors.ModelNotFoundError(
                    f"{synthesizer.transport.address}: its encoded path is another model's"
                )
            self._encoded = encoded
        except (errors.ModelNotFoundError, errors.ServerUnavailableError):  # absent, or not loaded
            if path.wanted == "encoded":
                self.close()
                raise
            of = f" of version {version}" if version else ""
            self._why_raw = f"raw: the server has no encoded path{of}"
        except BaseException:
            self.close()
            raise

    def send(self, batch: Sequence[Prepared]) -> list[Reply]:
        """Render maps of one size; raises ServingError."""
        with self._path.lock:  # the first request measures, the others wait for it
            if self._path.chosen is None:
                self._path.chosen = (
                    (False, self._why_raw)
                    if self._encoded is None
                    else self._measure_path(self._encoded, batch[0])
                )
            encodes, _ = self._path.chosen
        if self._encoded is None or not encodes:
            return super().send(batch)
        replies = []
        for prepared in batch:
            label, instance = _files(self.contract, prepared, self._settings)
            picture = self._encoded.synthesize(
                label,
                instance,
                prepared.style,
                format=cast(EncodedFormat, self._settings.format),
                quality=self._settings.quality,
                unknown=self._settings.unknown,
            )
            sent = len(label) + len(instance or b"")
            replies.append(
                Reply(encoded=picture, sent=sent, received=len(picture), engine=self.engine)
            )
        return replies

    @property
    def route(self) -> Route:
        """How its pictures travel."""
        transport = self._triton.transport
        encoded, why = self._path.chosen or (False, "")
        return Route(
            encoded=encoded,
            path=why,
            transport=f"{transport.kind}: {transport.why}",
            engine=engine_words(self._triton),
        )

    def prove(self) -> None:
        """Render the smallest map on the path of the run; raises ServingError."""
        super().prove()
        if self._encoded is not None and self._path.chosen is not None and self._path.chosen[0]:
            label_map, instance_map = smallest_map(self.contract)
            label = label_map_png(self.contract, label_map)
            instance = None
            if instance_map is not None:
                instance = instance_map_png(self.contract, label_map, instance_map)
            self._encoded.synthesize(label, instance)

    def _measure_path(self, encoded: EncodedClient, prepared: Prepared) -> tuple[bool, str]:
        """Whether a map of the run takes less time as a file, and why; raises ServingError."""
        try:
            label, instance = _files(self.contract, prepared, self._settings)
            times = measure_link(
                self._triton,
                encoded,
                label,
                instance,
                prepared.style,
                format=cast(EncodedFormat, self._settings.format),
                quality=self._settings.quality,
                unknown=self._settings.unknown,
            )
        except (errors.InputError, errors.RequestRejectedError) as error:
            return False, f"raw: the first map cannot go the encoded path ({error})"
        return times.path == "encoded", (
            f"{times.path}: a picture took {times.raw:.3f} s raw and {times.encoded:.3f} s encoded"
        )


def _files(
    contract: Contract, prepared: Prepared, settings: RenderSettings
) -> tuple[bytes, bytes | None]:
    """The map's own files if they are PNG of ids, or else new PNG files; of a model of pictures,
    the picture as PNG.
    """
    loaded, request = prepared.loaded, prepared.request
    height, width = prepared.height, prepared.width
    label, instance = loaded.label, loaded.instance
    label_map = request.label_map[:height, :width]
    if contract.kind == "picture":
        return encode_picture(label_map, "png"), None
    own = settings.reads_ids
    if not (own and label.startswith(SIGNATURE)):
        label = label_map_png(contract, label_map)
    if request.instance_map is not None and not (
        own and instance is not None and instance.startswith(SIGNATURE)
    ):
        instance = instance_map_png(contract, label_map, request.instance_map[:height, :width])
    return label, instance
