"""Rendering in a chosen style: what reaches the server, and what is refused before it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from rendering_fakes import render_folders
from support import run_here

from sceneloom.cli import main
from sceneloom.contract import Contract
from sceneloom.errors import InputError, MissingInputError, SchemaError
from sceneloom.rendering.items import Failed, Rendered
from sceneloom.rendering.manifest import Manifest
from sceneloom.rendering.settings import RenderSettings
from sceneloom.schema import load_schema
from sceneloom.style import StyleFile, styles_by_seed, write_styles
from sceneloom.testing import FakeTransport
from sceneloom.triton.client import TritonSynthesizer

if TYPE_CHECKING:
    from conftest import Start

CONTRACT = Contract(
    schema=load_schema("cityscapes"),
    boundaries=True,
    style_channels=2,
    style_defaults={26: (0.5, -0.5)},
    style_clusters={26: tuple((i / 8, -i / 8) for i in range(10))},
    size_multiple=8,
)
UNCLUSTERED = dataclasses.replace(CONTRACT, style_clusters={})
PLAIN = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)
NAMES = ["a", "b", "sub/c"]

Array = npt.NDArray[Any]


def cars() -> tuple[Array, Array]:
    """Twelve cars, 26000 to 26011, and nothing else."""
    instance_map = np.kron(26000 + np.arange(12).reshape(3, 4), np.ones((8, 8), int))
    return np.full(instance_map.shape, 26, np.uint8), instance_map.astype(np.uint16)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three pairs of equal maps under different names."""
    label_map, instance_map = cars()
    for name in NAMES:
        for folder, values in (("test_label", label_map), ("test_inst", instance_map)):
            path = tmp_path / "data" / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), values)
    return tmp_path / "data"


def new_folder(data: Path) -> Path:
    """A folder for pictures that holds none: what is there already is not made again."""
    return data / f"out{sum(path.name.startswith('out') for path in data.iterdir())}"


def tables(data: Path, settings: RenderSettings, contract: Contract = CONTRACT) -> dict[str, Array]:
    """Name -> the style table that reached the server, without the rows that nobody has."""
    transport = FakeTransport(contract)
    with TritonSynthesizer("fake", transport=transport) as synthesizer:
        settings = dataclasses.replace(settings, in_flight=1, workers=1, look_ahead=1)
        folders = (data / "test_label", data / "test_inst")
        results = render_folders(synthesizer, *folders, new_folder(data), settings)
    assert all(isinstance(result, Rendered) for result in results)
    assert all(request["style"].shape == (1, 256, 2) for request in transport.requests)
    assert not any(request["style"][0, 12:].any() for request in transport.requests)
    sent = [request["style"][0, :12] for request in transport.requests]
    return dict(zip([result.key for result in results], sent, strict=True))


def test_without_a_choice_every_class_has_its_default(data: Path) -> None:
    for table in tables(data, RenderSettings()).values():
        assert (table == [0.5, -0.5]).all()


def test_a_seed_gives_every_map_a_table_of_its_own_and_always_the_same(data: Path) -> None:
    first = tables(data, RenderSettings(style_seed=5))
    again = tables(data, RenderSettings(style_seed=5))
    other = tables(data, RenderSettings(style_seed=6))
    assert len({table.tobytes() for table in first.values()}) == 3
    for key, table in first.items():
        assert np.array_equal(table, styles_by_seed(CONTRACT, *cars(), 5, key=key))
        assert np.array_equal(table, again[key])
        assert not np.array_equal(table, other[key])


def test_maps_keep_their_look_when_others_are_left_out(data: Path) -> None:
    first = tables(data, RenderSettings(style_seed=5))
    for folder in ("test_label", "test_inst"):
        (data / folder / "a.png").unlink()
    rest = tables(data, RenderSettings(style_seed=5))
    assert {key: table.tolist() for key, table in rest.items()} == {
        key: first[key].tolist() for key in NAMES[1:]
    }


def test_one_look_for_the_data_set(data: Path) -> None:
    expected = styles_by_seed(CONTRACT, *cars(), 5)
    settings = RenderSettings(style_seed=5, style_per="dataset")
    for table in tables(data, settings).values():
        assert np.array_equal(table, expected)


ROAD = dataclasses.replace(
    CONTRACT,
    style_defaults={26: (0.5, -0.5), 7: (3.0, 3.0)},
    style_clusters={**CONTRACT.style_clusters, 7: ((1.0, 1.0), (5.0, 5.0))},
)


