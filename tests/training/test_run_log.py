"""The log of a run."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from sceneloom_training import run_log
from sceneloom_training.run_log import RunLog


def test_a_full_disk_is_an_error_without_a_traceback_of_tensorboards_thread(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, limits[1]))  # a file may not become larger
    try:
        with pytest.raises(OSError, match="File too large"):
            _write(tmp_path, noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Traceback" not in capfd.readouterr().err


def _write(folder: Path, picture: np.ndarray) -> None:
    with RunLog(folder, done=0, last=1, images_per_step=1) as log:
        log.picture(0, "noise", picture)
        log.flush()


def test_a_log_without_a_terminal_gets_lines_while_it_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "QUIET_SECONDS", 0.0)
    with RunLog(tmp_path, done=0, last=4, images_per_step=2) as log:
        for step in (1, 2):
            log.count(step, {"loss": torch.zeros(())})
        log.write(2, 0.5, 1e-3)
    assert re.search(r"step 2 of 4, [\d.]+ images/s, about \d+ s left\n", capsys.readouterr().err)
