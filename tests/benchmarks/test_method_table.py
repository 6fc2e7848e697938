"""The method's table: its rows are commands that exist, its figures those of the counts."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tyro

from method_report import chance, compute, read_counts, write_report
from method_rows import BASELINE, CAMVID, STREETS, TABLES, Row, Table, waves
from method_table import TableSettings, main, thin_curves, wrong_classes
from sceneloom.errors import InputError
from sceneloom.schema import load_schema
from sceneloom_training.evaluation.scores import ClassCounts, count_classes, score
from sceneloom_training.settings import SegmenterSettings, TrainSettings
from sceneloom_training.train_command import read_flags

TRAINED = [
    pytest.param(table, row, id=f"{name}-{row.name}")
    for name, table in TABLES.items()
    for row in table.trained_rows
]


def settings_of(table: Table, row: Row) -> TrainSettings:
    flags = [*read_flags(table.config), *row.flags]
    return tyro.cli(TrainSettings, args=flags)


@pytest.mark.parametrize(("table", "row"), TRAINED)
def test_every_row_is_flags_that_train_takes(table: Table, row: Row) -> None:
    settings = settings_of(table, row)
    assert settings.geometry.size == (row.size or table.size)
    assert settings.compute.precision == "auto"
    assert settings.generator.boundaries == row.has_boundaries
    assert settings.data.layout == table.data["layout"]
    if row.has_boundaries:
        assert settings.data.boundaries == table.data.get("boundaries", "instances")


def test_the_rows_of_streets_have_equal_steps() -> None:
    for row in STREETS.trained_rows:
        schedule = settings_of(STREETS, row).schedule
        assert schedule.epochs + schedule.decay_epochs == 2


def test_rows_differ_in_what_their_titles_say() -> None:
    found = {row.name: settings_of(STREETS, row) for row in STREETS.trained_rows}
    assert found[BASELINE].generator.network == "unet"
    assert found["one-discriminator"].discriminator.scales == 1
    assert found[STREETS.published].discriminator.scales == 3
    assert found["no-feature-matching"].loss.feature_matching == 0
    assert not found["no-boundary"].generator.boundaries
    for name, inside in (
        ("coarse-to-fine", STREETS.published),
        ("coarse-to-fine-modern", "modern"),
    ):
        outer, inner = found[name], found[inside]
        assert outer.generator.ngf * 2 == inner.generator.ngf
        assert outer.generator.padding == inner.generator.padding
        assert outer.loss == inner.loss


@pytest.mark.parametrize("table", [STREETS, CAMVID], ids=list(TABLES))
def test_rows_with_the_perceptual_loss(table: Table) -> None:
    found = {row.name: settings_of(table, row) for row in table.trained_rows}
    on = {name for name, each in found.items() if each.loss.vgg and each.loss.perceptual}
    assert on == {"perceptual", "segmenting"}
    assert found["perceptual"].discriminator.scales == 3
    assert found["segmenting"].discriminator.kind == "segmenting"
    assert {name for name in on if found[name].loss.l1} == set()


@pytest.mark.parametrize(("table", "classes"), [(STREETS, 15), (CAMVID, 11)], ids=list(TABLES))
def test_the_judge_is_flags_that_train_segmenter_takes(table: Table, classes: int) -> None:
    schema = load_schema(table.classes)
    of = "cityscapes-eval" if table is STREETS else "camvid"
    every = {label.id: label for label in load_schema(of).labels}
    assert all(every[label.id] == label for label in schema.labels)
    assert schema.channels == classes
    settings = tyro.cli(SegmenterSettings, args=[*table.judge_flags])
    assert settings.size == table.size


def test_what_others_start_from_comes_first() -> None:
    first, later = waves(STREETS.rows)
    assert {cell.row.starts_from for cell in first} == {""}
    done = {cell.name for cell in first}
    for cell in later:
        assert f"{cell.row.starts_from or STREETS.published}-seed{cell.seed}" in done
    assert sum(cell.row.name == STREETS.published for cell in first) == 2


def test_unknown_rows_are_refused() -> None:
    with pytest.raises(InputError, match="no row 'gan'; there are pix2pix"):
        main("camvid", TableSettings(rows=("gan",)))
    with pytest.raises(InputError, match="--camvid takes the folder"):
        main("camvid", TableSettings())


@pytest.mark.parametrize(
    ("table", "model"), [(STREETS, "cityscapes"), (CAMVID, "camvid")], ids=list(TABLES)
)
def test_the_control_makes_every_class_another(table: Table, model: str) -> None:
    judged = load_schema(table.classes)
    to = wrong_classes(load_schema(model), judged)
    ids = [label.id for label in judged.labels]  # these schemas' channels are their ids
    assert sorted(to[ids]) == sorted(ids)
    assert (to[ids] != ids).all()
    assert to[255] == 255


def test_curves_are_means_over_equal_parts() -> None:
    entries = [
        {"step": 20 * n, "epoch": 0.1, "learning_rate": 1e-4, "perceptual": float(n)}
        for n in range(1, 161)
    ]
    curves = thin_curves(entries)
    assert curves["step"] == [40 * n for n in range(1, 81)]
    assert curves["perceptual"] == [2 * n - 0.5 for n in range(1, 81)]
    assert set(curves) == {"step", "perceptual"}
    assert thin_curves(entries[:3])["perceptual"] == [1, 2, 3]


def test_chance_is_what_guesses_score() -> None:
    rng = np.random.default_rng(5)
    true = rng.choice(4, (20, 64, 64), p=[0.7, 0.2, 0.1, 0]).astype(np.uint8)
    guess = rng.choice(4, true.shape, p=[0.4, 0.4, 0.1, 0.1]).astype(np.uint8)
    counts = count_classes(guess, true, 4)
    assert chance(counts) == pytest.approx(compute([counts]).values[1], abs=2e-3)


def random_counts(seed: int, right: float) -> ClassCounts:
    rng = np.random.default_rng(seed + 10)
    true = np.random.default_rng(0).integers(0, 4, (30, 16, 16), dtype=np.uint8)
    guess = rng.integers(0, 4, true.shape, dtype=np.uint8)
    return count_classes(np.where(rng.random(true.shape) < right, true, guess), true, 4)


def test_one_seed_has_the_figures_of_the_evaluation() -> None:
    counts = random_counts(1, 0.5)
    figures, scored = compute([counts]), score(counts, draws=2000, seed=0)
    wanted = (scored.pixel_accuracy, scored.mean_iou, scored.frequency_weighted_iou)
    for column, interval in enumerate(wanted):
        assert figures.values[column] == pytest.approx(interval.value)
        assert figures.interval(column) == pytest.approx((interval.low, interval.high))


def test_seeds_that_differ_widen_the_interval() -> None:
    same = compute([random_counts(1, 0.5), random_counts(2, 0.5)])
    apart = compute([random_counts(1, 0.3), random_counts(2, 0.7)])
    width = [np.subtract(*figures.interval(1)[::-1]) for figures in (same, apart)]
    assert width[1] > 3 * width[0]


def write_cell(folder: Path, row: Row, seed: int, right: float) -> None:
    folder.mkdir(parents=True)
    counts, oracle = random_counts(seed, right), random_counts(99, 0.9)
    arrays = {f"pictures_{k}": v for k, v in vars(counts).items()}
    arrays |= {f"oracle_{k}": v for k, v in vars(oracle).items()}
    np.savez_compressed(folder / "counts.npz", **arrays)
    segmenter = {"name": "UNet", "weights_sha256": "0" * 64, "schema": "cityscapes-eval"}
    said = {"segmenter": segmenter, "segmented_size": "256x128", "data": {"pictures": 30}}
    (folder / "evaluation.json").write_text(json.dumps(said))
    training = {"hours": 0.1, "steps": 3000, "parameters": {"generator": 5}, "seed": seed}
    training |= {"flags": list(row.flags)}
    training |= {"core_hours": 0.2, "curves": {"step": [20, 40], "discriminator": [2.0, 1.0]}}
    training["machine"] = {
        "cores": 2,
        "cpu": "a processor",
        "memory_gib": 4,
        "gpus": [],
        "versions": {"torch": "2"},
    }
    (folder / "training.json").write_text(json.dumps(training))
    cv2.imwrite(str(folder / "street_1000000.jpg"), np.full((128, 256, 3), 90, np.uint8))


def test_report_of_what_is_finished(tmp_path: Path) -> None:
    published = STREETS.published
    quality = {BASELINE: 0.3, published: 0.6, "modern": 0.61}
    for row in STREETS.rows:
        for seed in row.seeds if row.name in quality else ():
            write_cell(tmp_path / "cells" / f"{row.name}-seed{seed}", row, seed, quality[row.name])
    write_report(tmp_path, STREETS)
    table = json.loads((tmp_path / "table.json").read_text())
    assert [row["name"] for row in table["rows"]] == [BASELINE, published, "modern", "oracle"]
    assert table["differences"][BASELINE]["high"] < 0 < table["differences"]["oracle"]["low"]
    text = (tmp_path / "README.md").read_text()
    points = 100 * table["above_pix2pix"][published]["mean_IoU"]["value"]
    assert f"mean IoU above pix2pix's ({points:+.1f} (" in text
    assert "The oracle's interval is above that of every other row." in text
    best, oracle = (table["rows"][n]["mean_IoU"]["value"] for n in (2, 3))
    assert f"has {100 * best / oracle:.0f} % of the oracle's mean IoU." in text
    assert "Frechet" not in text
    folder = tmp_path / "cells" / f"{BASELINE}-seed0"
    assert read_counts(folder, "pictures").true.shape == (30, 4)
    assert cv2.imread(str(tmp_path / "pictures.jpg")).shape == (3 * 128, 256, 3)
    assert cv2.imread(str(tmp_path / "curves.png")) is not None


def test_a_report_of_photographs_that_may_not_be_shown(tmp_path: Path) -> None:
    row = CAMVID.row("perceptual")
    for seed in row.seeds:
        folder = tmp_path / "cells" / f"{row.name}-seed{seed}"
        write_cell(folder, row, seed, 0.5)
        (folder / "street_1000000.jpg").unlink()
        said = json.loads((folder / "evaluation.json").read_text())
        said["fid"] = {"value": 12.25 + seed, "network": "EfficientNet-Lite0"}
        (folder / "evaluation.json").write_text(json.dumps(said))
    write_report(tmp_path, CAMVID)
    text = (tmp_path / "README.md").read_text()
    assert "| 12.2, 13.2 | 3000 | 0.20, 0.20 |" in text
    assert "pictures.jpg" not in text
    assert "make camvid-table" in text
    assert [p.name for p in tmp_path.rglob("*.jpg")] == []
