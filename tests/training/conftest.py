"""Data of small training runs, written once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from training_runs import write_samples


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six samples of 32x32 in pix2pixHD's layout."""
    return write_samples(tmp_path_factory.mktemp("samples"), 6)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Compute as the processes of `training_runs` do: sums are grouped by the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
