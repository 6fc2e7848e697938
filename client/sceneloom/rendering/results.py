"""What a rendering run gives for each map."""

from __future__ import annotations

import dataclasses
from pathlib import PurePosixPath

from sceneloom.contract import precision_of
from sceneloom.maps import MAP_SUFFIXES, Image
from sceneloom.request import Padding


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rendered:
    """A picture that is in its place, and in the manifest."""

    key: str
    """Of its map."""
    output: str
    """Where it lies below the output folder."""
    padding: Padding
    """What was added to the map for the network, and cropped off the picture."""
    seconds: float
    """From reading the map to the encoded picture."""
    attempts: int
    """Requests that were sent for it."""
    bytes: int
    """Size of the encoded picture."""
    engine: str = ""
    """What made it, such as ``openvino-fp32``; empty where the server does not say it."""

    @property
    def precision(self) -> str:
        """What convolutions were computed in, such as ``fp32``; empty where unknown."""
        return precision_of(self.engine)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A picture of a run without a sink."""

    key: str
    """Of its map."""
    image: Image
    """uint8 [H, W, 3], RGB."""
    padding: Padding
    """What was added to the map for the network, and cropped off the picture."""
    seconds: float
    """From reading the map to the picture."""
    attempts: int
    """Requests that were sent for it."""
    engine: str = ""
    """What made it, such as ``openvino-fp32``; empty where unknown."""

    @property
    def precision(self) -> str:
        """What convolutions were computed in, such as ``fp32``; empty where unknown."""
        return precision_of(self.engine)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skipped:
    """A map of which an earlier run has made the picture, from the same bytes in the same way."""

    key: str
    """Of the map."""
    output: str
    """Where the picture lies."""
    engine: str = ""
    """What made it; empty where the manifest does not say it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failed:
    """A map that gave no picture."""

    key: str
    """Of the map."""
    error: Exception
    """A SceneLoomError, or an OSError of the place the picture was to go."""
    attempts: int = 0
    """Requests that were sent for it."""

    @property
    def reason(self) -> str:
        """One sentence that begins with the map's name."""
        text = str(self.error) or type(self.error).__name__
        file = PurePosixPath(text.split(": ")[0])
        named = file.suffix.lower() in MAP_SUFFIXES and str(file.with_suffix("")).endswith(self.key)
        return text if named else f"{self.key}: {text}"


Result = Rendered | Picture | Skipped | Failed
