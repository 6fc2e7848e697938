"""The method's table as a page: scores with intervals, curves and pictures of the finished cells.

Intervals are percentiles of a bootstrap in two stages: each draw takes seeds of a row with
replacement, then pictures with replacement, the same pictures for every row, so that differences
between rows are paired.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from method_rows import BASELINE, CONTROL, FEATURES, OTHERS, Row, Table
from sceneloom.text import parse_json
from sceneloom_training.evaluation.scores import SCORES, ClassCounts, score_columns

_DRAWS, _SEED = 2000, 0
_COLUMNS = ("pixel accuracy", "mean IoU", "frequency-weighted IoU")
_LOSSES = ("discriminator", "generator_gan", "feature_matching", "perceptual", "l1")
_Values = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Figures:
    """Figures of one row."""

    values: _Values
    """Mean over the seeds, [3]: pixel accuracy, mean IoU, frequency-weighted IoU."""
    draws: _Values
    """Scores of every draw, [draws, 3]."""
    per_seed: _Values
    """Scores of every seed, [seeds, 3]."""

    def interval(self, column: int) -> tuple[float, float]:
        """95 % interval of a column."""
        low, high = np.quantile(self.draws[:, column], [0.025, 0.975])
        return float(low), float(high)


def read_cells(out: Path, rows: Sequence[Row]) -> dict[str, list[Path]]:
    """Folders of the finished cells of each row, in the order of the rows."""
    found = {
        row.name: [
            folder
            for seed in row.seeds
            if (folder := out / "cells" / f"{row.name}-seed{seed}").is_dir()
        ]
        for row in rows
    }
    return {name: folders for name, folders in found.items() if folders}


def read_counts(folder: Path, of: str) -> ClassCounts:
    """Counts of a cell: `of` is pictures or oracle."""
    with np.load(folder / "counts.npz", allow_pickle=False) as arrays:
        return ClassCounts(
            **{
                field.name: arrays[f"{of}_{field.name}"]
                for field in dataclasses.fields(ClassCounts)
            }
        )


def compute(counts: Sequence[ClassCounts], row: int = 0) -> Figures:
    """Figures of one row from the counts of its seeds.

    All rows draw the same pictures, and each (by its number) its own seeds.
    """
    pictures = len(counts[0])
    rng = np.random.default_rng(_SEED)
    weights = rng.multinomial(pictures, np.full(pictures, 1 / pictures), _DRAWS).astype(np.float64)
    chosen = np.random.default_rng((_SEED, 1, row)).multinomial(
        len(counts), np.full(len(counts), 1 / len(counts)), _DRAWS
    )

    def columns(weights: Any) -> npt.NDArray[np.float64]:  # [seeds, draws, scores]
        found = (score_columns(each, weights) for each in counts)
        return np.stack([np.column_stack([each[name] for name in SCORES]) for each in found])

    of_seeds, per_seed = columns(weights), columns(None)[:, 0]
    draws = np.einsum("sdk,ds->dk", of_seeds, chosen / len(counts))
    return Figures(values=per_seed.mean(0), draws=draws, per_seed=per_seed)


def chance(counts: ClassCounts) -> float:
    """Mean IoU of random predictions with the same class frequencies."""
    true, predicted = (x.sum(0) / counts.true.sum() for x in (counts.true, counts.predicted))
    both = true * predicted
    there = true > 0
    return float((both[there] / (true + predicted - both)[there]).mean())


def write_report(out: Path, table: Table) -> None:
    """Write README.md, table.json, curves.png and pictures.jpg of the finished cells."""
    cells = read_cells(out, table.rows)
    if not cells:
        return
    figures = {
        name: compute([read_counts(f, "pictures") for f in folders], row)
        for row, (name, folders) in enumerate(cells.items())
    }
    anyone = next(iter(cells.values()))[0]
    figures["oracle"] = compute([read_counts(anyone, "oracle")])
    trained = {name: _read_all(folders, "training.json") for name, folders in cells.items()}
    evaluated = {name: _read_all(folders, "evaluation.json") for name, folders in cells.items()}
    judged = parse_json((anyone / "evaluation.json").read_text("utf-8"))
    for name, documents in evaluated.items():
        for document in documents:
            for key in ("segmenter", "segmented_size"):
                assert document[key] == judged[key], f"{name} was judged by another segmenter"
    titles = {row.name: row.title for row in table.rows} | {"oracle": "real photographs (oracle)"}
    rows = [
        table_row(name, titles[name], f, trained.get(name, []), evaluated.get(name, []))
        for name, f in figures.items()
    ]
    report = {
        "segmenter": judged["segmenter"],
        "segmented_size": judged["segmented_size"],
        "test_pictures": judged["data"]["pictures"],
        "draws": _DRAWS,
        "chance_mean_IoU": {
            name: round(chance(read_counts(f[0], "pictures")), 4) for name, f in cells.items()
        },
        "rows": rows,
        "compared_with": table.published,
        "differences": {
            name: _difference(other, figures[table.published], 1)
            for name, other in figures.items()
            if name != table.published and table.published in figures
        },
        "above_pix2pix": {
            name: {
                column.replace(" ", "_"): _difference(figures[name], figures[BASELINE], k)
                for k, column in enumerate(_COLUMNS[:2])
            }
            for name in (*table.compared, "oracle")
            if name in figures and BASELINE in figures
        },
        "machine": next(iter(trained.values()))[0]["machine"],
    }
    text = json.dumps(report, indent=1, allow_nan=False)
    (out / "table.json").write_text(text + "\n", "utf-8")
    lines = describe(report, table)
    if any("curves" in cell for each in trained.values() for cell in each):
        draw_curves(trained, out / "curves.png")
        lines += ["![loss curves](curves.png)", "", "Losses over the steps, of each seed.", ""]
    if table.shows_pictures:
        shown = ", ".join(stack_pictures(out, cells))
        lines += ["![pictures](pictures.jpg)", "", f"From top to bottom: {shown}.", ""]
    (out / "README.md").write_text("\n".join([*lines, *describe_making(report, table)]), "utf-8")


def _read_all(folders: Sequence[Path], name: str) -> list[dict[str, Any]]:
    return [parse_json((folder / name).read_text("utf-8")) for folder in folders]


def table_row(
    name: str,
    title: str,
    figures: Figures,
    trained: Sequence[dict[str, Any]],
    evaluated: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """One row as JSON, from the documents of its cells."""
    return {
        "name": name,
        "title": title,
        **{
            column.replace(" ", "_").replace("-", "_"): {
                "value": round(float(figures.values[k]), 4),
                "low": round(figures.interval(k)[0], 4),
                "high": round(figures.interval(k)[1], 4),
                "per_seed": [round(float(v), 4) for v in figures.per_seed[:, k]],
            }
            for k, column in enumerate(_COLUMNS)
        },
        "frechet_distance": [round(e["fid"]["value"], 4) for e in evaluated if "fid" in e],
        "hours": [cell["hours"] for cell in trained],
        "core_hours": [cell["core_hours"] for cell in trained if "core_hours" in cell],
        "steps": [cell["steps"] for cell in trained],
        "parameters": trained[0]["parameters"] if trained else None,
        "flags": trained[0]["flags"] if trained else None,
    }


def _difference(first: Figures, second: Figures, column: int) -> dict[str, float]:
    """Difference of a column of two rows, paired, with its interval."""
    low, high = np.quantile(first.draws[:, column] - second.draws[:, column], [0.025, 0.975])
    return {
        "value": round(float(first.values[column] - second.values[column]), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


def stack_pictures(out: Path, cells: Mapping[str, list[Path]]) -> list[str]:
    """Draw a column per street, a line per row below maps and photographs; returns line names."""
    lines, names = [], []
    for name in ("label maps", "photographs"):
        folder = out / "streets" / name.replace(" ", "-")
        if folder.is_dir():
            lines.append([cv2.imread(str(path)) for path in sorted(folder.glob("*.jpg"))])
            names.append(name)
    for name, folders in cells.items():
        lines.append([cv2.imread(str(path)) for path in sorted(folders[0].glob("*.jpg"))])
        names.append(name)
    height, width = 128, 256
    sheet = [
        np.concatenate(
            [cv2.resize(p, (width, height), interpolation=cv2.INTER_AREA) for p in line], 1
        )
        for line in lines
    ]
    cv2.imwrite(str(out / "pictures.jpg"), np.concatenate(sheet), [cv2.IMWRITE_JPEG_QUALITY, 92])
    return names


def describe(report: dict[str, Any], table: Table) -> list[str]:
    """Title, table and verdict in Markdown."""
    segmenter, rows = report["segmenter"], report["rows"]
    has_distance = any(row["frechet_distance"] for row in rows)
    columns = [
        *("row", "pixel accuracy", "mean IoU", "seeds", "frequency-weighted IoU"),
        f"mean IoU against {table.published}",
        *["Frechet distance"] * has_distance,
        *("steps", "hours"),
    ]
    lines = [
        f"# {table.title}",
        "",
        f"Pictures of {report['test_pictures']} test streets that no network was trained on are "
        f"segmented at {report['segmented_size']} by {segmenter['name']} (weights "
        f"{segmenter['weights_sha256'][:12]}), which was trained on the photographs of the "
        "training streets, and compared with the label maps they were made from; classes: "
        f"{segmenter['schema']}. The oracle is the same segmenter on the real photographs of the "
        "same streets at the same size. Figures in percent with 95 % intervals (bootstrap over "
        "seeds and pictures), the seeds' own mean IoU behind."
        + f" The Frechet distance is of {FEATURES}'s features." * has_distance
        + f" {table.notes}",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for row in rows:
        accuracy, mean, weighted = (
            row[name] for name in ("pixel_accuracy", "mean_IoU", "frequency_weighted_IoU")
        )
        difference = report["differences"].get(row["name"])
        cells = [
            row["title"],
            _percent(accuracy),
            _percent(mean),
            ", ".join(f"{100 * v:.1f}" for v in mean["per_seed"]),
            _percent(weighted),
            _percent(difference, sign=True) if difference else "",
            *[", ".join(f"{v:.3g}" for v in row["frechet_distance"])] * has_distance,
            " ".join(sorted({str(s) for s in row["steps"]})),
            ", ".join(f"{h:.2f}" for h in row["core_hours"] or row["hours"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", verdict(report), ""]


def describe_making(report: dict[str, Any], table: Table) -> list[str]:
    """Flags, machine and how to make the table again, in Markdown."""
    machine = report["machine"]
    command = "make table" if table.shows_pictures else "make camvid-table CAMVID=DIR"
    return [
        f"Every row is `training/configs/{table.config.name}` and these flags (`vgg16-hed` stands "
        "for the file of `sceneloom weights vgg16-hed`):",
        "",
        *(
            f"- {row['title']}: `{' '.join(row['flags']) or '(none)'}`"
            for row in report["rows"]
            if row["flags"] is not None
        ),
        "",
        f"Machine: {machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, "
        f"GPUs: {', '.join(machine['gpus']) or 'none'}, torch {machine['versions']['torch']}. "
        f"`{command}` makes the table again; cells whose folder lies in `cells/` are finished and "
        "are not trained again.",
        "",
    ]


def draw_curves(trained: Mapping[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw the losses of every cell that has curves, a panel for each loss, as a PNG file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    found = {name: [c["curves"] for c in cells if "curves" in c] for name, cells in trained.items()}
    every = [curves for cells in found.values() for curves in cells]
    losses = [loss for loss in _LOSSES if any(loss in curves for curves in every)]
    figure, axes = plt.subplots(1, len(losses), figsize=(3.6 * len(losses), 3.4), squeeze=False)
    for axis, loss in zip(axes[0], losses, strict=True):
        for colour, (name, cells) in enumerate(found.items()):
            for seed, curves in enumerate(cells):
                if loss in curves:
                    label = name if seed == 0 else None
                    style = {"color": f"C{colour}", "alpha": 1 if seed == 0 else 0.4}
                    axis.plot(curves["step"], curves[loss], label=label, **style)
        axis.set(title=loss.replace("_", " "), xlabel="step", yscale="log")
        axis.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _percent(entry: dict[str, float], *, sign: bool = False) -> str:
    value, low, high = (100 * entry[k] for k in ("value", "low", "high"))
    return (
        f"{value:+.1f} ({low:+.1f} to {high:+.1f})"
        if sign
        else f"{value:.1f} ({low:.1f} to {high:.1f})"
    )


def verdict(report: dict[str, Any]) -> str:
    """Sentences from the figures: whether the order is the paper's."""
    compared = report["above_pix2pix"]
    if BASELINE not in {row["name"] for row in report["rows"]} or len(compared) < 2:
        return f"Not both of {BASELINE} and a row of pix2pixHD are finished."
    titles = {row["name"]: row["title"] for row in report["rows"]}
    said = [
        f"**{titles[name]}**: {_place(found['mean_IoU'], 'mean IoU')}; "
        f"{_place(found['pixel_accuracy'], 'pixel accuracy')}."
        for name, found in compared.items()
        if name != "oracle"
    ]
    best = max(
        (row for row in report["rows"] if row["name"] not in ("oracle", OTHERS.name)),
        key=lambda row: float(row["mean_IoU"]["value"]),
    )
    oracle = next(row for row in report["rows"] if row["name"] == "oracle")
    share = 100 * best["mean_IoU"]["value"] / oracle["mean_IoU"]["value"]
    said.append(f"The best row, {best['title']}, has {share:.0f} % of the oracle's mean IoU.")
    apart = oracle["mean_IoU"]["low"] > best["mean_IoU"]["high"]
    said.append(
        f"The oracle's interval is {'above' if apart else 'not above'} that of every other row."
    )
    score = {row["name"]: 100 * row["mean_IoU"]["value"] for row in report["rows"]}
    if CONTROL.name in score:
        chance = 100 * report["chance_mean_IoU"][CONTROL.name]
        said.append(
            f"The control's mean IoU is {score[CONTROL.name]:.1f}; predictions as frequent as its "
            f"own that knew nothing of the maps would have {chance:.1f}"
        )
        if OTHERS.name in score:
            said[-1] += (
                f", and real photographs of other streets have {score[OTHERS.name]:.1f}: "
                "streets are laid out alike, and the judge knows it"
            )
        said[-1] += "."
    return " ".join(said)


def _place(difference: dict[str, float], what: str) -> str:
    """Above or below pix2pix or neither, by points with an interval."""
    where = "not to be told from"
    if difference["low"] > 0:
        where = "above"
    elif difference["high"] < 0:
        where = "below"
    return f"{what} {where} pix2pix's ({_percent(difference, sign=True)} points)"
