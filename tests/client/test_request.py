"""Padding by edge replication, cropping back; requests to try a model with."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sceneloom.contract import Contract
from sceneloom.request import Padding, Request, random_inputs, stack
from sceneloom.schema import load_schema
from sceneloom.testing import FakeTransport

CONTRACT = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=16)


def test_pad_replicates_the_last_row_and_column() -> None:
    pixel_map = np.array([[1, 2], [3, 4]], np.int32)
    padded = Padding(bottom=1, right=2).pad(pixel_map)
    assert padded.tolist() == [[1, 2, 2, 2], [3, 4, 4, 4], [3, 4, 4, 4]]
    assert padded.dtype == np.int32


def test_no_padding_is_the_same_array() -> None:
    pixel_map = np.zeros((4, 4), np.uint8)
    assert Padding().pad(pixel_map) is pixel_map


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9), st.integers(0, 9))
def test_crop_undoes_pad(height: int, width: int, bottom: int, right: int) -> None:
    pixel_map = np.random.default_rng(0).integers(0, 2**31 - 1, (height, width), np.int32)
    padding = Padding(bottom, right)
    padded = padding.pad(pixel_map)
    assert padded.shape == (height + bottom, width + right)
    assert np.array_equal(padding.crop(padded[..., None])[..., 0], pixel_map)


def test_a_single_request_is_not_copied() -> None:
    labels = np.zeros((4, 6), np.uint8)
    one = Request(label_map=labels, instance_map=None, style=None, padding=Padding())
    joined, *absent = stack([one])
    assert joined.shape == (1, 4, 6)
    assert np.shares_memory(joined, labels)
    assert absent == [None, None]


def test_a_batch_of_one_is_writable_and_in_c_order() -> None:
    turned, fixed = np.zeros((6, 4), np.uint8).T[:, ::-1], np.zeros((4, 6), np.uint8)
    fixed.flags.writeable = False
    for labels in (turned, fixed):
        one = Request(label_map=labels, instance_map=None, style=None, padding=Padding())
        joined = stack([one])[0]
        assert joined.flags.writeable
        assert joined.flags.c_contiguous


def test_random_inputs_fit_every_contract() -> None:
    styled = dataclasses.replace(CONTRACT, style_channels=3)
    sizes = dataclasses.replace(CONTRACT, sizes=((512, 1024), (64, 128), (1024, 2048)))
    plain = dataclasses.replace(CONTRACT, boundaries=False)
    for contract, shape, names in (
        (styled, (1, 32, 32), {"label_map", "instance_map", "style"}),
        (sizes, (1, 64, 128), {"label_map", "instance_map"}),
        (plain, (1, 32, 32), {"label_map"}),
    ):
        inputs = random_inputs(contract)
        assert inputs.keys() == names
        assert inputs["label_map"].shape == shape
        answer = FakeTransport(contract).infer("synthesis", inputs, "image", timeout=1)
        assert answer.shape == (*shape, 3)
    assert (random_inputs(plain)["label_map"] != random_inputs(plain)["label_map"]).any()
