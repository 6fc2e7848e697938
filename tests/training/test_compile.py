"""torch.compile, where there is a compiler: minutes on a CPU, so not in CI."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from trees import write_pix2pixhd

from sceneloom import cli


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore")  # PyTorch's compiler warns of its own parts
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_networks_learn_the_same(tmp_path: Path) -> None:
    write_pix2pixhd(tmp_path / "data", 32, 48)
    (tmp_path / "small.toml").write_text(
        """
        [data]
        layout = "pix2pixhd"
        [geometry]
        mode = "none"
        [generator]
        ngf = 4
        global_downsamplings = 2
        global_blocks = 1
        [discriminator]
        ndf = 4
        scales = 1
        [compute]
        device = "cpu"
        workers = 0
        [schedule]
        max_steps = 4
        [record]
        log_every = 4
        """
    )
    losses = []
    for name in ("compile", "no-compile"):
        run = tmp_path / name
        flags = ["--data.root", str(tmp_path / "data"), f"--compute.{name}", "--out", str(run)]
        assert cli.main(["train", str(tmp_path / "small.toml"), *flags]) == 0
        entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        losses.append(next(entry for entry in entries if "discriminator" in entry))
    compiled, eager = losses
    for loss in ("discriminator", "generator_gan", "feature_matching"):
        assert compiled[loss] == pytest.approx(eager[loss], rel=1e-3)
