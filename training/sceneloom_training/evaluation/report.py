"""The report of an evaluation: a folder with `evaluation.json`, `counts.npz`, `sheet.png` and
`index.html` (page.html.jinja); docs/evaluation.md specifies the first two.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from sceneloom.errors import InputError
from sceneloom.files import replace_folder
from sceneloom.schema import LabelSchema
from sceneloom.version import __version__
from sceneloom_training.evaluation.evaluate import Evaluation, SheetRow
from sceneloom_training.evaluation.scores import LEVEL, SCORES
from sceneloom_training.evaluation.segmenter import Segmenter

REPORT, COUNTS, SHEET, PAGE = "evaluation.json", "counts.npz", "sheet.png", "index.html"
FORMAT = 1
_Json = dict[str, Any]
_QUALITY = 88


def evaluation_folder(out: Path) -> AbstractContextManager[Path]:
    """A folder that replaces an older evaluation at `out` when the block ends well."""
    files = frozenset({REPORT, COUNTS, SHEET, PAGE})
    return replace_folder(out, marker=REPORT, files=files, kind="an evaluation", error=InputError)


def write_evaluation(
    folder: Path, found: Evaluation, segmenter: Segmenter, data: _Json, source: _Json
) -> None:
    """Write report, counts, sheet and page into an existing folder."""
    report = to_json(found, segmenter, data, source)
    arrays: dict[str, Any] = {
        "keys": np.array(found.keys),
        "classes": np.array([label.name for label in found.schema.labels]),
    }
    for name, counts in (("pictures", found.counts), ("oracle", found.oracle)):
        if counts is not None:
            arrays |= {f"{name}_{field}": values for field, values in vars(counts).items()}
    np.savez_compressed(folder / COUNTS, **arrays)
    image = ""
    if found.rows:
        sheet, jpeg = draw_sheet(found.rows, found.schema), io.BytesIO()
        sheet.save(folder / SHEET)
        sheet.save(jpeg, "JPEG", quality=_QUALITY, subsampling=0)
        image = base64.b64encode(jpeg.getvalue()).decode("ascii")
    # Names that are not UTF-8 are escaped.
    (folder / PAGE).write_text(page(report, image), "utf-8", errors="backslashreplace")
    text = json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False)
    (folder / REPORT).write_text(text + "\n", "utf-8", errors="backslashreplace")


def to_json(found: Evaluation, segmenter: Segmenter, data: _Json, source: _Json) -> _Json:
    """Make the report as a JSON object without paths and NaN; undefined values are null. `data` has
    layout, root (its name alone), split and label schema. `source` has ``kind`` (folder,
    checkpoint, url, none), ``name`` and identity.
    """
    present, true, d = found.oracle.true.any(0), found.oracle.true.sum(0), found.distances
    labels, drawn = found.schema.labels, found.settings
    judge = {"name": segmenter.name, "weights_sha256": segmenter.weights_sha256}
    scores = {"pictures": found.scores, "oracle": found.oracle_scores, "gap": found.gap}
    classes = [
        {
            "name": label.name,
            "id": label.id,
            "colour": list(label.colour),
            "share": float(true[channel] / true.sum()),
            **{
                name: given and dataclasses.asdict(given.class_iou[channel])
                for name, given in scores.items()
            },
        }
        for channel, label in enumerate(labels)
    ]
    distances: dict[str, Any] = {}
    if d is not None:
        identity = ("network", "weights_sha256", "features", "pictures")
        network = {name: getattr(d, name) for name in identity}
        distances["fid"] = {"value": d.fid, **network}
        distances["kid"] = {
            "value": d.kid,
            "deviation": d.kid_deviation,
            "subsets": d.kid_subsets,
            "subset_size": d.kid_subset_size,
            "seed": drawn.bootstrap_seed,
            **network,
        }
    return {
        "format": FORMAT,
        "sceneloom": __version__,
        "segmenter": judge | {"schema": found.schema.name},
        "data": {**data, "pictures": len(found.keys)},
        "source": source,
        "rendered_sizes": [f"{width}x{height}" for height, width in found.rendered_sizes],
        "segmented_size": f"{found.segmented_size[1]}x{found.segmented_size[0]}",
        "bootstrap": {"draws": drawn.bootstrap, "seed": drawn.bootstrap_seed, "level": LEVEL},
        "scores": {
            name: given and {key: dataclasses.asdict(getattr(given, key)) for key in SCORES}
            for name, given in scores.items()
        },
        "classes": classes,
        "classes_absent": [x.name for x, here in zip(labels, present, strict=True) if not here],
        "classes_ignored": list(found.ignored),
        "pixels_scored": int(found.oracle.true.sum()),
        **distances,
    }


def page(report: dict[str, Any], image: str) -> str:
    """Make the self-contained page of a report of `to_json`. The image is a JPEG in base64."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    data = [v for k, v in report["data"].items() if k != "pictures" and v is not None]
    source = [f"{k.replace('_', ' ')} {v}" for k, v in report["source"].items() if v is not None]
    template = environment.get_template("page.html.jinja")
    return template.render(report=report, image=image, scores=SCORES, data=data, source=source)


_WIDEST, _HIGHEST = 512, 2048
_GAP, _HEAD = 8, 32
_PAPER, _INK = (250, 250, 250), (60, 60, 60)

_Cells = list[tuple[str, npt.NDArray[np.uint8], bool]]


def draw_sheet(rows: Sequence[SheetRow], schema: LabelSchema) -> Image.Image:
    """Draw the rows, all of one size and kind, below headings. A cell is at most 512x2048."""
    height, width = rows[0].label_map.shape
    scale = min(1.0, _WIDEST / width, _HIGHEST / height)
    cell = (max(1, round(width * scale)), max(1, round(height * scale)))
    headings = [heading for heading, _, _ in _cells(rows[0], schema)]
    size = (_GAP + len(headings) * (cell[0] + _GAP), _HEAD + len(rows) * (cell[1] + _GAP))
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    # The longest heading fits: about half as wide as high per letter.
    font = ImageFont.load_default(max(8, min(17, round(cell[0] / 11))))
    for column, heading in enumerate(headings):
        place = (_GAP + column * (cell[0] + _GAP), _HEAD - _GAP)
        draw.text(place, heading, _INK, font, anchor="ls")
    for row, shown in enumerate(rows):
        for column, (_, picture, labels) in enumerate(_cells(shown, schema)):
            # Averaged colours of label maps would be those of other classes.
            filter_ = Image.Resampling.NEAREST if labels else Image.Resampling.BICUBIC
            place = (_GAP + column * (cell[0] + _GAP), _HEAD + row * (cell[1] + _GAP))
            sheet.paste(Image.fromarray(picture).resize(cell, filter_), place)
    return sheet


def _cells(row: SheetRow, schema: LabelSchema) -> _Cells:
    """Heading, picture, and whether it is a label map, of each column."""
    cells: _Cells = [
        ("label map", schema.colourise(row.label_map), True),
        ("photograph", row.photo, False),
    ]
    if row.picture is not None and row.picture_segmented is not None:
        cells += [
            ("picture", row.picture, False),
            ("segmented picture", schema.colourise(row.picture_segmented), True),
        ]
    return [*cells, ("segmented photograph", schema.colourise(row.photo_segmented), True)]
