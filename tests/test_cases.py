"""Inputs and situations in which the product failed its users, of ../shared/cases: make cases.

Each case is a script that gets the path of the command and exits with 0 where the product behaves
properly, with 77 where it cannot be tried.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import CHECKOUT

CASES = sorted((CHECKOUT.parent / "shared/cases").glob("*/run.sh"))
_NOT_TRIED = 77


@pytest.mark.cases
@pytest.mark.skipif(not CASES, reason="needs ../shared/cases, which is not here")
@pytest.mark.parametrize("script", CASES or [Path()], ids=lambda path: path.parent.name)
def test_case(script: Path) -> None:
    command = ["bash", str(script), str(Path(sys.executable).with_name("sceneloom"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170)
    last = (done.stdout.strip().splitlines() or [done.stderr.strip()])[-1]
    if done.returncode == _NOT_TRIED:
        pytest.skip(last)
    assert done.returncode == 0, last
