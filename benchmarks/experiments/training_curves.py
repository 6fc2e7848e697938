"""A training run for the documents: its loss curves, pictures and figures.

Reads a run's folder (`sceneloom train`), draws the curves of log.jsonl with Matplotlib, stacks the
pictures of one held-out sample (input, picture, photograph) from the first to the last, and writes
data, parameters and machine in Markdown.

    python benchmarks/experiments/training_curves.py runs/demo --out docs/results \
      --name demo-training-cpu
"""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import tyro

from sceneloom.text import parse_json
from sceneloom_serving.engines import describe_machine

_NOT_LOSSES = {"step", "epoch", "learning_rate", "images_per_second", "colour_error"}
_SHOWN = 5
"""Most pictures of the held-out sample."""


def main(
    run: Annotated[Path, tyro.conf.Positional],
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    name: str,
) -> int:
    """Write OUT/NAME-DATE.md, its curves (.png) and its pictures (.jpg).

    Args:
        run: the folder of a training run.
        out: folder for the result.
        name: beginning of the files' names.
    """
    entries = [parse_json(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    stem = f"{name}-{datetime.date.today().isoformat()}"
    out.mkdir(parents=True, exist_ok=True)
    draw_curves(entries, out / f"{stem}.png")
    steps = stack_pictures(run / "pictures", out / f"{stem}.jpg")
    record = parse_json((run / "run.json").read_text("utf-8"))
    (out / f"{stem}.md").write_text(describe(stem, record, entries, steps), "utf-8")
    print(f"wrote {out / stem}.md, .png and .jpg")
    return 0


def draw_curves(entries: list[dict[str, Any]], path: Path) -> None:
    """Draw losses and colour error over the steps: entries of log.jsonl as a PNG file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    losses = [entry for entry in entries if "learning_rate" in entry]
    errors = [entry for entry in entries if "colour_error" in entry]
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for loss in sorted(set().union(*losses) - _NOT_LOSSES):
        axes[0].plot([e["step"] for e in losses], [e[loss] for e in losses], label=loss)
    axes[0].set(title="losses", xlabel="step", yscale="log")
    axes[0].legend()
    axes[1].plot([e["step"] for e in errors], [e["colour_error"] for e in errors], marker="o")
    axes[1].set(title="colour error on held-out samples, grey levels", xlabel="step")
    axes[1].set_ylim(bottom=0)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def stack_pictures(folder: Path, path: Path) -> list[int]:
    """Stack at most five strips of the first sample of `pictures`, evenly over the run, as JPEG;
    returns their steps, from top to bottom.
    """
    names = sorted(file.name for file in folder.glob("step-*.jpg"))
    sample = names[0].split("-", 2)[2]
    strips = {int(n.split("-")[1]): n for n in names if n.split("-", 2)[2] == sample}
    at = np.linspace(0, len(strips) - 1, min(_SHOWN, len(strips))).round().astype(int)
    shown = [sorted(strips)[i] for i in at]
    rows = [cv2.imread(str(folder / strips[step])) for step in shown]
    cv2.imwrite(str(path), np.concatenate(rows), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return shown


def describe(
    stem: str, record: dict[str, Any], entries: list[dict[str, Any]], shown: list[int]
) -> str:
    """The result in Markdown: `stem` names the files beside it, `record` is run.json."""
    machine, data = describe_machine(), record["settings"]["data"]
    last = max(entry["step"] for entry in entries)
    errors = {e["step"]: e["colour_error"] for e in entries if "colour_error" in e}
    table = [f"| {step} | {error:.1f} |" for step, error in sorted(errors.items())]
    parameters = ", ".join(f"{name} {n / 1e6:.2f} M" for name, n in record["parameters"].items())
    return "\n".join(
        [
            f"# {stem}",
            "",
            f"{last} steps of {record['settings']['optimizer']['batch']} on "
            f"{record['trained_on']} samples ({data['layout']}), "
            f"{record['samples'] - record['trained_on']} held out. Parameters: {parameters}. "
            f"Perceptual loss: {record['perceptual_loss']}. Precision: "
            f"{record['settings']['compute']['precision']}.",
            "",
            f"Machine: {record['device']}, {machine['cores']} cores of {machine['cpu']}, "
            f"{machine['memory_gib']} GiB, torch {record['versions']['torch']}.",
            "",
            f"![losses and colour error]({stem}.png)",
            "",
            f"A held-out sample after {', '.join(map(str, shown))} steps: label map, picture, "
            "photograph.",
            "",
            f"![pictures]({stem}.jpg)",
            "",
            "Mean difference between the mean colours of each class, picture against photograph, "
            "on the held-out samples:",
            "",
            "| step | grey levels |",
            "|---|---|",
            *table,
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
