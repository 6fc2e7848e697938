"""pix2pixHD's own layout."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from sceneloom.errors import (
    DataSetError,
    ImageReadError,
    NotALabelMapError,
    SizeError,
    UnknownLabelError,
)
from sceneloom_training.data import DataSettings, open_data_set
from sceneloom_training.data.opening import examine

NAMES = ("aachen_000000_000019", "aachen_000001_000019", "sub/bonn_000002_000019")


@pytest.fixture
def root(tmp_path: Path, save, photo) -> Path:
    for seed, name in enumerate(NAMES):
        save(tmp_path / "train_img" / f"{name}_leftImg8bit.png", photo(seed=seed))
        save(tmp_path / "train_label" / f"{name}_gtFine_labelIds.png", label_map(seed))
        instances = label_map(seed).astype(np.uint16) * 1000 + seed
        save(tmp_path / "train_inst" / f"{name}_gtFine_instanceIds.png", instances)
    (tmp_path / "train_img" / "._hidden.png").write_bytes(b"")
    (tmp_path / "train_img" / "Thumbs.db").write_bytes(b"")
    return tmp_path


def label_map(seed: int) -> np.ndarray:
    labels = np.full((6, 8), 7, np.uint8)
    labels[2:, 3:] = 24 + seed
    return labels


def settings(root: Path, **changes: object) -> DataSettings:
    return DataSettings(layout="pix2pixhd", root=root, **changes)  # type: ignore[arg-type]


def test_files_pair_by_name(root: Path, photo) -> None:
    data = open_data_set(settings(root))
    assert tuple(data.keys) == NAMES
    assert len(data) == 3
    assert data.has_instances
    assert data.schema is not None
    assert data.schema.name == "cityscapes"
    for seed in range(3):
        sample = data.read(seed)
        assert (sample.photo == photo(seed=seed)).all()
        assert (sample.label_map == label_map(seed)).all()  # ids are channels in cityscapes
        assert sample.instance_map.dtype == np.int32
        assert (sample.instance_map == label_map(seed).astype(int) * 1000 + seed).all()
        assert sample.source is None
    with pytest.raises(IndexError):
        data.read(3)


def test_a_data_set_can_be_pickled(root: Path) -> None:
    data = open_data_set(settings(root))
    again = pickle.loads(pickle.dumps(data))
    assert (again.read(1).photo == data.read(1).photo).all()


def test_without_instances_by_choice_or_because_there_are_none(root: Path) -> None:
    assert open_data_set(settings(root, instances=False)).read(0).instance_map is None
    (root / "train_inst").rename(root / "elsewhere")
    data = open_data_set(settings(root))
    assert not data.has_instances
    assert data.read(0).instance_map is None


@pytest.mark.parametrize("folder", ["train_img", "train_label", "train_inst"])
def test_a_missing_partner_is_named(root: Path, folder: str) -> None:
    gone = next((root / folder).glob("aachen_000001*"))
    gone.unlink()
    with pytest.raises(DataSetError, match=f"aachen_000001.*no partner.*{folder};"):
        open_data_set(settings(root))


def test_more_missing_partners_are_counted(root: Path) -> None:
    for path in (root / "train_img").glob("aachen*"):
        path.unlink()
    with pytest.raises(DataSetError, match=r"\(1 more like it\)"):
        open_data_set(settings(root))


def test_missing_folders_and_empty_ones(root: Path) -> None:
    layout = r"train_label \(label maps\), train_img \(photographs\), train_inst \(.*optional\)$"
    with pytest.raises(DataSetError, match=f"nowhere: no such folder; expected .*{layout}"):
        open_data_set(settings(root / "nowhere"))
    with pytest.raises(DataSetError, match=r"test_label: no such folder.*splits are train"):
        open_data_set(settings(root, split="test"))
    with pytest.raises(DataSetError, match=f"no <split>_label exists.*{layout}"):
        open_data_set(settings(root / "train_img"))
    (root / "test_label").mkdir()
    with pytest.raises(DataSetError, match="test_img: no such folder"):
        open_data_set(settings(root, split="test"))
    (root / "test_img").mkdir()
    with pytest.raises(DataSetError, match=r"test_label: holds none of the files.*label maps"):
        open_data_set(settings(root, split="test"))


def test_two_files_of_one_sample_are_refused(root: Path, save, photo) -> None:
    save(root / "train_img" / f"{NAMES[0]}.jpg", photo())
    with pytest.raises(DataSetError, match=f"both be of the sample {NAMES[0]}"):
        open_data_set(settings(root))


def test_unknown_ids_are_an_error_or_unlabelled(root: Path, save) -> None:
    save(root / "train_label" / f"{NAMES[0]}_gtFine_labelIds.png", np.full((6, 8), 255, np.uint8))
    with pytest.raises(UnknownLabelError, match=r"labelIds\.png: unknown label id 255"):
        open_data_set(settings(root)).read(0)
    assert (open_data_set(settings(root, unknown="unlabelled")).read(0).label_map == 0).all()


@pytest.mark.parametrize(
    ("folder", "ending"),
    [("train_label", "gtFine_labelIds"), ("train_inst", "gtFine_instanceIds")],
)
def test_sizes_that_differ_name_both_files(root: Path, save, folder: str, ending: str) -> None:
    save(root / folder / f"{NAMES[0]}_{ending}.png", np.full((6, 9), 7, np.uint8))
    with pytest.raises(SizeError, match=rf"leftImg8bit\.png is 8x6 and .*{ending}\.png is 9x6"):
        open_data_set(settings(root)).read(0)


def test_a_damaged_file_is_named_when_it_is_read(root: Path) -> None:
    path = root / "train_img" / f"{NAMES[1]}_leftImg8bit.png"
    path.write_bytes(path.read_bytes()[:60])
    data = open_data_set(settings(root))
    assert data.read(0).photo.shape == (6, 8, 3)
    with pytest.raises(ImageReadError, match=path.name):
        data.read(1)


def test_the_published_sample(shared: Path) -> None:
    data = open_data_set(settings(shared / "data" / "cityscapes_sample"))
    assert len(data) == 8
    sample = data.read(7)
    assert data.keys[7] == "aachen_000007_000019"
    assert sample.photo.shape == (1024, 2048, 3)
    encoded = data.schema.instance_classes(sample.instance_map)
    assert (encoded == sample.label_map).mean() > 0.999


def test_a_folder_of_instance_maps_that_is_not_read_is_refused(root: Path) -> None:
    folder = root / "train_inst"
    folder.rename(root / "train_Inst")
    with pytest.raises(DataSetError, match=r"train_Inst: is not read; rename it to train_inst"):
        open_data_set(settings(root))
    (root / "train_Inst").rename(root / "elsewhere")
    folder.symlink_to(root / "nowhere")
    with pytest.raises(DataSetError, match=r"train_inst: a link that leads nowhere"):
        open_data_set(settings(root))
    assert not open_data_set(settings(root, instances=False)).has_instances
    folder.unlink()
    folder.write_bytes(b"")
    with pytest.raises(DataSetError, match=r"train_inst: not a folder"):
        open_data_set(settings(root))


@pytest.mark.parametrize(("label", "picture"), [("a", "A"), ("\xe4", "a\u0308")])
def test_a_partner_of_another_spelling_is_named(
    tmp_path: Path, save, photo, label: str, picture: str
) -> None:
    save(tmp_path / "train_label" / f"{label}.png", label_map(0))
    save(tmp_path / "train_img" / f"{picture}.png", photo())
    with pytest.raises(DataSetError, match=r"\.png is spelled differently \(") as caught:
        open_data_set(settings(tmp_path))
    assert f"({picture!a}, not {label!a})" in str(caught.value)


@pytest.mark.parametrize("shape", [(), (6,), (6, 8, 1)])
def test_an_array_of_another_shape_is_told(root: Path, shape: tuple[int, ...]) -> None:
    for path in (root / "train_label").glob("aachen_000000*"):
        path.unlink()
    np.save(root / "train_label" / f"{NAMES[0]}.npy", np.zeros(shape, np.uint8))
    data = open_data_set(settings(root))
    examine(data, root)  # its header says no size
    with pytest.raises(NotALabelMapError, match="an array of uint8"):
        data.read(0)