@pytest.fixture
def road(data: Path) -> Path:
    """The maps with one car less, and road in its place, which is row 0."""
    label_map, instance_map = cars()
    label_map[:8, :8] = instance_map[:8, :8] = 7
    for name in NAMES:
        assert cv2.imwrite(str(data / "test_label" / f"{name}.png"), label_map)
        assert cv2.imwrite(str(data / "test_inst" / f"{name}.png"), instance_map)
    return data


def test_a_seed_is_for_things_unless_all_is_said(road: Path) -> None:
    things = tables(road, RenderSettings(style_seed=5), ROAD)
    every = tables(road, RenderSettings(style_seed=5, style_of="all"), ROAD)
    for key, table in things.items():
        assert table[0].tolist() == [3.0, 3.0]
        assert every[key][0].tolist() in ([1.0, 1.0], [5.0, 5.0])
        assert np.array_equal(table[1:], every[key][1:])
        assert not (table[1:] == [0.5, -0.5]).all()


def test_what_is_drawn_for_is_part_of_what_a_picture_is(road: Path) -> None:
    """The pictures are made again when it changes, and only then."""
    asked = []
    for style_of in ("things", "things", "all", "all", "things"):
        transport = FakeTransport(ROAD)
        settings = RenderSettings(style_seed=5, style_of=style_of)  # type: ignore[arg-type]
        with TritonSynthesizer("fake", transport=transport) as synthesizer:
            folders = (road / "test_label", road / "test_inst")
            results = render_folders(synthesizer, *folders, road / "out", settings)
        assert {result.key for result in results} == set(NAMES)
        asked.append(len(transport.requests))
        with Manifest(road / "out" / "manifest.sqlite") as manifest:
            row = manifest.row("a")
        assert row is not None
        style = {"seed": 5, "of": style_of, "per": "map"}
        assert json.loads(row.style) == style
        assert json.loads(json.loads(row.origin.parameters)["style"]) == style
    assert asked == [3, 0, 3, 0, 3]


def test_one_file_for_all_maps(data: Path) -> None:
    path = data / "styles.json"
    write_styles(path, StyleFile(instances={26003: (9.0, 8.0)}, labels={26: (1.0, 2.0)}))
    for contract in (CONTRACT, UNCLUSTERED):
        for table in tables(data, RenderSettings(style_file=path), contract).values():
            assert table[3].tolist() == [9.0, 8.0]
            assert (np.delete(table, 3, 0) == [1.0, 2.0]).all()


def test_a_file_for_each_map(data: Path) -> None:
    for index, name in enumerate(NAMES):
        write_styles(data / "styles" / f"{name}.json", StyleFile(labels={26: (index, 0.0)}))
    sent = tables(data, RenderSettings(style_file=data / "styles"))
    assert [table[:, 0].tolist() for table in sent.values()] == [[0] * 12, [1] * 12, [2] * 12]


def test_a_map_whose_file_is_missing_or_wrong_fails_by_name_and_the_others_come_out(
    data: Path,
) -> None:
    write_styles(data / "styles" / "b.json", StyleFile(labels={26: (1.0, 0.0)}))
    (data / "styles" / "sub").mkdir()
    (data / "styles" / "sub" / "c.json").write_text("{}")
    with TritonSynthesizer("fake", transport=FakeTransport(CONTRACT)) as synthesizer:
        settings = RenderSettings(style_file=data / "styles")
        missing, rendered, wrong = render_folders(
            synthesizer, data / "test_label", data / "test_inst", data / "out", settings
        )
    assert isinstance(missing, Failed)
    assert isinstance(missing.error, MissingInputError)
    assert f"{data / 'styles' / 'a.json'}: no such style file" in missing.reason
    assert isinstance(rendered, Rendered)
    assert isinstance(wrong, Failed)
    assert isinstance(wrong.error, SchemaError)
    assert "c.json: not a style file" in wrong.reason


def test_a_file_about_instances_that_its_map_does_not_have(data: Path) -> None:
    for name in NAMES:
        styles = StyleFile(
            instances={26003: (1.0, 1.0), **({7: (1.0, 1.0)} if name == "b" else {})}
        )
        write_styles(data / "styles" / f"{name}.json", styles)
    with TritonSynthesizer("fake", transport=FakeTransport(CONTRACT)) as synthesizer:
        folders = (data / "test_label", data / "test_inst", data / "out")
        settings = RenderSettings(style_file=data / "styles")
        first, failed, last = render_folders(synthesizer, *folders, settings)
    assert isinstance(first, Rendered)
    assert isinstance(last, Rendered)
    assert isinstance(failed, Failed)
    assert failed.reason.startswith(f"b: {data / 'styles' / 'b.json'}: b has no instances 7; ")


