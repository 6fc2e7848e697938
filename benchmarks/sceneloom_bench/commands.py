"""The user's own commands, run by drivers in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sceneloom.errors import TrainingError

CHECKOUT = Path(__file__).resolve().parents[2]
"""The checkout that holds the configurations; drivers do not run from an installed wheel."""


def run_sceneloom(*arguments: str, threads: int | None = None, quiet: bool = False) -> None:
    """Run ``sceneloom ...`` and wait for its end.

    Args:
        arguments: the command line.
        threads: for OpenMP; None leaves the choice to it.
        quiet: drop what it prints to standard output.

    Raises:
        TrainingError: it ended with another code than 0; it has said why.
    """
    environment = dict(os.environ)
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, "-m", "sceneloom.cli", *arguments]
    where = subprocess.DEVNULL if quiet else None
    done = subprocess.run(command, env=environment, stdout=where, check=False)
    if done.returncode:
        said = " ".join(["sceneloom", *arguments])
        raise TrainingError(f"ended with code {done.returncode}: {said}")
