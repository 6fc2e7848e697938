"""Procedural streets as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sceneloom.errors import DataSetError, InputError
from sceneloom_streets import draw_pair
from sceneloom_streets.dataset import TEST_SEEDS, TRAIN_SEEDS, write_streets
from sceneloom_streets.painting import StreetLabels
from sceneloom_training.data import DataSettings, open_data_set


def test_what_is_written_is_what_is_painted(tmp_path: Path) -> None:
    assert write_streets(tmp_path, "train", [3, 12], height=48, width=96, processes=2) == 2
    data = open_data_set(DataSettings(layout="pix2pixhd", root=tmp_path))
    assert list(data.keys) == ["street_000003", "street_000012"]
    for index, seed in enumerate((3, 12)):
        sample, pair = data.read(index), draw_pair(seed, 48, 96)
        assert np.array_equal(sample.photo, pair.photo)
        assert sample.label_map is not None
        assert np.array_equal(sample.label_map, pair.label_map)
        assert sample.instance_map is not None
        assert np.array_equal(sample.instance_map, pair.instance_map)


@pytest.mark.parametrize(
    ("labels", "part"), [("cityscapes-markings", 35), ("cityscapes-details", 36)]
)
def test_streets_with_further_labels(tmp_path: Path, labels: StreetLabels, part: int) -> None:
    write_streets(tmp_path, "train", [3], height=96, width=192, labels=labels)
    written = open_data_set(DataSettings(layout="pix2pixhd", root=tmp_path, labels=labels)).read(0)
    painted = open_data_set(
        DataSettings(
            layout="streets",
            labels=labels,
            streets_seed=3,
            streets_count=1,
            streets_size="192x96",
        )
    ).read(0)
    pair = draw_pair(3, 96, 192, labels=labels)
    assert (pair.label_map == part).any()
    for sample in (written, painted):
        assert sample.label_map is not None
        assert np.array_equal(sample.label_map, pair.label_map)
        assert np.array_equal(sample.photo, draw_pair(3, 96, 192).photo)


def test_a_call_that_was_stopped_goes_on(tmp_path: Path) -> None:
    assert write_streets(tmp_path, "val", range(3), height=32, width=64) == 3
    (tmp_path / "val_img" / "street_000001.png").unlink()
    assert write_streets(tmp_path, "val", range(3), height=32, width=64) == 1
    assert write_streets(tmp_path, "val", range(3), height=32, width=64) == 0


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        write_streets(tmp_path, "train", [-1], height=32, width=64)
    (tmp_path / "file").touch()
    with pytest.raises(DataSetError, match="file"):
        write_streets(tmp_path / "file", "train", [1], height=32, width=64)


def test_splits_have_nothing_in_common() -> None:
    assert not set(TRAIN_SEEDS) & set(TEST_SEEDS)
    assert len(TEST_SEEDS) >= 200
