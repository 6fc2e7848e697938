"""The drivers of the method's table and of the demo's weights, from painting to the last file, with
networks and streets so small that their pictures mean nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from support import CHECKOUT

import demo_weights
import method_table
import styled_model
from demo_weights import STYLES, DemoEvaluationSettings, DemoWeightsSettings
from method_rows import BASELINE, CAMVID, CONTROL, OTHERS, STREETS, TABLES, Row
from method_table import TableSettings
from sceneloom import cli
from sceneloom_streets import dataset
from sceneloom_training.checkpoint import load_checkpoint
from styled_model import StyledModelSettings

TINY = (
    *("--generator.global-blocks", "1"),
    *("--discriminator.ndf", "2"),
    *("--schedule.max-steps", "1"),
    *("--compute.workers", "0"),
    *("--compute.device", "cpu"),
    *("--compute.precision", "float32"),  # a CPU without bfloat16 takes ten times as long for it
    *("--record.held-out", "0"),
)
NO_BOUNDARIES = ("--generator.no-boundaries", "--data.boundaries", "instances")
TINY_SEGMENTER = ("--width", "8", "--epochs", "1", "--workers", "0", "--device", "cpu")


def write_small_streets(
    folder: Path,
    split: str,
    seeds: Sequence[int],
    *,
    height: int,
    width: int,
    processes: int,
    labels: str = "cityscapes",
) -> None:
    assert width == 2 * height
    assert processes >= 1
    assert labels == ("cityscapes-markings" if folder.name == "marked" else "cityscapes")
    dataset.write_streets(
        folder, split, seeds[:4], height=128, width=256, processes=1, labels=labels
    )


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands run in this process, small ones; what was run."""
    run: list[list[str]] = []

    def here(*arguments: str, threads: int | None = None, quiet: bool = False) -> float:
        small = {"train": TINY, "train-segmenter": TINY_SEGMENTER}.get(arguments[0], ())
        if any(part in Path(arguments[1]).name for part in ("crop", "whole-1024x512")):
            small += ("--geometry.size", "64x64")
        run.append([*arguments, *small])
        assert cli.main(run[-1]) == 0
        return 7.2

    for driver in (method_table, demo_weights, styled_model):
        monkeypatch.setattr(driver, "run_sceneloom", here)
        monkeypatch.setattr(driver, "write_streets", write_small_streets)
    return run


