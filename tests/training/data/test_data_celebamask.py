"""CelebAMask-HQ as published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sceneloom.errors import DataSetError, ImageReadError, InputError, SizeError
from sceneloom.schema import load_schema
from sceneloom_training.data import DataSettings, open_data_set
from sceneloom_training.data.celebamask import PARTS
from sceneloom_training.data.opening import find_samples, open_examined

NUMBERS = (0, 2, 10, 2000)
IN_CELEBA = (5, 162_770, 162_771, 182_638)


@pytest.fixture
def root(tmp_path: Path, save) -> Path:
    for number in NUMBERS:
        save(tmp_path / "CelebA-HQ-img" / f"{number}.jpg", np.full((16, 16, 3), 90, np.uint8))
        for part, rows in {"skin": slice(0, 8), "nose": slice(2, 4), "hair": slice(6, 8)}.items():
            ones = np.zeros((8, 8, 3), np.uint8)
            ones[rows, 1:] = 255
            save(mask(tmp_path, number, part), ones)
    lines = [f"{a}  {b}  {b + 1:06d}.jpg" for a, b in zip(NUMBERS, IN_CELEBA, strict=True)]
    header = "idx  orig_idx  orig_file"
    (tmp_path / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join([header, *lines]) + "\n")
    return tmp_path


def mask(root: Path, number: int, part: str) -> Path:
    folder = root / "CelebAMask-HQ-mask-anno" / str(number // 2000)
    return folder / f"{number:05d}_{part}.png"


def settings(root: Path, **changes: object) -> DataSettings:
    changes.setdefault("split", "all")
    return DataSettings(layout="celebamask", root=root, **changes)  # type: ignore[arg-type]


def test_parts_are_painted_in_the_publishers_order_and_enlarged(root: Path) -> None:
    data = open_data_set(settings(root))
    assert list(data.keys) == ["00000", "00002", "00010", "02000"]
    assert not data.has_instances
    sample = data.read(3)
    assert sample.photo.shape == (16, 16, 3)
    assert (sample.label_map[:, :2] == 0).all()
    skin, nose, hair = 1, 2, 13
    rows = [*[skin] * 4, *[nose] * 4, *[skin] * 4, *[hair] * 4]
    assert sample.label_map[:, 2:].T.tolist() == [rows] * 14


def test_the_parts_are_the_channels_of_the_schema() -> None:
    names = dict(zip(PARTS, [x.name for x in load_schema("celebamask").labels[1:]], strict=True))
    assert names["skin"] == "skin"
    assert names["eye_g"] == "eyeglasses"
    assert names["l_eye"] == "left eye"
    assert names["u_lip"] == "upper lip"
    assert names["l_lip"] == "lower lip"
    assert names["ear_r"] == "earring"
    assert names["neck_l"] == "necklace"
    assert names["cloth"] == "cloth"


@pytest.mark.parametrize(
    ("split", "keys"),
    [("train", ["00000", "00002"]), ("val", ["00010"]), ("test", ["02000"])],
)
def test_splits_follow_the_publishers_mapping(root: Path, split: str, keys: list[str]) -> None:
    assert list(open_data_set(settings(root, split=split)).keys) == keys


def test_splits_that_do_not_work(root: Path) -> None:
    with pytest.raises(DataSetError, match="it has train, val, test, all"):
        open_data_set(settings(root, split="training"))
    path = root / "CelebA-HQ-to-CelebA-mapping.txt"
    path.write_text("\n".join(f"{number} 7 000008.jpg" for number in NUMBERS))
    with pytest.raises(DataSetError, match="none of the photographs is of 'test'"):
        open_data_set(settings(root, split="test"))
    path.write_text("0 5 000006.jpg\n")
    with pytest.raises(DataSetError, match=r"mapping\.txt: has no line .* for 2"):
        open_data_set(settings(root, split="train"))
    path.unlink()
    with pytest.raises(DataSetError, match=r"mapping\.txt: no such file; .* 'all' does not"):
        open_data_set(settings(root, split="train"))


def test_every_missing_partner_is_listed_and_the_other_faces_are_used_by_choice(
    root: Path, save
) -> None:
    (root / "CelebA-HQ-img" / "2000.jpg").unlink()
    save(root / "CelebA-HQ-img" / "3.jpg", np.zeros((16, 16, 3), np.uint8))
    wrong = find_samples(settings(root)).incomplete
    assert list(wrong) == ["00003", "02000"]
    assert "3.jpg: has no partner" in wrong["00003"]
    assert "has no partner; expected a file of 2000" in wrong["02000"]
    data, notes = open_examined(settings(root, skip_broken=True))
    assert list(data.keys) == ["00000", "00002", "00010"]
    assert sum("a broken sample" in note for note in notes) == 2


def test_missing_partners_and_foreign_names(root: Path, save) -> None:
    (root / "CelebA-HQ-img" / "2000.jpg").unlink()
    with pytest.raises(DataSetError, match=r"02000_hair\.png: has no partner.*CelebA-HQ-img"):
        open_data_set(settings(root))
    save(root / "CelebA-HQ-img" / "2000.jpg", np.zeros((16, 16, 3), np.uint8))
    save(root / "CelebA-HQ-img" / "3.jpg", np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(DataSetError, match=r"3\.jpg: has no partner.*mask-anno"):
        open_data_set(settings(root))
    (root / "CelebA-HQ-img" / "3.jpg").rename(root / "CelebA-HQ-img" / "03.jpg")
    with pytest.raises(DataSetError, match=r"03\.jpg: is not named"):
        open_data_set(settings(root))
    (root / "CelebA-HQ-img" / "03.jpg").unlink()
    foreign = save(mask(root, 0, "beard"), np.zeros((8, 8), np.uint8))
    with pytest.raises(DataSetError, match=r"00000_beard\.png: is not named.*parts are skin"):
        open_data_set(settings(root))
    foreign.unlink()
    twice = root / "CelebAMask-HQ-mask-anno" / "1" / "00000_skin.png"
    save(twice, np.zeros((8, 8), np.uint8))
    with pytest.raises(DataSetError, match="are the same part of one face"):
        open_data_set(settings(root))


def test_missing_and_empty_folders(root: Path) -> None:
    with pytest.raises(DataSetError, match="CelebA-HQ-img: no such folder"):
        open_data_set(settings(root / "CelebA-HQ-img"))
    for path in (root / "CelebA-HQ-img").iterdir():
        path.unlink()
    with pytest.raises(DataSetError, match="holds none of the files"):
        open_data_set(settings(root))


def test_sizes_damage_and_colours(root: Path, save) -> None:
    path = mask(root, 0, "nose")
    save(path, np.zeros((8, 9), np.uint8))
    with pytest.raises(SizeError, match=r"skin\.png is 8x8 and .*nose\.png is 9x8"):
        open_data_set(settings(root)).read(0)
    save(path, np.random.default_rng(0).integers(0, 9, (8, 8, 3), np.uint8))
    with pytest.raises(ImageReadError, match=r"nose\.png: has colours"):
        open_data_set(settings(root)).read(0)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ImageReadError, match=r"nose\.png"):
        open_data_set(settings(root)).read(0)
    path.unlink()
    save(root / "CelebA-HQ-img" / "0.jpg", np.zeros((16, 24, 3), np.uint8))
    with pytest.raises(SizeError, match=r"0\.jpg is 24x16 and .*skin\.png is 8x8"):
        open_data_set(settings(root)).read(0)


def test_another_data_set_s_schema_is_refused(root: Path) -> None:
    with pytest.raises(InputError, match="takes celebamask, or the path"):
        open_data_set(settings(root, labels="helen"))


def test_two_photographs_of_one_number_are_refused(root: Path, save) -> None:
    save(root / "CelebA-HQ-img" / "copy" / "2.jpg", np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(DataSetError, match=r"2\.jpg and .*2\.jpg are photographs of the same"):
        open_data_set(settings(root))


def test_mappings_as_editors_leave_them(root: Path) -> None:
    path = root / "CelebA-HQ-to-CelebA-mapping.txt"
    lines = path.read_text().splitlines()[1:]
    path.write_text("\ufeff" + "\r\n".join(lines), "utf-8")
    assert list(open_data_set(settings(root, split="train")).keys) == ["00000", "00002"]
    path.write_text("\n".join([*lines, "0 190000 190001.jpg"]))
    with pytest.raises(DataSetError, match="two different lines for 0"):
        open_data_set(settings(root, split="train"))
    path.write_text("\n".join(["0 " + "1" * 5000 + " a.jpg", *lines[1:]]))
    with pytest.raises(DataSetError, match="has no line of idx, orig_idx and orig_file for 0"):
        open_data_set(settings(root, split="train"))
