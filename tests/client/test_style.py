"""Styles by seed, by cluster and from a file: which row each instance gets, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sceneloom.contract import Contract
from sceneloom.errors import InputError, MissingInputError, SchemaError, SizeError
from sceneloom.request import prepare
from sceneloom.schema import load_schema
from sceneloom.style import (
    StyleFile,
    StyleOf,
    default_styles,
    read_styles,
    round_style,
    styles_by_cluster,
    styles_by_seed,
    styles_from_file,
    write_styles,
)

CARS = tuple((float(i), -float(i)) for i in range(10))
ROADS = ((100.0, 100.0), (200.0, 200.0))
STYLED = Contract(
    schema=load_schema("cityscapes"),
    boundaries=True,
    style_channels=2,
    style_defaults={26: (0.5, -0.5), 11: (7.0, 7.0)},
    style_clusters={26: CARS, 7: ROADS},
    size_multiple=8,
)
UNCLUSTERED = dataclasses.replace(STYLED, style_clusters={})
PLAIN = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)

Array = npt.NDArray[Any]


def street(*cars: int) -> tuple[Array, Array]:
    """Road (7), a building (11), sky (23), and a block of its own for each car."""
    label_map = np.full((16, 8 * (3 + len(cars))), 7, np.uint8)
    label_map[:, :8], label_map[:, 8:16] = 11, 23
    instance_map = label_map.astype(np.int32)
    for index, car in enumerate(cars):
        block = np.s_[:, 8 * (3 + index) : 8 * (4 + index)]
        label_map[block], instance_map[block] = 26, car
    return label_map, instance_map


def rows(table: Array, instance_map: Array) -> dict[int, tuple[float, ...]]:
    """Instance id -> its row."""
    return {int(i): tuple(row) for i, row in zip(np.unique(instance_map), table, strict=True)}


# By seed -----------------------------------------------------------------------------------------


def test_a_seed_draws_clusters_of_the_class_and_leaves_others_their_default() -> None:
    maps = street(26001, 26000, 26002)
    table = styles_by_seed(STYLED, *maps, seed=3, of="all")
    assert table.shape == (6, 2)
    assert table.dtype == np.float32
    drawn = rows(table, maps[1])
    assert drawn[7] in ROADS
    assert all(drawn[car] in CARS for car in (26000, 26001, 26002))
    assert drawn[11] == (7.0, 7.0)  # no clusters: the default
    assert drawn[23] == (0.0, 0.0)  # neither: zeros


def test_the_draw_is_the_same_on_every_machine() -> None:
    maps = street(26000, 26001, 26002, 26003)
    table = styles_by_seed(STYLED, *maps, seed=7, of="all")
    assert table[:, 0].tolist() == [200, 7, 0, 0, 2, 6, 6]
    keyed = styles_by_seed(STYLED, *maps, seed=7, key="a", of="all")
    assert keyed[:, 0].tolist() == [100, 7, 0, 5, 2, 4, 5]


DEFAULTED = dataclasses.replace(STYLED, style_defaults={**STYLED.style_defaults, 7: (150.0, 150.0)})


def test_stuff_keeps_its_default_unless_all_is_drawn_for() -> None:
    maps = street(26, 999, 1000, 26000, 26001, 26002)  # 26: cars that were not told apart
    things = rows(styles_by_seed(DEFAULTED, *maps, seed=1), maps[1])
    every = rows(styles_by_seed(DEFAULTED, *maps, seed=1, of="all"), maps[1])
    assert things[7] == (150.0, 150.0)
    assert every[7] in ROADS
    for stuff in (26, 999):
        assert things[stuff] == (0.5, -0.5)
        assert every[stuff] in CARS
    for car in (1000, 26000, 26001, 26002):
        assert things[car] == every[car]
        assert things[car] in CARS
    assert things[11] == every[11] == (7.0, 7.0)
    named = styles_by_seed(DEFAULTED, *maps, seed=1, of="things")
    assert rows(named, maps[1]) == things


def test_a_schema_without_a_divisor_has_all_drawn_for() -> None:
    schema = dataclasses.replace(DEFAULTED.schema, instance_divisor=None)
    contract, maps = dataclasses.replace(DEFAULTED, schema=schema), street(26, 26000)
    every = styles_by_seed(DEFAULTED, *maps, seed=1, of="all")
    for of in ("things", "all"):
        assert np.array_equal(styles_by_seed(contract, *maps, seed=1, of=of), every)


@given(
    st.integers(),
    st.sets(st.integers(26000, 26020), min_size=1),
    st.text(max_size=5),
    st.sampled_from(("things", "all")),
)
def test_an_instance_keeps_its_look_when_others_come_or_go(
    seed: int, others: set[int], key: str, of: StyleOf
) -> None:
    alone, crowd = street(26007), street(26007, *others - {26007})
    first = rows(styles_by_seed(STYLED, *alone, seed, key=key, of=of), alone[1])
    second = rows(styles_by_seed(STYLED, *crowd, seed, key=key, of=of), crowd[1])
    assert first.items() <= second.items()


def test_seeds_keys_and_instances_draw_apart_and_every_cluster_comes_up() -> None:
    maps = street(*range(26000, 26200))
    tables = [
        styles_by_seed(STYLED, *maps, seed=seed, key=key)[3:]
        for seed, key in ((1, ""), (2, ""), (1, "a"), (1, "b"))
    ]
    for index, table in enumerate(tables):
        counts = np.bincount(table[:, 0].astype(int), minlength=10)
        assert counts.min() >= 8
        assert counts.max() <= 40
        for other in tables[:index]:
            assert 0.02 < (table[:, 0] == other[:, 0]).mean() < 0.25


def test_the_table_is_one_that_prepare_takes() -> None:
    label_map, instance_map = street(26001, 26000)
    table = styles_by_seed(STYLED, label_map, instance_map, seed=1)
    request = prepare(STYLED, label_map, instance_map, table)
    assert request.style is not None
    assert np.array_equal(request.style[:5], table)
    assert np.array_equal(
        table, styles_by_seed(STYLED, label_map, instance_map.astype(np.uint16), seed=1)
    )


def test_unlabelled_pixels_without_a_channel() -> None:
    contract = Contract(
        schema=load_schema("cityscapes19"),
        boundaries=False,
        style_channels=1,
        style_clusters={18: ((4.0,),)},
        size_multiple=8,
    )
    label_map = np.full((16, 16), 255, np.uint8)
    label_map[0] = 18
    instance_map = label_map.astype(np.int32)
    table = styles_by_seed(contract, label_map, instance_map, 0, of="all")
    assert table.tolist() == [[4.0], [0.0]]
    of_instance = StyleFile(instances={255: (9.0,)})
    assert styles_from_file(contract, label_map, instance_map, of_instance).tolist() == [[0], [9]]
    with pytest.raises(
        InputError, match="instance 255: no cluster 0; it has no class, and so no clusters"
    ):
        styles_by_cluster(contract, label_map, instance_map, {255: 0})


# By cluster --------------------------------------------------------------------------------------


def test_clusters_by_instance() -> None:
    maps = street(26001, 26000)
    chosen = rows(styles_by_cluster(STYLED, *maps, {26001: 9, 7: 1}), maps[1])
    assert chosen == {
        7: ROADS[1],
        11: (7.0, 7.0),
        23: (0.0, 0.0),
        26000: (0.5, -0.5),
        26001: CARS[9],
    }


@pytest.mark.parametrize(
    ("clusters", "reason"),
    [
        ({26000: 10}, "instance 26000: no cluster 10; its class, car, has clusters 0 to 9"),
        ({26000: -1}, "no cluster -1"),
        ({11: 0}, "instance 11: no cluster 0; its class, building, has no clusters"),
        ({26005: 0, 26004: 1}, r"the map has no instances \[26004, 26005\]"),
    ],
)
def test_clusters_that_are_not_there(clusters: dict[int, int], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        styles_by_cluster(STYLED, *street(26000), clusters)


# Whatever the choice -----------------------------------------------------------------------------


def choices(contract: Contract, label_map: Any, instance_map: Any) -> list[Any]:
    return [
        lambda: styles_by_seed(contract, label_map, instance_map, 0),
        lambda: styles_by_cluster(contract, label_map, instance_map, {}),
        lambda: styles_from_file(contract, label_map, instance_map, StyleFile()),
    ]


def test_a_model_without_style() -> None:
    for choose in choices(PLAIN, *street()):
        with pytest.raises(InputError, match="takes no style: it was trained without an encoder"):
            choose()


def test_a_model_without_clusters_says_what_to_run() -> None:
    by_seed, by_cluster, _ = choices(UNCLUSTERED, *street())
    for choose in (by_seed, by_cluster):
        with pytest.raises(InputError, match=r"no style clusters.*run `sceneloom styles`"):
            choose()


@pytest.mark.parametrize(
    ("label_map", "instance_map", "error"),
    [
        (np.zeros((16, 16), np.int32), np.zeros((16, 16), np.int32), InputError),
        (np.zeros((0, 16), np.uint8), np.zeros((0, 16), np.int32), SizeError),
        (np.zeros((16, 16), np.uint8), np.zeros((16, 17), np.int32), SizeError),
        (np.zeros((16, 16), np.uint8), None, MissingInputError),
        (np.zeros((16, 16), np.uint8), np.full((16, 16), -1), InputError),
    ],
)
def test_maps_that_do_not_fit(label_map: Any, instance_map: Any, error: type[Exception]) -> None:
    for choose in choices(STYLED, label_map, instance_map):
        with pytest.raises(error):
            choose()


def test_arguments_in_another_order() -> None:
    label_map, instance_map = street(26001)
    wrong: list[Any] = [
        lambda: styles_by_seed(label_map, instance_map, STYLED, 7),  # type: ignore[arg-type]
        lambda: styles_by_seed(STYLED, instance_map, label_map, 7),
        lambda: styles_by_seed(STYLED, 7, label_map, instance_map),  # type: ignore[arg-type]
        lambda: styles_by_seed(STYLED, label_map, 7, instance_map),  # type: ignore[arg-type]
        lambda: styles_by_seed(STYLED, label_map, instance_map, "7"),  # type: ignore[arg-type]
        lambda: styles_by_cluster(STYLED, {}, label_map, instance_map),  # type: ignore[arg-type]
        lambda: styles_by_cluster(STYLED, label_map, instance_map, 3),  # type: ignore[arg-type]
        lambda: styles_from_file(STYLED, label_map, instance_map, Path("a.json")),  # type: ignore[arg-type]
        lambda: styles_from_file(StyleFile(), label_map, instance_map, STYLED),  # type: ignore[arg-type]
        lambda: default_styles(label_map, instance_map, STYLED),  # type: ignore[arg-type]
        lambda: default_styles(STYLED, instance_map, label_map),
        lambda: read_styles(STYLED, Path("a.json")),  # type: ignore[arg-type]
        lambda: write_styles(StyleFile(), Path("a.json")),  # type: ignore[arg-type]
        lambda: prepare(label_map, STYLED),  # type: ignore[arg-type]
        lambda: prepare(STYLED, label_map.tolist(), instance_map),
        lambda: prepare(STYLED, instance_map, label_map),
    ]
    for call in wrong:
        with pytest.raises(InputError, match=r"belongs|is uint8"):
            call()


def test_a_table_of_more_instances_than_the_map_has() -> None:
    maps = street(26001)
    with pytest.raises(
        InputError, match=r"style is float \[4 instances, 2\], not float32 \[5, 2\]"
    ):
        prepare(STYLED, *maps, np.zeros((5, 2), np.float32))


# Style files -------------------------------------------------------------------------------------

STYLES = StyleFile(
    instances={26001: (0.25, -0.125), 7: (1.0, 2.0)}, labels={26: (0.5, 3e-07), 0: (0.0, 1.0)}
)
TEXT = """{
 "format": 1,
 "sceneloom": "0.1.0",
 "instances": {
  "7": [
   1.0,
   2.0
  ],
  "26001": [
   0.25,
   -0.125
  ]
 },
 "labels": {
  "0": [
   0.0,
   1.0
  ],
  "26": [
   0.5,
   3e-07
  ]
 }
}
"""


def test_literal_bytes_of_a_style_file(tmp_path: Path) -> None:
    write_styles(tmp_path / "deep" / "a.json", STYLES)
    assert (tmp_path / "deep" / "a.json").read_text() == TEXT
    assert read_styles(tmp_path / "deep" / "a.json", STYLED) == STYLES
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.json"]


VECTORS = st.tuples(*[st.floats(allow_nan=False, allow_infinity=False, width=32)] * 2)


@given(
    st.dictionaries(st.integers(0, 2**31 - 1), VECTORS),
    st.dictionaries(st.integers(0, 34), VECTORS),
)
def test_style_files_round_trip(
    tmp_path_factory: pytest.TempPathFactory, instances: Any, labels: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "styles.json"
    styles = StyleFile(instances=instances, labels=labels)
    write_styles(path, styles)
    assert read_styles(path, STYLED) == styles


def test_instance_before_class_before_default() -> None:
    maps = street(26001, 26000)
    styles = StyleFile(instances={26001: (1.0, 1.0), 99: (5.0, 5.0)}, labels={26: (2.0, 2.0)})
    assert rows(styles_from_file(STYLED, *maps, styles), maps[1]) == {
        7: (0.0, 0.0),
        11: (7.0, 7.0),
        23: (0.0, 0.0),
        26000: (2.0, 2.0),
        26001: (1.0, 1.0),
    }


def test_no_other_kind_of_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"photo\.png: a style file ends in \.json"):
        write_styles(tmp_path / "photo.png", STYLES)
    assert (tmp_path / "photo.png").read_bytes() == b"mine"


def test_a_part_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"format": 1, "labels": {"26": [1, 2]}}')
    assert read_styles(path, STYLED) == StyleFile(labels={26: (1.0, 2.0)})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 2}, "style file of format 2; .* reads format 1"),
        ({"format": "1"}, "no format number"),
        ({"format": True}, "no format number"),
        ({"styles": {}}, r"unknown keys \['styles'\]"),
        ({"labels": {"40": [0, 0]}}, "style of label 40, which the schema does not have"),
        ({"labels": {"26": [0]}}, r"the style of label 26 is \[0.0\]; it is 2 finite numbers"),
        ({"labels": {"26": [0, float("nan")]}}, r"labels\[26\]\[1\] is nan; it is a finite number"),
        ({"labels": {"26": [0, 1e39]}}, r"labels\[26\]\[1\] is 1e\+39; it is at most 3.4"),
        ({"labels": {"car": [0, 0]}}, "key 'car'"),
        ({"labels": []}, r"labels is \[\]; it is an object"),
        ({"labels": {"26": 0}}, r"labels\[26\] is 0; it is a list"),
        ({"instances": {"26001": [0, 0, 0]}}, "style of instance 26001 is"),
        ({"instances": {"2147483648": [0, 0]}}, "instance 2147483648 is above 2147483647"),
        ({"instances": {"1": ["0", "0"]}}, r"instances\[1\]\[0\] is '0'; it is a number"),
        ({"instances": {"1": [10**400, 0]}}, "it is a finite number"),
        ({"instances": None}, "instances is None; it is an object"),
    ],
)
def test_wrong_style_files(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**json.loads(TEXT), **change}))
    with pytest.raises(SchemaError, match=rf"a\.json: .*{reason}"):
        read_styles(path, STYLED)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b'{"format": 1}'])
def test_files_that_are_no_style_files(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(SchemaError, match=r"a\.json: "):
        read_styles(path, STYLED)


def test_style_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: cannot be read \(No such file"):
        read_styles(tmp_path / "none.json", STYLED)
    (tmp_path / "a.json").write_text(TEXT)
    with pytest.raises(InputError, match="takes no style"):
        read_styles(tmp_path / "a.json", PLAIN)


def test_rounding() -> None:
    values = np.float32([0.1, -0.123456789, 1e-9, 0.0])
    assert round_style(values) == (0.1, -0.123457, 1e-09, 0.0)


def test_the_largest_line_of_clusters_is_small() -> None:
    """35 labels, 10 clusters, 3 features: it travels in every model configuration."""
    noise = np.random.default_rng(0).uniform(-1, 1, (35, 10, 3))
    clusters = {i: tuple(map(round_style, centres)) for i, centres in enumerate(noise)}
    contract = dataclasses.replace(
        STYLED, style_channels=3, style_defaults={}, style_clusters=clusters
    )
    assert len(contract.dumps()) < 16_000
    assert Contract.loads(contract.dumps()) == contract
