"""`sceneloom check-data`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from sceneloom import progress
from sceneloom_training import train_command
from sceneloom_training.settings import TrainSettings

expand_arguments = partial(train_command.expand_arguments, usage="check-data CONFIG.toml")


@progress.shown()
def main(
    config: Annotated[Path, Positional, arg(metavar="CONFIG.toml")],
    *,
    settings: Annotated[TrainSettings, arg(name="")],
) -> int:
    """Read every sample of a training's data once, and list all that is wrong, the classes, the
    sizes and the instances. The exit code is 0 if nothing is wrong, or only samples that
    --data.skip-broken leaves out, else 1.

    Args:
        config: the TOML file of sceneloom train; flags overrule it.
        settings: everything else, as for sceneloom train.
    """
    from sceneloom_training.data_check import check_data

    return check_data(settings)
