"""Models of pictures: photographs are found, read exactly, padded, rendered, refused by name."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from map_sets import add_to_tar, as_png
from PIL import Image
from rendering_fakes import render_folders

from sceneloom import TritonSynthesizer, read_picture
from sceneloom.contract import Contract
from sceneloom.errors import ImageReadError, InputError, MissingInputError, SizeError
from sceneloom.rendering import render
from sceneloom.rendering.datasets import open_source
from sceneloom.rendering.items import Failed, Picture, Rendered
from sceneloom.rendering.settings import RenderSettings
from sceneloom.request import Padding, prepare, random_inputs, smallest_map
from sceneloom.testing import FakeTransport

PICTURES = Contract(kind="picture", boundaries=False, size_multiple=16)
BOUNDARIES = Contract(kind="picture", boundaries=True, size_multiple=16)
GREY = Contract(kind="picture", boundaries=False, size_multiple=16, grey=True)
Array = np.ndarray[Any, np.dtype[np.uint8]]


def photo(seed: int, height: int = 40, width: int = 52) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(image: Array, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, format, **options)
    return out.getvalue()


def fake(contract: Contract = PICTURES) -> TritonSynthesizer:
    return TritonSynthesizer("fake", transport=FakeTransport(contract))


def rendered(contract: Contract, location: Path | str, **options: Any) -> dict[str, Any]:
    with fake(contract) as client, render(client, location, **options) as run:
        return {result.key: result for result in run}


def write_photos(folder: Path) -> dict[str, Array]:
    """A PNG, a JPEG and a grey TIFF, one of them in a folder."""
    (folder / "night").mkdir(parents=True)
    files = {
        "a.png": encoded(photo(1), "PNG"),
        "night/b.jpg": encoded(photo(2), "JPEG"),
        "c.tif": encoded(photo(3)[..., 0], "TIFF"),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {name.rpartition(".")[0]: read_picture(folder / name) for name in files}


def test_photographs_of_every_kind_are_rendered_as_they_are_read(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    found = rendered(PICTURES, tmp_path / "photos")
    assert found.keys() == photos.keys()
    for key, result in found.items():
        assert isinstance(result, Picture)
        assert result.padding == Padding(bottom=8, right=12)
        assert np.array_equal(result.image, 255 - photos[key])


def test_padding_repeats_the_pictures_edge() -> None:
    request = prepare(PICTURES, photo(1))
    assert request.size == (48, 64)
    assert np.array_equal(request.label_map[40:, :52], np.repeat(photo(1)[39:40], 8, 0))
    assert np.array_equal(request.padding.crop(request.label_map), photo(1))


def test_published_layout_with_instance_maps(tmp_path: Path) -> None:
    for folder in ("test_A", "test_inst"):
        (tmp_path / folder).mkdir()
    (tmp_path / "test_A" / "a.jpg").write_bytes(encoded(photo(1, 32, 48), "JPEG"))
    instances = np.zeros((32, 48), np.uint16)
    instances[:, 20:] = 40000
    (tmp_path / "test_inst" / "a.png").write_bytes(as_png(instances))
    image = rendered(BOUNDARIES, tmp_path)["a"].image
    assert (image[:, 19:21] == 255).all()  # the boundary, as the fake server paints it
    assert np.array_equal(image[:, 21:], 255 - read_picture(tmp_path / "test_A" / "a.jpg")[:, 21:])


def test_archives_of_photographs(tmp_path: Path) -> None:
    data = {f"{n:04}": encoded(photo(n, 32, 48), "JPEG") for n in range(3)}
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for key, file in data.items():
            archive.writestr(f"{key}.jpg", file)
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for key, file in data.items():
            add_to_tar(tar, f"{key}.jpg", file)
            add_to_tar(tar, f"{key}.json", b"{}")
    for name in ("photos.zip", "photos.tar"):
        found = rendered(PICTURES, tmp_path / name)
        assert found.keys() == data.keys()
        for key, result in found.items():
            expected = 255 - read_picture(data[key])
            assert np.array_equal(result.image, expected)
    with pytest.raises(InputError, match=r"photos\.tar: no files KEY\.rgb\.png in it"):
        list(open_source(str(tmp_path / "photos.tar"), labels="rgb", kind="picture"))


def test_photographs_beside_instance_maps_in_tar_files(tmp_path: Path) -> None:
    instances = as_png(np.zeros((32, 48), np.uint16))
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        add_to_tar(tar, "a.b.jpg", encoded(photo(1, 32, 48), "JPEG"))
        add_to_tar(tar, "a.b.instance.png", instances)
    source = open_source(str(tmp_path / "photos.tar"), kind="picture", wants_instances=True)
    [item] = list(source)
    assert item.key == "a.b"
    assert item.instance is not None
    assert item.instance.read(1 << 20) == instances


def test_photographs_in_parquet_files(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"key": ["a"], "picture": [encoded(photo(1, 32, 48), "PNG")]})
    pyarrow.parquet.write_table(table, tmp_path / "photos.parquet")
    found = rendered(PICTURES, tmp_path / "photos.parquet")
    assert np.array_equal(found["a"].image, 255 - photo(1, 32, 48))


def test_what_is_no_photograph_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    write_photos(folder)
    cv2.imwrite(str(folder / "deep.png"), photo(4).astype(np.uint16) * 257)
    (folder / "cut.jpg").write_bytes(encoded(photo(5), "JPEG")[:700])
    (folder / "notes.txt").write_text("not a picture")
    found = rendered(PICTURES, folder, output=tmp_path / "out")
    failed = {key: str(result.error) for key, result in found.items() if isinstance(result, Failed)}
    assert failed.keys() == {"deep", "cut"}
    assert f"{folder}/deep.png: a 16-bit RGB PNG; photographs are 8-bit" in failed["deep"]
    assert failed["cut"].startswith(f"{folder}/cut.jpg: ")
    assert isinstance(found["deep"].error, ImageReadError)


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: no pictures \(\.png, \.jpg"):
        rendered(PICTURES, tmp_path / "empty")


def test_label_maps_are_no_pictures_and_pictures_no_label_maps() -> None:
    with pytest.raises(InputError, match="this model takes a picture, uint8"):
        prepare(PICTURES, np.zeros((32, 32), np.uint8))
    with pytest.raises(MissingInputError, match="beside the picture"):
        prepare(BOUNDARIES, photo(1))
    with pytest.raises(SizeError, match="the picture is 52x40 and the instance map 40x52"):
        prepare(BOUNDARIES, photo(1), np.zeros((52, 40), np.int32))


def test_probes_fit_a_model_of_pictures() -> None:
    label_map, instance_map = smallest_map(BOUNDARIES)
    assert label_map.shape == (32, 32, 3)
    assert instance_map is not None
    inputs = random_inputs(BOUNDARIES)
    assert {name: array.shape for name, array in inputs.items()} == {
        "picture": (1, 32, 32, 3),
        "instance_map": (1, 32, 32),
    }


def test_grey_pictures_are_written_as_grey_files(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    for settings, mode in ((RenderSettings(), "RGB"), (RenderSettings(grey=True), "L")):
        with fake(GREY) as client:
            run = render_folders(client, tmp_path / "photos", None, tmp_path / "out", settings)
        assert all(isinstance(one, Rendered) for one in run)  # RGB files are made again as grey
        for key, image in photos.items():
            with Image.open(tmp_path / "out" / f"{key}.png") as file:
                assert file.mode == mode
                assert np.array_equal(np.asarray(file.convert("L")), 255 - image[..., 0])


def test_grey_of_pictures_in_colour_is_refused(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    with pytest.raises(InputError, match="pictures have colours; leave --grey out"):
        rendered(PICTURES, tmp_path / "photos", settings=RenderSettings(grey=True))
    with pytest.raises(InputError, match="written as png, not as jpg"):
        RenderSettings(grey=True, format="jpg")
