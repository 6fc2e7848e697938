"""Maps written as PNG files read back as the same maps."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sceneloom.contract import Contract
from sceneloom.errors import InputError, TooManyInstancesError, UnknownLabelError
from sceneloom.maps import (
    boundary_map,
    instance_map_png,
    label_map_png,
    read_instance_map,
    read_label_map,
)
from sceneloom.schema import builtin_schemas, load_schema

STREETS = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)
SHAPES = arrays.array_shapes(min_dims=2, max_dims=2, max_side=20)


@given(
    name=st.sampled_from(sorted(builtin_schemas())),
    label_map=arrays.arrays(np.uint8, SHAPES, elements=st.integers(0, 255)),
)
def test_label_maps_of_every_schema(name: str, label_map: np.ndarray) -> None:
    schema = load_schema(name)
    contract = Contract(schema=schema, boundaries=False, size_multiple=8)
    channels = np.where(label_map == 255, schema.unlabelled_channel, label_map % schema.channels)
    channels = channels.astype(np.uint8)
    read = read_label_map(label_map_png(contract, channels), schema)
    np.testing.assert_array_equal(read, channels)


def test_ids_above_255_take_16_bits() -> None:
    schema = type(STREETS.schema).from_json(
        {"name": "wide", "labels": [{"id": 40000, "name": "a", "colour": [0, 0, 0]}]}
    )
    contract = Contract(schema=schema, boundaries=False, size_multiple=8)
    file = label_map_png(contract, np.zeros((2, 3), np.uint8))
    values = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    assert (values == 40000).all()
    assert (read_label_map(file, schema) == 0).all()


@given(arrays.arrays(np.int32, SHAPES, elements=st.integers(0, 65535)))
def test_instance_maps_that_fit(instance_map: np.ndarray) -> None:
    file = instance_map_png(STREETS, np.zeros(instance_map.shape, np.uint8), instance_map)
    np.testing.assert_array_equal(read_instance_map(file), instance_map)


@given(arrays.arrays(np.int32, SHAPES, elements=st.integers(0, 2**31 - 1)))
def test_larger_ids_keep_their_order_and_boundaries(instance_map: np.ndarray) -> None:
    file = instance_map_png(STREETS, np.zeros(instance_map.shape, np.uint8), instance_map)
    read = read_instance_map(file)
    np.testing.assert_array_equal(boundary_map(read), boundary_map(instance_map))
    np.testing.assert_array_equal(
        np.unique(read, return_inverse=True)[1], np.unique(instance_map, return_inverse=True)[1]
    )


def test_what_cannot_be_written() -> None:
    labels = np.zeros((300, 300), np.uint8)
    with pytest.raises(UnknownLabelError):
        label_map_png(STREETS, np.full((2, 2), 200, np.uint8))
    with pytest.raises(TooManyInstancesError, match="room for, 65536"):
        instance_map_png(STREETS, labels, np.arange(90000).reshape(300, 300))
    plain = Contract(schema=load_schema("helen"), boundaries=False, size_multiple=8)
    with pytest.raises(InputError, match="takes no instance map"):
        instance_map_png(plain, labels, labels)
