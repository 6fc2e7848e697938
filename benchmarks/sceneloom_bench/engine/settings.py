"""Settings of `sceneloom bench engine`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from sceneloom.errors import InputError
from sceneloom_bench.engine.contenders import check_names
from sceneloom_bench.engine.peaks import Device
from sceneloom_bench.ranges import (
    MOST_BATCH,
    MOST_MAPS,
    MOST_ROUNDS,
    check_name,
    check_ranges,
)
from sceneloom_export.settings import parse_size

_RANGES = {
    "ngf": (1, 1024),
    "blocks": (1, 100),
    "batch": (1, MOST_BATCH),
    "rounds": (1, MOST_ROUNDS),
    "pictures": (1, MOST_ROUNDS),
    "maps": (2, MOST_MAPS),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineBenchSettings:
    """What is measured."""

    checkpoint: Path | None = None
    """Checkpoint bundle of a model that takes label maps; without one, the published network with
    random weights.
    """
    ngf: int = 32
    """Filters of the first convolution, without a checkpoint; 32 is the published network."""
    blocks: int = 9
    """Residual blocks of its global generator; 9 is the published network."""
    size: str = "2048x1024"
    """Of the pictures, WIDTHxHEIGHT; one that the model takes without padding."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where PyTorch runs, and which engines are beside it: auto is the GPU where PyTorch sees one.
    """
    engines: tuple[str, ...] = ()
    """What is measured beside PyTorch eager, such as openvino-fp32; all unless named."""
    batch: tuple[int, ...] = (1,)
    """Pictures at once; an engine that does not take so many is left out there."""
    rounds: int = 6
    """Measured rounds, after one of warm-up; from six on ratios have an interval."""
    pictures: int | None = None
    """Batches of one engine in a round; 1 on a CPU and 80 on a GPU unless given. 459 and more in
    all rounds make an honest p99.
    """
    maps: int = 16
    """Different maps, which the pictures take in turn."""
    served: bool = True
    """Also measure the default engine through the bundled Triton server."""
    keep: Path | None = None
    """Folder for the export bundle; without it, it is removed at the end. Where a TensorRT plan is
    measured, the bundle serves the measured size only.
    """
    name: str | None = None
    """Added to the report's file name."""

    def __post_init__(self) -> None:
        """Check the ranges and names."""
        parse_size(self.size)
        check_names(self.engines)
        check_ranges(self, _RANGES)
        if not self.batch:
            raise InputError("batch is empty: name one at least")
        check_name(self.name)
        if self.keep is not None and self.keep.is_file():
            raise InputError(f"keep is {self.keep}: a file, where the bundle's folder is to be")

    @property
    def batches(self) -> list[int]:
        """Each batch once, the smallest first: memory is what the largest so far has needed."""
        return sorted(set(self.batch))

    @property
    def height_width(self) -> tuple[int, int]:
        """The size."""
        return parse_size(self.size)

    def turn(self, device: Device) -> int:
        """Batches of one engine in a round."""
        return self.pictures or {"cpu": 1, "cuda": 80}[device]

    def needed_maps(self, device: Device) -> int:
        """How many maps are drawn: no more than are used, and more than a batch takes."""
        used = (self.rounds + 1) * self.turn(device) * self.batches[-1]
        return max(min(self.maps, used), self.batches[-1] + 1)
