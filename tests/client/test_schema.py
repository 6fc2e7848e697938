"""Label schemas: the built-in ones, the JSON form on literal bytes, and every malformed form."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sceneloom.errors import InputError, SchemaError
from sceneloom.schema import NO_CHANNEL, Label, LabelSchema, builtin_schemas, load_schema

CELLS = b"""{
  "name": "cells",
  "labels": [
    {"id": 0, "name": "background", "colour": [0, 0, 0]},
    {"id": 7, "name": "nucleus", "colour": [80, 60, 200]}
  ],
  "unlabelled": 0,
  "aliases": {"255": 0, "300": 7},
  "instance_divisor": 1000
}"""


def cells(**changes: Any) -> dict[str, Any]:
    return {**json.loads(CELLS), **changes}


def a_label(**changes: Any) -> dict[str, Any]:
    return {"id": 1, "name": "a", "colour": [1, 2, 3], **changes}


@st.composite
def schemas(draw: st.DrawFn) -> LabelSchema:
    values = draw(st.lists(st.integers(0, 65535), min_size=1, max_size=12, unique=True))
    used = draw(st.integers(1, len(values)))
    ids, rest = values[:used], values[used:]
    colour = st.tuples(*[st.integers(0, 255)] * 3)
    return LabelSchema(
        name=draw(st.text(min_size=1)),
        labels=tuple(Label(id=i, name=draw(st.text(min_size=1)), colour=draw(colour)) for i in ids),
        unlabelled=draw(st.none() | st.sampled_from(ids)),
        aliases={value: draw(st.sampled_from(ids)) for value in rest},
        instance_divisor=draw(st.none() | st.integers(2, 2**31 - 1)),
    )


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("cityscapes", 35),
        ("cityscapes-eval", 19),
        ("cityscapes-markings", 36),
        ("cityscapes-details", 49),
        ("cityscapes19", 19),
        ("ade20k", 150),
        ("nyu40", 40),
        ("camvid", 12),
        ("celebamask", 19),
        ("helen", 11),
        ("mapillary-vistas", 66),
        ("mapillary-vistas-2.0", 124),
        ("bdd100k", 19),
        ("kitti-360", 45),
        ("carla", 29),
        ("carla-0.9.13", 23),
    ],
)
def test_builtin_schemas(name: str, channels: int) -> None:
    schema = load_schema(name)
    assert (schema.name, schema.channels) == (name, channels)
    assert len({label.name for label in schema.labels}) == channels


def test_the_list_of_builtin_schemas() -> None:
    assert builtin_schemas() == [
        "ade20k",
        "bdd100k",
        "camvid",
        "carla",
        "carla-0.9.13",
        "celebamask",
        "cityscapes",
        "cityscapes-details",
        "cityscapes-eval",
        "cityscapes-markings",
        "cityscapes19",
        "helen",
        "kitti-360",
        "mapillary-vistas",
        "mapillary-vistas-2.0",
        "nyu40",
    ]


@pytest.mark.parametrize(("name", "last"), [("ade20k", 150), ("nyu40", 40)])
def test_data_sets_whose_zero_is_unlabelled(name: str, last: int) -> None:
    schema = load_schema(name)
    values = np.arange(last + 2, dtype=np.uint8)[None]
    channels, unknown = schema.to_channels(values)
    assert channels[0, 0] == NO_CHANNEL
    assert channels[0, 1:-1].tolist() == list(range(last))
    assert unknown == {last + 1: 1}
    assert schema.unlabelled_channel == NO_CHANNEL


def test_cityscapes_is_the_identity_and_255_is_unknown() -> None:
    schema = load_schema("cityscapes")
    channels, unknown = schema.to_channels(np.array([[*range(35), 255, 255]], np.uint8))
    assert channels[0, :35].tolist() == list(range(35))
    assert unknown == {255: 2}
    assert schema.unlabelled_channel == 0


def test_cityscapes19_has_no_channel_for_255() -> None:
    schema = load_schema("cityscapes19")
    channels, unknown = schema.to_channels(np.array([[18, 255]], np.uint8))
    assert channels.tolist() == [[18, 255]]
    assert unknown == {}


def test_cityscapes_eval_is_cityscapes19_on_label_ids() -> None:
    by_label_id, by_train_id = load_schema("cityscapes-eval"), load_schema("cityscapes19")
    assert [(x.name, x.colour) for x in by_label_id.labels] == [
        (x.name, x.colour) for x in by_train_id.labels
    ]
    names = {x.name: x.id for x in load_schema("cityscapes").labels}
    assert all(x.id == names[x.name] for x in by_label_id.labels)
    channels, unknown = by_label_id.to_channels(np.array([[*range(35), 255]], np.uint8))
    assert unknown == {}
    assert sorted(channels[0].tolist()) == [*range(19), *[255] * 17]
    assert channels[0, [0, 9, 34]].tolist() == [255, 255, 255]


def test_literal_json_gives_exactly_this_schema(tmp_path: Path) -> None:
    path = tmp_path / "cells.json"
    path.write_bytes(CELLS)
    schema = load_schema(path)
    assert schema == LabelSchema(
        name="cells",
        labels=(
            Label(id=0, name="background", colour=(0, 0, 0)),
            Label(id=7, name="nucleus", colour=(80, 60, 200)),
        ),
        unlabelled=0,
        aliases={255: 0, 300: 7},
        instance_divisor=1000,
    )
    assert schema.to_json() == json.loads(CELLS)
    values = np.array([[0, 7, 255], [300, 1, 65535]], np.uint16)
    channels, unknown = schema.to_channels(values)
    assert channels.tolist() == [[0, 1, 0], [1, 255, 255]]
    assert unknown == {1: 1, 65535: 1}
    assert schema.colourise(np.array([[1, 0, 9]], np.uint8)).tolist() == [
        [[80, 60, 200], [0, 0, 0], [0, 0, 0]]
    ]


@given(schemas())
def test_json_round_trip(schema: LabelSchema) -> None:
    text = json.dumps(schema.to_json())
    assert LabelSchema.from_json(json.loads(text)) == schema


@given(schemas(), st.integers(0, 65535))
def test_every_file_value_has_one_meaning(schema: LabelSchema, value: int) -> None:
    channels, unknown = schema.to_channels(np.array([[value]], np.uint16))
    ids = [label.id for label in schema.labels]
    meant = schema.aliases.get(value, value)
    if meant in ids:
        assert (channels[0, 0], unknown) == (ids.index(meant), {})
    else:
        assert (channels[0, 0], unknown) == (255, {value: 1})


def test_instance_classes() -> None:
    instance_map = np.array([[0, 7, 999], [1000, 26003, 33000]], np.int32)
    classes = load_schema("cityscapes").instance_classes(instance_map)
    assert classes.dtype == np.int32
    assert classes.tolist() == [[0, 7, 999], [1, 26, 33]]
    with pytest.raises(SchemaError, match="'ade20k' do not encode"):
        load_schema("ade20k").instance_classes(instance_map)


def test_256_channels_are_the_most_and_255_beside_an_unlabelled_without_channel() -> None:
    labels = tuple(Label(id=i, name=str(i), colour=(0, 0, 0)) for i in range(257))
    full = LabelSchema(name="full", labels=labels[:256], unlabelled=3)
    assert full.to_channels(np.array([[255]], np.uint8))[0].item() == 255
    with pytest.raises(SchemaError, match="257 labels; it can have from 1 to 256"):
        LabelSchema(name="more", labels=labels)
    assert LabelSchema(name="ok", labels=labels[:255], unlabelled=300).unlabelled_channel == 255
    with pytest.raises(SchemaError, match="256 labels; it can have from 1 to 255"):
        LabelSchema(name="clash", labels=labels[:256], unlabelled=300)


MALFORMED: dict[str, Any] = {
    "a list": [],
    "null": None,
    "a number": 3,
    "no name": {"labels": [a_label()]},
    "empty name": cells(name=""),
    "name is a number": cells(name=7),
    "name is a list": cells(name=["cells"]),
    "no labels": {"name": "cells"},
    "labels is a string": cells(labels="abc"),
    "labels is an empty string": cells(labels=""),
    "labels is an object": cells(labels={"0": a_label()}),
    "labels is null": cells(labels=None),
    "labels is empty": cells(labels=[]),
    "a label is a string": cells(labels=["road"]),
    "a label is a list": cells(labels=[[1, "a", [1, 2, 3]]]),
    "a label without id": cells(labels=[{"name": "a", "colour": [1, 2, 3]}]),
    "a label with a key too many": cells(labels=[a_label(color=[1, 2, 3])]),
    "id is a bool": cells(labels=[a_label(id=True)]),
    "id is a string": cells(labels=[a_label(id="1")]),
    "id is a float": cells(labels=[a_label(id=1.0)]),
    "id is NaN": cells(labels=[a_label(id=math.nan)]),
    "id is infinite": cells(labels=[a_label(id=math.inf)]),
    "id is null": cells(labels=[a_label(id=None)]),
    "id is negative": cells(labels=[a_label(id=-1)]),
    "id is above 65535": cells(labels=[a_label(id=65536)]),
    "id is huge": cells(labels=[a_label(id=10**400)]),
    "an id twice": cells(labels=[a_label(), a_label(name="b")], unlabelled=None, aliases={}),
    "label name is a number": cells(labels=[a_label(name=5)]),
    "label name is null": cells(labels=[a_label(name=None)]),
    "label name is empty": cells(labels=[a_label(name="")]),
    "colour of 4": cells(labels=[a_label(colour=[1, 2, 3, 4])]),
    "colour of 2": cells(labels=[a_label(colour=[1, 2])]),
    "colour of floats": cells(labels=[a_label(colour=[0.5, 0.5, 0.5])]),
    "colour of bools": cells(labels=[a_label(colour=[True, True, True])]),
    "colour above 255": cells(labels=[a_label(colour=[0, 0, 256])]),
    "colour is a string": cells(labels=[a_label(colour="#ff0")]),
    "colour is a number": cells(labels=[a_label(colour=0)]),
    "colour is an object": cells(labels=[a_label(colour={"r": 1, "g": 2, "b": 3})]),
    "unlabelled is a bool": cells(unlabelled=True),
    "unlabelled is a string": cells(unlabelled="0"),
    "unlabelled is a float": cells(unlabelled=0.0),
    "unlabelled is a list": cells(unlabelled=[0]),
    "unlabelled is negative": cells(unlabelled=-1),
    "unlabelled is above 65535": cells(unlabelled=65536),
    "aliases is a list": cells(aliases=[[255, 0]]),
    "aliases is null": cells(aliases=None),
    "aliases is a string": cells(aliases="255"),
    "an alias of a word": cells(aliases={"many": 0}),
    "an alias with blanks": cells(aliases={" 255 ": 0}),
    "an alias with a leading zero": cells(aliases={"0255": 0}),
    "an alias in other digits": cells(aliases={"\u0661": 0}),
    "an alias of thousands of digits": cells(aliases={"9" * 5000: 0}),
    "a negative alias": cells(aliases={"-1": 0}),
    "an alias above 65535": cells(aliases={"65536": 0}),
    "an alias that is an id": cells(aliases={"7": 0}),
    "an alias that is unlabelled": cells(unlabelled=9, aliases={"9": 0}),
    "an alias to nothing": cells(aliases={"255": 99}),
    "an alias to a float": cells(aliases={"255": 0.0}),
    "an alias to a string": cells(aliases={"255": "0"}),
    "an alias to a bool": cells(aliases={"255": False}),
    "an alias to a list": cells(aliases={"255": [0]}),
    "divisor is 1": cells(instance_divisor=1),
    "divisor is a bool": cells(instance_divisor=True),
    "divisor is a float": cells(instance_divisor=1000.0),
    "divisor is a string": cells(instance_divisor="1000"),
    "divisor is huge": cells(instance_divisor=10**30),
    "an unknown key": cells(color="red"),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_json_is_refused_with_its_source(data: Any) -> None:
    with pytest.raises(SchemaError, match=r"^my\.json: "):
        LabelSchema.from_json(data, source="my.json")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe{",
        b"\xef\xbb\xbf{}",
        b"[" * 200_000,
        b'{"name": "a", "labels": [' + b"9" * 5000 + b"]}",
        b'{"name": "a", "labels": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"name": "a", "labels": [{"id": '
        + b"[" * 900
        + b"]" * 900
        + b', "name": 1, "colour": []}]}',
        b'{"name": "a", "labels": [], "labels": 3}',
    ],
    ids=["empty", "cut", "utf-16", "bom", "deep", "digits", "nested", "nested id", "twice"],
)
def test_files_that_are_not_a_schema_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(SchemaError, match=r"broken\.json: "):
        load_schema(path)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    ["name", "labels", "id", "colour", "aliases", "unlabelled", "instance_divisor"]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=25,
    )
)
def test_any_json_is_a_schema_or_a_schema_error(data: Any) -> None:
    try:
        schema = LabelSchema.from_json(data)
    except SchemaError:
        return
    assert LabelSchema.from_json(schema.to_json()) == schema


@pytest.mark.parametrize("name", ["cityscape", "", ".", "/nowhere/x.json", "x" * 5000, "a\0b"])
def test_no_such_schema_names_the_builtin_ones(name: str) -> None:
    with pytest.raises(InputError, match="ade20k, bdd100k, camvid, carla"):
        load_schema(name)


@pytest.mark.parametrize("name", [None, 5, b"cityscapes"])
def test_a_name_of_another_type(name: Any) -> None:
    with pytest.raises(InputError, match="where the name or the path of a label schema belongs"):
        load_schema(name)
