"""Rendering folders: pairing, exact pictures, failures by name, nothing half written."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from rendering_fakes import pictures_below, render_folders

from sceneloom.contract import Contract
from sceneloom.errors import (
    ImageReadError,
    InputError,
    MissingInputError,
    ModelFailedError,
    NotALabelMapError,
    QueueFullError,
    RequestRejectedError,
    SizeError,
    UnknownLabelError,
)
from sceneloom.maps import boundary_map
from sceneloom.pairing import pair_maps
from sceneloom.pictures import write_image
from sceneloom.rendering.items import Failed, Rendered
from sceneloom.rendering.retries import RetryPolicy
from sceneloom.rendering.settings import RenderSettings
from sceneloom.request import Padding
from sceneloom.schema import load_schema
from sceneloom.synthesizer import Synthesizer
from sceneloom.testing import FakeTransport
from sceneloom.triton.client import TritonSynthesizer

CITYSCAPES = load_schema("cityscapes")
CONTRACT = Contract(schema=CITYSCAPES, boundaries=True, size_multiple=16)
PLAIN = Contract(schema=CITYSCAPES, boundaries=False, size_multiple=16)

Array = npt.NDArray[Any]


def write_pair(
    labels: Path, instances: Path, label: str, instance: str, *, seed: int = 0, size: Any = (32, 48)
) -> tuple[Array, Array]:
    """A label map and its instance map, in files."""
    rng = np.random.default_rng(seed)
    label_map = rng.integers(0, 35, size).astype(np.uint8)
    instance_map = label_map.astype(np.uint16) * 1000 + rng.integers(0, 5, size).astype(np.uint16)
    for path, pixel_map in ((labels / label, label_map), (instances / instance, instance_map)):
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), pixel_map)
    return label_map, instance_map


def fake(contract: Contract = CONTRACT, **options: Any) -> TritonSynthesizer:
    return TritonSynthesizer("fake", transport=FakeTransport(contract, **options))


def picture(label_map: Array, instance_map: Array) -> Array:
    """What the fake server paints for maps that want no padding."""
    image = CITYSCAPES.colourise(label_map)
    image[boundary_map(instance_map)] = 255
    return image


def read_rgb(path: Path) -> Array:
    return np.asarray(Image.open(path).convert("RGB"))


def files_below(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())


# Pairing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "instance"),
    [
        ("0001.png", "0001.png"),
        ("0001.png", "0001.tif"),
        ("0001_label.png", "0001_inst.png"),
        ("0001_labels.png", "0001_instances.png"),
        ("0001-label.png", "0001-instance.png"),
        (
            "frankfurt_000000_000294_gtFine_labelIds.png",
            "frankfurt_000000_000294_gtFine_instanceIds.png",
        ),
        ("x_gtFine_labelTrainIds.png", "x_gtFine_instanceIds.png"),
        ("val/frankfurt/a_gtFine_labelIds.png", "val/frankfurt/a_gtFine_instanceIds.png"),
        ("dots.in.name.png", "dots.in.name.png"),
    ],
)
def test_names_that_pair(tmp_path: Path, label: str, instance: str) -> None:
    labels, instances = tmp_path / "test_label", tmp_path / "test_inst"
    write_pair(labels, instances, label, instance)
    [pair] = pair_maps(labels, instances)[0]
    assert pair.key == label.removesuffix(".png")
    assert (pair.label, pair.instance) == (labels / label, instances / instance)


@pytest.mark.parametrize("spelling", ["same", "dotted", "link"])
def test_label_and_instance_maps_in_one_folder(tmp_path: Path, spelling: str) -> None:
    folder = tmp_path / "gtFine"
    for city in ("aachen", "bonn"):
        name = f"{city}/{city}_1_gtFine_"
        write_pair(folder, folder, f"{name}labelIds.png", f"{name}instanceIds.png")
    (folder / "aachen" / "aachen_1_gtFine_polygons.json").write_text("{}")
    (tmp_path / "link").symlink_to(folder)
    second = {"same": folder, "dotted": folder / "aachen" / "..", "link": tmp_path / "link"}
    pairs = pair_maps(folder, second[spelling])[0]
    assert [pair.key for pair in pairs] == [
        "aachen/aachen_1_gtFine_labelIds",
        "bonn/bonn_1_gtFine_labelIds",
    ]
    for pair in pairs:
        assert pair.instance is not None
        assert pair.instance.name == pair.label.name.replace("label", "instance")


def test_the_real_sample_pairs(shared: Path) -> None:
    sample = shared / "data" / "cityscapes_sample"
    pairs = pair_maps(sample / "test_label", sample / "test_inst")[0]
    assert len(pairs) == len(list((sample / "test_label").iterdir()))
    assert all(pair.instance is not None and pair.instance.is_file() for pair in pairs)


def test_names_that_do_not_pair(tmp_path: Path) -> None:
    labels, instances = tmp_path / "labels", tmp_path / "instances"
    write_pair(labels, instances, "a/1.png", "b/1.png")
    write_pair(labels, instances, "2.png", "02.png")
    assert [pair.instance for pair in pair_maps(labels, instances)[0]] == [None, None]
    assert [pair.instance for pair in pair_maps(labels, None)[0]] == [None, None]


def test_what_is_not_a_map_is_left_out(tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    write_pair(labels, labels, "a.png", "a_instanceIds.png")
    (labels / "folder.png").mkdir()
    (labels / ".hidden.png").write_bytes(b"x")
    (labels / "notes.txt").write_text("x")
    (labels / "a.jpg").write_bytes(b"x")
    assert [pair.key for pair in pair_maps(labels, None)[0]] == ["a"]


def test_two_maps_that_share_a_picture(tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    write_pair(labels, labels, "a.png", "a.tif")
    with pytest.raises(InputError, match=r"a\.tif and .*a\.png would share one picture's name"):
        pair_maps(labels, None)


def test_two_instance_maps_that_fit_one_name(tmp_path: Path) -> None:
    labels, instances = tmp_path / "labels", tmp_path / "instances"
    write_pair(labels, instances, "a.png", "a.png")
    write_pair(tmp_path / "rest", instances, "a.png", "a_instanceIds.png")
    with pytest.raises(InputError, match="could both be the instance map of a"):
        pair_maps(labels, instances)


def test_folders_without_maps(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such folder"):
        pair_maps(tmp_path / "nowhere", None)
    with pytest.raises(InputError, match=r"no label maps \(\.png, \.tif, \.tiff, \.npy\)"):
        pair_maps(tmp_path, None)
    write_pair(tmp_path, tmp_path, "a.png", "b.png")
    with pytest.raises(InputError, match=r"b\.png: no such folder"):
        pair_maps(tmp_path, tmp_path / "b.png")


# Pictures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_flight", [1, 3])
def test_png_pictures_are_exact(tmp_path: Path, in_flight: int) -> None:
    labels, instances, output = tmp_path / "test_label", tmp_path / "test_inst", tmp_path / "out"
    names = ["a", "b", "sub/c", "sub/deep/d"]
    drawn = [
        write_pair(labels, instances, f"{n}_labelIds.png", f"{n}_instanceIds.png", seed=i)
        for i, n in enumerate(names)
    ]
    settings = RenderSettings(in_flight=in_flight)
    with fake() as synthesizer:
        results = render_folders(synthesizer, labels, instances, output, settings)
    assert [result.key for result in results] == [f"{name}_labelIds" for name in names]
    for result, maps in zip(results, drawn, strict=True):
        assert isinstance(result, Rendered)
        assert result.output == f"{result.key}.png"
        assert result.padding == Padding()
        assert result.seconds > 0
        assert np.array_equal(read_rgb(output / result.output), picture(*maps))
    assert pictures_below(output) == sorted(f"{name}_labelIds.png" for name in names)


def test_padding_is_recorded_and_cropped(tmp_path: Path) -> None:
    labels, instances = tmp_path / "labels", tmp_path / "instances"
    label_map, instance_map = write_pair(labels, instances, "a.png", "a.png", size=(45, 50))
    with fake() as synthesizer:
        [result] = render_folders(synthesizer, labels, instances, tmp_path / "out")
    assert isinstance(result, Rendered)
    assert result.padding == Padding(bottom=3, right=14)
    assert np.array_equal(
        read_rgb(tmp_path / "out" / result.output), picture(label_map, instance_map)
    )


def test_jpg(tmp_path: Path) -> None:
    labels, sizes = tmp_path / "labels", {}
    label_map = np.full((32, 48), 7, np.uint8)
    labels.mkdir()
    cv2.imwrite(str(labels / "a.png"), label_map)
    cv2.imwrite(str(labels / "noise.png"), np.random.default_rng(0).integers(0, 35, (32, 48)))
    for quality in (30, 95):
        output = tmp_path / f"out{quality}"
        settings = RenderSettings(format="jpg", quality=quality)
        with fake(PLAIN) as synthesizer:
            render_folders(synthesizer, labels, None, output, settings)
        assert pictures_below(output) == ["a.jpg", "noise.jpg"]
        sizes[quality] = (output / "noise.jpg").stat().st_size
        difference = read_rgb(output / "a.jpg").astype(int) - CITYSCAPES.palette[7]
        assert abs(difference).max() <= 3
    assert sizes[30] < sizes[95]


def test_pictures_of_equal_name_are_replaced(tmp_path: Path) -> None:
    labels, output = tmp_path / "labels", tmp_path / "out"
    write_pair(labels, tmp_path / "rest", "a.png", "a.png")
    output.mkdir()
    (output / "a.png").write_bytes(b"old")
    (output / "other.txt").write_text("stays")
    with fake(PLAIN) as synthesizer:
        render_folders(synthesizer, labels, None, output)
    assert read_rgb(output / "a.png").shape == (32, 48, 3)
    assert pictures_below(output) == ["a.png", "other.txt"]


def test_maps_with_unknown_ids_on_request(tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    cv2.imwrite(str(labels / "a.png"), np.full((32, 48), 255, np.uint8))
    with fake(PLAIN) as synthesizer:
        output, taking = tmp_path / "out", RenderSettings(unknown="unlabelled")
        [refused] = render_folders(synthesizer, labels, None, output)
        [taken] = render_folders(synthesizer, labels, None, output, taking)
    assert isinstance(refused, Failed)
    assert isinstance(refused.error, UnknownLabelError)
    assert "a.png: unknown label id 255 (1,536 pixels)" in refused.reason
    assert isinstance(taken, Rendered)
    assert not read_rgb(tmp_path / "out" / taken.output).any()


# Failures ----------------------------------------------------------------------------------------


def test_broken_maps_are_named_and_the_others_come_out(tmp_path: Path) -> None:
    labels, instances, output = tmp_path / "labels", tmp_path / "instances", tmp_path / "out"
    for i, name in enumerate(("good1", "cut", "colour", "small", "sizes", "zz")):
        size = (16, 16) if name == "small" else (32, 48)
        write_pair(labels, instances, f"{name}.png", f"{name}.png", seed=i, size=size)
    cut = (labels / "cut.png").read_bytes()
    (labels / "cut.png").write_bytes(cut[: len(cut) // 2])
    cv2.imwrite(str(labels / "colour.png"), np.zeros((32, 48, 3), np.uint8))
    cv2.imwrite(str(instances / "sizes.png"), np.zeros((32, 47), np.uint16))
    write_pair(labels, tmp_path / "rest", "alone.png", "alone.png")
    with fake() as synthesizer:
        results = render_folders(synthesizer, labels, instances, output)
    failed = {result.key: result for result in results if isinstance(result, Failed)}
    assert {key: type(result.error) for key, result in failed.items()} == {
        "alone": MissingInputError,
        "colour": NotALabelMapError,
        "cut": ImageReadError,
        "sizes": SizeError,
        "small": SizeError,
    }
    assert failed["alone"].reason == (
        f"{labels / 'alone.png'}: no instance map of this name, and the model wants one; to take "
        "the edges of the label map: --boundaries labels"
    )
    assert failed["cut"].reason.startswith(f"{labels / 'cut.png'}: truncated or damaged")
    assert failed["small"].reason.startswith(f"{labels / 'small.png'}: 16x16")
    assert failed["sizes"].reason.startswith(f"{labels / 'sizes.png'}: the label map is 48x32")
    assert pictures_below(output) == ["good1.png", "zz.png"]


def test_a_broken_instance_map_is_named(tmp_path: Path) -> None:
    labels, instances = tmp_path / "labels", tmp_path / "instances"
    write_pair(labels, instances, "a.png", "a.png")
    (instances / "a.png").write_bytes(b"")
    with fake() as synthesizer:
        [result] = render_folders(synthesizer, labels, instances, tmp_path / "out")
    assert isinstance(result, Failed)
    assert result.reason == f"{instances / 'a.png'}: the file is empty"


def test_answers_that_fail_concern_one_map(tmp_path: Path) -> None:
    labels, output = tmp_path / "labels", tmp_path / "out"
    for name in "abcd":
        write_pair(labels, tmp_path / "rest", f"{name}.png", f"{name}.png")
    broken = ModelFailedError("broken")
    failures = [None, QueueFullError("full"), None, RequestRejectedError("wrong"), broken]
    retry = RetryPolicy(first_wait=0.001, longest_wait=0.01, model_attempts=1)
    settings = RenderSettings(in_flight=1, workers=1, retry=retry)
    with fake(PLAIN, failures=failures) as synthesizer:
        results = render_folders(synthesizer, labels, None, output, settings)
    reasons = sorted(result.reason[3:] for result in results if isinstance(result, Failed))
    assert reasons == ["broken", "wrong"]
    assert len(pictures_below(output)) == 2


@pytest.mark.parametrize("where", ["labels", "instances", "parent"])
def test_pictures_never_lie_among_the_maps(tmp_path: Path, where: str) -> None:
    root = tmp_path / "data"
    labels, instances = root / "labels", root / "instances"
    write_pair(labels, instances, "a.tif", "a.tif")
    output = {"labels": labels, "instances": instances / ".." / "instances", "parent": root}[where]
    before = files_below(tmp_path)
    transport = FakeTransport(CONTRACT)
    with (
        TritonSynthesizer("fake", transport=transport) as synthesizer,
        pytest.raises(InputError, match="holds maps, and the pictures would lie among them"),
    ):
        render_folders(synthesizer, root if where == "parent" else labels, instances, output)
    assert files_below(tmp_path) == before
    assert transport.requests == []


def test_an_output_folder_that_is_a_file(tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    write_pair(labels, tmp_path / "rest", "a.png", "a.png")
    (tmp_path / "file").write_text("mine")
    transport = FakeTransport(PLAIN)
    with TritonSynthesizer("fake", transport=transport) as synthesizer:
        for output in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(InputError, match=r"file.*: cannot be the folder for pictures"):
                render_folders(synthesizer, labels, None, output)
    assert transport.requests == []
    assert (tmp_path / "file").read_text() == "mine"


def test_a_place_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    labels, output = tmp_path / "labels", tmp_path / "out"
    for name in ("sub/a.png", "b.png", "c.png"):
        write_pair(labels, tmp_path / "rest", name, name)
    (output / "b.png").mkdir(parents=True)  # a folder where the picture should go
    (output / "b.png" / "kept").write_text("kept")
    (output / "sub").write_text("a file where a folder should go")
    with fake(PLAIN) as synthesizer:
        results = render_folders(synthesizer, labels, None, output)
    assert [type(result) for result in results] == [Failed, Rendered, Failed]
    assert str(output / "b.png") in results[0].reason  # type: ignore[union-attr]
    assert str(output / "sub") in results[2].reason  # type: ignore[union-attr]
    assert pictures_below(output) == ["b.png/kept", "c.png", "sub"]


def test_a_picture_too_wide_for_jpg(tmp_path: Path) -> None:
    image = np.zeros((2, 65501, 3), np.uint8)
    with pytest.raises(InputError, match=r"65501x2 cannot be written as \.jpg"):
        write_image(tmp_path / "wide.jpg", image)
    write_image(tmp_path / "sub" / "wide.png", image)
    assert files_below(tmp_path) == ["sub/wide.png"]


def test_colours_are_not_swapped(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[..., 0] = 200
    image[:2, :, 2] = 90
    write_image(tmp_path / "a.png", image[:, ::-1])
    assert np.array_equal(read_rgb(tmp_path / "a.png"), image)


class Recording(Synthesizer):
    """Counts how many maps are under way at once."""

    def __init__(self, at_once: int) -> None:
        super().__init__(PLAIN)
        self.barrier = threading.Barrier(at_once, timeout=10)

    def run_batch(self, label_maps: Any, instance_maps: Any, styles: Any) -> Any:
        self.barrier.wait()  # opens only if so many maps are here together
        return CITYSCAPES.colourise(label_maps)


def test_several_maps_are_in_flight(tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    for i in range(6):
        write_pair(labels, tmp_path / "rest", f"{i}.png", f"{i}.png", seed=i)
    results = render_folders(
        Recording(3), labels, None, tmp_path / "out", RenderSettings(in_flight=3)
    )
    assert all(isinstance(result, Rendered) for result in results)


@pytest.mark.parametrize(
    "change",
    [
        {"in_flight": 0},
        {"in_flight": -1},
        {"in_flight": 10**6},
        {"quality": 0},
        {"quality": 101},
        {"max_pixels": 0},
        {"format": "gif"},
        {"unknown": "ignore"},
    ],
)
def test_settings_out_of_range(change: dict[str, Any]) -> None:
    [name] = change
    with pytest.raises(InputError, match=f"^{name} is "):
        RenderSettings(**change)


def test_a_picture_is_never_seen_half_written(tmp_path: Path) -> None:
    """Whatever is under the picture's name is whole, also while it is written again and again."""
    import threading

    target = tmp_path / "a.png"
    images = [np.full((200, 300, 3), value, np.uint8) for value in (10, 250)]
    write_image(target, images[0])
    stop = threading.Event()

    def rewrite(image: Array) -> None:
        while not stop.is_set():
            write_image(target, image)

    writers = [threading.Thread(target=rewrite, args=(image,)) for image in images]
    for writer in writers:
        writer.start()
    try:
        for _ in range(100):
            values = np.unique(cv2.imdecode(np.frombuffer(target.read_bytes(), np.uint8), -1))
            assert values.tolist() in ([10], [250])
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert os.listdir(tmp_path) == ["a.png"]  # noqa: PTH208
