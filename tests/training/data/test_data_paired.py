"""Pairs of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sceneloom.errors import DataSetError, ImageReadError, SizeError
from sceneloom_training.data import DataSettings, open_data_set

KEYS = ("1_img", "2_label", "sub/3")


@pytest.fixture
def root(tmp_path: Path, save, photo) -> Path:
    for seed, key in enumerate(KEYS):
        save(tmp_path / "train_A" / f"{key}.png", photo(seed=seed))
        save(tmp_path / "train_B" / f"{key}.png", photo(seed=100 + seed))
    return tmp_path


def settings(root: Path, **changes: object) -> DataSettings:
    return DataSettings(layout="paired", root=root, **changes)  # type: ignore[arg-type]


def test_a_goes_in_and_b_comes_out(root: Path, photo) -> None:
    data = open_data_set(settings(root))
    assert tuple(data.keys) == KEYS
    assert data.schema is None
    assert not data.has_instances
    sample = data.read(2)
    assert (sample.source == photo(seed=2)).all()
    assert (sample.photo == photo(seed=102)).all()
    assert sample.label_map is None
    assert sample.instance_map is None


@pytest.mark.parametrize("folder", ["train_A", "train_B"])
def test_a_missing_partner_is_named(root: Path, folder: str) -> None:
    (root / folder / "1_img.png").unlink()
    with pytest.raises(DataSetError, match=rf"1_img\.png: has no partner.*{folder}"):
        open_data_set(settings(root))


def test_missing_and_empty_folders(root: Path) -> None:
    with pytest.raises(DataSetError, match=r"test_A: no such folder.*splits are train"):
        open_data_set(settings(root, split="test"))
    with pytest.raises(DataSetError, match=r"no <split>_A exists.*train_B \(photographs\)$"):
        open_data_set(settings(root / "train_A"))
    (root / "test_A").mkdir()
    with pytest.raises(DataSetError, match="test_B: no such folder"):
        open_data_set(settings(root, split="test"))
    (root / "test_B").mkdir()
    with pytest.raises(DataSetError, match="test_A: holds none"):
        open_data_set(settings(root, split="test"))


def test_sizes_and_damage(root: Path, save) -> None:
    path = save(root / "train_B" / "1_img.png", np.zeros((6, 9, 3), np.uint8))
    with pytest.raises(SizeError, match=r"train_A.*8x6 and .*train_B.*9x6"):
        open_data_set(settings(root)).read(0)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ImageReadError, match=r"1_img\.png"):
        open_data_set(settings(root)).read(0)
