"""Training on an NVIDIA GPU: every precision, in memory orders and stages, and going on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from trees import write_pix2pixhd

from sceneloom import cli
from sceneloom_training.checkpoint import load_checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU"),
]

CONFIG = """
[data]
layout = "pix2pixhd"
[geometry]
mode = "none"
[generator]
ngf = 8
global_downsamplings = 2
global_blocks = 2
enhancers = 1
enhancer_blocks = 1
[style]
features = 2
nef = 4
downsamplings = 2
[discriminator]
ndf = 8
[optimizer]
batch = 2
ema = 0.9
[compute]
device = "cuda"
workers = 1
[schedule]
epochs = 4
decay_epochs = 4
enhancer_only_epochs = 1
[record]
log_every = 4
checkpoint_every = 4
"""


def run(folder: Path, *flags: str) -> list[dict[str, float]]:
    """Train; the entries of the log that hold losses."""
    config = folder / "config.toml"
    config.write_text(CONFIG)
    if not (folder / "data").exists():
        write_pix2pixhd(folder / "data", 64, 96, count=8)
    flags = ("--data.root", str(folder / "data"), "--out", str(folder / "run"), *flags)
    assert cli.main(["train", str(config), *flags]) == 0
    lines = (folder / "run" / "log.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if "discriminator" in entry]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("other", ["compute.no-channels-last", "compute.recompute"])
def test_learns_in_every_precision(tmp_path: Path, precision: str, other: str) -> None:
    entries = run(tmp_path, "--compute.precision", precision, f"--{other}")
    assert entries[-1]["step"] == 32
    assert entries[-1]["feature_matching"] < entries[0]["feature_matching"]
    assert load_checkpoint(tmp_path / "run" / "model").provenance["steps"] == 32


def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(tmp_path: Path) -> None:
    for name, stops in (("whole", ["0"]), ("stopped", ["12", "0"])):
        (tmp_path / name).mkdir()
        for stop in stops:
            entries = run(tmp_path / name, "--schedule.max-steps", stop)
        if name == "whole":
            expected = entries
    assert [e["step"] for e in entries] == [e["step"] for e in expected]
    for ours, theirs in zip(entries, expected, strict=True):
        # The order of sums is not fixed on a GPU.
        assert ours["feature_matching"] == pytest.approx(theirs["feature_matching"], rel=0.05)
