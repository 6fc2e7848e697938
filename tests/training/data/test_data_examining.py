"""What is told of a data set before its first sample is used: nothing is passed over silently."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sceneloom.errors import DataSetError, ImageReadError
from sceneloom.photographs import read_picture
from sceneloom_training.data import DataSet, DataSettings, examine, open_data_set
from sceneloom_training.data.pictures import Header, read_header
from sceneloom_training.evaluation.sources import FolderPictures

ORIENTATION = 0x0112


def write_set(root: Path, names: list[str], save, photo, kind: str = "png") -> Path:
    for name in names:
        save(root / f"train_img/{name}.{kind}", photo())
        for maps in ("label", "inst"):
            save(root / f"train_{maps}/{name}.png", np.full((6, 8), 7, np.uint8))
    return root


def opened(root: Path) -> DataSet:
    return open_data_set(DataSettings(layout="pix2pixhd", root=root))


def exif(orientation: int) -> Image.Exif:
    note = Image.Exif()
    note[ORIENTATION] = orientation
    return note


def test_what_is_left_out_is_counted_and_named(tmp_path: Path, save, photo) -> None:
    root = write_set(tmp_path, ["a", "b"], save, photo)
    for folder in ("label", "inst", "img"):  # Jupyter's copies
        shutil.copytree(root / f"train_{folder}", tmp_path / "copies" / folder)
        shutil.move(tmp_path / "copies" / folder, root / f"train_{folder}/.ipynb_checkpoints")
    (root / "train_img/Thumbs.db").touch()
    (root / "train_label/a.json").touch()
    (root / "train_label/again").symlink_to(root / "train_label")
    data = opened(root)
    assert data.keys == ("a", "b")
    hidden, other, circle = sorted(examine(data, root), key=lambda line: "hid" not in line)
    assert hidden.startswith("left out: 3 hidden (train_img/.ipynb_checkpoints/, train_inst/")
    told = {other, circle}
    assert "left out: 1 a link to a folder around it (train_label/again/)" in told
    assert any("(train_img/Thumbs.db, train_label/a.json)" in line for line in told)


def test_linked_folders_are_followed(tmp_path: Path, save, photo) -> None:
    elsewhere = write_set(tmp_path / "elsewhere", ["b1", "b2"], save, photo)
    root = write_set(tmp_path / "set", ["ulm/u1"], save, photo)
    for folder in ("label", "inst", "img"):
        (root / f"train_{folder}/bonn").symlink_to(elsewhere / f"train_{folder}")
    data = opened(root)
    assert data.keys == ("bonn/b1", "bonn/b2", "ulm/u1")
    assert examine(data, root) == []
    assert data.read(0).photo.shape == (6, 8, 3)
    pictures = FolderPictures(root / "train_img")
    pictures.check(data.keys, [(6, 8)] * 3, known=data.keys)


def test_a_folder_of_pictures_names_what_it_leaves_out(tmp_path: Path, save, photo) -> None:
    save(tmp_path / "a_synthesized_image.png", photo())
    save(tmp_path / "a_input_label.png", photo())
    save(tmp_path / ".hidden.png", photo())
    reasons = {each.reason for each in FolderPictures(tmp_path).left_out}
    assert reasons == {"hidden", "of a name that is not looked for"}


def test_publishers_other_files_are_named_too(tmp_path: Path, save, photo) -> None:
    place = tmp_path / "gtFine/train/ulm/ulm_000000_000019_gtFine"
    save(tmp_path / "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png", photo())
    for kind in ("labelIds", "instanceIds", "color"):
        save(place.with_name(f"{place.name}_{kind}.png"), np.full((6, 8), 7, np.uint8))
    place.with_name(f"{place.name}_polygons.json").touch()
    data = open_data_set(DataSettings(layout="cityscapes", root=tmp_path))
    (kind, named) = sorted(examine(data, tmp_path))
    assert "(gtFine/train/ulm/ulm_000000_000019_gtFine_polygons.json)" in kind
    assert "(gtFine/train/ulm/ulm_000000_000019_gtFine_color.png)" in named


def test_a_partner_of_another_kind_is_named(tmp_path: Path, save, photo) -> None:
    root = write_set(tmp_path, ["a", "b"], save, photo)
    (root / "train_img/b.png").rename(root / "train_img/b.ppm")
    with pytest.raises(DataSetError) as caught:
        opened(root)
    assert "train_label/b.png: has no partner; expected a file of b in" in str(caught.value)
    assert "where b.ppm is none of the kinds that are read: .png, .jpg" in str(caught.value)


def test_helens_files_in_capitals_are_read(tmp_path: Path, photo) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(photo()).save(tmp_path / "images/1_1.JPG", format="JPEG")
    for number in range(11):
        (tmp_path / "labels/1_1").mkdir(parents=True, exist_ok=True)
        mask = np.full((6, 8), 255 * (number == 3), np.uint8)
        Image.fromarray(mask).save(tmp_path / f"labels/1_1/1_1_lbl{number:02d}.PNG", format="PNG")
    (tmp_path / "exemplars.txt").write_text("1 , 1_1\n")
    data = open_data_set(DataSettings(layout="helen", root=tmp_path))
    assert examine(data, tmp_path) == []
    label_map = data.read(0).label_map
    assert label_map is not None
    assert np.unique(label_map).tolist() == [3]


@pytest.mark.parametrize("orientation", [3, 6])
def test_an_orientation_is_told(tmp_path: Path, save, photo, orientation: int) -> None:
    root = write_set(tmp_path, ["a", "b"], save, photo)
    (root / "train_img/a.png").unlink()
    picture = photo() if orientation == 3 else np.ascontiguousarray(np.rot90(photo()))
    Image.fromarray(picture).save(root / "train_img/a.jpg", exif=exif(orientation))
    if orientation == 3:
        (line,) = examine(opened(root), root)
        assert line.startswith("1 photograph has an EXIF orientation other than 1 (a.jpg), which")
        return
    for refuse in (lambda: examine(opened(root), root), lambda: opened(root).read(0)):
        with pytest.raises((DataSetError, ImageReadError, ValueError)) as caught:
            refuse()
        assert "a.jpg is 6x8 and" in str(caught.value)
        assert "a.jpg has the EXIF orientation 6, which is not applied" in str(caught.value)


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "tif", "webp", "npy"])
def test_headers_say_the_size(tmp_path: Path, photo, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "npy":
        np.save(path, photo()[..., 0])
    else:
        Image.fromarray(photo()).save(path)
    assert read_header(path) == Header(height=6, width=8)
    if kind in {"png", "jpg", "tif", "webp"}:
        Image.fromarray(photo()).save(path, exif=exif(8))
        assert read_header(path) == Header(height=6, width=8, orientation=8)
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    assert read_header(tmp_path / "a.gif") is None
    for damaged in (b"", path.read_bytes()[:9]):
        path.write_bytes(damaged)
        with pytest.raises(ImageReadError, match=rf"a\.{kind}: damaged header"):
            read_header(path)


@settings(max_examples=150)
@given(st.data())
def test_damaged_headers_are_an_error_of_the_family_or_a_size(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("headers", numbered=True)
    kind = data.draw(st.sampled_from(["png", "jpg", "bmp", "tif", "webp"]))
    path = folder / f"a.{kind}"
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(path, exif=exif(6))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(1, len(content)))]))
    try:
        found = read_header(path)
    except ImageReadError:
        return
    assert found is None or (found.height >= 0 and found.orientation >= 1)


def test_photographs_of_all_kinds_are_read_exactly(tmp_path: Path, save, photo) -> None:
    for kind in ("bmp", "tif", "tiff", "webp"):
        root = write_set(tmp_path / kind, ["a"], save, photo, kind)
        if kind == "webp":
            Image.fromarray(photo()).save(root / "train_img/a.webp", lossless=True)
        np.testing.assert_array_equal(opened(root).read(0).photo, photo())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("deep.tif", "a TIFF of 16 bits per channel"),
        ("turned.tif", "a TIFF with orientation 6"),
        ("two.tif", "holds several pictures"),
        ("two.webp", "holds several pictures"),
        ("clear.webp", "of kind RGBA"),
        ("palette.bmp", "of kind P"),
    ],
)
def test_kinds_that_would_lose_something_are_refused(
    tmp_path: Path, photo, name: str, reason: str
) -> None:
    path, picture = tmp_path / name, Image.fromarray(photo())
    if name == "deep.tif":
        Image.fromarray(photo()[..., 0].astype(np.uint16)).save(path)
    elif name == "turned.tif":
        picture.save(path, exif=exif(6))
    elif name.startswith("two"):
        picture.save(path, save_all=True, append_images=[Image.fromarray(photo(seed=9))])
    elif name == "clear.webp":
        clear = np.dstack([photo(), np.full((6, 8), 9, np.uint8)])
        Image.fromarray(clear).save(path, lossless=True)
    else:
        picture.quantize(16).save(path)
    with pytest.raises(ImageReadError, match=f"{name}: .*{reason}"):
        read_picture(path)
