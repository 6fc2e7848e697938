"""Streets as files, for every test of evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
from colour_segmenter import ColourSegmenter

from sceneloom.schema import load_schema
from sceneloom_streets.dataset import write_streets
from sceneloom_training.data import DataSet, DataSettings, open_data_set


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five streets at 128x64 in pix2pixHD's layout, split ``test``."""
    root = tmp_path_factory.mktemp("streets")
    write_streets(root, "test", range(70, 75), height=64, width=128)
    return root


@pytest.fixture
def street_data(streets: Path) -> DataSet:
    return open_data_set(DataSettings(layout="pix2pixhd", root=streets, split="test"))


@pytest.fixture
def judge() -> ColourSegmenter:
    """Cityscapes' 19 training classes, at the streets' own size."""
    return ColourSegmenter(load_schema("cityscapes19"))
