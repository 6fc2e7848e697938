"""The demo's weights: painted streets, eight stages of training, styles, and a bundle small enough
for the repository.

Everything is a command that users have, run one after the other; what is finished is skipped, and
a stage that was stopped goes on from its last checkpoint.

    python -m sceneloom_bench.demo_weights
    make demo-weights
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import tyro

from sceneloom.errors import SceneLoomError
from sceneloom_bench.commands import CHECKOUT, run_sceneloom
from sceneloom_streets.dataset import DEMO_SEEDS, TRAIN_SEEDS, write_streets
from sceneloom_training.checkpoint import load_checkpoint, save_checkpoint

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
"""Stage from which on the maps tell what is painted on the road from the road."""
SCHEMA = "cityscapes-markings"
EXAMPLE = CHECKOUT / "examples" / "street_demo"
BUNDLE, SEGMENTER = EXAMPLE / "generator", EXAMPLE / "segmenter"
CLUSTERS, TESTED = 6, 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoWeightsSettings:
    """Where they are made."""

    work: Path = Path("runs/demo-weights")
    """Folder for the large streets and the training runs."""
    small: Path = Path("runs/table/streets")
    """Folder for the small streets, which the method's table is made of too."""


def main(settings: DemoWeightsSettings) -> int:
    """Train, or go on training, and write examples/street_demo/generator."""
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
            markings=folder == marked,
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


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(DemoWeightsSettings)))
    except SceneLoomError as error:
        sys.exit(f"demo weights: {error}")
