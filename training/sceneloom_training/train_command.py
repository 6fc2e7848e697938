"""`sceneloom train`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_type_hints

from tyro.conf import Positional, arg

from sceneloom import progress
from sceneloom.errors import InputError, LostPeerError, require
from sceneloom.text import counted, printable
from sceneloom_training.settings import TrainSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from sceneloom_training.process import Outcome

_PACKAGES = ["torch", "safetensors", "tensorboard"]


@progress.shown()
def main(
    config: Annotated[Path, Positional, arg(metavar="CONFIG.toml")],
    *,
    out: Path,
    check: bool = False,
    settings: Annotated[TrainSettings, arg(name="")],
) -> int:
    """Train a model, or resume: the same command continues a stopped or killed run.

    Args:
        config: a TOML file with a table for each section of the flags below; flags overrule it.
        out: folder of the run; export its OUT/model.
        check: train nothing and write nothing; read every sample once and list all that is wrong,
            as sceneloom check-data does.
        settings: everything else.
    """
    if check:
        from sceneloom_training.data_check import check_data

        return check_data(settings)
    from sceneloom_training.trainer import train

    try:
        outcome = train(settings, out)
    except LostPeerError as error:
        print(f"sceneloom train: {printable(error)}", file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        # Threads of gloo and NCCL can wait for the lost process for ever when the interpreter
        # ends; all files are closed.
        os._exit(1)
    return report(outcome)


def report(outcome: Outcome) -> int:
    """Print the end of a run in the main process. Return the exit code."""
    stopped_by = outcome.stopped_by
    if outcome.is_main and stopped_by is None and outcome.step < outcome.last:
        print(
            f"trained {outcome.step} of {counted(outcome.last, 'step')} in the seconds given, "
            "saved; the same command trains on"
        )
    elif outcome.is_main and stopped_by is None:
        print(f"trained {counted(outcome.step, 'step')}: {printable(outcome.model)}")
    elif outcome.is_main:
        print(
            f"stopped by signal {stopped_by} at step {outcome.step} of {outcome.last}, saved; the "
            "same command resumes it"
        )
    if outcome.is_main and outcome.left_out:
        print(f"left out: {counted(outcome.left_out, 'broken sample')}, named above")
    return 0 if stopped_by is None else 128 + stopped_by


def expand_arguments(
    arguments: Sequence[str], usage: str = "train CONFIG.toml --out DIR"
) -> list[str]:
    """Put a file's settings, as flags, before the user's own. Raises InputError."""
    if not arguments or {"-h", "--help"} & set(arguments):
        return list(arguments)
    require(_PACKAGES, extra="train", purpose="training a model")
    first, *rest = arguments
    if first.startswith("-"):
        raise InputError(
            f"the configuration file comes before the flags, and {first} is first: sceneloom "
            f"{usage}"
        )
    return [first, *read_flags(Path(first)), *rest]


def read_flags(path: Path) -> list[str]:
    """Flags of a TOML file: `ngf = 64` in `[generator]` is `--generator.ngf 64`."""
    try:
        text = path.read_text("utf-8")
        tables = tomllib.loads(text.removeprefix("\ufeff"))  # Windows' editors put a BOM
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # TOML and UTF-8 errors
        raise InputError(f"{path}: not a TOML file ({error})") from None
    except RecursionError:
        raise InputError(f"{path}: arrays and tables are nested too deeply") from None
    # Their flags take no value: the parser would refuse one without the setting's name.
    switches = {
        (section, field)
        for section, kind in get_type_hints(TrainSettings).items()
        for field, inner in get_type_hints(kind).items()
        if inner is bool
    }
    flags: list[str] = []
    for section, table in tables.items():
        if not isinstance(table, dict):
            raise InputError(f"{path}: {section} is not in a table, such as [data] or [generator]")
        for name, value in table.items():
            said = f"{path}: {section}.{name} is {value!r}"
            if isinstance(value, bool):
                flags.append(f"--{section}.{name if value else f'no-{name}'}".replace("_", "-"))
            elif (section, name.replace("-", "_")) in switches:
                raise InputError(f"{said}; it is true or false, without quotes")
            elif isinstance(value, int | float | str):
                # One word: a text may begin with a hyphen, or be empty.
                flags.append(f"--{section}.{name}".replace("_", "-") + f"={value}")
            else:
                raise InputError(f"{said}; a setting is a number, a text or a boolean")
    return flags
