"""Schemas of further street data sets against their publishers' tables, and their mapping to
Cityscapes.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import numpy as np
import pytest

from sceneloom.schema import load_schema

MAPPED = (
    "bdd100k",
    "camvid",
    "carla",
    "carla-0.9.13",
    "kitti-360",
    "mapillary-vistas",
    "mapillary-vistas-2.0",
)
MAPPINGS: dict[str, dict[str, Any]] = json.loads(
    (resources.files("sceneloom") / "label_mappings" / "to_cityscapes.json").read_text("utf-8")
)


@pytest.mark.parametrize(
    ("schema", "id_", "name", "colour"),
    [
        ("camvid", 6, "sign", (192, 128, 128)),
        ("mapillary-vistas", 0, "animal--bird", (165, 42, 42)),
        ("mapillary-vistas", 13, "construction--flat--road", (128, 64, 128)),
        ("mapillary-vistas", 23, "marking--crosswalk-zebra", (200, 128, 128)),
        ("mapillary-vistas", 35, "object--billboard", (220, 220, 220)),
        ("mapillary-vistas", 55, "object--vehicle--car", (0, 0, 142)),
        ("mapillary-vistas", 65, "void--unlabeled", (0, 0, 0)),
        ("mapillary-vistas-2.0", 21, "construction--flat--road", (128, 64, 128)),
        ("mapillary-vistas-2.0", 45, "marking--discrete--crosswalk-zebra", (255, 255, 255)),
        ("mapillary-vistas-2.0", 83, "object--sign--store", (250, 176, 30)),
        # These six are not in alphabetical order in the publisher's configuration.
        ("mapillary-vistas-2.0", 90, "object--traffic-light--general-single", (250, 170, 30)),
        ("mapillary-vistas-2.0", 91, "object--traffic-light--pedestrians", (250, 170, 30)),
        ("mapillary-vistas-2.0", 92, "object--traffic-light--general-upright", (250, 170, 30)),
        ("mapillary-vistas-2.0", 93, "object--traffic-light--general-horizontal", (250, 170, 30)),
        ("mapillary-vistas-2.0", 94, "object--traffic-light--cyclists", (250, 170, 30)),
        ("mapillary-vistas-2.0", 95, "object--traffic-light--other", (250, 170, 30)),
        ("mapillary-vistas-2.0", 108, "object--vehicle--car", (0, 0, 142)),
        ("mapillary-vistas-2.0", 123, "void--unlabeled", (0, 0, 0)),
        ("bdd100k", 0, "road", (128, 64, 128)),
        ("bdd100k", 18, "bicycle", (119, 11, 32)),
        ("kitti-360", 7, "road", (128, 64, 128)),
        ("kitti-360", 34, "garage", (64, 128, 128)),
        ("kitti-360", 39, "trash bin", (0, 128, 192)),
        ("kitti-360", 44, "unknown object", (32, 32, 32)),
        ("carla", 1, "Roads", (128, 64, 128)),
        ("carla", 11, "Sky", (70, 130, 180)),
        ("carla", 14, "Car", (0, 0, 142)),
        ("carla", 20, "Static", (110, 190, 160)),
        ("carla", 28, "GuardRail", (180, 165, 180)),
        ("carla-0.9.13", 2, "Fence", (100, 40, 40)),
        ("carla-0.9.13", 7, "Road", (128, 64, 128)),
        ("carla-0.9.13", 10, "Vehicles", (0, 0, 142)),
        ("carla-0.9.13", 22, "Terrain", (145, 170, 100)),
    ],
)
def test_ids_names_and_colours(
    schema: str, id_: int, name: str, colour: tuple[int, int, int]
) -> None:
    label = load_schema(schema).labels[id_]
    assert (label.id, label.name, label.colour) == (id_, name, colour)


@pytest.mark.parametrize(
    ("name", "unlabelled", "divisor"),
    [
        ("mapillary-vistas", 65, None),
        ("mapillary-vistas-2.0", 123, None),
        ("bdd100k", 255, None),
        ("kitti-360", 0, 1000),
        ("carla", 0, None),
        ("carla-0.9.13", 0, None),
    ],
)
def test_ids_are_the_channels(name: str, unlabelled: int, divisor: int | None) -> None:
    schema = load_schema(name)
    assert [label.id for label in schema.labels] == list(range(schema.channels))
    assert (schema.unlabelled, schema.instance_divisor) == (unlabelled, divisor)


def test_bdd100k_has_the_training_ids_of_cityscapes() -> None:
    schema = load_schema("bdd100k")
    assert schema.labels == load_schema("cityscapes19").labels
    assert schema.has_training_ids
    channels, unknown = schema.to_channels(np.array([[18, 255, 19]], np.uint8))
    assert channels.tolist() == [[18, 255, 255]]
    assert unknown == {19: 1}


def test_kitti_360_begins_with_the_label_ids_of_cityscapes() -> None:
    assert load_schema("kitti-360").labels[:34] == load_schema("cityscapes").labels[:34]
    instance_map = np.array([[7000, 26003, 34012]], np.int32)
    assert load_schema("kitti-360").instance_classes(instance_map).tolist() == [[7, 26, 34]]


def test_the_list_of_mappings() -> None:
    assert sorted(MAPPINGS) == list(MAPPED)


@pytest.mark.parametrize("name", MAPPED)
def test_a_mapping_covers_its_schema_and_names_labels_of_cityscapes(name: str) -> None:
    cityscapes = {label.name for label in load_schema("cityscapes").labels}
    assert list(MAPPINGS[name]) == [label.name for label in load_schema(name).labels]
    assert {to for to in MAPPINGS[name].values() if to is not None} <= cityscapes


@pytest.mark.parametrize("name", MAPPED)
def test_every_evaluated_class_is_mapped_to(name: str) -> None:
    evaluated = {label.name for label in load_schema("cityscapes19").labels}
    missing = evaluated - set(MAPPINGS[name].values())
    # CARLA had one tag for all vehicles, and one for people with or without. CamVid has 11 classes.
    not_apart = {
        "carla-0.9.13": {"rider", "truck", "bus", "train", "motorcycle", "bicycle"},
        "camvid": {
            *("wall", "traffic light", "terrain"),
            *("truck", "bus", "train", "motorcycle", "bicycle"),
        },
    }
    assert missing == not_apart.get(name, set())


@pytest.mark.parametrize("name", ["bdd100k", "kitti-360"])
def test_a_class_of_cityscapes_own_name_stays_itself(name: str) -> None:
    cityscapes = {label.name for label in load_schema("cityscapes").labels}
    mapping = MAPPINGS[name]
    assert all(mapping[label] == label for label in mapping if label in cityscapes)


@pytest.mark.parametrize(
    ("name", "label", "to"),
    [
        ("carla", "Roads", "road"),
        ("carla", "RoadLine", "road"),
        ("carla", "Water", None),
        ("carla-0.9.13", "Vehicles", "car"),
        ("carla-0.9.13", "Pedestrian", "person"),
        ("kitti-360", "garage", "building"),
        ("kitti-360", "gate", "fence"),
        ("kitti-360", "unknown object", None),
        ("mapillary-vistas", "construction--barrier--curb", "sidewalk"),
        ("mapillary-vistas", "marking--general", "road"),
        ("mapillary-vistas", "object--traffic-sign--back", "static"),
        ("mapillary-vistas", "object--vehicle--on-rails", "train"),
        ("mapillary-vistas", "nature--water", None),
        ("mapillary-vistas-2.0", "human--person--person-group", "person"),
        ("mapillary-vistas-2.0", "marking-only--discrete--text", "road"),
        ("mapillary-vistas-2.0", "object--support--pole-group", "polegroup"),
    ],
)
def test_some_mappings(name: str, label: str, to: str | None) -> None:
    assert MAPPINGS[name][label] == to


def test_both_versions_of_vistas_agree() -> None:
    old, new = MAPPINGS["mapillary-vistas"], MAPPINGS["mapillary-vistas-2.0"]
    both = old.keys() & new.keys()
    assert len(both) > 50
    assert {label: old[label] for label in both} == {label: new[label] for label in both}
