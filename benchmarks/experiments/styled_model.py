"""A styled model at 256x128, and the loss of its pictures when seeds draw the styles.

The modernised row of the method's table with an instance-wise style encoder: trained on the table's
streets, its styles clustered on their photographs, evaluated by the table's segmenter on the 200
test streets in the default style and in drawn ones. A stopped training resumes.

    python benchmarks/experiments/styled_model.py --out docs/results/styled-model
    make styled-model
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Annotated

import tyro

from demo_weights import write_results
from method_rows import JUDGE, MODERN, STREETS
from method_table import HEIGHT, WIDTH, run_sceneloom
from sceneloom.errors import SceneLoomError
from sceneloom_streets.dataset import TEST_SEEDS, TRAIN_SEEDS, write_streets

SIZE = "256x128"
STYLED = (
    *("--style.features", "3"),
    *("--style.nef", "8"),
    *("--style.downsamplings", "3"),
)
STYLES: dict[str, tuple[str, ...]] = {
    "default": (),
    "style-seed-1": ("--style-seed", "1"),
    "style-seed-2": ("--style-seed", "2"),
    "style-seed-3": ("--style-seed", "3"),
    "style-seed-1-of-all": ("--style-seed", "1", "--style-of", "all"),
}
"""Names of the evaluations, and their flags."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StyledModelSettings:
    """Folders of the work."""

    streets: Path = Path("runs/table/streets")
    """The table's streets; missing ones are painted."""
    work: Path = Path("runs/styled")
    """Folder for the training run and the evaluations."""
    segmenter: Path = JUDGE
    """The judge."""


def main(
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    settings: Annotated[StyledModelSettings, tyro.conf.OmitArgPrefixes] = StyledModelSettings(),
) -> int:
    """Train the model, or resume it, and evaluate it.

    Args:
        out: folder of the results.
        settings: folders of the work.
    """
    for split, seeds in (("train", TRAIN_SEEDS), ("test", TEST_SEEDS)):
        cores = os.cpu_count() or 1
        write_streets(settings.streets, split, seeds, height=HEIGHT, width=WIDTH, processes=cores)
    run, streets = settings.work, ("--data.root", str(settings.streets))
    run_sceneloom("train", str(STREETS.config), "--out", str(run), *streets, *MODERN, *STYLED)
    clustered = run / "clustered"
    run_sceneloom(
        *("styles", str(run / "model"), "--out", str(clustered), "--layout", "pix2pixhd"),
        *("--root", str(settings.streets), "--split", "train", "--width", SIZE.split("x")[0]),
    )
    folders = {name: run / "evaluated" / name for name in STYLES}
    for name, flags in STYLES.items():
        run_sceneloom(
            *("evaluate", "--out", str(folders[name]), "--size", SIZE),
            *("--checkpoint", str(clustered), "--segmenter", str(settings.segmenter)),
            *("--data.layout", "pix2pixhd", *streets, "--data.split", "test", *flags),
        )
    title, again = "A styled model in default and drawn styles", "make styled-model"
    write_results(out, folders, title=title, again=again)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main))
    except SceneLoomError as error:
        sys.exit(f"styled model: {error}")
