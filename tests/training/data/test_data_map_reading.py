"""Maps by colour, by channel and of another schema in training, and edges of label maps: the same
arrays as `sceneloom render` makes of the same files.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sceneloom.contract import Contract
from sceneloom.errors import InputError, NotALabelMapError
from sceneloom.maps import boundary_map
from sceneloom.rendering.datasets import open_source
from sceneloom.rendering.loading import Loader
from sceneloom.rendering.settings import RenderSettings
from sceneloom.schema import load_schema
from sceneloom_training.assembly import assemble
from sceneloom_training.data import DataSettings, open_data_set
from sceneloom_training.networks.served import boundary_plane
from sceneloom_training.settings import TrainSettings

CITYSCAPES = load_schema("cityscapes")
TAGS = np.array([[1, 1, 2, 2, 14, 14, 11, 11]] * 3 + [[1, 1, 1, 1, 14, 12, 12, 12]] * 3, np.uint8)
IDS = {1: 7, 2: 8, 11: 23, 12: 24, 14: 26}
LABELS = np.vectorize(IDS.__getitem__)(TAGS).astype(np.uint8)
CARLA: dict[str, Any] = {"label_channel": "red", "map_schema": "carla"}


def carla_frame() -> np.ndarray:
    return np.dstack([TAGS, *[np.zeros_like(TAGS)] * 2, np.full_like(TAGS, 255)])


@pytest.fixture
def root(tmp_path: Path, save, photo) -> Path:
    """Frames as CARLA writes them, and the same maps in Cityscapes' colours."""
    for split, maps in (("train", carla_frame()), ("colour", CITYSCAPES.colourise(LABELS))):
        save(tmp_path / f"{split}_label" / "a.png", maps)
        save(tmp_path / f"{split}_img" / "a.png", photo(seed=0))
    return tmp_path


def settings(root: Path, **changes: Any) -> DataSettings:
    return DataSettings(layout="pix2pixhd", root=root, **changes)


@pytest.mark.parametrize(
    ("split", "reading"),
    [("train", CARLA), ("colour", {"colours": True, "map_schema": "cityscapes19"})],
)
def test_maps_are_read_as_render_reads_them(
    root: Path, split: str, reading: dict[str, Any]
) -> None:
    data = pickle.loads(pickle.dumps(open_data_set(settings(root, split=split, **reading))))
    assert np.array_equal(data.read(0).label_map, LABELS)
    with pytest.raises(NotALabelMapError, match=r"--data\.colours and so on"):
        open_data_set(settings(root, split=split)).read(0)


def test_boundaries_are_those_of_render_bit_for_bit(root: Path) -> None:
    data = open_data_set(settings(root, **CARLA, boundaries="labels"))
    assert data.has_instances
    sample = data.read(0)
    assert sample.instance_map is not None
    contract = Contract(schema=CITYSCAPES, boundaries=True, size_multiple=2)
    source = open_source(
        str(root), labels="train_label", wants_instances=True, needs_instances=False
    )
    [item] = source
    loader = Loader(contract, RenderSettings(**CARLA, boundaries="labels"), lambda *_: None)
    request = loader.prepare(loader.load(item)).request
    assert request.instance_map is not None
    height, width = LABELS.shape
    rendered = request.instance_map[:height, :width]
    assert sample.instance_map.dtype == rendered.dtype == np.int32
    assert np.array_equal(sample.instance_map, rendered)
    plane = boundary_plane(torch.from_numpy(sample.instance_map)[None])[0, 0].numpy() == 1
    assert np.array_equal(plane, boundary_map(rendered))
    assert plane.any()


def test_a_model_with_boundaries_is_trained_without_instance_maps(root: Path) -> None:
    for boundaries in ("instances", "labels"):
        found = settings(root, **CARLA, boundaries=boundaries)
        data = open_data_set(found)
        training = TrainSettings(data=found)
        if boundaries == "instances":
            with pytest.raises(InputError, match=r"--data\.boundaries labels"):
                assemble(training, data.schema, has_instances=data.has_instances)
        else:
            made = assemble(training, data.schema, has_instances=data.has_instances)
            assert made.contract is not None
            assert made.contract.boundaries


def test_instance_maps_that_exist_are_taken(root: Path, save) -> None:
    numbers = np.arange(LABELS.size, dtype=np.uint16).reshape(LABELS.shape)
    save(root / "train_inst" / "a.png", numbers)
    data = open_data_set(settings(root, **CARLA, boundaries="labels"))
    assert np.array_equal(data.read(0).instance_map, numbers)


def test_carlas_instance_camera_by_a_link(root: Path) -> None:
    (root / "train_inst").symlink_to(root / "train_label")
    instances = open_data_set(settings(root, **CARLA)).read(0).instance_map
    assert instances is not None
    assert np.array_equal(instances, TAGS.astype(np.int32) << 16)
    with pytest.raises(InputError, match="make <split>_inst a link to <split>_label"):
        settings(root, boundaries="colours")


def test_layouts_without_files_of_label_maps() -> None:
    with pytest.raises(InputError, match="streets has no files of label maps"):
        open_data_set(DataSettings(layout="streets", colours=True))
    streets = DataSettings(
        layout="streets",
        streets_count=1,
        streets_size="64x32",
        instances=False,
        boundaries="labels",
    )
    sample = open_data_set(streets).read(0)
    assert np.array_equal(sample.instance_map, sample.label_map)  # ids are channels in cityscapes


def test_frames_of_isaac_replicator(tmp_path: Path, save, photo) -> None:
    save(tmp_path / "train_label" / "semantic_segmentation_0003.png", TAGS)
    table = {str(tag): {"class": CITYSCAPES.labels[number].name} for tag, number in IDS.items()}
    file = tmp_path / "train_label" / "semantic_segmentation_labels_0003.json"
    file.write_text(json.dumps(table))
    save(tmp_path / "train_img" / "rgb_0003.png", photo(seed=0))
    data = open_data_set(settings(tmp_path, map_schema="replicator"))
    assert tuple(data.keys) == ("0003",)
    assert np.array_equal(data.read(0).label_map, LABELS)
