"""The demo's weights, made and evaluated.

`make`: painted streets, eight stages of training, styles, and a bundle small enough for the
repository, by SceneLoom's own commands; finished ones are skipped, a stopped stage resumes from its
last checkpoint. `evaluate`: pictures at 2048x1024, segmented again, beside the oracle, in the
default style and in three drawn ones.

    python benchmarks/experiments/demo_weights.py make
    python benchmarks/experiments/demo_weights.py evaluate --out docs/results/demo-weights
    make demo-weights demo-evaluation
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from method_report import read_counts
from method_rows import JUDGE
from method_table import run_sceneloom
from sceneloom.errors import SceneLoomError
from sceneloom.text import parse_json
from sceneloom_bench.harness import CHECKOUT
from sceneloom_bench.harness import DEMO as BUNDLE
from sceneloom_serving.engines import describe_machine
from sceneloom_streets.dataset import DEMO_SEEDS, TEST_SEEDS, TRAIN_SEEDS, write_streets
from sceneloom_training.checkpoint import load_checkpoint, save_checkpoint
from sceneloom_training.evaluation.scores import score_gap

STAGES = (
    "street-demo-1-whole-512x256",
    "street-demo-2-whole-1024x512",
    "street-demo-3-crops-of-2048x1024",
    "street-demo-4-whole-2048x1024",
    "street-demo-5-balanced-crops-of-2048x1024",
    "street-demo-6-balanced-whole-2048x1024",
    "street-demo-7-markings-crops-of-2048x1024",
    "street-demo-8-markings-whole-2048x1024",
)
"""Configurations in training/configs."""
FIRST_WITH_MARKINGS = 7
"""First stage whose maps separate lane markings from the road."""
SCHEMA = "cityscapes-markings"
CLUSTERS, TESTED = 6, 24
STYLES = {"default": None, "style-seed-1": 1, "style-seed-2": 2, "style-seed-3": 3}
"""Names of the evaluations, and their style seeds."""
HEIGHT, WIDTH = 1024, 2048
DRAWS = 2000
COLUMNS = ("pixel_accuracy", "mean_iou", "frequency_weighted_iou")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoWeightsSettings:
    """Folders of the work."""

    work: Path = Path("runs/demo-weights")
    """Folder for the large streets and the training runs."""
    small: Path = Path("runs/table/streets")
    """Folder for the small streets, shared with the method's table."""


def make(
    settings: Annotated[DemoWeightsSettings, tyro.conf.OmitArgPrefixes] = DemoWeightsSettings(),
) -> int:
    """Train, or resume training, and write examples/street_demo/generator."""
    work, processes = settings.work, os.cpu_count() or 1
    large, marked = work / "streets", work / "marked"
    write_streets(settings.small, "train", TRAIN_SEEDS, height=256, width=512, processes=processes)
    for folder in (large, marked):
        write_streets(
            folder,
            "train",
            DEMO_SEEDS,
            height=1024,
            width=2048,
            processes=processes,
            labels="cityscapes-markings" if folder == marked else "cityscapes",
        )
    for number, name in enumerate(STAGES, 1):
        run, before = work / str(number), work / str(number - 1)
        whole = large if number < FIRST_WITH_MARKINGS else marked
        data = settings.small if number == 1 else whole
        flags = ["--out", str(run), "--data.root", str(data)]
        if number > 1:
            flags += ["--generator.start-from", str(before / "model")]
        if number > 1 and number != FIRST_WITH_MARKINGS:  # they see a plane more from there on
            flags += ["--discriminator.start-from", str(before)]
        run_sceneloom("train", str(CHECKOUT / "training" / "configs" / f"{name}.toml"), *flags)
    pack(work, marked)
    return 0


