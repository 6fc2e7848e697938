"""The evaluation of the demo's weights: their pictures at 2048x1024, segmented again, beside the
oracle, in the default style and in three drawn ones.

    python -m sceneloom_bench.demo_evaluation --out docs/results/demo-weights
    make demo-evaluation
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

from sceneloom.errors import SceneLoomError
from sceneloom.json_text import parse_json
from sceneloom_bench.commands import run_sceneloom
from sceneloom_bench.demo_weights import BUNDLE, SCHEMA, SEGMENTER, TESTED
from sceneloom_bench.method_table_report import read_counts
from sceneloom_serving.engines import describe_machine
from sceneloom_streets.dataset import TEST_SEEDS, write_streets
from sceneloom_training.evaluation.scores import Interval, score_gap

STYLES = {"default": None, "style-seed-1": 1, "style-seed-2": 2, "style-seed-3": 3}
"""Names of the evaluations, and their style seeds."""
HEIGHT, WIDTH = 1024, 2048
DRAWS = 2000
COLUMNS = ("pixel_accuracy", "mean_iou", "frequency_weighted_iou")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoEvaluationSettings:
    """What is evaluated, and where the work lies."""

    work: Path = Path("runs/demo-weights")
    """Folder for the large streets and the evaluations with their sheets and pages."""
    checkpoint: Path = BUNDLE
    """The bundle."""
    segmenter: Path = SEGMENTER
    """The judge."""


def main(
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    settings: Annotated[
        DemoEvaluationSettings, tyro.conf.OmitArgPrefixes
    ] = DemoEvaluationSettings(),
) -> int:
    """Evaluate the weights that the demo uses.

    Args:
        out: folder of the results.
        settings: how.
    """
    streets = settings.work / "marked"
    write_streets(
        streets,
        "test",
        TEST_SEEDS[:TESTED],
        height=HEIGHT,
        width=WIDTH,
        processes=os.cpu_count() or 1,
        markings=True,
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
    """Write what was found, and the table of it.

    Args:
        out: folder of the results, made if it is missing.
        folders: as for `describe`.
        title: of the table's page.
        again: the command that makes it.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name, folder in folders.items():
        shutil.copyfile(folder / "evaluation.json", out / f"{name}.json")
    (out / "README.md").write_text(describe(folders, title=title, again=again), "utf-8")
    print(f"wrote {out / 'README.md'}")


def describe(folders: Mapping[str, Path], *, title: str, again: str) -> str:
    """The table in Markdown, of evaluations by name; what the styles lose is paired by street.

    Args:
        folders: name -> folder of an evaluation; ``default`` is what the others are compared with.
        title: of the page.
        again: the command that makes it.
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
            lost = _signed(score_gap(drawn, counts, draws=DRAWS, seed=0).mean_iou)
        rows.append(_row(name.replace("-", " "), one["scores"]["pictures"], lost))
    machine = describe_machine()
    cores = f"{machine['cores']} cores of {machine['cpu']}"
    on = ", ".join(machine["gpus"]) or cores
    judge = first["segmenter"]
    rendered = ", ".join(first["rendered_sizes"])
    classes = [_class_row(c) for c in first["classes"] if c["pictures"]["value"] is not None]
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


def _class_row(row: Mapping[str, Any]) -> str:
    figures = [row["share"], row["pictures"]["value"], row["oracle"]["value"]]
    return f"| {row['name']} | {' | '.join(f'{100 * f:.1f}' for f in figures)} |"


def _interval(score: Mapping[str, float]) -> str:
    low, high = 100 * score["low"], 100 * score["high"]
    return f"{100 * score['value']:.1f} ({low:.1f} to {high:.1f})"


def _signed(gap: Interval) -> str:
    assert gap.value is not None
    assert gap.low is not None
    assert gap.high is not None
    return f"{100 * gap.value:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main))
    except SceneLoomError as error:
        sys.exit(f"demo evaluation: {error}")
