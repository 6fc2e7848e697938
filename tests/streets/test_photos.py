"""The photographs of street scenes: aligned with the label maps, varied, and reproducible."""

from __future__ import annotations

import functools

import cv2
import numpy as np
import pytest

from sceneloom.errors import InputError
from sceneloom_streets import (
    Pair,
    Scene,
    Shape,
    build_street,
    draw_pair,
    draw_street,
    ids,
    paint_photo,
)
from sceneloom_streets.figures import cyclist, motorcycle
from sceneloom_streets.ground import lay_ground
from sceneloom_streets.light import draw_light
from sceneloom_streets.materials import MATERIALS, material_name
from sceneloom_streets.plan import draw_plan
from sceneloom_streets.roadside import add_furniture, add_houses
from sceneloom_streets.shadows import ground_shadows, shadow_lines
from sceneloom_streets.textures import NAMES
from sceneloom_streets.traffic import add_people, fill_lanes, park_vehicles
from sceneloom_streets.vehicles import vehicle

SEEDS = range(10)
HEIGHT, WIDTH = 256, 512


@functools.cache
def street(seed: int) -> Scene:
    return build_street(seed)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return [draw_pair(seed, HEIGHT, WIDTH) for seed in SEEDS]


def mean_colour(pair: Pair, label: int) -> np.ndarray | None:
    mask = pair.label_map == label
    return pair.photo[mask].mean(axis=0) if mask.sum() > 200 else None


def test_a_photograph_is_a_colour_picture_of_the_size(pairs: list[Pair]) -> None:
    for pair in pairs:
        assert pair.photo.dtype == np.uint8
        assert pair.photo.shape == (HEIGHT, WIDTH, 3)
        assert pair.photo.flags.c_contiguous
        # Neither black, white nor flat.
        assert 25 < pair.photo.mean() < 215
        assert pair.photo.std() > 20


def test_the_same_seed_takes_the_same_photograph(pairs: list[Pair]) -> None:
    np.random.seed(1)
    cv2.setRNGSeed(1)
    assert paint_photo(street(3), HEIGHT, WIDTH).tobytes() == pairs[3].photo.tobytes()


def test_the_maps_of_a_pair_are_those_of_the_street(pairs: list[Pair]) -> None:
    alone = draw_street(2, HEIGHT, WIDTH)
    np.testing.assert_array_equal(alone.label_map, pairs[2].label_map)
    np.testing.assert_array_equal(alone.instance_map, pairs[2].instance_map)


def test_edges_of_the_photograph_lie_on_boundaries_of_the_maps(pairs: list[Pair]) -> None:
    ratios = []
    for pair in pairs:
        grey = cv2.cvtColor(pair.photo, cv2.COLOR_RGB2GRAY).astype(np.float32)
        across = cv2.Sobel(grey, cv2.CV_32F, 1, 0)
        strength = cv2.magnitude(across, cv2.Sobel(grey, cv2.CV_32F, 0, 1))
        values = pair.instance_map.astype(np.float32)
        ring = cv2.dilate(values, np.ones((3, 3))) != cv2.erode(values, np.ones((3, 3)))
        ratios.append(strength[ring].mean() / strength[~ring].mean())
    assert min(ratios) > 1.6
    assert np.mean(ratios) > 2.5


def test_the_photograph_is_aligned_to_the_pixel(pairs: list[Pair]) -> None:
    """Moved by two pixels any way, its edges fit the boundaries worse."""

    def fit(pair: Pair, right: int, down: int) -> float:
        values = np.roll(pair.instance_map, (down, right), axis=(0, 1))
        jump = np.abs(np.diff(pair.photo.astype(np.int16), axis=1)).sum(axis=2)
        return float(jump[values[:, 1:] != values[:, :-1]].mean())

    for pair in pairs:
        assert fit(pair, 0, 0) > max(fit(pair, *by) for by in ((2, 0), (-2, 0), (0, 2), (0, -2)))


