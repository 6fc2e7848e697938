"""A folder of pictures: which belong to samples, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from colour_segmenter import ColourSegmenter
from PIL import Image

from sceneloom.errors import DataSetError, ImageReadError, SizeError
from sceneloom_training.data import DataSet
from sceneloom_training.evaluation.evaluate import Evaluation, evaluate
from sceneloom_training.evaluation.settings import EvaluationSettings
from sceneloom_training.evaluation.sources import FolderPictures, listed

Run = Callable[..., Evaluation]


@pytest.fixture
def folder(tmp_path: Path, street_data: DataSet) -> Path:
    """The photographs as a folder of pictures."""
    for index, key in enumerate(street_data.keys):
        Image.fromarray(street_data.read(index).photo).save(tmp_path / f"{key}.png")
    return tmp_path


@pytest.fixture
def run(street_data: DataSet, judge: ColourSegmenter, folder: Path) -> Run:
    def evaluated(**settings: int | str) -> Evaluation:
        chosen = EvaluationSettings(bootstrap=20, **settings)  # type: ignore[arg-type]
        return evaluate(street_data, judge, FolderPictures(folder), chosen)

    return evaluated


def test_photographs_of_a_folder_score_as_the_oracle(run: Run) -> None:
    found = run()
    assert found.scores == found.oracle_scores


@pytest.mark.parametrize("ending", ["_leftImg8bit", "_gtFine_labelIds", "_image"])
def test_what_publishers_append_is_left_out(run: Run, folder: Path, ending: str) -> None:
    for path in list(folder.iterdir()):
        path.rename(path.with_stem(path.stem + ending))
    found = run()
    assert found.scores == found.oracle_scores


def test_the_folder_that_pix2pixhd_writes(run: Run, folder: Path) -> None:
    for path in list(folder.iterdir()):
        stem = f"{path.stem}_gtFine_labelIds"
        Image.new("RGB", (64, 32)).save(folder / f"{stem}_input_label.jpg")
        path.rename(path.with_stem(f"{stem}_synthesized_image"))
    found = run()
    assert found.scores == found.oracle_scores


def test_two_pictures_of_one_sample_are_refused_in_a_results_folder_too(
    run: Run, folder: Path
) -> None:
    for kind in ("labelIds", "leftImg8bit"):
        path = folder / f"street_000071_{kind}_synthesized_image.png"
        Image.new("RGB", (128, 64)).save(path)
    with pytest.raises(DataSetError, match="would both be of the sample street_000071"):
        run()


def test_missing_pictures_are_listed_in_one_error(run: Run, folder: Path) -> None:
    (folder / "street_000071.png").unlink()
    (folder / "street_000074.png").rename(folder / "other.png")
    with pytest.raises(DataSetError) as caught:
        run()
    assert str(caught.value) == (
        f"{folder}: holds no picture of street_000071, street_000074; "
        "pictures of no sample: other.png"
    )


def test_surplus_pictures_are_listed_in_one_error(run: Run, folder: Path) -> None:
    for name in ("a.png", "b.jpg"):
        Image.new("RGB", (128, 64)).save(folder / name)
    with pytest.raises(DataSetError, match=r"no sample of the data set: a\.png, b\.jpg$"):
        run()


def test_pictures_beyond_the_limit_are_no_surplus(run: Run, folder: Path) -> None:
    (folder / "street_000074.png").write_bytes(b"never read")
    assert len(run(limit=3).oracle) == 3


def test_pictures_of_another_size_are_listed_in_one_error(run: Run, folder: Path) -> None:
    for name in ("street_000070.png", "street_000073.png"):
        Image.new("RGB", (64, 32)).save(folder / name)
    text = "street_000070.png is 64x32 instead of 128x64, street_000073.png is 64x32 instead"
    with pytest.raises(SizeError, match=text):
        run()
    with pytest.raises(SizeError, match=r"000071.png is 128x64 instead of 64x32"):
        run(size="64x32")


def test_a_damaged_picture_is_named(run: Run, folder: Path) -> None:
    path = folder / "street_000072.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ImageReadError, match=r"street_000072\.png: truncated or damaged"):
        run()


def test_two_pictures_of_one_sample(folder: Path) -> None:
    Image.fromarray(np.zeros((64, 128, 3), np.uint8)).save(folder / "street_000070.jpg")
    with pytest.raises(DataSetError, match="would both be of the sample street_000070"):
        FolderPictures(folder)


def test_no_folder_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match="no such folder"):
        FolderPictures(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataSetError, match="holds none of the files"):
        FolderPictures(tmp_path / "empty")


def test_long_lists_are_cut() -> None:
    names = [f"k{i}" for i in range(23)]
    assert listed(names).endswith("k19 and 3 more")
    assert listed(names[:20]).endswith("k19")


def test_pictures_in_subfolders_are_named_with_them(run: Run, folder: Path) -> None:
    (folder / "sub").mkdir()
    path = folder / "street_000071.png"
    path.rename(folder / "sub" / path.name)
    with pytest.raises(DataSetError, match=r"of no sample: sub/street_000071\.png$"):
        run()
