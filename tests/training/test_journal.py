"""The journal of a run."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from sceneloom_training.journal import Journal


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
    with Journal(folder, done=0, last=1, images_per_step=1) as journal:
        journal.picture(0, "noise", picture)
        journal.flush()
