"""Hyper-parameters of a generator. Together with the weights they are the whole model."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Interval

from sceneloom.errors import CheckpointError
from sceneloom.validation import checked, read_json
from sceneloom_training.settings import PaddingMode

_Channels: TypeAlias = Annotated[int, Interval(ge=1, le=4096)]
_Downsamplings: TypeAlias = Annotated[int, Interval(ge=0, le=10)]
_Blocks: TypeAlias = Annotated[int, Interval(ge=0, le=1000)]


@checked(CheckpointError)
@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorArchitecture:
    """pix2pixHD's coarse-to-fine generator: a global generator and local enhancers around it."""

    network: Literal["pix2pixhd"] = "pix2pixhd"
    input_channels: _Channels
    """One-hot labels, then the boundary map and the style features, if any."""
    output_channels: _Channels = 3
    ngf: _Channels = 64
    """Filters of the outermost first convolution (published: G1 alone 64, one enhancer 32)."""
    global_downsamplings: _Downsamplings = 4
    global_blocks: _Blocks = 9
    enhancers: Annotated[int, Interval(ge=0, le=8)] = 0
    """Local enhancers stacked around the global generator; each doubles the resolution."""
    enhancer_blocks: _Blocks = 3
    padding: PaddingMode = "reflect"
    """Padding of every convolution without stride."""

    @property
    def global_ngf(self) -> int:
        """Filters of the global generator's first convolution. Each enhancer has half as many."""
        return self.ngf << self.enhancers

    @property
    def size_multiple(self) -> int:
        """Height and width are multiples of this."""
        return 1 << (self.global_downsamplings + self.enhancers)

    @property
    def smallest_side(self) -> int:
        """Least height and width: the bottleneck needs two pixels to reflect and to normalise."""
        return 2 * self.size_multiple


@checked(CheckpointError)
@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetArchitecture:
    """U-Net generator of pix2pix."""

    network: Literal["unet"] = "unet"
    input_channels: _Channels
    output_channels: _Channels = 3
    ngf: _Channels = 64
    """Filters of the first convolution; deeper ones have up to eight times as many."""
    downsamplings: Annotated[int, Interval(ge=2, le=12)] = 8
    """Levels: 8 brings 256x256 to a single pixel."""
    dropout: bool = True
    """Noise by dropout while training, at the three levels above the innermost."""

    @property
    def size_multiple(self) -> int:
        """Height and width are multiples of this."""
        return 1 << self.downsamplings

    @property
    def smallest_side(self) -> int:
        """Least height and width: the innermost level has no norm and may be one pixel."""
        return self.size_multiple


Architecture: TypeAlias = GeneratorArchitecture | UNetArchitecture


def architecture_from_json(data: Any, *, source: str) -> Architecture:
    """Read either architecture. Without ``network`` it is pix2pixHD's. Raises CheckpointError."""
    is_unet = isinstance(data, dict) and data.get("network") == "unet"
    kind: type[Architecture] = UNetArchitecture if is_unet else GeneratorArchitecture
    return read_json(
        kind, json.dumps(data), source=f"{source}: architecture", error=CheckpointError
    )
