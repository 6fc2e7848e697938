"""`sceneloom bench` says what it does while it does it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CODE = """
import sys
from sceneloom import cli, progress
progress.HEARTBEAT = 0.5
sys.exit(cli.main(sys.argv[1:]))
"""


def test_stages_engines_and_rounds_come_as_they_begin(tmp_path: Path) -> None:
    small = ["--ngf", "4", "--blocks", "1", "--size", "128x64", "--rounds", "2", "--maps", "2"]
    command = ["bench", "engine", "--out", str(tmp_path), *small, "--engines", "torch-fp32"]
    report, said = tmp_path / "engine.json", []
    with subprocess.Popen(
        [sys.executable, "-c", CODE, *command, "--no-served"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            assert running.stderr is not None
            for line in running.stderr:
                said.append(line.rstrip())
                if "warm-up" in line:  # two rounds and the peaks are still to come
                    assert not report.is_file()
        finally:
            running.kill()
    assert report.is_file()
    begun = [re.sub(r", \d+ s so far.*", " ...", line) for line in said]
    expected = [
        "look for a GPU ...",
        "prepare the checkpoint ...",
        "draw 2 maps of 128x64 ...",
        "load torch-fp32 (1 of 1) ...",
        "batch 1, warm-up, torch-fp32 (1 of 3) ...",
        "batch 1, round 2 of 2, torch-fp32 (3 of 3) ...",
        "measure the matrix product and the copy again ...",
    ]
    assert [line for line in dict.fromkeys(begun) if line in expected] == expected
    # PyTorch's import takes longer than half a second.
    assert any(re.fullmatch(r"look for a GPU, \d+ s so far \.\.\.", line) for line in said)