def pack(work: Path, streets: Path) -> None:
    """Cluster the styles, and write the small bundle."""
    data = ("--layout", "pix2pixhd", "--root", str(streets), "--labels", SCHEMA)
    styled = work / "styled"
    model = work / str(len(STAGES)) / "model"
    run_sceneloom("styles", str(model), "--out", str(styled), "--clusters", str(CLUSTERS), *data)
    trained = load_checkpoint(styled)
    stages = [
        load_checkpoint(work / str(number) / "model").provenance
        for number in range(1, len(STAGES) + 1)
    ]
    provenance = {
        "trained_on": "procedural streets only",
        "stages": [
            {"config": f"training/configs/{name}.toml", "steps": stage["steps"]}
            for name, stage in zip(STAGES, stages, strict=True)
        ],
        "device": stages[-1]["device"],
        "versions": stages[-1]["versions"],
    }
    save_checkpoint(
        BUNDLE,
        trained.generator,
        trained.contract,
        provenance,
        encoder=trained.encoder,
        half=True,
    )
    print(f"wrote {BUNDLE}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoEvaluationSettings:
    """The model and the folders of the work."""

    work: Path = Path("runs/demo-weights")
    """Folder for the large streets and the evaluations with their sheets and pages."""
    checkpoint: Path = BUNDLE
    """The bundle."""
    segmenter: Path = JUDGE
    """The judge."""


def evaluate(
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    settings: Annotated[
        DemoEvaluationSettings, tyro.conf.OmitArgPrefixes
    ] = DemoEvaluationSettings(),
) -> int:
    """Evaluate the weights that the demo uses.

    Args:
        out: folder of the results.
        settings: model and folders.
    """
    streets = settings.work / "marked"
    write_streets(
        streets,
        "test",
        TEST_SEEDS[:TESTED],
        height=HEIGHT,
        width=WIDTH,
        processes=os.cpu_count() or 1,
        labels="cityscapes-markings",
    )
    folders = {name: settings.work / "evaluated" / name for name in STYLES}
    for name, seed in STYLES.items():
        style = () if seed is None else ("--style-seed", str(seed), "--style-of", "all")
        run_sceneloom(
            *("evaluate", "--out", str(folders[name]), "--size", f"{WIDTH}x{HEIGHT}"),
            *("--checkpoint", str(settings.checkpoint), "--segmenter", str(settings.segmenter)),
            *("--data.layout", "pix2pixhd", "--data.root", str(streets), "--data.split", "test"),
            *("--data.labels", SCHEMA),
            *style,
        )
    title, again = "The demo's weights, evaluated", "make demo-evaluation"
    write_results(out, folders, title=title, again=again)
    return 0


def write_results(out: Path, folders: Mapping[str, Path], *, title: str, again: str) -> None:
    """Write the evaluations and their table (`describe`) into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    for name, folder in folders.items():
        shutil.copyfile(folder / "evaluation.json", out / f"{name}.json")
    (out / "README.md").write_text(describe(folders, title=title, again=again), "utf-8")
    print(f"wrote {out / 'README.md'}")


def describe(folders: Mapping[str, Path], *, title: str, again: str) -> str:
    """The table in Markdown, from name -> folder of an evaluation; differences from ``default`` are
    paired by street.
    """
    said: dict[str, dict[str, Any]] = {
        name: parse_json((folder / "evaluation.json").read_text("utf-8"))
        for name, folder in folders.items()
    }
    first, counts = said["default"], read_counts(folders["default"], "pictures")
    rows = [_row("real photographs (oracle)", first["scores"]["oracle"], "")]
    for name, one in said.items():
        lost = ""
        if name != "default":
            drawn = read_counts(folders[name], "pictures")
            gap = score_gap(drawn, counts, draws=DRAWS, seed=0).mean_iou
            lost = _interval({"value": gap.value, "low": gap.low, "high": gap.high}, "+")
        rows.append(_row(name.replace("-", " "), one["scores"]["pictures"], lost))
    machine = describe_machine()
    cores = f"{machine['cores']} cores of {machine['cpu']}"
    on = ", ".join(machine["gpus"]) or cores
    judge = first["segmenter"]
    rendered = ", ".join(first["rendered_sizes"])
    classes = []
    for row in first["classes"]:
        if row["pictures"]["value"] is not None:
            figures = [row["share"], row["pictures"]["value"], row["oracle"]["value"]]
            classes.append(f"| {row['name']} | {' | '.join(f'{100 * f:.1f}' for f in figures)} |")
    return f"""# {title}

{first["data"]["pictures"]} procedural test streets, rendered at {rendered} and segmented at
{first["segmented_size"]} by the judge of the method's table ({judge["name"]}, SHA-256
`{judge["weights_sha256"]}`). Weights: SHA-256 `{first["source"]["weights_sha256"]}`.
95 % bootstrap intervals over the streets; the last column is the style's mean IoU minus the
default's, on the same streets. {on}. Again: `{again}`.

| pictures | pixel accuracy | mean IoU | frequency-weighted IoU | against default |
|---|---|---|---|---|
{chr(10).join(rows)}

By class, IoU of the default style beside the oracle:

| class | share of pixels | pictures | oracle |
|---|---|---|---|
{chr(10).join(classes)}
"""


def _row(title: str, scores: Mapping[str, Mapping[str, float]], lost: str) -> str:
    cells = [_interval(scores[column]) for column in COLUMNS]
    return f"| {title} | {' | '.join(cells)} | {lost} |"


def _interval(score: Mapping[str, Any], sign: str = "") -> str:
    value, low, high = (f"{100 * score[key]:{sign}.1f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


if __name__ == "__main__":
    try:
        commands: dict[str, Any] = {"make": make, "evaluate": evaluate}
        sys.exit(tyro.extras.subcommand_cli_from_dict(commands))
    except SceneLoomError as error:
        sys.exit(f"demo weights: {error}")
