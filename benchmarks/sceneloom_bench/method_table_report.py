"""The method's table for people: from the finished cells to figures with intervals and pictures.

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

from sceneloom.text import parse_json
from sceneloom_bench.method_table_rows import (
    BASELINE,
    CONTROL,
    OTHER_STREETS,
    PUBLISHED,
    WHOLE,
    WHOLE_MODERN,
    Row,
)
from sceneloom_training.evaluation.scores import ClassCounts, metrics

_DRAWS, _SEED = 2000, 0
_COLUMNS = ("pixel accuracy", "mean IoU", "frequency-weighted IoU")
_Values = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Figures:
    """One row's figures."""

    values: _Values
    """Mean over the seeds, [3]: pixel accuracy, mean IoU, frequency-weighted IoU."""
    draws: _Values
    """The same of every draw, [draws, 3]."""
    per_seed: _Values
    """Of every seed, [seeds, 3]."""

    def interval(self, column: int) -> tuple[float, float]:
        """95 % interval of a column."""
        low, high = np.quantile(self.draws[:, column], [0.025, 0.975])
        return float(low), float(high)


def read_cells(out: Path, rows: Sequence[Row]) -> dict[str, list[Path]]:
    """Folders of the finished cells of each row that has any, in the order of the rows."""
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
    """Figures of one row.

    Args:
        counts: of each of its seeds, over the same pictures.
        row: its number. All rows draw the same pictures, and each its own seeds: one row's networks
            have nothing to do with another's.
    """
    pictures = len(counts[0])
    rng = np.random.default_rng(_SEED)
    weights = rng.multinomial(pictures, np.full(pictures, 1 / pictures), _DRAWS).astype(np.float64)
    chosen = np.random.default_rng((_SEED, 1, row)).multinomial(
        len(counts), np.full(len(counts), 1 / len(counts)), _DRAWS
    )
    of_seeds = np.stack([metrics(c, weights)[:, :3] for c in counts])  # [seeds, draws, 3]
    per_seed = np.stack([metrics(c, None)[0, :3] for c in counts])
    draws = np.einsum("sdk,ds->dk", of_seeds, chosen / len(counts))
    return Figures(values=per_seed.mean(0), draws=draws, per_seed=per_seed)


def chance(counts: ClassCounts) -> float:
    """Mean IoU of predictions that are as frequent as these and know nothing of the truth."""
    true, predicted = (x.sum(0) / counts.true.sum() for x in (counts.true, counts.predicted))
    both = true * predicted
    there = true > 0
    return float((both[there] / (true + predicted - both)[there]).mean())


def write_report(out: Path, rows: Sequence[Row]) -> None:
    """Write README.md, table.json and pictures.jpg of the cells that are there."""
    cells = read_cells(out, rows)
    if not cells:
        return
    figures = {
        name: compute([read_counts(f, "pictures") for f in folders], row)
        for row, (name, folders) in enumerate(cells.items())
    }
    anyone = next(iter(cells.values()))[0]
    figures["oracle"] = compute([read_counts(anyone, "oracle")])
    trained = {
        name: [parse_json((f / "training.json").read_text("utf-8")) for f in folders]
        for name, folders in cells.items()
    }
    judged = parse_json((anyone / "evaluation.json").read_text("utf-8"))
    _check_one_judge(cells, judged)
    titles = {row.name: row.title for row in rows} | {"oracle": "real photographs (oracle)"}
    chances = {name: chance(read_counts(f[0], "pictures")) for name, f in cells.items()}
    report = _to_json(figures, trained, judged, titles, chances)
    text = json.dumps(report, indent=1, allow_nan=False)
    (out / "table.json").write_text(text + "\n", "utf-8")
    shown = _stack_pictures(out, cells)
    (out / "README.md").write_text(_describe(report, shown, titles), "utf-8")


def _check_one_judge(cells: Mapping[str, list[Path]], judged: dict[str, Any]) -> None:
    """Figures of different segmenters or test sets never stand in one table."""
    for folders in cells.values():
        for folder in folders:
            other = parse_json((folder / "evaluation.json").read_text("utf-8"))
            for key in ("segmenter", "segmented_size"):
                assert other[key] == judged[key], f"{folder.name} was judged by another segmenter"


def _to_json(
    figures: Mapping[str, Figures],
    trained: Mapping[str, list[dict[str, Any]]],
    judged: dict[str, Any],
    titles: Mapping[str, str],
    chances: Mapping[str, float],
) -> dict[str, Any]:
    return {
        "segmenter": judged["segmenter"],
        "segmented_size": judged["segmented_size"],
        "test_pictures": judged["data"]["pictures"],
        "draws": _DRAWS,
        "chance_mean_IoU": {name: round(value, 4) for name, value in chances.items()},
        "rows": [
            {
                "name": name,
                "title": titles[name],
                **{
                    column.replace(" ", "_").replace("-", "_"): {
                        "value": round(float(f.values[k]), 4),
                        "low": round(f.interval(k)[0], 4),
                        "high": round(f.interval(k)[1], 4),
                        "per_seed": [round(float(v), 4) for v in f.per_seed[:, k]],
                    }
                    for k, column in enumerate(_COLUMNS)
                },
                "hours": [cell["hours"] for cell in trained.get(name, [])],
                "steps": [cell["steps"] for cell in trained.get(name, [])],
                "parameters": trained[name][0]["parameters"] if name in trained else None,
                "flags": trained[name][0]["flags"] if name in trained else None,
            }
            for name, f in figures.items()
        ],
        "differences": {
            name: _difference(other, figures[PUBLISHED], 1)
            for name, other in figures.items()
            if name != PUBLISHED and PUBLISHED in figures
        },
        "above_pix2pix": {
            name: {
                column.replace(" ", "_"): _difference(figures[name], figures[BASELINE], k)
                for k, column in enumerate(_COLUMNS[:2])
            }
            for name in (PUBLISHED, WHOLE, WHOLE_MODERN, "oracle")
            if name in figures and BASELINE in figures
        },
        "perceptual_loss": any(
            not cell["perceptual_loss"].startswith("off")
            for cells in trained.values()
            for cell in cells
        ),
        "l1": min(_l1(cell) for cells in trained.values() for cell in cells),
        "machine": next(iter(trained.values()))[0]["machine"],
    }


