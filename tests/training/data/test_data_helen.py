"""Helen with its soft masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sceneloom.errors import DataSetError, ImageReadError, SizeError, UnknownLabelError
from sceneloom_training.data import DataSettings, open_data_set
from sceneloom_training.data.opening import find_samples, open_examined

KEYS = ("100032540_1", "100040721_1", "100040721_2")


@pytest.fixture
def root(tmp_path: Path, save) -> Path:
    for key in KEYS:
        save(tmp_path / "images" / f"{key}.jpg", np.full((8, 16, 3), 90, np.uint8))
        for number, mask in enumerate(masks()):
            save(tmp_path / "labels" / key / f"{key}_lbl{number:02d}.png", mask)
    (tmp_path / "exemplars.txt").write_text(f"1 , {KEYS[2]}\n2 , {KEYS[0]}\n\n")
    (tmp_path / "testing.txt").write_text(f"1 , {KEYS[1]}\n")
    (tmp_path / "tuning.txt").write_text("")
    return tmp_path


def masks() -> np.ndarray:
    """Background fades to skin across the picture, hair as strong as skin at the right edge."""
    out = np.zeros((11, 8, 16), np.uint8)
    out[1] = np.arange(16) * 16
    out[0] = 255 - out[1]
    out[10, :, 15] = out[1, :, 15]
    out[10, 0, 14] = 255
    out[:, 7, 0] = 0
    return out


def settings(root: Path, **changes: object) -> DataSettings:
    return DataSettings(layout="helen", root=root, **changes)  # type: ignore[arg-type]


def test_the_largest_mask_wins_and_the_first_of_equal_ones(root: Path) -> None:
    sample = open_data_set(settings(root)).read(0)
    assert sample.label_map.dtype == np.uint8
    assert (sample.label_map == masks().argmax(axis=0)).all()
    assert sample.label_map[0].tolist() == [*[0] * 8, *[1] * 6, 10, 1]
    assert sample.instance_map is None


@pytest.mark.parametrize(
    ("split", "keys"),
    [("train", [KEYS[0], KEYS[2]]), ("test", [KEYS[1]]), ("all", list(KEYS))],
)
def test_splits_follow_the_publishers_lists(root: Path, split: str, keys: list[str]) -> None:
    data = open_data_set(settings(root, split=split))
    assert list(data.keys) == keys
    assert data.schema.channels == 11


def test_splits_that_do_not_work(root: Path) -> None:
    with pytest.raises(DataSetError, match="it has train, tuning, test, all"):
        open_data_set(settings(root, split="val"))
    with pytest.raises(DataSetError, match=r"tuning\.txt: lists no faces"):
        open_data_set(settings(root, split="tuning"))
    (root / "tuning.txt").write_text("100032540_1\n")
    with pytest.raises(DataSetError, match=r"tuning\.txt: the line '100032540_1' is not like"):
        open_data_set(settings(root, split="tuning"))
    (root / "tuning.txt").write_text("1 , 999_1\n")
    with pytest.raises(DataSetError, match=r"999_1\.jpg: no such file"):
        open_data_set(settings(root, split="tuning"))
    (root / "tuning.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataSetError, match=r"tuning\.txt: not readable as text"):
        open_data_set(settings(root, split="tuning"))
    (root / "tuning.txt").unlink()
    with pytest.raises(DataSetError, match=r"tuning\.txt: no such file; .* 'all' does not"):
        open_data_set(settings(root, split="tuning"))


def test_every_missing_file_is_listed_and_the_other_faces_are_used_by_choice(root: Path) -> None:
    (root / "labels" / KEYS[0] / f"{KEYS[0]}_lbl07.png").unlink()
    (root / "labels" / KEYS[1] / f"{KEYS[1]}_lbl00.png").unlink()
    (root / "images" / f"{KEYS[1]}.jpg").unlink()
    (root / "exemplars.txt").write_text("".join(f"{n} , {key}\n" for n, key in enumerate(KEYS)))
    wrong = find_samples(settings(root)).incomplete
    assert list(wrong) == sorted(KEYS[:2])
    assert f"{KEYS[0]}_lbl07.png: no such file" in wrong[KEYS[0]]
    assert f"{KEYS[1]}.jpg: no such file" in wrong[KEYS[1]]
    assert f"{KEYS[1]}_lbl00.png: no such file" in wrong[KEYS[1]]
    data, notes = open_examined(settings(root, skip_broken=True))
    assert list(data.keys) == [KEYS[2]]
    assert sum("a broken sample" in note for note in notes) == 2


def test_missing_files_and_folders(root: Path) -> None:
    (root / "labels" / KEYS[0] / f"{KEYS[0]}_lbl07.png").unlink()
    with pytest.raises(DataSetError, match=r"_lbl07\.png: no such file"):
        open_data_set(settings(root))
    for path in (root / "images").iterdir():
        path.unlink()
    with pytest.raises(DataSetError, match="holds none of the files"):
        open_data_set(settings(root, split="all"))
    (root / "labels").rename(root / "elsewhere")
    with pytest.raises(DataSetError, match="labels: no such folder"):
        open_data_set(settings(root))


def test_sizes_damage_and_unknown_ids(root: Path, save, tmp_path: Path) -> None:
    labels = [
        {"id": i, "name": name, "colour": [0, 0, 0]} for i, name in [(0, "other"), (1, "skin")]
    ]
    schema = tmp_path / "own.json"
    schema.write_text(json.dumps({"name": "own", "labels": labels, "unlabelled": 0}))
    with pytest.raises(UnknownLabelError, match=rf"{KEYS[0]}: label ids 10 \(1 pixel\)"):
        open_data_set(settings(root, labels=str(schema))).read(0)
    mended = open_data_set(settings(root, labels=str(schema), unknown="unlabelled")).read(0)
    assert mended.label_map.max() == 1
    path = root / "labels" / KEYS[0] / f"{KEYS[0]}_lbl03.png"
    save(path, np.zeros((8, 8), np.uint8))
    with pytest.raises(SizeError, match=r"jpg is 16x8 and .*_lbl03\.png is 8x8"):
        open_data_set(settings(root)).read(0)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ImageReadError, match=r"_lbl03\.png"):
        open_data_set(settings(root)).read(0)


def test_masks_that_are_not_read_are_named(root: Path, save) -> None:
    assert not open_data_set(settings(root)).left_out
    extra = [root / "labels" / "7_1" / "7_1_lbl00.png"]
    extra.append(root / "labels" / KEYS[0] / f"{KEYS[0]}_lbl11.png")
    for path in extra:
        save(path, masks()[0])
    left_out = open_data_set(settings(root, split="all")).left_out
    assert sorted(each.name for each in left_out) == sorted(map(str, extra))
    assert {each.reason for each in left_out} == {"of no photograph or no class"}


def test_lists_with_a_byte_order_mark(root: Path) -> None:
    (root / "testing.txt").write_text(f"\ufeff1 , {KEYS[1]}\n", "utf-8")
    assert list(open_data_set(settings(root, split="test")).keys) == [KEYS[1]]
