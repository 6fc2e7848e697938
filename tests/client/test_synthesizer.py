"""What every engine shares: checking, padding, styles, and grouping that keeps order."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sceneloom.contract import Contract
from sceneloom.errors import (
    InputError,
    MissingInputError,
    RequestRejectedError,
    SizeError,
    TooManyInstancesError,
    UnknownLabelError,
)
from sceneloom.maps import boundary_map
from sceneloom.rendering import render
from sceneloom.rendering.settings import RenderSettings
from sceneloom.request import Padding, prepare
from sceneloom.schema import load_schema
from sceneloom.testing import FakeTransport
from sceneloom.triton.client import TritonSynthesizer

CITYSCAPES = load_schema("cityscapes")
PLAIN = Contract(schema=CITYSCAPES, boundaries=False, size_multiple=8)
BOUNDARIES = Contract(schema=CITYSCAPES, boundaries=True, size_multiple=8)
STYLED = Contract(
    schema=CITYSCAPES,
    boundaries=True,
    style_channels=2,
    style_defaults={26: (0.5, -0.5), 7: (1.0, 2.0)},
    size_multiple=8,
)

Array = npt.NDArray[Any]


def maps(height: int, width: int, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    label_map = rng.integers(0, 35, (height, width)).astype(np.uint8)
    return label_map, rng.integers(0, 4, (height, width), np.int32) + label_map.astype(np.int32)


def fake(contract: Contract, max_batch_size: int = 1) -> tuple[TritonSynthesizer, FakeTransport]:
    transport = FakeTransport(contract, max_batch_size=max_batch_size)
    return TritonSynthesizer("fake", transport=transport), transport


def expected_image(label_map: Array, instance_map: Array, padding: Padding) -> Array:
    """What `FakeTransport` paints, cropped."""
    image = CITYSCAPES.colourise(padding.pad(label_map))
    image[boundary_map(padding.pad(instance_map))] = 255
    return padding.crop(image)


@pytest.mark.parametrize(("largest", "requests"), [(1, 10), (2, 6), (4, 4), (16, 3)])
def test_ten_maps_of_three_sizes_equal_ten_single_calls(largest: int, requests: int) -> None:
    # 5, 3 and 2 maps of the network sizes 32x40, 24x32 and 32x32; within a size the maps differ.
    sizes = [(32, 40), (24, 32), (32, 33), (31, 39), (32, 32)]
    sizes += [(32, 40), (23, 25), (25, 32), (32, 35), (24, 31)]
    pairs = [maps(*size, seed=i) for i, size in enumerate(sizes)]
    synthesizer, transport = fake(BOUNDARIES, largest)
    together = synthesizer.synthesize_batch([p[0] for p in pairs], [p[1] for p in pairs])
    assert len(transport.requests) == requests
    assert max(len(r["label_map"]) for r in transport.requests) <= largest
    assert sum(len(r["label_map"]) for r in transport.requests) == 10
    assert [image.shape for image in together] == [(*size, 3) for size in sizes]
    for image, (label_map, instance_map) in zip(together, pairs, strict=True):
        assert np.array_equal(image, synthesizer.synthesize(label_map, instance_map))


@given(st.integers(9, 40), st.integers(9, 40), st.integers(0, 99))
def test_padding_is_added_and_cropped(height: int, width: int, seed: int) -> None:
    label_map, instance_map = maps(height, width, seed)
    synthesizer, transport = fake(BOUNDARIES)
    image = synthesizer.synthesize(label_map, instance_map)
    sent = transport.requests[0]
    assert sent["label_map"].shape == sent["instance_map"].shape
    assert sent["label_map"].shape[1] % 8 == sent["label_map"].shape[2] % 8 == 0
    padding = Padding(-height % 8, -width % 8)
    assert np.array_equal(sent["label_map"][0], padding.pad(label_map))
    assert np.array_equal(image, expected_image(label_map, instance_map, padding))


def test_what_a_model_gets() -> None:
    label_map, instance_map = maps(16, 24)
    for contract, names in (
        (PLAIN, {"label_map"}),
        (BOUNDARIES, {"label_map", "instance_map"}),
        (STYLED, {"label_map", "instance_map", "style"}),
    ):
        synthesizer, transport = fake(contract)
        synthesizer.synthesize(label_map, instance_map)
        assert transport.requests[0].keys() == names


def test_an_empty_list_asks_for_nothing() -> None:
    synthesizer, transport = fake(BOUNDARIES)
    assert synthesizer.synthesize_batch([]) == []
    assert synthesizer.synthesize_batch([], [], []) == []
    assert transport.requests == []


def test_an_array_of_maps_is_a_batch() -> None:
    label_map, instance_map = maps(16, 16)
    synthesizer, transport = fake(BOUNDARIES, 4)
    images = synthesizer.synthesize_batch(np.stack([label_map] * 3), np.stack([instance_map] * 3))  # type: ignore[arg-type]
    assert len(images) == 3
    assert len(transport.requests) == 1


def test_everything_is_checked_before_anything_is_sent() -> None:
    good, instances = maps(16, 16)
    bad = np.full((16, 16), 35, np.uint8)
    synthesizer, transport = fake(BOUNDARIES)
    with pytest.raises(UnknownLabelError):
        synthesizer.synthesize_batch([good, bad], [instances, instances])
    assert transport.requests == []


@pytest.mark.parametrize(
    ("instance_maps", "styles"), [([None], None), (None, [None]), ([None] * 3, None)]
)
def test_lists_of_different_length(instance_maps: Any, styles: Any) -> None:
    synthesizer, _ = fake(PLAIN)
    with pytest.raises(InputError, match="2 label maps with"):
        synthesizer.synthesize_batch([maps(16, 16)[0]] * 2, instance_maps, styles)


@pytest.mark.parametrize(
    "label_map",
    [
        np.zeros((16, 16), np.int32),
        np.zeros((16, 16), np.float32),
        np.zeros((16, 16), bool),
        np.zeros((16, 16, 3), np.uint8),
        np.zeros((1, 16, 16), np.uint8),
        np.zeros(16, np.uint8),
        np.array(3, np.uint8),
        np.full((16, 16), None),
    ],
)
def test_wrong_label_maps(label_map: Array) -> None:
    with pytest.raises(InputError, match=r"a label map is uint8 \[height, width\], not"):
        prepare(PLAIN, label_map)


@pytest.mark.parametrize("shape", [(0, 0), (0, 16), (16, 0)])
def test_label_maps_without_pixels(shape: tuple[int, int]) -> None:
    with pytest.raises(SizeError, match="no pixels"):
        prepare(PLAIN, np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("instance_map", "error", "reason"),
    [
        (None, MissingInputError, "needs one beside the label map"),
        (np.zeros((16, 17), np.int32), SizeError, "16x16 and the instance map 17x16"),
        (np.zeros((32, 32), np.int32), SizeError, "16x16 and the instance map 32x32"),
        (np.zeros((16, 16), np.float32), InputError, "not float32"),
        (np.zeros((16, 16), bool), InputError, "not bool"),
        (np.zeros((16, 16, 1), np.int32), InputError, r"not int32 \[16, 16, 1\]"),
        (np.full((16, 16), -1, np.int32), InputError, "run from -1 to -1"),
        (np.full((16, 16), 2**31, np.int64), InputError, "to 2147483648; they must be 0 to"),
        (np.full((16, 16), 2**64 - 1, np.uint64), InputError, "to 18446744073709551615"),
    ],
)
def test_wrong_instance_maps(instance_map: Any, error: type[Exception], reason: str) -> None:
    for contract in (BOUNDARIES, STYLED):
        with pytest.raises(error, match=reason):
            prepare(contract, np.zeros((16, 16), np.uint8), instance_map)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, ">i4", np.uint64])
def test_instance_maps_of_any_whole_numbers_are_sent_as_int32(dtype: Any) -> None:
    request = prepare(BOUNDARIES, np.zeros((16, 16), np.uint8), np.full((16, 16), 7, dtype))
    assert request.instance_map is not None
    assert request.instance_map.dtype == np.dtype(np.int32)
    assert (request.instance_map == 7).all()


def test_unknown_channels_are_counted() -> None:
    label_map = np.zeros((16, 16), np.uint8)
    label_map[0, :3] = 35
    label_map[1, 0] = 255
    with pytest.raises(UnknownLabelError, match=r"35 \(3 pixels\), 255 \(1 pixel\)") as caught:
        prepare(PLAIN, label_map)
    assert caught.value.counts == {35: 3, 255: 1}


def test_255_is_sent_where_unlabelled_has_no_channel() -> None:
    contract = Contract(schema=load_schema("ade20k"), boundaries=False, size_multiple=8)
    request = prepare(contract, np.full((16, 16), 255, np.uint8))
    assert (request.label_map == 255).all()
    with pytest.raises(UnknownLabelError, match="150"):
        prepare(contract, np.full((16, 16), 150, np.uint8))


def test_sizes_that_the_model_does_not_take() -> None:
    with pytest.raises(SizeError, match="too small"):
        prepare(PLAIN, np.zeros((8, 16), np.uint8))
    listed = Contract(schema=CITYSCAPES, boundaries=False, size_multiple=8, sizes=((16, 32),))
    assert prepare(listed, np.zeros((15, 30), np.uint8)).padding == Padding(1, 2)
    with pytest.raises(SizeError, match="nearest is 32x16"):
        prepare(listed, np.zeros((32, 16), np.uint8))


# Style -------------------------------------------------------------------------------------------


def test_the_style_table_is_padded_to_256_rows() -> None:
    label_map, instance_map = np.zeros((16, 16), np.uint8), np.zeros((16, 16), np.int32)
    instance_map[:, 8:] = 26005
    instance_map[:2] = 900
    request = prepare(STYLED, label_map, instance_map, np.array([[1, 2], [3, 4], [5, 6]], float))
    assert request.style is not None
    assert request.style.shape == (256, 2)
    assert request.style.dtype == np.float32
    assert request.style[:3].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert not request.style[3:].any()
    assert request.instance_map is not None
    assert np.unique(request.instance_map).tolist() == [0, 1, 2]
    assert (request.instance_map[:2] == 1).all()
    assert (request.instance_map[2:, 8:] == 2).all()
    assert np.array_equal(boundary_map(request.instance_map), boundary_map(instance_map))


def test_defaults_are_those_of_each_instances_label() -> None:
    label_map = np.full((16, 16), 26, np.uint8)
    label_map[:8] = 7
    label_map[15] = 11
    instance_map = label_map.astype(np.int32)
    instance_map[8:15, :8], instance_map[8:15, 8:] = 26001, 26000
    request = prepare(STYLED, label_map, instance_map)
    assert request.style is not None
    # Instances in the order of their ids: 7, 11 (no default: zeros), 26000, 26001.
    assert request.style[:5].tolist() == [[1, 2], [0, 0], [0.5, -0.5], [0.5, -0.5], [0, 0]]


def test_unlabelled_pixels_without_a_channel_have_zeros_for_style() -> None:
    contract = Contract(
        schema=load_schema("cityscapes19"),
        boundaries=False,
        style_channels=1,
        style_defaults={18: (4.0,)},
        size_multiple=8,
    )
    label_map = np.full((16, 16), 255, np.uint8)
    label_map[0] = 18
    request = prepare(contract, label_map, label_map.astype(np.int32))
    assert request.style is not None
    assert request.style[:2].tolist() == [[4.0], [0.0]]


def test_more_than_256_instances_are_refused_for_styled_models_only() -> None:
    label_map = np.zeros((16, 24), np.uint8)
    instance_map = np.arange(16 * 24, dtype=np.int32).reshape(16, 24)
    with pytest.raises(TooManyInstancesError, match=r"384 instances.*at most 256"):
        prepare(STYLED, label_map, instance_map)
    request = prepare(BOUNDARIES, label_map, instance_map)
    assert np.array_equal(request.instance_map, instance_map)
    request = prepare(STYLED, label_map, np.minimum(instance_map, 255))
    assert request.style is not None


@pytest.mark.parametrize(
    "style",
    [
        np.zeros((1, 2), np.float32),
        np.zeros((257, 2), np.float32),
        np.zeros((2, 3), np.float32),
        np.zeros(2, np.float32),
        np.zeros((2, 2, 1), np.float32),
        np.full((2, 2), "a"),
        np.full((2, 2), None),
        np.zeros((2, 2), complex),
        np.full((2, 2), np.nan),
        np.full((2, 2), np.inf),
        np.full((2, 2), -np.inf),
        np.full((2, 2), 1e39),
    ],
)
def test_wrong_styles(style: Array) -> None:
    label_map, instance_map = np.zeros((16, 16), np.uint8), np.zeros((16, 16), np.int32)
    instance_map[0] = 1
    with pytest.raises(InputError, match="style "):
        prepare(STYLED, label_map, instance_map, style)


def test_a_style_for_a_model_without_encoder_is_refused() -> None:
    label_map, instance_map = maps(16, 16)
    for contract in (PLAIN, BOUNDARIES):
        with pytest.raises(InputError, match="takes no style"):
            prepare(contract, label_map, instance_map, np.zeros((1, 2)))


# The fake server ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"label_map": np.zeros((1, 16, 16), np.int32)},
        {"label_map": np.zeros((16, 16), np.uint8)},
        {"instance_map": np.zeros((1, 16, 16), np.int64)},
        {"label_map": np.zeros((1, 16, 17), np.uint8)},
        {"label_map": np.zeros((2, 16, 16), np.uint8)},
        {"style": np.zeros((1, 256, 2), np.float32)},
    ],
)
def test_the_fake_refuses_what_a_server_refuses(change: dict[str, Array]) -> None:
    good = {
        "label_map": np.zeros((1, 16, 16), np.uint8),
        "instance_map": np.zeros((1, 16, 16), np.int32),
    }
    transport = FakeTransport(BOUNDARIES)
    assert transport.infer("synthesis", good, "image", timeout=1).shape == (1, 16, 16, 3)
    with pytest.raises(RequestRejectedError):
        transport.infer("synthesis", good | change, "image", timeout=1)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("kind", [np.ma.array, np.asmatrix])
def test_arrays_that_are_more_than_their_values_are_refused(kind: Any) -> None:
    label_map, instance_map = maps(16, 16)
    with pytest.raises(InputError, match="where the plain array of the label map belongs"):
        prepare(BOUNDARIES, kind(label_map), instance_map)
    with pytest.raises(InputError, match="where the plain array of the instance map belongs"):
        prepare(BOUNDARIES, label_map, kind(instance_map))


@pytest.mark.parametrize("label_maps", [None, iter([]), 5])
def test_a_batch_is_a_list(label_maps: Any) -> None:
    with pytest.raises(InputError, match="where a list with one entry per picture belongs"):
        fake(PLAIN)[0].synthesize_batch(label_maps)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"maps": None}, "NoneType where the path or the source of the maps"),
        ({"maps": ["maps"]}, "list where the path or the source of the maps"),
        ({"maps": "maps", "output": b"out"}, "bytes where a path"),
        ({"maps": "maps", "output": "a\0b"}, "has a null character"),
        ({"maps": "maps", "labels": 5}, "int where a path"),
        ({"maps": "maps", "settings": {}}, "dict where an object of RenderSettings"),
    ],
)
def test_what_is_rendered_is_of_the_documented_type(named: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        render(fake(PLAIN)[0], **named)


@pytest.mark.parametrize("named", [{"quality": "9"}, {"workers": 1.5}, {"patience": "1"}])
def test_settings_of_another_type(named: Any) -> None:
    with pytest.raises(InputError, match=rf"{next(iter(named))} is .*; it is a (whole )?number"):
        RenderSettings(**named)
