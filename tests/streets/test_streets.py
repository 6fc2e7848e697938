"""The procedural street scenes: what every one of them must be, at any size."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from sceneloom.errors import InputError
from sceneloom.schema import load_schema
from sceneloom_streets import (
    Scene,
    Shape,
    build_street,
    draw_pair,
    draw_street,
    ids,
    paint_labels,
)

SEEDS = range(20)
HEIGHT, WIDTH = 256, 512


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [build_street(seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def maps(scenes: list[Scene]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [paint_labels(scene, HEIGHT, WIDTH) for scene in scenes]


def share(label_map: np.ndarray, *labels: int) -> float:
    return float(np.isin(label_map, labels).mean())


def test_markings_are_told_from_the_road_and_from_nothing_else(
    scenes: list[Scene], maps: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    schema = load_schema("cityscapes-markings")
    names = {label.id: label.name for label in schema.labels}
    assert names.pop(ids.LANE_MARKING) == "lane marking"
    assert names == {label.id: label.name for label in load_schema("cityscapes").labels}
    shares = []
    for scene, plain in zip(scenes, maps, strict=True):
        marked = paint_labels(scene, HEIGHT, WIDTH, labels="cityscapes-markings")
        of_marking = marked[0] == ids.LANE_MARKING
        # A pixel that a marking's edge only touches may be another's.
        assert (plain[0][of_marking] == ids.ROAD).sum() >= 0.97 * of_marking.sum()
        for ours, theirs in zip(marked, plain, strict=True):
            np.testing.assert_array_equal(ours[~of_marking], theirs[~of_marking])
        assert (marked[1][of_marking] == ids.LANE_MARKING).all()
        shares.append(of_marking.mean())
    assert max(shares) < 0.05
    assert np.median(shares) > 0.001
    drawn = draw_street(SEEDS[-1], HEIGHT, WIDTH, labels="cityscapes-markings")
    np.testing.assert_array_equal(drawn.label_map, marked[0])


def test_parts_lie_within_their_things_and_houses_are_numbered(
    scenes: list[Scene], maps: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    schema = load_schema("cityscapes-details")
    parts = {label.id: label.name for label in schema.labels if label.id >= ids.LICENSE_PLATE}
    house, people, counted = [ids.BUILDING], [ids.PERSON, ids.RIDER], list(ids.COUNTED)
    whole = {
        ids.LANE_MARKING: [ids.ROAD],
        ids.KERB: [ids.SIDEWALK],
        ids.TRUNK: [ids.VEGETATION],
        **{part: house for part in (ids.WINDOW, ids.DOOR, ids.SHOP_WINDOW, ids.ROOF)},
        **{part: people for part in (ids.HEAD, ids.UPPER_CLOTHES, ids.LOWER_CLOTHES)},
        **{part: counted for part in (ids.VEHICLE_GLASS, ids.HEAD_LAMP, ids.REAR_LAMP)},
        **{part: counted for part in (ids.WHEEL, ids.LICENSE_PLATE)},
    }
    assert set(whole) == set(parts)
    found: set[int] = set()
    for scene, (plain, instances) in zip(scenes, maps, strict=True):
        label_map, instance_map = paint_labels(scene, HEIGHT, WIDTH, labels="cityscapes-details")
        for part, owners in whole.items():
            assert np.isin(plain[label_map == part], owners).all(), parts[part]
        other = (label_map < ids.LICENSE_PLATE) & (plain != ids.BUILDING)
        np.testing.assert_array_equal(label_map[other], plain[other])
        houses = plain == ids.BUILDING
        np.testing.assert_array_equal(instance_map[houses] // 1000, ids.BUILDING)
        assert len(np.unique(instance_map[houses])) > 3
        np.testing.assert_array_equal(instance_map[~houses], instances[~houses])
        found |= set(np.unique(label_map).tolist())
    assert set(parts) <= found


def test_the_same_seed_draws_the_same_street() -> None:
    first, again = draw_street(3, HEIGHT, WIDTH), draw_street(3, HEIGHT, WIDTH)
    assert first.label_map.tobytes() == again.label_map.tobytes()
    assert first.instance_map.tobytes() == again.instance_map.tobytes()


def test_a_seed_is_the_street_of_earlier_versions() -> None:
    """Networks were trained and tested on the streets of seeds."""
    with np.load(Path(__file__).with_name("earlier_streets.npz")) as earlier:
        seeds, photos = earlier["seeds"].tolist(), earlier["photos"]
        label_maps, instance_maps = earlier["label_maps"], earlier["instance_maps"]
    for i, seed in enumerate(seeds):
        pair = draw_pair(seed, 64, 128, labels="cityscapes-markings")
        # Sines and exponentials differ in their last bits from machine to machine.
        assert (pair.label_map == label_maps[i]).mean() > 0.999
        assert (pair.instance_map == instance_maps[i]).mean() > 0.999
        assert np.abs(pair.photo.astype(int) - photos[i]).mean() < 0.5


def test_drawing_is_building_and_painting(maps: list[tuple[np.ndarray, np.ndarray]]) -> None:
    street = draw_street(5, HEIGHT, WIDTH)
    np.testing.assert_array_equal(street.label_map, maps[5][0])
    np.testing.assert_array_equal(street.instance_map, maps[5][1])


def test_different_seeds_draw_different_streets(maps: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for (a, _), (b, _) in itertools.pairwise(maps):
        assert (a != b).mean() > 0.1


def test_no_global_random_state_is_used(maps: list[tuple[np.ndarray, np.ndarray]]) -> None:
    np.random.seed(1)
    cv2.setRNGSeed(1)
    np.testing.assert_array_equal(draw_street(2, HEIGHT, WIDTH).label_map, maps[2][0])


def test_types_shapes_and_ids(maps: list[tuple[np.ndarray, np.ndarray]]) -> None:
    valid = [label.id for label in load_schema("cityscapes").labels]
    for label_map, instance_map in maps:
        assert label_map.dtype == np.uint8
        assert instance_map.dtype == np.int32
        assert label_map.shape == instance_map.shape == (HEIGHT, WIDTH)
        assert np.isin(label_map, valid).all()


def test_the_label_ids_are_those_of_the_schema() -> None:
    names = {label.id: label.name for label in load_schema("cityscapes-details").labels}
    spelt_otherwise = {"UNLABELLED": "unlabeled"}
    for name, value in vars(ids).items():
        if isinstance(value, int) and name != "INSTANCE_DIVISOR":
            assert names[value] == spelt_otherwise.get(name, name.lower().replace("_", " "))
    assert load_schema("cityscapes").instance_divisor == ids.INSTANCE_DIVISOR


def test_instances_encode_their_label(maps: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for label_map, instance_map in maps:
        counted = np.isin(label_map, list(ids.COUNTED))
        np.testing.assert_array_equal(instance_map[counted] // 1000, label_map[counted])
        np.testing.assert_array_equal(instance_map[~counted], label_map[~counted])


def test_instances_are_numbered_without_gaps(scenes: list[Scene]) -> None:
    for scene in scenes:
        for label in ids.COUNTED:
            numbers = {shape.instance for shape in scene.shapes if shape.label == label}
            assert numbers == set(range(len(numbers)))


def test_every_scene_has_what_makes_a_street(maps: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for label_map, _ in maps:
        assert 0.15 <= share(label_map, ids.ROAD) <= 0.55
        assert share(label_map, ids.BUILDING, ids.VEGETATION) >= 0.1
        assert share(label_map, ids.CAR) > 0.003


def test_the_sky_is_above_and_the_road_below(maps: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for label_map, _ in maps:
        assert share(label_map[: HEIGHT // 8], ids.SKY) > 0.01
        assert share(label_map[HEIGHT // 2 :], ids.SKY) == 0
        assert share(label_map[: HEIGHT // 3], ids.ROAD) == 0
        assert share(label_map[HEIGHT * 3 // 4 :], ids.ROAD) > 0.1


def test_twenty_scenes_show_nearly_every_class(maps: list[tuple[np.ndarray, np.ndarray]]) -> None:
    used = [v for v in vars(ids).values() if isinstance(v, int) and v < ids.LICENSE_PLATE]
    seen = set(np.unique(np.concatenate([label_map.ravel() for label_map, _ in maps])).tolist())
    assert set(used) - seen <= {ids.GROUND, ids.MOTORCYCLE}


def test_no_instance_is_a_speck(maps: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for _, instance_map in maps:
        values, pixels = np.unique(instance_map[instance_map >= 1000], return_counts=True)
        assert values.size > 0
        assert pixels.min() >= 12


def test_a_car_in_full_view_is_in_one_piece(maps: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for _, instance_map in maps:
        # The last number of a label is its nearest thing: only thin things can stand before it.
        nearest = instance_map[instance_map // 1000 == ids.CAR].max()
        mask = (instance_map == nearest).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        assert stats[1:, cv2.CC_STAT_AREA].max() > 0.4 * mask.sum()


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_small_drawing_is_the_large_one_reduced(scenes: list[Scene], seed: int) -> None:
    small, small_instances = paint_labels(scenes[seed], 256, 512)
    large, large_instances = paint_labels(scenes[seed], 1024, 2048)
    assert (large[2::4, 2::4] == small).mean() > 0.95
    assert (large_instances[2::4, 2::4] == small_instances).mean() > 0.95


def test_a_narrower_frame_is_the_middle_of_a_wide_one(scenes: list[Scene]) -> None:
    wide, _ = paint_labels(scenes[7], 128, 512)
    narrow, _ = paint_labels(scenes[7], 128, 128)
    # The rasteriser rounds a cut edge by its visible part, so a few pixels may differ.
    assert (narrow == wide[:, 192:320]).mean() > 0.99


@pytest.mark.parametrize(("height", "width"), [(16, 16), (37, 101), (255, 511), (300, 1200)])
def test_odd_sizes(height: int, width: int) -> None:
    street = draw_street(4, height, width)
    assert street.label_map.shape == street.instance_map.shape == (height, width)
    assert share(street.label_map, ids.ROAD) > 0.05


@pytest.mark.parametrize("size", [(0, 512), (256, -1), (15, 16), (64, 257), (20000, 20000)])
def test_sizes_that_cannot_be_painted(scenes: list[Scene], size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"pixels|too wide"):
        draw_street(0, *size)
    with pytest.raises(InputError):
        paint_labels(scenes[0], *size)


@pytest.mark.parametrize("side", [256.0, "256", None, True])
def test_sizes_are_whole_numbers(side: object) -> None:
    with pytest.raises(InputError, match="whole number"):
        draw_street(0, side, 512)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, 1.5, "3", None, True])
def test_seeds_are_whole_numbers_from_0(seed: object) -> None:
    with pytest.raises(InputError, match="seed"):
        build_street(seed)  # type: ignore[arg-type]


def test_a_large_seed_is_a_seed() -> None:
    assert build_street(2**63).seed == 2**63


def test_details_lie_within_their_thing(scenes: list[Scene]) -> None:
    """What the label map leaves out must not be a label that nothing else of the thing has."""
    for scene in scenes:
        labels: dict[int, set[int]] = {}
        for shape in scene.shapes:
            if not shape.detail:
                labels.setdefault(shape.thing, set()).add(shape.label)
        orphans = [
            s
            for s in scene.shapes
            if s.detail and s.label != ids.ROAD and s.label not in labels.get(s.thing, set())
        ]
        # A thing cut off by the frame may keep a window whose facade is seen edge-on.
        assert len(orphans) <= 0.01 * len(scene.shapes)


def test_shapes_are_fit_for_a_painter(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.shapes[0].kind == "sky"
        for shape in scene.shapes:
            assert shape.outline.dtype == np.float32
            assert shape.outline.ndim == 2
            assert len(shape.outline) >= 3
            assert np.isfinite(shape.outline).all()
            assert np.abs(shape.outline).max() < 10
            assert shape.distance > 0
        kinds = {shape.kind for shape in scene.shapes}
        assert {"road", "pavement", "kerb"} <= kinds
        assert any(kind.endswith("-glass") for kind in kinds)


def test_things_shrink_with_distance(scenes: list[Scene]) -> None:
    """Perspective: a person's image height times their distance is about the same for all."""
    reach = []
    for scene in scenes:
        people: dict[int, list[Shape]] = {}
        for shape in scene.shapes:
            if shape.label == ids.PERSON:
                people.setdefault(shape.thing, []).append(shape)
        for parts in people.values():
            y = np.concatenate([part.outline[:, 1] for part in parts])
            reach.append((y.max() - y.min()) * parts[0].distance)
    assert len(reach) > 20
    # Focal lengths 1.65 to 2.2 image heights, people of 1 to 1.92 metres.
    assert min(reach) > 1.6
    assert max(reach) < 4.3


def test_a_painter_only_covers_what_a_shape_covers() -> None:
    square = np.array([(-0.5, 0.25), (0.5, 0.25), (0.5, 0.75), (-0.5, 0.75)], np.float32)
    car = Shape(label=ids.CAR, kind="car", outline=square, distance=5, thing=1, instance=7)
    window = Shape(
        label=ids.BUILDING, kind="window", outline=square, distance=4, thing=2, detail=True
    )
    scene = Scene(seed=0, horizon=0.4, vanishing_x=0.0, shapes=(car, window))
    label_map, instance_map = paint_labels(scene, 64, 128)
    assert set(np.unique(instance_map)) == {0, 26007}
    rows, columns = np.nonzero(label_map == ids.CAR)
    assert (rows.min(), columns.min()) == (16, 32)
    assert abs(rows.max() - 47) <= 1
    assert abs(columns.max() - 95) <= 1
