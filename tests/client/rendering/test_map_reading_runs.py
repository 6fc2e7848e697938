"""Runs over maps of simulators: every container, the manifest, tables of names beside the maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from map_sets import WRITERS, Maps, as_png
from PIL import Image

from sceneloom.contract import Contract
from sceneloom.errors import InputError
from sceneloom.maps import boundary_map
from sceneloom.rendering import render
from sceneloom.rendering.items import Failed, Rendered, Result, Skipped
from sceneloom.rendering.manifest import Manifest
from sceneloom.rendering.settings import RenderSettings
from sceneloom.schema import load_schema
from sceneloom.synthesizer import Synthesizer
from sceneloom.testing import FakeTransport
from sceneloom.triton.client import TritonSynthesizer

CITYSCAPES = load_schema("cityscapes")
CONTRACT = Contract(schema=CITYSCAPES, boundaries=True, size_multiple=16)
TAGS = {1: 7, 2: 8, 3: 11, 11: 23, 14: 26}  # of CARLA -> Cityscapes' ids
CARLA: dict[str, Any] = {"label_channel": "red", "map_schema": "carla"}


def frames(count: int = 3, **size: int) -> tuple[Maps, dict[str, np.ndarray]]:
    """Frames of CARLA's semantic camera without instance maps, and the maps that they show."""
    rng = np.random.default_rng(0)
    maps, shown = {}, {}
    for number in range(count):
        tags = rng.choice(list(TAGS), (4, 6)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        frame = np.dstack([tags, *[np.zeros_like(tags)] * 2, np.full_like(tags, 255)])
        maps[f"{number:06}"] = (as_png(frame), None)
        shown[f"{number:06}"] = np.vectorize(TAGS.__getitem__)(tags).astype(np.uint8)
    return maps, shown


def fake(contract: Contract = CONTRACT) -> TritonSynthesizer:
    return TritonSynthesizer("fake", transport=FakeTransport(contract))


def picture(label_map: np.ndarray, instance_map: np.ndarray) -> np.ndarray:
    """What the fake server paints."""
    image = CITYSCAPES.colourise(label_map)
    image[boundary_map(instance_map)] = 255
    return image


def run(
    synthesizer: Synthesizer, place: str | Path, output: Path, *names: str, **settings: Any
) -> list[Result]:
    labels, instances = names or (None, None)
    results = render(
        synthesizer,
        place,
        output,
        labels=labels,
        instances=instances,
        settings=RenderSettings(**settings),
    )
    return sorted(results, key=lambda result: result.key)


def read_rgb(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("kind", WRITERS)
def test_frames_of_carla_in_every_container(tmp_path: Path, kind: str) -> None:
    maps, shown = frames()
    place, output = WRITERS[kind](tmp_path / "maps", maps), tmp_path / "out"
    with fake() as synthesizer:
        results = run(synthesizer, place, output, **CARLA, boundaries="labels")
    assert [type(result) for result in results] == [Rendered] * 3, results
    for key, label_map in shown.items():
        assert np.array_equal(read_rgb(output / f"{key}.png"), picture(label_map, label_map))


def test_tables_of_replicator_have_no_place_in_shards(tmp_path: Path) -> None:
    place = WRITERS["tar"](tmp_path / "maps", frames(1)[0])
    with fake() as synthesizer:
        [result] = run(
            synthesizer, place, tmp_path / "out", map_schema="replicator", boundaries="labels"
        )
    assert isinstance(result, Failed)
    assert "000000.label.png: no table of names beside it" in result.reason


def test_a_missing_instance_map_names_the_switch(tmp_path: Path) -> None:
    maps, _ = frames(1)
    place = WRITERS["tar"](tmp_path / "maps", maps)
    with fake() as synthesizer:
        [result] = run(synthesizer, place, tmp_path / "out", **CARLA)
    assert isinstance(result, Failed)
    assert "no instance map of this name, and the model wants one; to take the edges" in (
        result.reason
    )
    assert "--boundaries labels" in result.reason


@pytest.mark.parametrize("boundaries", ["labels", "colours"])
def test_a_model_without_instance_maps_takes_no_boundaries(tmp_path: Path, boundaries: str) -> None:
    place = WRITERS["folder"](tmp_path / "maps", frames(1)[0])
    contract = Contract(schema=CITYSCAPES, boundaries=False, size_multiple=16)
    with (
        fake(contract) as synthesizer,
        pytest.raises(InputError, match=f"boundaries is {boundaries}, .* takes no instance maps"),
    ):
        run(synthesizer, place, tmp_path / "out", **CARLA, boundaries=boundaries)
    assert not (tmp_path / "out").exists()


def test_an_instance_map_that_is_there_is_taken(tmp_path: Path) -> None:
    maps, shown = frames(2)
    instances = np.arange(32 * 48, dtype=np.uint16).reshape(32, 48)
    both = {"000000": (maps["000000"][0], as_png(instances)), "000001": maps["000001"]}
    place = WRITERS["folder"](tmp_path / "maps", both)
    with fake() as synthesizer:
        run(synthesizer, place, tmp_path / "out", **CARLA, boundaries="labels")
    for key, edges in (("000000", instances), ("000001", shown["000001"])):
        found = read_rgb(tmp_path / "out" / f"{key}.png")
        assert np.array_equal(found, picture(shown[key], edges))


def test_carlas_instance_camera_without_a_second_folder(tmp_path: Path) -> None:
    tags = np.full((32, 48), 14, np.uint8)
    frame = np.dstack([tags, np.zeros_like(tags), np.zeros_like(tags)])
    frame[:, 24:, 1] = 9  # a second car
    place = WRITERS["folder"](tmp_path / "maps", {"a": (as_png(frame), None)})
    with fake() as synthesizer:
        run(synthesizer, place, tmp_path / "out", **CARLA, boundaries="colours")
    cars = np.full((32, 48), 26, np.uint8)
    expected = picture(cars, frame[..., 1])
    assert np.array_equal(read_rgb(tmp_path / "out" / "a.png"), expected)


def test_another_reading_makes_pictures_again_and_the_manifest_says_which(tmp_path: Path) -> None:
    maps, _ = frames(1)
    place, output = WRITERS["folder"](tmp_path / "maps", maps), tmp_path / "out"
    schema = tmp_path / "mine.json"
    schema.write_text(json.dumps({**load_schema("carla").to_json(), "name": "mine"}))
    readings = [
        ({**CARLA, "boundaries": "labels"}, Rendered),
        ({**CARLA, "boundaries": "labels"}, Skipped),
        ({**CARLA, "boundaries": "colours"}, Rendered),
        (
            {**CARLA, "map_schema": str(schema), "boundaries": "labels", "unknown": "unlabelled"},
            Rendered,
        ),
    ]
    for settings, kind in readings:
        with fake() as synthesizer:
            [result] = run(synthesizer, place, output, **settings)
        assert isinstance(result, kind), result
        with Manifest(output / "manifest.sqlite", to_read=True) as manifest:
            [row] = manifest.rows()
        found = json.loads(row.origin.parameters)
        assert (found["label_channel"], found["boundaries"]) == ("red", settings["boundaries"])
    assert len(found["map_schema"]) == 64


def test_parameters_of_plain_maps_are_as_ever() -> None:
    """Else an upgrade would make finished data sets again."""
    assert RenderSettings().parameters(styled=False) == '{"format": "png", "unknown": "error"}'


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_frames_of_isaac_replicator(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "_out"
    folder.mkdir()
    expected = {}
    for number in range(2):
        colours = {"(10, 20, 30, 255)": "car" if number else "road", "(0, 0, 0, 255)": "UNLABELLED"}
        table = {key: {"class": name} for key, name in colours.items()}
        pixels = np.full((32, 48, 4), (10, 20, 30, 255), np.uint8)
        pixels[:8] = 0, 0, 0, 255
        instances = np.zeros((32, 48, 4), np.uint8)
        instances[:, 10:, 0], instances[..., 3] = 50, 255
        files = {
            f"semantic_segmentation_{number:04}.png": as_png(pixels),
            f"semantic_segmentation_labels_{number:04}.json": json.dumps(table).encode(),
            f"instance_segmentation_{number:04}.png": as_png(instances),
            f"instance_segmentation_mapping_{number:04}.json": b"{}",
            f"rgb_{number:04}.png": as_png(pixels),
        }
        for name, data in files.items():
            (folder / name).write_bytes(data)
        label_map = np.full((32, 48), 26 if number else 7, np.uint8)
        label_map[:8] = 0
        expected[f"semantic_segmentation_{number:04}"] = picture(label_map, instances[..., 0])
    place = folder
    if kind == "zip":
        import shutil

        place = Path(shutil.make_archive(str(tmp_path / "frames"), "zip", folder))
    output = tmp_path / "pictures"
    with fake() as synthesizer:
        results = run(synthesizer, place, output, ".", ".", map_schema="replicator")
        assert [type(result) for result in results] == [Rendered] * 2, results
        for key, image in expected.items():
            assert np.array_equal(read_rgb(output / f"{key}.png"), image)
        if kind == "folder":  # the names of a frame are part of its input
            table_file = folder / "semantic_segmentation_labels_0000.json"
            table_file.write_text(table_file.read_text().replace("road", "sidewalk"))
            again = run(synthesizer, place, output, ".", ".", map_schema="replicator")
            assert [type(result) for result in again] == [Rendered, Skipped]
            table_file.unlink()
            [failed, _] = run(synthesizer, place, output, ".", ".", map_schema="replicator")
            assert isinstance(failed, Failed)
            assert "semantic_segmentation_labels_0000.json: cannot be read" in failed.reason
