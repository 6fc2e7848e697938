"""How the styles of photographs are clustered, as `sceneloom styles` takes it from flags."""

from __future__ import annotations

import dataclasses

from sceneloom.errors import InputError
from sceneloom_training.modes import DeviceChoice


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """How styles are encoded and clustered."""

    clusters: int = 10
    """Most clusters of a class."""
    smallest_share: float = 1 / 64
    """Instances that take up less of their picture are left out, as published; a class that has
    none so large keeps all of its instances.
    """
    width: int | None = None
    """Scale photographs to this width first, the one the model was trained at; without it, they are
    encoded at their own size.
    """
    seed: int = 0
    """Of k-means: equal seeds give equal clusters."""
    device: DeviceChoice = "auto"
    """Where the encoder runs; auto takes a GPU if there is one."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 1 <= self.clusters <= 1000:
            raise InputError(f"clusters is {self.clusters}; it is from 1 to 1000")
        if not 0 <= self.smallest_share <= 1:
            raise InputError(f"smallest_share is {self.smallest_share}; it is from 0 to 1")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed is {self.seed}; it is from 0 to {2**32 - 1}")
