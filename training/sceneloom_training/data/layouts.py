"""The layouts of data sets: a new one is a file like its neighbours and a row of `LAYOUTS`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from sceneloom.schema import builtin_schemas
from sceneloom_training.data import (
    ade20k,
    camvid,
    celebamask,
    cityscapes,
    helen,
    nyu,
    paired,
    pix2pixhd,
)
from sceneloom_training.data.sample import DataSet
from sceneloom_training.data.streets import open_streets


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """A publisher's layout of a data set."""

    open: Callable[..., DataSet]
    """Takes (root, split, schema=, unknown=, instances=), without `schemas` (root, split) alone."""
    schemas: tuple[str, ...]
    """Built-in label schemas of its ids, the default first. Empty without label maps."""
    splits: tuple[str, ...] | str
    """The valid splits, or what a split means where any name may be one."""


_START = "the start of the folders' names"

LAYOUTS = {
    "pix2pixhd": Layout(
        open=pix2pixhd.open_pix2pixhd, schemas=("cityscapes", *builtin_schemas()), splits=_START
    ),
    "cityscapes": Layout(
        open=cityscapes.open_cityscapes,
        schemas=("cityscapes", "cityscapes19", "cityscapes-eval"),
        splits=tuple(cityscapes.FOLDERS),
    ),
    "ade20k": Layout(open=ade20k.open_ade20k, schemas=("ade20k",), splits=tuple(ade20k.FOLDERS)),
    "camvid": Layout(open=camvid.open_camvid, schemas=("camvid",), splits=camvid.SPLITS),
    "nyu": Layout(open=nyu.open_nyu, schemas=("nyu40",), splits=("train", "test", "all")),
    "celebamask": Layout(
        open=celebamask.open_celebamask,
        schemas=("celebamask",),
        splits=("train", "val", "test", "all"),
    ),
    "helen": Layout(open=helen.open_helen, schemas=("helen",), splits=(*helen.LISTS, "all")),
    "paired": Layout(open=paired.open_paired, schemas=(), splits=_START),
    "streets": Layout(
        open=open_streets,
        schemas=("cityscapes", "cityscapes-eval", "cityscapes-markings", "cityscapes-details"),
        splits="any; the seeds alone decide",
    ),
}
"""Layout by its name. Settings, help and `open_data_set` follow this table."""


def describe_splits() -> str:
    """The splits of each layout, for the help."""
    return " ".join(
        f"{name}: {x if isinstance(x, str) else ', '.join(x)}."
        for name, x in ((name, layout.splits) for name, layout in LAYOUTS.items())
    )
