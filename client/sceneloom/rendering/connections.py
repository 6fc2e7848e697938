"""An open connection to a server, an engine or a gateway: maps out, pictures back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast, get_args

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
from sceneloom.triton.transport import Timeouts

if TYPE_CHECKING:
    from sceneloom.triton.gateway_transport import GatewayTransport


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Reply:
    """The answer for one map, either as `image` or as `encoded`."""

    image: Image | None = None
    """uint8 [H, W, 3], RGB, cropped to the map's size."""
    encoded: bytes | None = None
    """The picture in the format of the settings, encoded by a gateway."""
    sent: int
    received: int
    """Bytes of the answer's tensor."""
    engine: str
    bundle_hash: str = ""
    """Hash of the bundle that drew, where a gateway names it; else the connection's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Route:
    """How the pictures of a run travel, in sentences for its summary."""

    files: str = ""
    """How files travel; empty where arrays do."""
    transport: str = ""
    """How tensors travel to the server."""
    engine: str = ""
    """The server's engine; empty if unknown."""


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
) -> Connection:
    """Connect to a Triton server or a gateway; raises as `TritonSynthesizer`."""
    synthesizer = TritonSynthesizer(
        url, model=model, version=version, timeouts=timeouts, transport=transport, access=access
    )
    if synthesizer.transport.kind == "gateway":
        return GatewayConnection(synthesizer, settings)
    return TritonConnection(synthesizer)


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
            files=f"files: PNG of maps to the gateway; pictures come as {back}, {came}",
            transport=f"gateway: {self._gateway.why}",
            engine=engine_words(self._triton),
        )


class TritonConnection(Connection):
    """An open connection to a Triton server."""

    def __init__(self, synthesizer: TritonSynthesizer) -> None:
        super().__init__(synthesizer, synthesizer.close)
        self._triton = synthesizer
        # A server that joins requests does as well with single ones, without waiting for others.
        self.batch = 1 if synthesizer.dynamic_batching else synthesizer.max_batch_size

    @property
    def route(self) -> Route:
        """How its pictures travel."""
        transport = self._triton.transport
        return Route(
            transport=f"{transport.kind}: {transport.why}", engine=engine_words(self._triton)
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
