"""A connection to a server as the pipeline uses it: maps out, pictures back, raw or encoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from sceneloom.contract import Contract
from sceneloom.rendering.formats import encode_picture
from sceneloom.rendering.loading import Prepared
from sceneloom.rendering.settings import RenderSettings
from sceneloom.synthesizer import Image, Synthesizer


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What came back for one map: one of the two is there."""

    image: Image | None = None
    """uint8 [H, W, 3], RGB, cropped to the map's size."""
    encoded: bytes | None = None
    """The picture as the server encoded it, in the format that was asked for."""

    def encode(self, settings: RenderSettings) -> bytes:
        """The encoded picture."""
        if self.encoded is not None:
            return self.encoded
        assert self.image is not None
        return encode_picture(self.image, settings.format, quality=settings.quality)


class RawConnection:
    """Arrays to a `Synthesizer`: a Triton server, or an engine in this process."""

    def __init__(self, synthesizer: Synthesizer, *, batch: int = 1, joined: int = 1) -> None:
        """Take over a synthesizer; it is closed with the connection.

        Args:
            synthesizer: safe to use from several threads.
            batch: most maps that one request is made of.
            joined: most requests that the server makes one batch of.
        """
        self.synthesizer = synthesizer
        """Runs the requests."""
        self.contract: Contract = synthesizer.contract
        """Of the model."""
        self.batch = batch
        """Most maps that one request is made of."""
        self.joined = joined
        """Most requests that the server makes one batch of."""
        self.model: str = getattr(synthesizer, "model", "")
        """Name of the model."""
        self.version: str = getattr(synthesizer, "version", "")
        """The version that is served; empty for an engine in this process."""

    def send(self, batch: Sequence[Prepared]) -> list[Answer]:
        """Have maps of one size rendered.

        Raises:
            ServingError: the server did not answer with pictures.
        """
        images = self.synthesizer.run_requests([prepared.request for prepared in batch])
        return [
            Answer(image=prepared.request.padding.crop(image))
            for prepared, image in zip(batch, images, strict=True)
        ]

    def prove(self) -> None:
        """Have the smallest map rendered: a model's process can be dead while its server says that
        the model is ready.

        Raises:
            ServingError: no picture came back.
        """
        label_map, instance_map = smallest_map(self.contract)
        self.synthesizer.synthesize(label_map, instance_map)

    def close(self) -> None:
        """Close the synthesizer."""
        self.synthesizer.close()


def smallest_map(contract: Contract) -> tuple[Image, Image | None]:
    """A map of one class and one instance, of the smallest size that the model takes.

    Returns:
        uint8 [H, W] and int32 [H, W], the second None where the model takes none.
    """
    size = min(contract.sizes or ((contract.min_side, contract.min_side),))
    wants_instances = contract.boundaries or contract.style_channels > 0
    return np.zeros(size, np.uint8), np.zeros(size, np.int32) if wants_instances else None
