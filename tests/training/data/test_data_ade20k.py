"""ADE20K scene parsing as published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sceneloom.errors import DataSetError, ImageReadError, SizeError, UnknownLabelError
from sceneloom_training.data import DataSettings, open_data_set

KEYS = ("ADE_train_00000001", "ADE_train_00000002")


@pytest.fixture
def root(tmp_path: Path, save) -> Path:
    for key in KEYS:
        save(tmp_path / "images" / "training" / f"{key}.jpg", np.full((8, 16, 3), 90, np.uint8))
        labels = np.zeros((8, 16), np.uint8)
        labels[:, 4:], labels[:, 8:] = 1, 150
        save(tmp_path / "annotations" / "training" / f"{key}.png", labels)
    return tmp_path


def settings(root: Path, **changes: object) -> DataSettings:
    return DataSettings(layout="ade20k", root=root, **changes)  # type: ignore[arg-type]


def add_instances(root: Path, save) -> None:
    for key in KEYS:
        colours = np.zeros((8, 16, 3), np.uint8)
        colours[:, 8:12], colours[:, 12:] = (100, 1, 0), (100, 2, 0)
        save(root / "annotations_instance" / "training" / f"{key}.png", colours)


def test_labels_and_no_instances(root: Path) -> None:
    data = open_data_set(settings(root))
    assert tuple(data.keys) == KEYS
    assert not data.has_instances
    sample = data.read(1)
    assert sample.photo.shape == (8, 16, 3)
    # Other (0) has no channel, wall (1) is channel 0, flag (150) is channel 149.
    assert sample.label_map[0, [0, 4, 8]].tolist() == [255, 0, 149]
    assert sample.instance_map is None


def test_grey_photographs_are_read(root: Path, save) -> None:
    save(root / "images" / "training" / f"{KEYS[0]}.jpg", np.full((8, 16), 90, np.uint8))
    assert (open_data_set(settings(root)).read(0).photo == 90).all()


def test_instances_are_of_class_and_number_and_of_the_label_elsewhere(root: Path, save) -> None:
    add_instances(root, save)
    data = open_data_set(settings(root))
    assert data.has_instances
    instance_map = data.read(0).instance_map
    assert instance_map.dtype == np.int32
    assert instance_map[0, [0, 4, 8, 12]].tolist() == [255, 0, 100 * 256 + 1, 100 * 256 + 2]
    assert not open_data_set(settings(root, instances=False)).has_instances


def test_instances_that_are_missing_or_of_another_size(root: Path, save) -> None:
    add_instances(root, save)
    path = root / "annotations_instance" / "training" / f"{KEYS[0]}.png"
    save(path, np.zeros((8, 15, 3), np.uint8))
    with pytest.raises(SizeError, match=r"annotations.training.*16x8 and .*instance.*15x8"):
        open_data_set(settings(root)).read(0)
    path.unlink()
    with pytest.raises(DataSetError, match=r"00000001.*no partner.*annotations_instance"):
        open_data_set(settings(root))


def test_splits_folders_and_partners(root: Path) -> None:
    with pytest.raises(DataSetError, match="no split 'test'; it has train, val"):
        open_data_set(settings(root, split="test"))
    with pytest.raises(DataSetError, match=r"images.validation: no such folder"):
        open_data_set(settings(root, split="val"))
    (root / "images" / "validation").mkdir()
    (root / "annotations" / "validation").mkdir()
    with pytest.raises(DataSetError, match="holds none of the files"):
        open_data_set(settings(root, split="val"))
    (root / "annotations" / "training" / f"{KEYS[1]}.png").unlink()
    with pytest.raises(DataSetError, match=r"00000002\.jpg: has no partner"):
        open_data_set(settings(root))


def test_unknown_ids_sizes_and_damage(root: Path, save) -> None:
    path = root / "annotations" / "training" / f"{KEYS[0]}.png"
    save(path, np.full((8, 16), 151, np.uint8))
    with pytest.raises(UnknownLabelError, match=r"00000001\.png: unknown label id 151"):
        open_data_set(settings(root)).read(0)
    unlabelled = open_data_set(settings(root, unknown="unlabelled")).read(0)
    assert (unlabelled.label_map == 255).all()
    save(path, np.full((8, 17), 1, np.uint8))
    with pytest.raises(SizeError, match=r"16x8 and .*17x8"):
        open_data_set(settings(root)).read(0)
    photo = root / "images" / "training" / f"{KEYS[0]}.jpg"
    photo.write_bytes(photo.read_bytes()[:200])
    with pytest.raises(ImageReadError, match=photo.name):
        open_data_set(settings(root)).read(0)


def test_instances_of_another_split_alone_are_no_reason_to_train_without(root: Path) -> None:
    (root / "annotations_instance" / "validation").mkdir(parents=True)
    with pytest.raises(DataSetError, match=r"annotations_instance/training: no such folder"):
        open_data_set(settings(root))
    assert not open_data_set(settings(root, instances=False)).has_instances
