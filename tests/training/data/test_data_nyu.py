"""NYU depth v2 from its HDF5 file."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from sceneloom.errors import DataSetError, ImageReadError, UnknownLabelError
from sceneloom_training.data import DataSettings, open_data_set

FILE = "nyu_depth_v2_labeled.mat"
COUNT, HEIGHT, WIDTH = 5, 6, 8


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_h5(tmp_path, pictures(), labels(), instances())
    splits = {"trainNdxs": np.array([[4], [1], [5]]), "testNdxs": np.array([[2], [3]])}
    scipy.io.savemat(tmp_path / "splits.mat", splits)
    scipy.io.savemat(tmp_path / "classMapping40.mat", {"mapClass": classes40()[None]})
    return tmp_path


def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), np.uint8)


def labels() -> np.ndarray:
    out = np.zeros((COUNT, HEIGHT, WIDTH), np.uint16)
    out[:, :, 2:], out[:, :, 4:], out[:, 3:, 4:] = 21, 894, 5
    return out


def instances() -> np.ndarray:
    out = np.zeros((COUNT, HEIGHT, WIDTH), np.uint8)
    out[:, :, 4:], out[:, :, 6:] = 1, 2
    return out


def classes40() -> np.ndarray:
    """Class 1 is 1, 2 is 2, ... 40 is 40, 41 is 1 and so on."""
    return (np.arange(894) % 40 + 1).astype(np.uint8)


def write_h5(root: Path, photos: np.ndarray, label: np.ndarray, instance: np.ndarray) -> None:
    """Write arrays [N, H, W, ...] transposed, as MATLAB does."""
    with h5py.File(root / FILE, "w") as file:
        file["images"] = photos.transpose(0, 3, 2, 1)
        file["labels"] = label.transpose(0, 2, 1)
        file["instances"] = instance.transpose(0, 2, 1)


def settings(root: Path, **changes: object) -> DataSettings:
    return DataSettings(layout="nyu", root=root, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("split", "keys"),
    [
        ("train", ["0001", "0004", "0005"]),
        ("test", ["0002", "0003"]),
        ("all", ["0001", "0002", "0003", "0004", "0005"]),
    ],
)
def test_splits_and_photographs(root: Path, split: str, keys: list[str]) -> None:
    data = open_data_set(settings(root, split=split))
    assert list(data.keys) == keys
    for index, key in enumerate(keys):
        assert (data.read(index).photo == pictures()[int(key) - 1]).all()


def test_labels_are_of_40_classes_and_instances_of_894(root: Path) -> None:
    data = open_data_set(settings(root))
    assert data.schema.name == "nyu40"
    sample = data.read(0)
    # 0 has no channel; class 21 is channel 20, 894 is class 14 of 40, 5 is itself.
    assert sample.label_map[0, [0, 2, 4, 6]].tolist() == [255, 20, 13, 13]
    assert sample.label_map[5, [0, 2, 4, 6]].tolist() == [255, 20, 4, 4]
    first, last = [0, 21 * 256, 894 * 256 + 1, 894 * 256 + 2], [0, 21 * 256, 1281, 1282]
    assert sample.instance_map[0, [0, 2, 4, 6]].tolist() == first
    assert sample.instance_map[5, [0, 2, 4, 6]].tolist() == last
    assert open_data_set(settings(root, instances=False)).read(0).instance_map is None


FORKED = """
import multiprocessing, sys
from pathlib import Path
from sceneloom_training.data import DataSettings, open_data_set

data = open_data_set(DataSettings(layout="nyu", root=Path(sys.argv[1]), split="all"))
means = [float(data.read(index).photo.mean()) for index in range(len(data))]

def read(index):
    return float(data.read(index % len(data)).photo.mean())

