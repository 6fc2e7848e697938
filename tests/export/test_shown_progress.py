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


def test_export_says_what_it_does(checkpoint: Path, tmp_path: Path) -> None:
    flags = ("--repository", tmp_path / "repository", "--largest", "256x128")
    with lines_of("export", checkpoint, *flags, "--precision", "fp32") as lines:
        assert next(lines) == "load PyTorch and ONNX ..."
        seen = [re.sub(r"[\d.]+ s$", "SECONDS", line) for line in lines]
    begun = [line.removesuffix(" ...") for line in seen if line.endswith(" ...")]
    stages = [line for line in begun if not line.endswith("so far")]
    assert stages[:3] == [
        "read the checkpoint",
        "draw the maps of the proof",
        "render with PyTorch 64x64 (1 of 4)",
    ]
    assert "render with PyTorch 256x128 (4 of 4)" in stages
    assert stages.index("write model.onnx") < stages.index("check the graph")
    assert any(re.fullmatch(r"measure onnxruntime-fp32 \(1 of \d\)", line) for line in stages)
    assert any(re.fullmatch(r"time \d engines? in turn", line) for line in stages)


def test_runtimes_says_which_engine_it_measures(exported: Exported) -> None:
    with lines_of("runtimes", exported.repository, "--measure") as lines:
        assert re.fullmatch(r"measure onnxruntime-fp32 \(1 of \d\) \.\.\.", next(lines))
        assert any(line.startswith("time ") for line in lines)


def test_listing_engines_says_nothing(exported: Exported) -> None:
    assert run_command("runtimes", exported.repository).stderr == ""