@pytest.mark.slow
def test_the_table_from_nothing_and_again(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = STREETS.published
    row = Row(name=published, title="tiny", flags=("--generator.ngf", "2"), seeds=(0,))
    monkeypatch.setitem(TABLES, "streets", dataclasses.replace(STREETS, trained_rows=(row,)))
    out = tmp_path / "out"
    settings = TableSettings(out=out, work=tmp_path / "work", jobs=1, new_judge=True)
    assert method_table.main("streets", settings) == 0
    rest = ["train", "evaluate"] * 2
    assert [c[0] for c in commands] == ["train", "train-segmenter", "evaluate", *rest]
    table = json.loads((out / "table.json").read_text())
    names = [published, CONTROL.name, OTHERS.name, "oracle"]
    assert [found["name"] for found in table["rows"]] == names
    record = json.loads((out / "cells" / f"{published}-seed0" / "training.json").read_text())
    assert (record["steps"], record["settings"]["data"]["root"]) == (1, "streets")
    assert record["core_hours"] == 0.002
    assert str(tmp_path) not in "".join(p.read_text() for p in out.rglob("*.json"))
    pictures = [cv2.imread(str(p)) for p in sorted((out / "cells").glob("*/street_*.jpg"))]
    assert [picture.shape for picture in pictures] == [(128, 256, 3)] * 9
    commands.clear()
    assert method_table.main("streets", settings) == 0  # nothing is left to do
    assert commands == []


@pytest.mark.slow
def test_the_table_of_photographs_keeps_none_of_them(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, rng = tmp_path / "camvid", np.random.default_rng(0)
    for split in ("train", "test"):
        for kind, shape, most in (("img", (48, 64, 3), 256), ("label", (48, 64), 12)):
            (root / f"{split}_{kind}").mkdir(parents=True)
            for n in range(4):
                picture = rng.integers(0, most, shape, np.uint8)
                cv2.imwrite(str(root / f"{split}_{kind}" / f"{n}.png"), picture)
    tiny = ("--loss.perceptual", "0", "--generator.ngf", "2", "--geometry.size", "64x48")
    rows = (
        Row(name=BASELINE, title="a", flags=(*tiny, *NO_BOUNDARIES), seeds=(0,)),
        Row(name=CAMVID.published, title="b", flags=tiny, seeds=(0,)),
    )
    table = dataclasses.replace(CAMVID, trained_rows=rows, size="64x48", has_distance=False)
    monkeypatch.setitem(TABLES, "camvid", table)
    out = tmp_path / "out"
    settings = TableSettings(out=out, work=tmp_path / "work", jobs=1, camvid=root)
    assert method_table.main("camvid", settings) == 0
    found = json.loads((out / "table.json").read_text())
    names = [BASELINE, CAMVID.published, CONTROL.name, OTHERS.name, "oracle"]
    assert [row["name"] for row in found["rows"]] == names
    files = {path.name for path in out.rglob("*") if path.is_file()}
    said = {"README.md", "table.json", "evaluation.json", "training.json", "counts.npz"}
    assert files == said | {"curves.png"}
    assert str(tmp_path) not in "".join(p.read_text() for p in out.rglob("*.json"))


@pytest.mark.slow
def test_the_demo_weights_and_their_evaluation_from_nothing(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_weights, "BUNDLE", tmp_path / "generator")
    work = tmp_path / "work"
    settings = DemoWeightsSettings(work=work, small=tmp_path / "small")
    assert demo_weights.make(settings) == 0
    trained = [c for c in commands if c[0] == "train"]
    configs = [Path(c[1]) for c in trained]
    assert configs == sorted((CHECKOUT / "training" / "configs").glob("street-demo-*.toml"))
    for number, command in enumerate(trained[1:], 1):
        assert str(work / str(number) / "model") in command
        root = command[command.index("--data.root") + 1]
        assert root == str(work / ("marked" if "markings" in configs[number].name else "streets"))
    bundle = load_checkpoint(tmp_path / "generator")
    assert bundle.contract.style_clusters
    assert bundle.encoder is not None  # for the style of a photograph
    assert [stage["steps"] for stage in bundle.provenance["stages"]] == [1] * len(configs)
    assert str(tmp_path) not in (tmp_path / "generator" / "model.json").read_text()

    commands.clear()
    monkeypatch.setattr(demo_weights, "TESTED", 4)
    monkeypatch.setattr(demo_weights, "HEIGHT", 128)
    monkeypatch.setattr(demo_weights, "WIDTH", 256)
    judge = CHECKOUT / "tests" / "colour_segmenter.py"
    settings = DemoEvaluationSettings(work=work, checkpoint=tmp_path / "generator", segmenter=judge)
    assert demo_weights.evaluate(out=tmp_path / "out", settings=settings) == 0
    assert [command[0] for command in commands] == ["evaluate"] * len(STYLES)
    said = {p.stem: json.loads(p.read_text()) for p in (tmp_path / "out").glob("*.json")}
    assert {name: one["source"]["style_seed"] for name, one in said.items()} == STYLES
    drawn_for = {name: seed and "all" for name, seed in STYLES.items()}
    assert {name: one["source"]["style_of"] for name, one in said.items()} == drawn_for
    text = (tmp_path / "out" / "README.md").read_text()
    score = 100 * said["style-seed-2"]["scores"]["pictures"]["mean_iou"]["value"]
    gap = score - 100 * said["default"]["scores"]["pictures"]["mean_iou"]["value"]
    (row,) = [line for line in text.splitlines() if line.startswith("| style seed 2")]
    assert f"| {score:.1f} (" in row
    assert f"| {gap:+.1f} (" in row
    assert said["default"]["source"]["weights_sha256"] in text


@pytest.mark.slow
def test_the_styled_model_from_nothing(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ("default", "style-seed-1-of-all")
    styles = {name: styled_model.STYLES[name] for name in kept}
    monkeypatch.setattr(styled_model, "STYLES", styles)
    judge = CHECKOUT / "tests" / "colour_segmenter.py"
    settings = StyledModelSettings(
        streets=tmp_path / "streets", work=tmp_path / "work", segmenter=judge
    )
    assert styled_model.main(out=tmp_path / "out", settings=settings) == 0
    assert [command[0] for command in commands] == ["train", "styles", "evaluate", "evaluate"]
    said = {p.stem: json.loads(p.read_text()) for p in (tmp_path / "out").glob("*.json")}
    sources = {
        name: (s["source"]["style_seed"], s["source"]["style_of"]) for name, s in said.items()
    }
    assert sources == {"default": (None, None), "style-seed-1-of-all": (1, "all")}
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| style seed 1 of all | " in text
    assert "make styled-model" in text
