"""The data set to read. Every field is also a flag of the training command."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from annotated_types import Interval
from tyro.conf import arg

from sceneloom.errors import InputError
from sceneloom.map_reading import MapReading
from sceneloom.maps import DEFAULT_MAX_PIXELS, OnUnknown, parse_size
from sceneloom.validation import checked
from sceneloom_training.data.layouts import LAYOUTS, describe_splits

if TYPE_CHECKING:
    LayoutName: TypeAlias = str
else:
    LayoutName = Literal[tuple(LAYOUTS)]


SKIP_BROKEN = "skip_broken in [data], or --data.skip-broken, leaves such samples out"
"""End of an error about a sample."""


def check_size(text: str, *, of: str) -> tuple[int, int]:
    """`parse_size` with the pixel limit of label maps."""
    height, width = parse_size(text, of=of)
    if height * width > DEFAULT_MAX_PIXELS:
        raise InputError(f"{of} is {text}; it is at most {DEFAULT_MAX_PIXELS:,} pixels")
    return height, width


@checked(InputError)
@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings(MapReading):
    """The data set to read."""

    layout: LayoutName
    """Layout of the folder, by the name of the publisher's data set; streets are painted."""
    root: Path | None = None
    """The data set's folder; none for streets."""
    split: Annotated[str, arg(help=f"Part of the data set. {describe_splits()}")] = "train"
    labels: str = ""
    """Label schema: a built-in name or a JSON file's path; empty takes the layout's own."""
    unknown: OnUnknown = "error"
    """Refuse label ids that the schema lacks, or read them as unlabelled."""
    instances: bool = True
    """Read instance maps where the layout has them."""
    skip_broken: bool = False
    """Leave out samples that cannot be used, and name each; without it one ends the command."""
    streets_seed: Annotated[int, Interval(ge=0)] = 0
    """streets: seed of the first street."""
    streets_count: Annotated[int, Interval(ge=1)] = 1000
    """streets: number of streets, of consecutive seeds."""
    streets_size: str = "512x256"
    """streets: WIDTHxHEIGHT to paint them at."""

    def __post_init__(self) -> None:
        MapReading.__post_init__(self)
        if self.boundaries == "colours":
            raise InputError(
                "boundaries is colours; it is instances, labels or components where a data set is "
                "read. The instance maps of CARLA's instance camera are the label maps: make "
                "<split>_inst a link to <split>_label"
            )
        if self.layout == "streets" and self.root is not None:
            raise InputError(f"root is {self.root}; streets are painted and have no folder")
        if self.layout != "streets" and self.root is None:
            raise InputError(f"root is not given; {self.layout} is read from a folder")
        if self.layout == "paired" and self.labels:
            raise InputError(f"labels is {self.labels!r}; a paired data set has no label maps")
        if self.layout == "streets":
            parse_size(self.streets_size, of="streets_size")
