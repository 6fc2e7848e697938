"""A connection to a server as the pipeline uses it: maps out, pictures back, raw or encoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from sceneloom.contract import Contract
from sceneloom.maps import Image
from sceneloom.pictures import decode_picture, encode_picture
from sceneloom.rendering.loading import Prepared
from sceneloom.rendering.settings import RenderSettings
from sceneloom.request import smallest_map
from sceneloom.synthesizer import Synthesizer


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
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


class Connection(Protocol):
    """An open connection to a server, or an engine in this process; `send` is called from several
    threads.
    """

    contract: Contract
    """Of the model."""
    model: str
    """Its name."""
    version: str
    """The version of it that is served; empty for an engine in this process."""
    engine: str
    """What runs it, as RUNTIME-PRECISION; empty where unknown."""
    batch: int
    """Most maps that one request is made of."""

    def choose_way(self, prepared: Prepared) -> None:
        """Settle, with the first map of the run, what is to be found out by trying."""

    def send(self, batch: Sequence[Prepared]) -> list[Answer]:
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
        """Use a synthesizer that is safe to use from several threads."""
        self._synthesizer = synthesizer
        self.batch = 1
        """Most maps that one request is made of."""
        self.contract: Contract = synthesizer.contract
        """Of the model."""
        self.model: str = getattr(synthesizer, "model", "")
        """Name of the model; empty for an engine in this process."""
        self.version: str = getattr(synthesizer, "version", "")
        """The version that is served; empty for an engine in this process."""
        self.engine: str = synthesizer.engine
        """What runs it, as RUNTIME-PRECISION; empty where unknown."""

    def choose_way(self, prepared: Prepared) -> None:
        """There is one way only."""

    def send(self, batch: Sequence[Prepared]) -> list[Answer]:
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


def send_raw(synthesizer: Synthesizer, batch: Sequence[Prepared]) -> list[Answer]:
    """Have maps of one size rendered from arrays; raises a ServingError."""
    images = synthesizer.run_requests([prepared.request for prepared in batch])
    return [
        Answer(
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