def test_one_file_about_instances_that_no_map_has(data: Path, start_server: Start) -> None:
    path = data / "styles.json"
    write_styles(path, StyleFile(instances={26003: (9.0, 8.0), 26099: (1.0, 2.0), 5: (1.0, 2.0)}))
    reason = r"styles\.json: no map has the instances 5, 26099; the nearest to 5 are 26000, 26001"
    out = data / "out"
    command = ["render", str(data), str(out), "--url", start_server(CONTRACT).url]
    for more in ([], ["--dry-run"], []):
        done = run_here(*command, "--style-file", path, *more)
        assert done.returncode == 1
        assert re.search(reason, done.stderr), done.stderr
        assert not out.exists()
    write_styles(path, StyleFile(instances={26099: (1.0, 2.0)}, labels={26: (1.0, 2.0)}))
    assert run_here(*command, "--style-file", path).returncode == 0


def test_a_part_of_a_data_set_may_lack_the_named_instances(data: Path, start_server: Start) -> None:
    other = cars()[1] + np.uint16(100)
    assert cv2.imwrite(str(data / "test_inst" / "b.png"), other)
    server = start_server(CONTRACT)
    command = ["render", str(data), str(data / "out"), "--url", server.url]
    for part in ("0/2", "1/2"):
        assert main([*command, "--style-clusters", "26103", "9", "--shard", part]) == 0
    assert len(server.transport.requests) == 3


@pytest.mark.parametrize(
    ("contract", "choice", "reason"),
    [
        (PLAIN, {"style_seed": 1}, "takes no style: it was trained without an encoder"),
        (PLAIN, {"style_file": Path("good.json")}, "takes no style"),
        (PLAIN, {"style_file": Path()}, "takes no style"),
        (UNCLUSTERED, {"style_seed": 1}, "no style clusters.*run `sceneloom styles`"),
        (CONTRACT, {"style_file": Path("none.json")}, r"none\.json: cannot be read"),
        (CONTRACT, {"style_file": Path("bad.json")}, r"bad\.json: .*label 40"),
    ],
)
def test_a_choice_the_model_cannot_take_is_refused_before_anything_is_rendered(
    data: Path,
    contract: Contract,
    choice: dict[str, Any],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(data)
    write_styles(Path("good.json"), StyleFile(labels={26: (1.0, 2.0)}))
    write_styles(Path("bad.json"), StyleFile(labels={40: (1.0, 2.0)}))
    transport = FakeTransport(contract)
    settings = RenderSettings(**choice)
    with (
        TritonSynthesizer("fake", transport=transport) as synthesizer,
        pytest.raises((InputError, SchemaError), match=reason),
    ):
        render_folders(synthesizer, data / "test_label", data / "test_inst", data / "out", settings)
    assert transport.requests == []
    assert not (data / "out").exists()


@pytest.mark.parametrize(
    "choice",
    [
        {"style_seed": 1, "style_file": Path("a.json")},
        {"style_per": "dataset"},
        {"style_per": "dataset", "style_file": Path("a.json")},
        {"style_per": "frame", "style_seed": 1},
        {"style_of": "all"},
        {"style_of": "all", "style_file": Path("a.json")},
        {"style_of": "stuff", "style_seed": 1},
    ],
)
def test_choices_that_do_not_go_together(choice: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^style_"):
        RenderSettings(**choice)


def test_the_command(data: Path, start_server: Start, capsys: pytest.CaptureFixture[str]) -> None:
    server = start_server(CONTRACT)
    arguments = ["render", str(data), str(data / "out"), "--url", server.url]
    flags = ["--style-seed", "5", "--style-per", "dataset"]
    assert main([*arguments, *flags]) == 0
    expected = styles_by_seed(CONTRACT, *cars(), 5)
    assert len(server.transport.requests) == 3
    for request in server.transport.requests:
        assert np.array_equal(request["style"][0, :12], expected)
    assert main([*arguments, "--style-file", str(data / "none.json")]) == 1
    assert "none.json: cannot be read" in capsys.readouterr().err
    assert main(["render", *arguments[1:4], start_server(PLAIN).url, "--style-seed", "5"]) == 1
    assert "takes no style" in capsys.readouterr().err
