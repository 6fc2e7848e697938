"""The hyper-parameters of a generator; together with the weights they are the whole model."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias, TypeVar, get_args

from sceneloom.errors import CheckpointError
from sceneloom_training.settings import PaddingMode

_RANGES = {
    "input_channels": (1, 4096),
    "output_channels": (1, 4096),
    "ngf": (1, 4096),
    "global_downsamplings": (0, 10),
    "global_blocks": (0, 1000),
    "enhancers": (0, 8),
    "enhancer_blocks": (0, 1000),
    "downsamplings": (2, 12),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorArchitecture:
    """pix2pixHD's coarse-to-fine generator: a global generator and local enhancers around it."""

    input_channels: int
    """One-hot labels, then the boundary map if there is one, then the style features if there are
    any.
    """
    output_channels: int = 3
    ngf: int = 64
    """Filters of the outermost network's first convolution (published: 64 for G1 alone, 32 with one
    enhancer).
    """
    global_downsamplings: int = 4
    global_blocks: int = 9
    enhancers: int = 0
    """Local enhancers stacked around the global generator; each doubles the resolution."""
    enhancer_blocks: int = 3
    padding: PaddingMode = "reflect"
    """Of every convolution that is not strided."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_ranges(self)
        if self.padding not in get_args(PaddingMode):
            modes = ", ".join(get_args(PaddingMode))
            raise CheckpointError(
                f"architecture: padding is {self.padding!r}; it is one of {modes}"
            )

    @property
    def global_ngf(self) -> int:
        """Filters of the global generator's first convolution; each enhancer has half as many."""
        return self.ngf << self.enhancers

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this."""
        return 1 << (self.global_downsamplings + self.enhancers)

    @property
    def smallest_side(self) -> int:
        """Least height and width: the bottleneck needs two pixels to reflect and to normalise."""
        return 2 * self.size_multiple

    def to_json(self) -> dict[str, Any]:
        """The hyper-parameters as a JSON object."""
        return {"network": "pix2pixhd", **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, data: Any, *, source: str) -> GeneratorArchitecture:
        """Read the JSON form.

        Raises:
            CheckpointError: a key is missing, unknown or out of range.
        """
        return _from_json(cls, data, source)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetArchitecture:
    """U-Net generator of pix2pix."""

    input_channels: int
    output_channels: int = 3
    ngf: int = 64
    """Filters of the first convolution; deeper ones have up to eight times as many."""
    downsamplings: int = 8
    """Levels: 8 brings 256x256 to a single pixel."""
    dropout: bool = True
    """Noise by dropout while training, at the three levels above the innermost."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_ranges(self)
        if not isinstance(self.dropout, bool):
            raise CheckpointError(f"architecture: dropout is {self.dropout!r}; it is true or false")

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this."""
        return 1 << self.downsamplings

    @property
    def smallest_side(self) -> int:
        """Least height and width: the innermost level has no norm and may be one pixel."""
        return self.size_multiple

    def to_json(self) -> dict[str, Any]:
        """The hyper-parameters as a JSON object."""
        return {"network": "unet", **dataclasses.asdict(self)}


Architecture: TypeAlias = GeneratorArchitecture | UNetArchitecture


def architecture_from_json(data: Any, *, source: str) -> Architecture:
    """Read the JSON form of either architecture; without ``network`` it is pix2pixHD's.

    Raises:
        CheckpointError: a key is missing, unknown or out of range.
    """
    network = data.get("network", "pix2pixhd") if isinstance(data, dict) else None
    if network == "unet":
        return _from_json(UNetArchitecture, data, source)
    return _from_json(GeneratorArchitecture, data, source)


_A = TypeVar("_A", GeneratorArchitecture, UNetArchitecture)


def _from_json(cls: type[_A], data: Any, source: str) -> _A:
    network = "unet" if cls is UNetArchitecture else "pix2pixhd"
    try:
        values = dict(data)
        if (named := values.pop("network", network)) != network:
            raise TypeError(f"network is {named!r}")
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: not a generator's architecture ({error})") from None
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None


def _check_ranges(architecture: Architecture) -> None:
    for field in dataclasses.fields(architecture):
        if field.name not in _RANGES:
            continue
        low, high = _RANGES[field.name]
        value = getattr(architecture, field.name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise CheckpointError(
                f"architecture: {field.name} is {value!r}; it is a whole number from {low} to "
                f"{high}"
            )
