"""What an evaluation leaves behind: a folder with `evaluation.json`, `counts.npz`, `sheet.png` and
`index.html`; docs/evaluation.md specifies the first two.
"""

from __future__ import annotations

import dataclasses
import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from sceneloom.errors import InputError
from sceneloom.files import replace_folder
from sceneloom.version import __version__
from sceneloom_training.evaluation.evaluate import Evaluation
from sceneloom_training.evaluation.page import write_page
from sceneloom_training.evaluation.scores import LEVEL, SCORES, ClassCounts, Interval, Scores
from sceneloom_training.evaluation.sheet import draw_sheet

REPORT, COUNTS, SHEET, PAGE = "evaluation.json", "counts.npz", "sheet.png", "index.html"
FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where everything that was evaluated comes from, in the words of the report."""

    segmenter: str
    """Name of the segmenter."""
    segmenter_sha256: str
    """Of its weights."""
    data: dict[str, Any]
    """The data set: layout, root (its name alone), split and label schema."""
    source: dict[str, Any]
    """The pictures: ``kind`` is folder, checkpoint, url or none, ``name`` what to call them, and
    what else identifies them.
    """


def evaluation_folder(out: Path) -> AbstractContextManager[Path]:
    """The folder to write an evaluation into, which appears at `out` once the block has ended well;
    an older evaluation there is replaced.

    Raises:
        InputError: when the block is entered: something else is there, or it cannot be written.
    """
    return replace_folder(
        out,
        marker=REPORT,
        files=frozenset({REPORT, COUNTS, SHEET, PAGE}),
        kind="an evaluation",
        error=InputError,
    )


def write_evaluation(folder: Path, found: Evaluation, provenance: Provenance) -> None:
    """Write report, counts, sheet and page into a folder that is there."""
    report = to_json(found, provenance)
    np.savez_compressed(folder / COUNTS, **counts_arrays(found))
    sheet = draw_sheet(found.rows, found.schema) if found.rows else None
    if sheet is not None:
        sheet.save(folder / SHEET)
    write_page(folder / PAGE, report, sheet)
    text = json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False)
    (folder / REPORT).write_text(text + "\n", "utf-8", errors="backslashreplace")


def to_json(found: Evaluation, provenance: Provenance) -> dict[str, Any]:
    """The report as a JSON object: no paths, no NaN; what is not defined is null."""
    present = found.oracle.true.any(0)
    return {
        "format": FORMAT,
        "sceneloom": __version__,
        "segmenter": {
            "name": provenance.segmenter,
            "weights_sha256": provenance.segmenter_sha256,
            "schema": found.schema.name,
        },
        "data": {**provenance.data, "pictures": len(found.keys)},
        "source": provenance.source,
        "rendered_sizes": [size_text(size) for size in found.rendered_sizes],
        "segmented_size": size_text(found.segmented_size),
        "bootstrap": {
            "draws": found.settings.bootstrap,
            "seed": found.settings.bootstrap_seed,
            "level": LEVEL,
        },
        "scores": {
            "pictures": scores_json(found.scores),
            "oracle": scores_json(found.oracle_scores),
            "gap": scores_json(found.gap),
        },
        "classes": _classes(found),
        "classes_absent": [
            label.name
            for label, there in zip(found.schema.labels, present, strict=True)
            if not there
        ],
        "classes_ignored": list(found.ignored),
        "pixels_scored": int(found.oracle.true.sum()),
        **_distances(found),
    }


def counts_arrays(found: Evaluation) -> dict[str, Any]:
    """The arrays of `counts.npz`: keys [N], classes [C], and int64 [N, C] per kind of count."""
    arrays: dict[str, Any] = {
        "keys": np.array(found.keys),
        "classes": np.array([label.name for label in found.schema.labels]),
    }
    for name, counts in (("pictures", found.counts), ("oracle", found.oracle)):
        if counts is not None:
            fields = dataclasses.fields(ClassCounts)
            arrays |= {f"{name}_{f.name}": getattr(counts, f.name) for f in fields}
    return arrays


def scores_json(scores: Scores | None) -> dict[str, Any] | None:
    """The three scores with their intervals, without the classes."""
    if scores is None:
        return None
    return {name: interval_json(getattr(scores, name)) for name in SCORES}


def interval_json(interval: Interval) -> dict[str, float | None]:
    """A number and its interval."""
    return dataclasses.asdict(interval)


def size_text(size: tuple[int, int]) -> str:
    """(height, width) as WIDTHxHEIGHT."""
    return f"{size[1]}x{size[0]}"


def _classes(found: Evaluation) -> list[dict[str, Any]]:
    true = found.oracle.true.sum(0)
    rows = []
    for channel, label in enumerate(found.schema.labels):
        row: dict[str, Any] = {
            "name": label.name,
            "id": label.id,
            "colour": list(label.colour),
            "share": float(true[channel] / true.sum()),
        }
        of = (("pictures", found.scores), ("oracle", found.oracle_scores), ("gap", found.gap))
        for name, scores in of:
            row[name] = None if scores is None else interval_json(scores.class_iou[channel])
        rows.append(row)
    return rows


def _distances(found: Evaluation) -> dict[str, Any]:
    d = found.distances
    if d is None:
        return {}
    network = {
        "network": d.network,
        "weights_sha256": d.weights_sha256,
        "features": d.features,
        "pictures": d.pictures,
    }
    return {
        "fid": {"value": d.fid, **network},
        "kid": {
            "value": d.kid,
            "deviation": d.kid_deviation,
            "subsets": d.kid_subsets,
            "subset_size": d.kid_subset_size,
            "seed": found.settings.bootstrap_seed,
            **network,
        },
    }
