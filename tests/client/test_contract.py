"""The contract: literal bytes, round trips, malformed forms, and which sizes a model takes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sceneloom.contract import Contract
from sceneloom.errors import SchemaError, SizeError
from sceneloom.schema import Label, LabelSchema

SCHEMA = LabelSchema(
    name="two",
    labels=(Label(id=0, name="off", colour=(0, 0, 0)), Label(id=1, name="on", colour=(9, 8, 7))),
)
CONTRACT = Contract(
    schema=SCHEMA,
    boundaries=True,
    style_channels=2,
    style_defaults={1: (0.5, -1.0)},
    size_multiple=16,
    sizes=((64, 128), (512, 1024)),
    bundle_hash="c0ffee",
)
CLUSTERED = dataclasses.replace(
    CONTRACT,
    style_clusters={1: ((0.25, -0.5), (0.123457, 1e-05)), 0: ((1.0, 0.0),)},
    smallest_side=16,
)
LINE = (
    '{"format":1,"schema":{"name":"two","labels":[{"id":0,"name":"off","colour":[0,0,0]},'
    '{"id":1,"name":"on","colour":[9,8,7]}]},"boundaries":true,"style_channels":2,'
    '"style_defaults":{"1":[0.5,-1.0]},"size_multiple":16,"sizes":[[64,128],[512,1024]],'
    '"bundle_hash":"c0ffee"}'
)
CLUSTERED_LINE = LINE.replace(
    '"size_multiple":16,',
    '"style_clusters":{"0":[[1.0,0.0]],"1":[[0.25,-0.5],[0.123457,1e-05]]},'
    '"size_multiple":16,"smallest_side":16,',
)


def test_literal_bytes() -> None:
    assert CONTRACT.dumps() == LINE
    assert Contract.loads(LINE) == CONTRACT


def test_literal_bytes_with_clusters_and_a_smallest_side() -> None:
    assert CLUSTERED.dumps() == CLUSTERED_LINE
    assert Contract.loads(CLUSTERED_LINE) == CLUSTERED


def test_contracts_written_before_there_were_clusters_have_none() -> None:
    contract = Contract.loads(LINE)
    assert contract.style_clusters == {}
    assert contract.smallest_side == 2 * contract.size_multiple


PICTURES = Contract(kind="picture", boundaries=True, size_multiple=4, grey=True)
PICTURES_LINE = (
    '{"format":1,"kind":"picture","boundaries":true,"style_channels":0,"style_defaults":{},'
    '"size_multiple":4,"sizes":"any","bundle_hash":"","grey":true}'
)


def test_literal_bytes_of_a_model_of_pictures_in_grey() -> None:
    assert PICTURES.dumps() == PICTURES_LINE
    assert Contract.loads(PICTURES_LINE) == PICTURES
    assert (PICTURES.main_input, PICTURES.input_channels) == ("picture", 4)
    assert (CONTRACT.main_input, CONTRACT.input_channels) == ("label_map", 5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "labels"}, "schema is missing"),
        ({"kind": "photo"}, "kind is 'photo'"),
        ({"schema": SCHEMA.to_json()}, "a model of pictures has no schema"),
        ({"style_channels": 3}, "a model of pictures takes no style"),
        ({"grey": "yes"}, "grey is 'yes'"),
    ],
)
def test_contracts_of_pictures_that_contradict_themselves(
    change: dict[str, Any], words: str
) -> None:
    with pytest.raises(SchemaError, match=words):
        Contract.from_json({**PICTURES.to_json(), **change})


def test_any_size_on_the_wire() -> None:
    free = dataclasses.replace(CONTRACT, sizes=None)
    assert '"sizes":"any"' in free.dumps()
    assert Contract.loads(free.dumps()) == free


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    multiple = draw(st.integers(1, 64))
    channels = draw(st.integers(0, 4))
    smallest = draw(st.integers(1, 3))
    side = st.integers(smallest, 40).map(lambda n: n * multiple)
    floats = st.floats(allow_nan=False, allow_infinity=False, width=32)
    vectors = st.tuples(*[floats] * channels)
    centres = st.lists(vectors, min_size=1, max_size=5).map(tuple)
    return Contract(
        schema=SCHEMA,
        boundaries=draw(st.booleans()),
        style_channels=channels,
        style_defaults=draw(st.dictionaries(st.sampled_from([0, 1]), vectors)),
        style_clusters=draw(st.dictionaries(st.sampled_from([0, 1]), centres)),
        size_multiple=multiple,
        smallest_side=smallest * multiple,
        sizes=draw(st.none() | st.lists(st.tuples(side, side), min_size=1, max_size=4).map(tuple)),
        bundle_hash=draw(st.text("0123456789abcdef", max_size=64)),
    )


@given(contracts())
def test_round_trip(contract: Contract) -> None:
    line = contract.dumps()
    assert "\n" not in line
    assert line.isascii()
    assert Contract.loads(line) == contract


@given(contracts(), st.integers(1, 3000), st.integers(1, 3000))
def test_the_network_size_is_the_next_multiple_or_an_error(
    contract: Contract, height: int, width: int
) -> None:
    try:
        sides = contract.network_size(height, width)
    except SizeError:
        return
    for side, given_side in zip(sides, (height, width), strict=True):
        assert side % contract.size_multiple == 0
        assert 0 <= side - given_side < contract.size_multiple
        assert side >= contract.smallest_side
    assert contract.sizes is None or sides in contract.sizes


CHANGES: dict[str, dict[str, Any]] = {
    "boundaries is a string": {"boundaries": "false"},
    "boundaries is a number": {"boundaries": 1},
    "style_channels is a float": {"style_channels": 2.0},
    "style_channels is a string": {"style_channels": "2"},
    "style_channels is a bool": {"style_channels": True},
    "style_channels is negative": {"style_channels": -1},
    "style_defaults is a list": {"style_defaults": []},
    "style_defaults is null": {"style_defaults": None},
    "a default of a word": {"style_defaults": {"on": [0, 0]}},
    "a default of an unknown label": {"style_defaults": {"2": [0, 0]}},
    "a default too short": {"style_defaults": {"1": [0]}},
    "a default that is a number": {"style_defaults": {"1": 0}},
    "a default of strings": {"style_defaults": {"1": ["0", "0"]}},
    "a default of bools": {"style_defaults": {"1": [True, True]}},
    "a default of NaN": {"style_defaults": {"1": [float("nan"), 0]}},
    "an infinite default": {"style_defaults": {"1": [float("inf"), 0]}},
    "a default beyond floats": {"style_defaults": {"1": [10**400, 0]}},
    "a default beyond float32": {"style_defaults": {"1": [1e39, 0]}},
    "style_clusters is a list": {"style_clusters": []},
    "style_clusters is null": {"style_clusters": None},
    "clusters of a word": {"style_clusters": {"on": [[0, 0]]}},
    "clusters of an unknown label": {"style_clusters": {"2": [[0, 0]]}},
    "clusters without a list": {"style_clusters": {"1": [0, 0]}},
    "clusters in an object": {"style_clusters": {"1": {"0": [0, 0]}}},
    "an empty list of clusters": {"style_clusters": {"1": []}},
    "a cluster too long": {"style_clusters": {"1": [[0, 0], [0, 0, 0]]}},
    "a cluster of strings": {"style_clusters": {"1": [["0", "0"]]}},
    "a cluster of NaN": {"style_clusters": {"1": [[0, float("nan")]]}},
    "size_multiple is 0": {"size_multiple": 0},
    "size_multiple is a float": {"size_multiple": 16.9},
    "size_multiple is a string": {"size_multiple": "16"},
    "size_multiple is infinite": {"size_multiple": float("inf")},
    "smallest_side is null": {"smallest_side": None},
    "smallest_side is a float": {"smallest_side": 16.0},
    "smallest_side is 0": {"smallest_side": 0},
    "smallest_side is negative": {"smallest_side": -16},
    "smallest_side is no multiple": {"smallest_side": 24},
    "smallest_side is above a size": {"smallest_side": 80},
    "sizes is another word": {"sizes": "all"},
    "sizes is null": {"sizes": None},
    "sizes is empty": {"sizes": []},
    "sizes is an object": {"sizes": {}},
    "sizes of one side": {"sizes": [[64]]},
    "sizes of three sides": {"sizes": [[64, 64, 64]]},
    "sizes of numbers": {"sizes": [64, 128]},
    "sizes of floats": {"sizes": [[64.0, 128.5]]},
    "sizes of strings": {"sizes": ["64"]},
    "a size that is no multiple": {"sizes": [[64, 100]]},
    "a size that is too small": {"sizes": [[16, 64]]},
    "bundle_hash is null": {"bundle_hash": None},
    "schema is a name": {"schema": "cityscapes"},
    "schema is damaged": {"schema": {"name": "x", "labels": "abc"}},
    "an unknown key": {"extra": 1},
    "format 2": {"format": 2},
    "format is a string": {"format": "1"},
    "format is true": {"format": True},
    "format is nested": {"format": [[[[[[[[[[[[]]]]]]]]]]]]},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_malformed_contracts_are_refused_with_their_source(change: dict[str, Any]) -> None:
    with pytest.raises(SchemaError, match=r"^server: "):
        Contract.loads(json.dumps({**json.loads(LINE), **change}), source="server")


@pytest.mark.parametrize("key", json.loads(LINE).keys())
def test_a_missing_key_is_refused(key: str) -> None:
    data = json.loads(LINE)
    del data[key]
    with pytest.raises(SchemaError, match=rf"^server: .*{key}"):
        Contract.from_json(data, source="server")


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '"a"', "9" * 5000, "[" * 200_000, "NaN"])
def test_text_that_is_no_contract(text: str) -> None:
    with pytest.raises(SchemaError, match=r"^server: "):
        Contract.loads(text, source="server")


@given(st.integers(0, len(CLUSTERED_LINE) - 1), st.characters(max_codepoint=126))
def test_a_changed_character_gives_a_contract_or_a_schema_error(at: int, new: str) -> None:
    try:
        contract = Contract.loads(CLUSTERED_LINE[:at] + new + CLUSTERED_LINE[at + 1 :])
    except SchemaError:
        return
    assert Contract.loads(contract.dumps()) == contract


def test_a_newer_format_says_which_one_this_client_reads() -> None:
    with pytest.raises(
        SchemaError, match=r"contract format 2; this version of sceneloom reads f.* 1"
    ):
        Contract.loads(LINE.replace('"format":1', '"format":2'))


def test_any_size_rounds_up_to_the_multiple() -> None:
    contract = Contract(schema=SCHEMA, boundaries=False, size_multiple=16)
    assert contract.smallest_side == 32
    assert contract.network_size(1024, 2048) == (1024, 2048)
    assert contract.network_size(1025, 2033) == (1040, 2048)
    assert contract.network_size(17, 17) == (32, 32)


@pytest.mark.parametrize("size", [(16, 64), (64, 16), (1, 1), (0, 64), (64, 0)])
def test_a_map_too_small_says_what_is_large_enough(size: tuple[int, int]) -> None:
    contract = Contract(schema=SCHEMA, boundaries=False, size_multiple=16)
    with pytest.raises(SizeError, match=r"too small.*more than 16 pixels"):
        contract.network_size(*size)


def test_a_network_without_reflection_takes_one_multiple() -> None:
    contract = Contract(schema=SCHEMA, boundaries=False, size_multiple=256, smallest_side=256)
    assert contract.smallest_side == 256
    assert contract.network_size(1, 257) == (256, 512)
    with pytest.raises(SizeError, match=r"too small.*more than 0 pixels"):
        contract.network_size(0, 256)


def test_a_larger_smallest_side() -> None:
    contract = Contract(schema=SCHEMA, boundaries=False, size_multiple=16, smallest_side=64)
    assert contract.network_size(49, 64) == (64, 64)
    with pytest.raises(SizeError, match=r"more than 48 pixels"):
        contract.network_size(48, 64)


def test_listed_sizes_take_what_pads_to_them_and_nothing_else() -> None:
    assert CONTRACT.network_size(64, 128) == (64, 128)
    assert CONTRACT.network_size(49, 113) == (64, 128)
    with pytest.raises(SizeError, match=r"120x48 \(width x height\).*nearest is 128x64 "):
        CONTRACT.network_size(48, 120)
    with pytest.raises(SizeError, match="nearest is 1024x512 "):
        CONTRACT.network_size(500, 1000)


def test_servers_take_no_size_that_wants_padding() -> None:
    contract = Contract(schema=SCHEMA, boundaries=False, size_multiple=16)
    contract.check_exact_size(32, 48)
    with pytest.raises(SizeError, match=r"47x32 .* is not a multiple of 16"):
        contract.check_exact_size(32, 47)
