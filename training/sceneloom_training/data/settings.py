"""Which data set to read, and how; every field is also a flag of the training command."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal, get_args

from sceneloom.errors import InputError
from sceneloom.maps import OnUnknown, parse_size

Layout = Literal[
    "pix2pixhd", "cityscapes", "ade20k", "nyu", "celebamask", "helen", "paired", "streets"
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which data set to read, and how."""

    layout: Layout
    """How the folder is laid out, by the name of the publisher's data set; streets are painted, not
    read.
    """
    root: Path | None = None
    """The data set's folder; none for streets."""
    split: str = "train"
    """Part of the data set to read. cityscapes: train, val, test. ade20k: train, val. nyu: train,
    test, all. celebamask: train, val, test, all. helen: train, tuning, test, all. pix2pixhd and
    paired: what the folders' names begin with. streets: any, the seeds alone say which.
    """
    labels: str = ""
    """Label schema: the name of a built-in one, or the path of a JSON file of your own. Empty takes
    the layout's own (pix2pixhd: cityscapes).
    """
    unknown: OnUnknown = "error"
    """What to do with label ids that the schema does not have: refuse the file, or read them as
    unlabelled.
    """
    instances: bool = True
    """Read instance maps where the layout has them."""
    streets_seed: int = 0
    """streets: seed of the first one."""
    streets_count: int = 1000
    """streets: how many, of consecutive seeds."""
    streets_size: str = "512x256"
    """streets: the size to paint them at, as WIDTHxHEIGHT."""

    def __post_init__(self) -> None:
        """Check what the fields mean together; no file is looked at."""
        if self.layout not in get_args(Layout):
            raise InputError(
                f"layout is {self.layout!r}; it is one of {', '.join(get_args(Layout))}"
            )
        if self.unknown not in get_args(OnUnknown):
            raise InputError(f"unknown is {self.unknown!r}; it is error or unlabelled")
        if self.layout == "streets" and self.root is not None:
            raise InputError(f"root is {self.root}; streets are painted and have no folder")
        if self.layout != "streets" and self.root is None:
            raise InputError(f"root is not given; {self.layout} is read from a folder")
        if self.layout == "paired" and self.labels:
            raise InputError(f"labels is {self.labels!r}; a paired data set has no label maps")
        if self.layout == "streets":
            parse_size(self.streets_size, of="streets_size")
            if self.streets_seed < 0 or self.streets_count < 1:
                raise InputError(
                    f"streets_seed is {self.streets_seed} and streets_count {self.streets_count}; "
                    "they are at least 0 and 1"
                )
