"""The commands' lines on stderr about long work, read while the command runs."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from support import COMMAND, run_command

from sceneloom_export.bundle import Exported


@contextlib.contextmanager
def lines_of(*arguments: str | Path) -> Iterator[Iterator[str]]:
    """Lines of a running command's stderr; each is read before the command has ended."""
    command = [*COMMAND, *map(str, arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stderr is not None
        try:
            yield (line.rstrip("\n") for line in running.stderr if running.poll() is None)
        finally:
            running.kill()


def test_runtimes_says_which_engine_it_measures(exported: Exported) -> None:
    with lines_of("runtimes", exported.repository, "--measure") as lines:
        assert re.fullmatch(r"measure onnxruntime-fp32 \(1 of \d\) \.\.\.", next(lines))
        assert any(line.startswith("time ") for line in lines)


def test_listing_engines_says_nothing(exported: Exported) -> None:
    assert run_command("runtimes", exported.repository).stderr == ""
