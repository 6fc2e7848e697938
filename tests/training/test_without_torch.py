"""Commands of the training package where torch is not installed: a sentence with the pip line."""

from __future__ import annotations

import subprocess
import sys

import pytest

# A process of its own, whose import system does not find the packages.
HIDE = """
import sys
class Hidden:
    def __init__(self, finder): self.finder = finder
    def find_spec(self, name, *rest):
        gone = name.split('.')[0] in {'torch', 'tensorboard', 'sklearn', 'h5py'}
        return None if gone else self.finder.find_spec(name, *rest)
sys.meta_path = [Hidden(finder) for finder in sys.meta_path]
from sceneloom.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "none.toml", "--out", "none"],
        ["styles", "none", "--layout", "streets"],
        ["encode-style", "none", "a.png", "--labels", "b", "--instances", "c", "--out", "d.json"],
        ["import", "none.pth", "--labels", "cityscapes", "--out", "none"],
        ["evaluate", "--out", "none", "--segmenter", "none", "--data.layout", "streets"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_the_extra_is_named(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HIDE, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "pip install 'sceneloom[train]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_needs_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HIDE, "train", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--generator.ngf" in done.stdout
