"""The hyper-parameters of a generator; together with the weights they are the whole model."""

from __future__ import annotations

import dataclasses
from typing import Any

from sceneloom.errors import CheckpointError

_RANGES = {
    "input_channels": (1, 4096),
    "output_channels": (1, 4096),
    "ngf": (1, 4096),
    "global_downsamplings": (0, 10),
    "global_blocks": (0, 1000),
    "enhancers": (0, 8),
    "enhancer_blocks": (0, 1000),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorArchitecture:
    """Coarse-to-fine generator of pix2pixHD: a global generator and any number of local enhancers
    around it.
    """

    input_channels: int
    """One-hot labels, then the boundary map if there is one, then the style features if there are
    any.
    """
    output_channels: int = 3
    """RGB."""
    ngf: int = 64
    """Filters of the outermost network's first convolution (published: 64 for G1 alone, 32 with one
    enhancer).
    """
    global_downsamplings: int = 4
    """Stride-2 convolutions of the global generator."""
    global_blocks: int = 9
    """Residual blocks of the global generator."""
    enhancers: int = 0
    """Local enhancers stacked around the global generator; each doubles the resolution."""
    enhancer_blocks: int = 3
    """Residual blocks of each enhancer."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for field, (low, high) in _RANGES.items():
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise CheckpointError(
                    f"architecture: {field} is {value!r}; it is a whole number from {low} to {high}"
                )

    @property
    def global_ngf(self) -> int:
        """Filters of the global generator's first convolution: each enhancer has half as many as
        what it encloses.
        """
        return self.ngf << self.enhancers

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this."""
        return 1 << (self.global_downsamplings + self.enhancers)

    def to_json(self) -> dict[str, Any]:
        """The hyper-parameters as a JSON object."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Any, *, source: str) -> GeneratorArchitecture:
        """Read the JSON form.

        Raises:
            CheckpointError: a key is missing, unknown or out of range.
        """
        try:
            return cls(**data)
        except TypeError as error:
            raise CheckpointError(f"{source}: not a generator's architecture ({error})") from None
        except CheckpointError as error:
            raise CheckpointError(f"{source}: {error}") from None
