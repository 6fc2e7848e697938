"""CamVid as SegNet's tutorial lays it out, and its maps without instances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sceneloom.errors import DataSetError
from sceneloom_training.data import DataSettings, open_data_set

LABELS = np.array([[0, 0, 8, 8, 0, 8], [3, 3, 3, 3, 3, 8], [3, 3, 11, 3, 3, 3]], np.uint8)


@pytest.fixture
def root(tmp_path: Path, save) -> Path:
    for split in ("train", "test"):
        save(tmp_path / split / "0001TP_006690.png", np.full((3, 6, 3), 90, np.uint8))
        save(tmp_path / f"{split}annot" / "0001TP_006690.png", LABELS)
    return tmp_path


def test_photographs_and_maps_of_equal_names(root: Path) -> None:
    data = open_data_set(DataSettings(layout="camvid", root=root, split="test"))
    assert tuple(data.keys) == ("0001TP_006690",)
    sample = data.read(0)
    assert np.array_equal(sample.label_map, LABELS)
    assert (sample.photo.shape, sample.instance_map) == ((3, 6, 3), None)


def test_components_of_a_label_are_instances(root: Path) -> None:
    settings = DataSettings(layout="camvid", root=root, boundaries="components")
    found = open_data_set(settings).read(0).instance_map
    assert found.dtype == np.int32
    wanted = [[0, 0, 8000, 8000, 1, 8001], [*[3000] * 5, 8001], [3000, 3000, 11000, *[3000] * 3]]
    assert found.tolist() == wanted


def test_what_is_missing_is_named(root: Path) -> None:
    with pytest.raises(DataSetError, match="it has train, val, test"):
        open_data_set(DataSettings(layout="camvid", root=root, split="train_img"))
    with pytest.raises(DataSetError, match=r"val: no such folder; expected photographs"):
        open_data_set(DataSettings(layout="camvid", root=root, split="val"))
    (root / "trainannot" / "0001TP_006690.png").rename(root / "trainannot" / "0001TP_1.png")
    with pytest.raises(DataSetError, match="has no partner"):
        open_data_set(DataSettings(layout="camvid", root=root))


def test_the_real_photographs(shared: Path) -> None:
    settings = DataSettings(
        layout="pix2pixhd", root=shared / "data" / "camvid", labels="camvid", split="test"
    )
    data = open_data_set(settings)
    assert len(data) == 156
    sample = data.read(0)
    assert sample.photo.shape == (360, 480, 3)
    assert {0, 1, 3, 8} <= set(np.unique(sample.label_map).tolist()) <= set(range(12))
