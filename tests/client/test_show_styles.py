"""`sceneloom styles show`: the clusters of a model, and the instances and draws of a map."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from map_sets import as_png

import sceneloom
from sceneloom.cli import main
from sceneloom.contract import Contract
from sceneloom.schema import load_schema

if TYPE_CHECKING:
    from conftest import Start

STYLED = Contract(
    schema=load_schema("cityscapes"),
    boundaries=True,
    style_channels=2,
    style_defaults={7: (0.25, 0.0), 26: (0.5, -0.5)},
    style_clusters={26: ((0.5, 1.5), (0.0, -0.5), (3.0, 3.0))},
    size_multiple=8,
)
CLUSTERS = """\
label  class  cluster  distance  style
7      road   default            0.25 0
26     car    default            0.5 -0.5
26     car    0        2         0.5 1.5
26     car    1        0.5       0 -0.5
26     car    2        4.3       3 3
distance: from the class's default, which instances have without seed
"""


@pytest.fixture
def maps(tmp_path: Path) -> list[str]:
    """Flags of a map: road, cars 26001 and 26005, and cars that were not told apart."""
    label_map, instance_map = street()
    (tmp_path / "ulm.png").write_bytes(as_png(label_map))
    (tmp_path / "ulm_inst.png").write_bytes(as_png(instance_map.astype(np.uint16)))
    return ["--map", str(tmp_path / "ulm.png"), "--instances", str(tmp_path / "ulm_inst.png")]


def street() -> tuple[np.ndarray, np.ndarray]:
    instance_map = np.full((16, 24), 7, np.int32)
    instance_map[2:6, 3:9] = 26005
    instance_map[10:12, 20:24] = 26001
    instance_map[15, 0] = instance_map[0, 23] = 26
    return np.where(instance_map == 7, 7, 26).astype(np.uint8), instance_map


def checkpoint(folder: Path, contract: Contract | None) -> str:
    document = {"format": 1, "contract": contract.to_json() if contract else None}
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps(document))
    return str(folder)


def test_clusters_of_a_checkpoint_an_export_and_a_served_model(
    tmp_path: Path, start_server: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["styles", "show", checkpoint(tmp_path / "model", STYLED)]) == 0
    assert capsys.readouterr().out == CLUSTERS
    (tmp_path / "export").mkdir()
    report = {"contract": dataclasses.replace(STYLED, bundle_hash="0" * 64).to_json()}
    (tmp_path / "export" / "report.json").write_text(json.dumps(report))
    assert main(["styles", "show", str(tmp_path / "export")]) == 0
    assert capsys.readouterr().out == CLUSTERS
    assert main(["styles", "show", "--url", start_server(STYLED).url]) == 0
    assert capsys.readouterr().out == CLUSTERS


def test_instances_of_a_map_and_the_draw_of_a_seed(
    tmp_path: Path, maps: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    model = checkpoint(tmp_path / "model", STYLED)
    drawn = sceneloom.clusters_by_seed(STYLED, *street(), 7, key="ulm")
    assert drawn.keys() == {26001, 26005}
    assert main(["styles", "show", model, *maps, "--style-seed", "7"]) == 0
    lines = [line.split(maxsplit=7) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["instance", "class", "pixels", "left", "top", "width", "height", "cluster"],
        ["7", "road", "350", "0", "0", "24", "16", "default (0)"],
        ["26", "car", "2", "0", "0", "24", "16", "default (3)"],
        ["26001", "car", "8", "20", "10", "4", "2", f"{drawn[26001]} of 3"],
        ["26005", "car", "24", "3", "2", "6", "4", f"{drawn[26005]} of 3"],
    ]


def test_the_draw_follows_key_and_kind_as_render_does(
    tmp_path: Path, maps: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    model = checkpoint(tmp_path / "model", STYLED)
    for seed in range(5):
        flags = ["--style-seed", str(seed), "--key", "", "--style-of", "all"]
        assert main(["styles", "show", model, *maps, *flags]) == 0
        lines = capsys.readouterr().out.splitlines()[1:]
        drawn = sceneloom.clusters_by_seed(STYLED, *street(), seed, of="all")
        shown = {int(line.split()[0]): line.split()[7] for line in lines}
        assert {key: value for key, value in shown.items() if value != "default"} == {
            key: str(index) for key, index in drawn.items()
        }


def test_a_model_without_clusters_still_lists_instances(
    tmp_path: Path, maps: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    model = checkpoint(tmp_path / "model", dataclasses.replace(STYLED, style_clusters={}))
    assert main(["styles", "show", model]) == 0
    assert "no clusters to draw from; sceneloom styles CHECKPOINT" in capsys.readouterr().out
    assert main(["styles", "show", model, *maps]) == 0
    assert capsys.readouterr().out.count("default (0)") == 4


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "name a model: BUNDLE, or --url HOST:PORT of a server"),
        (["model", "--url", "127.0.0.1:1"], "name a model: BUNDLE, or --url"),
        (["nowhere"], "nowhere: no such folder; name a checkpoint bundle, such as RUN/model"),
        (["run"], "run: holds neither model.json nor report.json; its checkpoint is in the folder"),
        (["plain"], "this model takes no style: it was trained without an encoder"),
        (["pictures"], "has no contract; a model of pictures takes no style"),
        (["damaged"], "damaged/model.json: not readable as JSON"),
        (["model", "--instances", "a.png"], "--instances FILE belongs to a label map: name it"),
        (["model", "--map", "a.png", "--instances", "b.png"], "a.png: cannot be read"),
    ],
)
def test_refusals(
    tmp_path: Path,
    arguments: list[str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint(Path("model"), STYLED)
    checkpoint(Path("run/model"), STYLED)
    checkpoint(Path("plain"), dataclasses.replace(
        STYLED, style_channels=0, style_defaults={}, style_clusters={}
    ))  # fmt: skip
    checkpoint(Path("pictures"), None)
    Path(checkpoint(Path("damaged"), None), "model.json").write_text("{")
    assert main(["styles", "show", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("sceneloom styles show: ")
    assert reason in error


def test_the_style_functions_are_public() -> None:
    names = ("clusters_by_seed", "default_styles", "list_instances", "styles_by_cluster")
    for name in (*names, "styles_by_seed"):
        assert name in sceneloom.__all__
        assert callable(getattr(sceneloom, name))
    [road, *_, car] = sceneloom.list_instances(STYLED, *street())
    assert (road.id, road.label_id, road.name, road.pixels) == (7, 7, "road", 350)
    assert (car.top, car.left, car.height, car.width) == (2, 3, 4, 6)
    drawn = sceneloom.clusters_by_seed(STYLED, *street(), 3, key="a")
    assert np.array_equal(
        sceneloom.styles_by_cluster(STYLED, *street(), drawn),
        sceneloom.styles_by_seed(STYLED, *street(), 3, key="a"),
    )
