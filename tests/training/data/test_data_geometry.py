"""Geometry: pictures and maps stay aligned, at the sizes that the network takes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sceneloom.errors import InputError, SizeError
from sceneloom.maps import boundary_map
from sceneloom_training.data import Geometry, Sample

MODES = {
    "none": Geometry(mode="none"),
    "resize": Geometry(mode="resize", size="96x64"),
    "resize_and_crop": Geometry(mode="resize_and_crop", load_size=80, size="64x32"),
    "crop": Geometry(mode="crop", size="32x48"),
    "scale_width": Geometry(mode="scale_width", load_size=100),
    "scale_width_and_crop": Geometry(mode="scale_width_and_crop", load_size=120, size="32x32"),
}
EVERY_MODE = pytest.mark.parametrize("geometry", MODES.values(), ids=MODES)
BIG = 2**31 - 1


def positions(height: int, width: int) -> Sample:
    """Every array says where its pixels were: the photograph in 0..255, the maps exactly."""
    y, x = np.mgrid[:height, :width]
    red, green = y * 255 / max(1, height - 1), x * 255 / max(1, width - 1)
    photo = np.stack([red, green, np.zeros_like(red)], axis=-1).round().astype(np.uint8)
    instance_map = (BIG - (y * width + x)).astype(np.int32)
    label_map = ((y * width + x) % 251).astype(np.uint8)
    return Sample(photo=photo, label_map=label_map, instance_map=instance_map, source=photo[::-1])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@settings(deadline=None, max_examples=60)
@given(
    mode=st.sampled_from(sorted(MODES)),
    height=st.integers(48, 130),
    width=st.integers(48, 170),
    multiple=st.sampled_from([1, 2, 4, 8, 16]),
    seed=st.integers(0, 2**32),
)
def test_everything_stays_aligned(
    mode: str, height: int, width: int, multiple: int, seed: int
) -> None:
    if mode == "scale_width_and_crop" and 120 * height // width < 32:
        width = height
    sample = positions(height, width)
    out = MODES[mode].apply(sample, rng(seed), multiple=multiple)
    rows, columns = out.photo.shape[:2]
    assert rows % multiple == columns % multiple == 0
    place = BIG - out.instance_map.astype(np.int64)
    assert (out.label_map == place % 251).all()
    y, x = np.divmod(place, width)
    assert (y == y[:, :1]).all()
    assert (x == x[:1]).all()
    # Within half a pixel of the file's, two where a filter meets the border, and of rounding.
    steps = {0: 255 / max(1, height - 1), 1: 255 / max(1, width - 1)}
    inner = slice(3, -3)
    for channel, at in enumerate((y, x)):
        error = np.abs(out.photo[inner, inner, channel] - at[inner, inner] * steps[channel])
        assert error.max() <= 1.0 * steps[channel] + 1.5
    flipped = bool(x[0, 0] > x[0, -1])
    assert flipped == bool(out.photo[0, 0, 1] > out.photo[0, -1, 1])


@EVERY_MODE
def test_equal_generators_give_equal_samples(geometry: Geometry) -> None:
    sample = positions(100, 140)
    first = geometry.apply(sample, rng(3), multiple=2)
    again = geometry.apply(sample, rng(3), multiple=2)
    for field in dataclasses.fields(Sample):
        assert np.array_equal(getattr(first, field.name), getattr(again, field.name))


@EVERY_MODE
def test_arrays_are_whole_writable_and_their_own(geometry: Geometry) -> None:
    sample = positions(96, 160)
    for seed in range(4):
        out = geometry.apply(sample, rng(seed), multiple=1)
        for field in dataclasses.fields(Sample):
            array = getattr(out, field.name)
            assert array.flags.c_contiguous
            assert array.flags.writeable
            assert not np.shares_memory(array, getattr(sample, field.name))


@EVERY_MODE
def test_flips_are_half_of_the_samples_and_can_be_off(geometry: Geometry) -> None:
    sample = positions(100, 140)
    draws = rng(1)

    def is_flipped(geometry: Geometry) -> bool:
        ids = geometry.apply(sample, draws, multiple=1).instance_map
        return bool(ids[0, 0] < ids[0, -1])

    assert 70 <= sum(is_flipped(geometry) for _ in range(200)) <= 130
    never = dataclasses.replace(geometry, flip=False)
    assert not any(is_flipped(never) for _ in range(10))


@EVERY_MODE
def test_boundaries_of_what_comes_out_are_two_pixels_wide(geometry: Geometry) -> None:
    """One vertical edge in the file is one vertical line of two pixels after any geometry."""
    ids = np.full((128, 256), 7, np.int32)
    ids[:, 128:] = BIG
    photo = np.zeros((128, 256, 3), np.uint8)
    sample = Sample(photo=photo, label_map=photo[..., 0], instance_map=ids)
    seen = 0
    for seed in range(20):
        out = geometry.apply(sample, rng(seed), multiple=4)
        lines = boundary_map(out.instance_map).sum(axis=1)
        assert set(lines) <= {0, 2}
        seen += int(lines.max() == 2)
    assert seen > 0


def test_a_boundary_map_that_is_resized_itself_loses_lines() -> None:
    ids = np.repeat(np.arange(8, dtype=np.int32), 32)[None].repeat(64, axis=0)
    boundary = boundary_map(ids).astype(np.int32)
    photo = np.zeros((64, 256, 3), np.uint8)
    sample = Sample(photo=photo, instance_map=boundary)
    small = Geometry(mode="resize", size="64x16", flip=False)
    resized = small.apply(sample, rng(), multiple=4).instance_map
    right = small.apply(dataclasses.replace(sample, instance_map=ids), rng(), multiple=4)
    assert (boundary_map(right.instance_map).sum(axis=1) == 14).all()
    assert (resized.sum(axis=1) != 14).all()


@pytest.mark.parametrize(
    ("mode", "size", "multiple", "expected"),
    [
        ("none", (100, 201), 32, (96, 192)),  # 100 / 32 is 3.1, 201 / 32 is 6.3
        ("none", (80, 48), 32, (64, 64)),  # halves go to the even multiple, as published
        ("none", (3, 70), 32, (32, 64)),
        ("none", (64, 128), 32, (64, 128)),
        ("scale_width", (1024, 2048), 4, (48, 100)),
        ("scale_width", (60, 60), 1, (100, 100)),
        ("scale_width", (720, 1280), 32, (64, 96)),
        ("resize", (10, 300), 32, (64, 96)),
        ("resize_and_crop", (10, 300), 32, (32, 64)),
        ("scale_width_and_crop", (40, 80), 32, (32, 32)),
    ],
)
def test_sizes(mode: str, size: tuple[int, int], multiple: int, expected: tuple[int, int]) -> None:
    out = MODES[mode].apply(positions(*size), rng(), multiple=multiple)
    assert out.photo.shape == (*expected, 3)


def test_windows_reach_every_corner() -> None:
    geometry = Geometry(mode="crop", size="4x2", flip=False)
    sample, draws = positions(3, 5), rng()
    corners = {
        int(BIG - geometry.apply(sample, draws, multiple=2).instance_map[0, 0]) for _ in range(100)
    }
    assert corners == {0, 1, 5, 6}


def test_nearest_neighbour_and_bicubic_are_pillows() -> None:
    # Odd sides: no centre of a new pixel falls between two old ones, where Pillow's floats decide.
    photo = rng(4).integers(0, 256, (91, 121, 3), np.uint8)
    ids = rng(5).integers(0, BIG, photo.shape[:2], np.int32, endpoint=True)
    geometry = Geometry(mode="resize", size="37x53", flip=False)
    out = geometry.apply(Sample(photo=photo, instance_map=ids), rng(), multiple=1)
    bicubic = Image.fromarray(photo).resize((37, 53), Image.Resampling.BICUBIC)
    nearest = Image.fromarray(ids).resize((37, 53), Image.Resampling.NEAREST)
    assert (out.photo == np.asarray(bicubic)).all()
    assert (out.instance_map == np.asarray(nearest)).all()


def test_a_size_that_is_already_right_changes_nothing() -> None:
    sample = positions(64, 96)
    for geometry in (
        Geometry(mode="none", flip=False),
        Geometry(mode="resize", size="96x64", flip=False),
        Geometry(mode="crop", size="96x64", flip=False),
        Geometry(mode="scale_width", load_size=96, flip=False),
    ):
        out = geometry.apply(sample, rng(), multiple=32)
        for field in dataclasses.fields(Sample):
            assert np.array_equal(getattr(out, field.name), getattr(sample, field.name))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"mode": "scale"}, "mode is 'scale'; it is 'none', 'resize'"),
        ({"mode": "none", "size": "64x64"}, "which the mode none does not use"),
        ({"mode": "crop"}, "which the mode crop needs, is ''; write WIDTHxHEIGHT"),
        ({"mode": "crop", "size": "64"}, "write WIDTHxHEIGHT"),
        ({"mode": "resize_and_crop", "load_size": 63, "size": "32x64"}, "does not fit into"),
        ({"mode": "scale_width_and_crop", "load_size": 63, "size": "64x32"}, "wider than"),
        ({"load_size": 0}, "load_size is 0; it is at least 1"),
    ],
)
def test_settings_that_do_not_fit_together(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        Geometry(**fields)


@pytest.mark.parametrize("mode", ["crop", "resize", "resize_and_crop", "scale_width_and_crop"])
def test_a_window_that_is_no_multiple_names_the_nearest_one(mode: Any) -> None:
    geometry = Geometry(mode=mode, load_size=128, size="100x60")
    reason = "size is 100x60, and the network takes multiples of 32; the nearest is 96x64"
    with pytest.raises(InputError, match=reason):
        geometry.check_multiple(32)
    with pytest.raises(InputError, match=reason):
        geometry.apply(positions(128, 128), rng(), multiple=32)
    geometry.check_multiple(20)


def test_a_window_larger_than_the_sample_is_refused() -> None:
    with pytest.raises(SizeError, match=r"a sample is 60x40 where the window of 64x32"):
        Geometry(mode="crop", size="64x32").apply(positions(40, 60), rng(), multiple=32)
    low = Geometry(mode="scale_width_and_crop", load_size=64, size="64x64")
    with pytest.raises(SizeError, match=r"a sample is 64x32 where the window of 64x64"):
        low.apply(positions(40, 80), rng(), multiple=32)