def test_cars_stand_out_from_what_is_around_them(pairs: list[Pair]) -> None:
    differences = []
    for pair in pairs:
        numbers, pixels = np.unique(pair.instance_map, return_counts=True)
        for number in numbers[(numbers // 1000 == ids.CAR) & (pixels > 300)]:
            car = (pair.instance_map == number).astype(np.uint8)
            around = cv2.dilate(car, np.ones((9, 9))) - car
            inside, outside = pair.photo[car > 0], pair.photo[around > 0]
            differences.append(np.abs(inside.mean(axis=0) - outside.mean(axis=0)).max())
    assert len(differences) > 20
    assert np.median(differences) > 15
    assert np.mean(np.array(differences) > 5) > 0.8  # some cars are camouflaged


def test_every_thing_has_its_own_colour(pairs: list[Pair]) -> None:
    cars = []
    for pair in pairs:
        numbers, pixels = np.unique(pair.instance_map, return_counts=True)
        for number in numbers[(numbers // 1000 == ids.CAR) & (pixels > 300)]:
            cars.append(np.median(pair.photo[pair.instance_map == number], axis=0))
    assert np.ptp(cars, axis=0).min() > 80
    assert len(np.unique(np.array(cars) // 16, axis=0)) > len(cars) / 2


@pytest.mark.parametrize(
    "label", [ids.ROAD, ids.SIDEWALK, ids.BUILDING, ids.VEGETATION, ids.SKY, ids.CAR]
)
def test_classes_look_different_from_street_to_street(pairs: list[Pair], label: int) -> None:
    means = [colour for pair in pairs if (colour := mean_colour(pair, label)) is not None]
    assert len(means) > 5
    assert np.ptp(means, axis=0).max() > 30
    assert np.std(means, axis=0).max() > 8


def test_the_sky_is_brighter_than_the_road(pairs: list[Pair]) -> None:
    brighter = []
    for pair in pairs:
        sky, road = mean_colour(pair, ids.SKY), mean_colour(pair, ids.ROAD)
        if sky is not None and road is not None:
            brighter.append(float(sky.mean() - road.mean()))
    assert len(brighter) > 5
    assert min(brighter) > 0
    assert np.median(brighter) > 50


@pytest.mark.parametrize("seed", [0, 4, 14])
def test_a_small_photograph_is_the_large_one_reduced(seed: int) -> None:
    small = paint_photo(street(seed), 128, 256).astype(np.float32)
    large = paint_photo(street(seed), 512, 1024)
    reduced = cv2.resize(large, (256, 128), interpolation=cv2.INTER_AREA).astype(np.float32)
    assert np.abs(small - reduced).mean() < 9
    assert np.abs(small.mean(axis=(0, 1)) - reduced.mean(axis=(0, 1))).max() < 5


@pytest.mark.parametrize(("height", "width"), [(16, 16), (37, 101), (255, 511), (513, 700)])
def test_odd_sizes(height: int, width: int) -> None:
    assert paint_photo(street(4), height, width).shape == (height, width, 3)


@pytest.mark.parametrize("size", [(0, 512), (15, 16), (64, 257), (20000, 20000), (64.0, 64)])
def test_sizes_that_cannot_be_painted(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"pixels|too wide|whole number"):
        paint_photo(street(0), *size)
    with pytest.raises(InputError):
        draw_pair(0, *size)


def test_lights_are_of_many_kinds() -> None:
    lights = [draw_light(np.random.default_rng(seed)) for seed in range(200)]
    assert {light.lamps > 0.5 for light in lights} == {True, False}
    assert min(light.sun.max() for light in lights) < 0.1
    assert max(light.sun.max() for light in lights) > 2
    for light in lights:
        assert np.linalg.norm(light.to_sun) == pytest.approx(1, abs=1e-5)
        assert light.to_sun[1] > 0.05
        assert (light.exposure > 0).all()


def test_shadows_fall_away_from_the_sun() -> None:
    post = np.array([(-0.02, 0.3), (0.02, 0.3), (0.02, 0.6), (-0.02, 0.6)], np.float32)
    plane = (0.0, 0.0, -1.0, -1.9 * 1.35 / 0.2)  # it stands on the road, 0.2 below the horizon
    pole = Shape(
        label=ids.POLE, kind="pole", outline=post, distance=-plane[3], thing=1, plane=plane
    )
    scene = Scene(seed=0, horizon=0.4, vanishing_x=0.0, shapes=(pole,))
    columns = []
    for across in (-0.8, 0.8):
        cast, contact = ground_shadows(scene, np.array([across, 0.6, 0], np.float32), 128, 256)
        assert cast.shape == contact.shape == (128, 256)
        assert 0.5 < cast.max() <= 1
        # The shadow starts at the foot, and so does the dark of the contact.
        assert cast[76, 128] > 0.2
        assert abs(int(contact.max(axis=0).argmax()) - 128) <= 3
        columns.append(float((cast.sum(axis=0) * np.arange(256)).sum() / cast.sum()))
    assert columns[1] < 126 < 130 < columns[0]


def test_fronts_lie_in_the_shadow_of_the_houses_across() -> None:
    scene = street(3)
    low, high = (shadow_lines(scene, np.array([0.9, up, 0.1], np.float32)) for up in (0.2, 2.0))
    assert low
    assert all(0 < line < 40 for line in low.values())
    assert sum(high.values()) < sum(low.values())


def test_materials_are_complete() -> None:
    for material in MATERIALS.values():
        assert material.texture in NAMES
        assert material.by in ("scene", "thing", "shape")
        assert 0 <= np.min(material.palette) <= np.max(material.palette) <= 255


def test_every_kind_has_a_material() -> None:
    """There is no default colour, so a new kind of shape must be given a material."""
    kinds = {(shape.kind, shape.label) for seed in SEEDS for shape in street(seed).shapes}
    for seed in range(8):
        rng = np.random.default_rng(seed)
        plan = draw_plan(rng)
        things = [*lay_ground(rng, plan), *add_houses(rng, plan), *add_furniture(rng, plan)]
        things += [*park_vehicles(rng, plan), *fill_lanes(rng, plan), *add_people(rng, plan)]
        kinds |= {(face.kind, face.label) for thing in things for face in thing.faces}
    rng = np.random.default_rng(0)
    rare = [vehicle(rng, kind, t=0, s=9, yaw=0) for kind in ("car", "bus", "truck")]
    rare += [motorcycle(rng, t=0, s=9, turn=0), *cyclist(rng, t=0, s=9, sideways=True)]
    kinds |= {(face.kind, face.label) for thing in rare for face in thing.faces}
    assert len(kinds) > 90
    for kind, label in kinds:
        assert material_name(kind, label) in MATERIALS
    with pytest.raises(KeyError, match="no material for 'spaceship'"):
        material_name("spaceship", ids.CAR)


def test_shapes_without_a_plane_can_be_photographed() -> None:
    """A scene made by hand need not know the depth of everything."""
    square = np.array([(-0.5, 0.25), (0.5, 0.25), (0.5, 0.75), (-0.5, 0.75)], np.float32)
    sky = Shape(label=ids.SKY, kind="sky", outline=square * 9, distance=np.inf, thing=0)
    wall = Shape(label=ids.WALL, kind="wall", outline=square, distance=5, thing=1)
    photo = paint_photo(
        Scene(seed=0, horizon=0.4, vanishing_x=0.0, shapes=(sky, wall)), 64, 128
    ).astype(int)
    assert np.abs(photo[20:44, 40:88].mean(axis=(0, 1)) - photo[2:10].mean(axis=(0, 1))).max() > 5


def test_shapes_in_depth_have_planes() -> None:
    scene = street(1)
    for shape in scene.shapes:
        if shape.plane is not None:
            a, b, c, d = shape.plane
            assert np.hypot(np.hypot(a, b), c) == pytest.approx(1, abs=1e-6)
            assert d < 0
    (road, *_) = (shape for shape in scene.shapes if shape.kind == "road")
    assert road.plane == pytest.approx((0, 1, 0, -scene.camera_height), abs=1e-6)