with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(read, range(20), chunksize=1) == means * 4
"""


def test_workers_can_read_forked_or_by_pickle(root: Path) -> None:
    data = open_data_set(settings(root))
    first = data.read(0)
    again = pickle.loads(pickle.dumps(data))
    assert (again.read(0).photo == first.photo).all()
    # In a process of its own: the tests' has threads by now, which a fork does not take along.
    subprocess.run([sys.executable, "-c", FORKED, str(root)], timeout=60, check=True)


def test_the_table_of_classes_can_be_csv(root: Path) -> None:
    expected = open_data_set(settings(root)).read(0).label_map
    (root / "classMapping40.mat").unlink()
    lines = ["id,nyu40", *(f"{i},{of_40}" for i, of_40 in enumerate(classes40(), 1))]
    table = root / "nyu40_mapping.csv"
    table.write_text("\n".join(lines) + "\n")
    assert (open_data_set(settings(root)).read(0).label_map == expected).all()
    table.write_text("\ufeff" + "\r\n".join(lines), "utf-8")  # as Windows' editors leave it
    assert (open_data_set(settings(root)).read(0).label_map == expected).all()
    for broken, reason in [
        (lines[1:], "expected the line id,nyu40"),
        (lines[:-1], "the table has 893 rows"),
        ([*lines[:-1], "1,2"], "one line for each class"),
        ([*lines[:-1], "894,41"], "to 41; expected 894 rows"),
        ([*lines[:-1], "894"], "not lines of two whole numbers"),
        ([*lines[:-1], "894,chair"], "not lines of two whole numbers"),
        ([], "expected the line"),
    ]:
        table.write_text("\n".join(broken))
        with pytest.raises(DataSetError, match=f"nyu40_mapping.csv: .*{reason}"):
            open_data_set(settings(root))
    table.unlink()
    with pytest.raises(DataSetError, match=r"expected classMapping40\.mat or nyu40_mapping\.csv"):
        open_data_set(settings(root))


def test_classes_that_the_tables_do_not_have(root: Path) -> None:
    mapping = classes40()
    mapping[20] = 0
    scipy.io.savemat(root / "classMapping40.mat", {"mapClass": mapping[None]})
    assert open_data_set(settings(root)).read(0).label_map[0, 2] == 255
    write_h5(root, pictures(), labels() + np.uint16(1), instances())
    with pytest.raises(UnknownLabelError, match=r"sample 0001: has the class 895"):
        open_data_set(settings(root)).read(0)


def test_unknown_classes_of_a_schema_of_ones_own(root: Path, tmp_path: Path) -> None:
    schema = tmp_path / "own.json"
    labels = [{"id": 5, "name": "chair", "colour": [0, 0, 0]}]
    schema.write_text(json.dumps({"name": "own", "labels": labels, "unlabelled": 0}))
    with pytest.raises(UnknownLabelError, match=r"sample 0001: label ids 14 .* not in .* own"):
        open_data_set(settings(root, labels=str(schema))).read(0)
    mended = open_data_set(settings(root, labels=str(schema), unknown="unlabelled")).read(0)
    assert sorted(np.unique(mended.label_map)) == [0, 255]


def test_splits_that_do_not_fit(root: Path) -> None:
    with pytest.raises(DataSetError, match="no split 'val'; it has train, test, all"):
        open_data_set(settings(root, split="val"))
    splits = root / "splits.mat"
    for content, reason in [
        ({"trainNdxs": np.array([[6]])}, "no sample numbers from 1 to 5"),
        ({"trainNdxs": np.array([[0]])}, "no sample numbers from 1 to 5"),
        ({"trainNdxs": np.array([[1.5]])}, "not whole numbers"),
        ({"trainNdxs": np.zeros((0, 1))}, "no sample numbers"),
        ({"testNdxs": np.array([[1]])}, "holds no array trainNdxs"),
    ]:
        scipy.io.savemat(splits, content)
        with pytest.raises(DataSetError, match=rf"splits\.mat: .*{reason}"):
            open_data_set(settings(root))
    splits.write_bytes(b"damaged")
    with pytest.raises(DataSetError, match=r"splits\.mat: not readable as a MATLAB v5 file"):
        open_data_set(settings(root))
    splits.unlink()
    with pytest.raises(DataSetError, match=r"splits\.mat: no such file; .* 'all' does not"):
        open_data_set(settings(root))
    assert len(open_data_set(settings(root, split="all"))) == COUNT


def test_a_file_that_is_missing_damaged_or_not_the_publishers(root: Path) -> None:
    path = root / FILE
    data = open_data_set(settings(root))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageReadError, match=FILE):
        open_data_set(settings(root))
    with pytest.raises(ImageReadError, match=f"{FILE}, sample 0001"):
        data.read(0)
    write_h5(root, pictures(), labels()[:, :, 1:], instances())
    with pytest.raises(DataSetError, match=r"labels uint16 \[5, 7, 6\].*; expected images"):
        open_data_set(settings(root))
    write_h5(root, pictures()[:0], labels()[:0], instances()[:0])
    with pytest.raises(DataSetError, match="expected images"):
        open_data_set(settings(root))
    with h5py.File(path, "w") as file:
        file["depths"] = np.zeros(3)
    with pytest.raises(DataSetError, match="has none of its arrays"):
        open_data_set(settings(root))
    path.unlink()
    with pytest.raises(DataSetError, match="no such file"):
        open_data_set(settings(root))
