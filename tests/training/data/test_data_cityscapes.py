"""Cityscapes as published."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sceneloom.errors import DataSetError, ImageReadError, InputError, SizeError, UnknownLabelError
from sceneloom_training.data import DataSettings, open_data_set

KEYS = ("aachen/aachen_000000_000019", "aachen/aachen_000001_000019", "ulm/ulm_000000_000019")


@pytest.fixture
def root(tmp_path: Path, save, photo) -> Path:
    for seed, key in enumerate(KEYS):
        save(tmp_path / "leftImg8bit" / "train" / f"{key}_leftImg8bit.png", photo(seed=seed))
        stem = tmp_path / "gtFine" / "train" / f"{key}_gtFine"
        save(stem.with_name(f"{stem.name}_labelIds.png"), np.full((6, 8), 26, np.uint8))
        save(stem.with_name(f"{stem.name}_labelTrainIds.png"), np.full((6, 8), 13, np.uint8))
        save(stem.with_name(f"{stem.name}_instanceIds.png"), np.full((6, 8), 26_000, np.uint16))
        save(stem.with_name(f"{stem.name}_color.png"), photo())
        stem.with_name(f"{stem.name}_polygons.json").write_text("{}")
    return tmp_path


def settings(root: Path, **changes: object) -> DataSettings:
    return DataSettings(layout="cityscapes", root=root, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "channel", "channels"),
    [("", 26, 35), ("cityscapes", 26, 35), ("cityscapes19", 13, 19)],
)
def test_the_schema_chooses_the_label_maps(
    root: Path, photo, labels: str, channel: int, channels: int
) -> None:
    data = open_data_set(settings(root, labels=labels))
    assert tuple(data.keys) == KEYS
    assert data.schema.channels == channels
    sample = data.read(2)
    assert (sample.photo == photo(seed=2)).all()
    assert (sample.label_map == channel).all()
    assert (sample.instance_map == 26_000).all()


def test_ignored_train_ids_have_no_channel(root: Path, save) -> None:
    path = root / "gtFine" / "train" / f"{KEYS[0]}_gtFine_labelTrainIds.png"
    save(path, np.full((6, 8), 255, np.uint8))
    assert (open_data_set(settings(root, labels="cityscapes19")).read(0).label_map == 255).all()


def test_train_ids_that_were_not_made(root: Path) -> None:
    for path in (root / "gtFine").rglob("*_labelTrainIds.png"):
        path.unlink()
    with pytest.raises(DataSetError, match="csCreateTrainIdLabelImgs makes them"):
        open_data_set(settings(root, labels="cityscapes19"))


@pytest.mark.parametrize("kind", ["leftImg8bit", "gtFine_labelIds", "gtFine_instanceIds"])
def test_a_missing_partner_is_named(root: Path, kind: str) -> None:
    next(root.rglob(f"ulm_*_{kind}.png")).unlink()
    with pytest.raises(DataSetError, match=r"ulm_000000_000019.*no partner"):
        open_data_set(settings(root))


def test_without_instances_no_instance_map_is_looked_for(root: Path) -> None:
    for path in root.rglob("*_instanceIds.png"):
        path.unlink()
    data = open_data_set(settings(root, instances=False))
    assert not data.has_instances
    assert data.read(0).instance_map is None
    with pytest.raises(DataSetError, match=r"expected .*_gtFine_instanceIds\.png"):
        open_data_set(settings(root))


def test_splits_and_folders(root: Path) -> None:
    with pytest.raises(DataSetError, match=r"no split 'training'; it has train, val, test"):
        open_data_set(settings(root, split="training"))
    with pytest.raises(DataSetError, match=r"leftImg8bit.val: no such folder"):
        open_data_set(settings(root, split="val"))
    (root / "leftImg8bit" / "val").mkdir()
    with pytest.raises(DataSetError, match=r"gtFine.val: no such folder"):
        open_data_set(settings(root, split="val"))
    (root / "gtFine" / "val").mkdir()
    with pytest.raises(DataSetError, match="val: holds none of the files"):
        open_data_set(settings(root, split="val"))


def test_another_data_set_s_schema_is_refused(root: Path) -> None:
    with pytest.raises(InputError, match="takes cityscapes or cityscapes19"):
        open_data_set(settings(root, labels="ade20k"))


def test_unknown_ids_sizes_and_damage(root: Path, save) -> None:
    path = root / "gtFine" / "train" / f"{KEYS[0]}_gtFine_labelIds.png"
    save(path, np.full((6, 8), 255, np.uint8))
    with pytest.raises(UnknownLabelError, match="255"):
        open_data_set(settings(root)).read(0)
    assert (open_data_set(settings(root, unknown="unlabelled")).read(0).label_map == 0).all()
    save(path, np.full((3, 4), 7, np.uint8))
    with pytest.raises(SizeError, match=r"is 8x6 and .*labelIds\.png is 4x3"):
        open_data_set(settings(root)).read(0)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ImageReadError, match=path.name):
        open_data_set(settings(root)).read(0)


@pytest.mark.parametrize(
    ("split", "folder"),
    [("train_extra", "train_extra"), ("train_coarse", "train"), ("val_coarse", "val")],
)
def test_coarse_maps_and_jpeg_frames(tmp_path: Path, save, photo, split: str, folder: str) -> None:
    key = "ulm/ulm_000000_000019"
    frame = tmp_path / "leftImg8bit" / folder / f"{key}_leftImg8bit.jpg"
    save(frame, np.full((6, 8, 3), 90, np.uint8))
    stem = tmp_path / "gtCoarse" / folder / f"{key}_gtCoarse"
    save(stem.with_name(f"{stem.name}_labelIds.png"), np.full((6, 8), 26, np.uint8))
    save(stem.with_name(f"{stem.name}_labelTrainIds.png"), np.full((6, 8), 13, np.uint8))
    save(stem.with_name(f"{stem.name}_instanceIds.png"), np.full((6, 8), 26_000, np.uint16))
    for labels, channel in (("cityscapes", 26), ("cityscapes19", 13)):
        data = open_data_set(settings(tmp_path, split=split, labels=labels))
        assert tuple(data.keys) == (key,)
        sample = data.read(0)
        assert (abs(sample.photo.astype(int) - 90) < 3).all()
        assert (sample.label_map == channel).all()
        assert (sample.instance_map == 26_000).all()
    save(frame.with_suffix(".png"), photo())
    with pytest.raises(DataSetError, match="would both be of the sample"):
        open_data_set(settings(tmp_path, split=split))


def test_real_frames_as_jpeg_with_real_maps(tmp_path: Path, shared: Path) -> None:
    sample = shared / "data" / "cityscapes_sample"
    stem = "aachen_000000_000019"
    frame = tmp_path / "leftImg8bit" / "train" / "aachen" / f"{stem}_leftImg8bit.jpg"
    frame.parent.mkdir(parents=True)
    Image.open(sample / "train_img" / f"{stem}_leftImg8bit.png").convert("RGB").save(frame)
    coarse = tmp_path / "gtCoarse" / "train" / "aachen"
    coarse.mkdir(parents=True)
    for folder, kind in (("train_label", "labelIds"), ("train_inst", "instanceIds")):
        shutil.copy(
            sample / folder / f"{stem}_gtFine_{kind}.png", coarse / f"{stem}_gtCoarse_{kind}.png"
        )
    read = open_data_set(settings(tmp_path, split="train_coarse")).read(0)
    assert read.photo.shape == (1024, 2048, 3)
    assert read.label_map is not None
    assert read.instance_map is not None
