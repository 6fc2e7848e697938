"""The method's table: its rows are commands that exist, its figures those of the counts."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tyro

from method_table import (
    BASELINE,
    CONFIG,
    CONTROLS,
    PUBLISHED,
    ROWS,
    SEGMENTER_FLAGS,
    Row,
    TableSettings,
    chance,
    compute,
    read_counts,
    waves,
    with_perceptual,
    write_report,
    wrong_classes,
)
from sceneloom.errors import InputError
from sceneloom.schema import load_schema
from sceneloom_training.evaluation.scores import ClassCounts, count_classes, score
from sceneloom_training.evaluation.segmenter_settings import SegmenterSettings
from sceneloom_training.settings import TrainSettings
from sceneloom_training.train_command import read_flags


def settings_of(row: Row) -> TrainSettings:
    flags = [*read_flags(CONFIG), *row.flags]
    return tyro.cli(TrainSettings, args=flags)


@pytest.mark.parametrize("row", [*ROWS, *with_perceptual(Path("vgg.pth"))], ids=lambda r: r.name)
def test_every_row_is_flags_that_train_takes(row: Row) -> None:
    settings = settings_of(row)
    assert settings.geometry.size == row.size
    assert settings.schedule.epochs + settings.schedule.decay_epochs == 2
    assert settings.compute.precision == "bfloat16"


def test_rows_differ_in_what_their_titles_say() -> None:
    found = {row.name: settings_of(row) for row in ROWS}
    assert found[BASELINE].generator.network == "unet"
    assert found["one-discriminator"].discriminator.scales == 1
    assert found[PUBLISHED].discriminator.scales == 3
    assert found["no-feature-matching"].loss.feature_matching == 0
    assert not found["no-boundary"].generator.boundaries
    for name, inside in (("coarse-to-fine", PUBLISHED), ("coarse-to-fine-modern", "modern")):
        outer, inner = found[name], found[inside]
        assert outer.generator.ngf * 2 == inner.generator.ngf
        assert outer.generator.padding == inner.generator.padding
        assert outer.loss == inner.loss


def test_the_judge_is_flags_that_train_segmenter_takes() -> None:
    at = SEGMENTER_FLAGS.index("--data.labels")
    schema = load_schema(SEGMENTER_FLAGS[at + 1])
    every = {label.id: label for label in load_schema("cityscapes-eval").labels}
    assert all(every[label.id] == label for label in schema.labels)
    assert schema.channels == 15
    flags = [*SEGMENTER_FLAGS[:at], *SEGMENTER_FLAGS[at + 2 :]]
    settings = tyro.cli(SegmenterSettings, args=flags)
    assert (settings.size, settings.half) == ("256x128", True)


def test_what_others_start_from_comes_first() -> None:
    first, later = waves([*ROWS, *CONTROLS])
    assert {cell.row.starts_from for cell in first} == {""}
    done = {cell.name for cell in first}
    for cell in later:
        assert f"{cell.row.starts_from or PUBLISHED}-seed{cell.seed}" in done
    assert sum(cell.row.name == PUBLISHED for cell in first) == 2


def test_unknown_rows_are_refused() -> None:
    with pytest.raises(InputError, match="no row 'gan'; there are pix2pix"):
        TableSettings(rows=("gan",))


def test_the_control_makes_every_class_another() -> None:
    table = wrong_classes(35)
    ids = [x.id for x in load_schema(CONFIG.with_name("street-classes.json")).labels]
    assert sorted(table[ids]) == sorted(ids)
    assert (table[ids] != ids).all()
    assert table[255] == 255


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
    training |= {"flags": list(row.flags), "perceptual_loss": "off: none"}
    training["settings"] = {"loss": {"l1": 100.0}}
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
    quality = {BASELINE: 0.3, PUBLISHED: 0.6, "modern": 0.61}
    for row in ROWS:
        for seed in row.seeds if row.name in quality else ():
            write_cell(tmp_path / "cells" / f"{row.name}-seed{seed}", row, seed, quality[row.name])
    write_report(tmp_path, ROWS)
    table = json.loads((tmp_path / "table.json").read_text())
    assert [row["name"] for row in table["rows"]] == [BASELINE, PUBLISHED, "modern", "oracle"]
    assert table["differences"][BASELINE]["high"] < 0 < table["differences"]["oracle"]["low"]
    text = (tmp_path / "README.md").read_text()
    assert "without the perceptual loss" in text
    assert "without the perceptual loss (L1 of weight 100 in its place)" in text
    points = 100 * table["above_pix2pix"][PUBLISHED]["mean_IoU"]["value"]
    assert f"mean IoU above pix2pix's ({points:+.1f} (" in text
    assert "The oracle's interval is above that of every other row." in text
    folder = tmp_path / "cells" / f"{BASELINE}-seed0"
    assert read_counts(folder, "pictures").true.shape == (30, 4)
    assert cv2.imread(str(tmp_path / "pictures.jpg")).shape == (3 * 128, 256, 3)