def _l1(cell: Mapping[str, Any]) -> float:
    """Weight of the L1 term that a cell was trained with."""
    return float(cell["settings"]["loss"]["l1"])


def _difference(first: Figures, second: Figures, column: int) -> dict[str, float]:
    """A column of the first minus that of the second, paired, with its interval."""
    low, high = np.quantile(first.draws[:, column] - second.draws[:, column], [0.025, 0.975])
    return {
        "value": round(float(first.values[column] - second.values[column]), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


def _stack_pictures(out: Path, cells: Mapping[str, list[Path]]) -> list[str]:
    """One column per street, one line per row, under the maps and photographs; names of lines."""
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


def _describe(report: dict[str, Any], shown: Sequence[str], titles: Mapping[str, str]) -> str:
    machine, segmenter = report["machine"], report["segmenter"]
    vgg = "" if report["perceptual_loss"] else ", without the perceptual loss"
    if report["l1"] and not report["perceptual_loss"]:
        vgg += f" (L1 of weight {report['l1']:g} in its place)"
    lines = [
        f"# The method's table in miniature: procedural streets{vgg}",
        "",
        f"Pictures of {report['test_pictures']} test streets that no network was trained on are "
        f"segmented at {report['segmented_size']} by {segmenter['name']} (weights "
        f"{segmenter['weights_sha256'][:12]}), which was trained on the photographs of the "
        "training streets, and compared with the label maps they were made from; classes: "
        f"{segmenter['schema']}. The oracle is the same segmenter on the real photographs of the "
        "same streets at the same size. Figures in percent with 95 % intervals (bootstrap over "
        "seeds and pictures), the seeds' own mean IoU behind.",
        "",
        "| row | pixel accuracy | mean IoU | seeds | frequency-weighted IoU | mean IoU against "
        f"{PUBLISHED} | steps | hours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        accuracy, mean, weighted = (
            row[name] for name in ("pixel_accuracy", "mean_IoU", "frequency_weighted_IoU")
        )
        seeds = ", ".join(f"{100 * v:.1f}" for v in mean["per_seed"])
        difference = report["differences"].get(row["name"])
        against = _percent(difference, sign=True) if difference else ""
        steps = " ".join(sorted({str(s) for s in row["steps"]}))
        hours = ", ".join(f"{h:.2f}" for h in row["hours"])
        lines.append(
            f"| {row['title']} | {_percent(accuracy)} | {_percent(mean)} | {seeds} | "
            f"{_percent(weighted)} | {against} | {steps} | {hours} |"
        )
    lines += [
        "",
        _verdict(report),
        "",
        f"![pictures](pictures.jpg)\n\nFrom top to bottom: {', '.join(shown)}.",
        "",
        "Every row is `training/configs/streets-256x128.toml` and these flags:",
        "",
        *(
            f"- {titles[row['name']]}: `{' '.join(row['flags']) or '(none)'}`"
            for row in report["rows"]
            if row["flags"] is not None
        ),
        "",
        f"Machine: {machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, "
        f"GPUs: {', '.join(machine['gpus']) or 'none'}, torch {machine['versions']['torch']}. "
        "Hours are of one training run while others ran beside it. `make table` makes the table "
        "again; cells whose folder lies in `cells/` are finished and are not trained again.",
        "",
    ]
    return "\n".join(lines)


def _percent(entry: dict[str, float], *, sign: bool = False) -> str:
    value, low, high = (100 * entry[k] for k in ("value", "low", "high"))
    return (
        f"{value:+.1f} ({low:+.1f} to {high:+.1f})"
        if sign
        else f"{value:.1f} ({low:.1f} to {high:.1f})"
    )


def _verdict(report: dict[str, Any]) -> str:
    """Whether the order is the paper's, in sentences that follow from the figures."""
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
        (row for row in report["rows"] if row["name"] != "oracle"),
        key=lambda row: float(row["mean_IoU"]["value"]),
    )
    oracle = next(row for row in report["rows"] if row["name"] == "oracle")
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
        if OTHER_STREETS.name in score:
            said[-1] += (
                f", and real photographs of other streets have {score[OTHER_STREETS.name]:.1f}: "
                "streets are laid out alike, and the judge knows it"
            )
        said[-1] += "."
    return " ".join(said)


def _place(difference: dict[str, float], what: str) -> str:
    """Above pix2pix, below it, or neither, and by how many points with which interval."""
    where = "not to be told from"
    if difference["low"] > 0:
        where = "above"
    elif difference["high"] < 0:
        where = "below"
    return f"{what} {where} pix2pix's ({_percent(difference, sign=True)} points)"
