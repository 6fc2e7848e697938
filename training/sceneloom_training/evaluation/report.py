"""The report of an evaluation: a folder with `evaluation.json`, `counts.npz`, `sheet.png` and
`index.html`; docs/evaluation.md specifies the first two.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from sceneloom.errors import InputError
from sceneloom.files import replace_folder
from sceneloom.schema import LabelSchema
from sceneloom.version import __version__
from sceneloom_training.evaluation.evaluate import Evaluation, SheetRow
from sceneloom_training.evaluation.scores import LEVEL, SCORES, ClassCounts, Interval, Scores

REPORT, COUNTS, SHEET, PAGE = "evaluation.json", "counts.npz", "sheet.png", "index.html"
FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where everything that was evaluated comes from, in the words of the report."""

    segmenter: str
    segmenter_sha256: str
    data: dict[str, Any]
    """The data set: layout, root (its name alone), split and label schema."""
    source: dict[str, Any]
    """The pictures: ``kind`` is folder, checkpoint, url or none, ``name`` what to call them, and
    what else identifies them.
    """


def evaluation_folder(out: Path) -> AbstractContextManager[Path]:
    """A folder to write an evaluation into, which appears at `out`, in place of an older
    evaluation, when the block has ended well.

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
    present, true, d = found.oracle.true.any(0), found.oracle.true.sum(0), found.distances
    scores = {"pictures": found.scores, "oracle": found.oracle_scores, "gap": found.gap}
    classes = [
        {
            "name": label.name,
            "id": label.id,
            "colour": list(label.colour),
            "share": float(true[channel] / true.sum()),
            **{
                name: None if given is None else interval_json(given.class_iou[channel])
                for name, given in scores.items()
            },
        }
        for channel, label in enumerate(found.schema.labels)
    ]
    distances: dict[str, Any] = {}
    if d is not None:
        network = {
            "network": d.network,
            "weights_sha256": d.weights_sha256,
            "features": d.features,
            "pictures": d.pictures,
        }
        distances["fid"] = {"value": d.fid, **network}
        distances["kid"] = {
            "value": d.kid,
            "deviation": d.kid_deviation,
            "subsets": d.kid_subsets,
            "subset_size": d.kid_subset_size,
            "seed": found.settings.bootstrap_seed,
            **network,
        }
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
        "scores": {name: scores_json(given) for name, given in scores.items()},
        "classes": classes,
        "classes_absent": [
            label.name
            for label, there in zip(found.schema.labels, present, strict=True)
            if not there
        ],
        "classes_ignored": list(found.ignored),
        "pixels_scored": int(found.oracle.true.sum()),
        **distances,
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


_STYLE = """
:root { color-scheme: light dark; --ink: #2f6f9f; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; padding: 0 1.5rem;
       max-width: 90rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin-top: 2.5rem; }
p { max-width: 50rem; }
img { width: 100%; height: auto; display: block; border-radius: 4px; background: #8884; }
table { border-collapse: collapse; }
td, th { padding: .2rem 1.2rem .2rem 0; text-align: left; border-bottom: 1px solid #8884; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
small { opacity: .7; }
.swatch { display: inline-block; width: .8rem; height: .8rem; margin-right: .5rem;
          border-radius: 2px; outline: 1px solid #8888; }
.bars { min-width: 18rem; }
.bar { height: .45rem; border-radius: 2px; background: var(--ink); margin: .15rem 0; }
.oracle { background: #8888; }
code { background: #8882; padding: .1rem .3rem; border-radius: 3px; overflow-wrap: anywhere; }
"""
_QUALITY = 88


def write_page(path: Path, report: dict[str, Any], sheet: Image.Image | None) -> None:
    """Write the page, which needs no other file, of a report of `to_json`."""
    name = html.escape(report["source"]["name"])
    pictures = report["scores"]["pictures"] is not None
    title = f"{name}, segmented again" if pictures else "The oracle: photographs, segmented"
    count = report["data"]["pictures"]
    lead = (
        f"{count} pictures were segmented and compared with the label maps that they were made "
        "from. The oracle is the same segmenter on the photographs of the same samples at the same "
        "size: what a perfect picture could reach."
        if pictures
        else f"{count} photographs were segmented and compared with their label maps. This is what "
        "a perfect picture could reach with this segmenter."
    )
    image = "<p>None was kept.</p>"
    if sheet is not None:
        data = io.BytesIO()
        sheet.save(data, "JPEG", quality=_QUALITY, subsampling=0)
        image = (
            '<img alt="label maps, photographs, pictures and their segmentations" '
            f'src="data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode("ascii")}">'
        )
    body = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>SceneLoom: {title}</title>
<style>{_STYLE}</style>
<h1>{title}</h1>
<p>{lead}</p>
{_scores(report, pictures)}
{_distance_text(report)}
<h2>Pictures</h2>
{image}
<h2>Classes</h2>
{_class_table(report, pictures)}
<h2>Protocol</h2>
{_protocol(report)}
</html>
"""
    path.write_text(body, "utf-8", errors="backslashreplace")  # names that are not UTF-8


def _scores(report: dict[str, Any], pictures: bool) -> str:
    columns = ("pictures", "oracle", "gap") if pictures else ("oracle",)
    rows = "".join(
        f"<tr><td>{name}</td>"
        + "".join(_number(report["scores"][column][key], column == "gap") for column in columns)
        + "</tr>\n"
        for key, name in SCORES.items()
    )
    head = "".join(f'<th class="number">{column}</th>' for column in columns)
    return f"<table>\n<tr><th></th>{head}</tr>\n{rows}</table>"


def _number(interval: dict[str, float | None] | None, signed: bool = False) -> str:
    """A table cell: per cent, and the interval."""
    if interval is None or interval["value"] is None:
        return '<td class="number">n/a</td>'
    value, low, high = (
        "n/a" if x is None else f"{100 * x:+.2f}" if signed else f"{100 * x:.2f}"
        for x in (interval["value"], interval["low"], interval["high"])
    )
    return f'<td class="number">{value} <small>[{low}, {high}]</small></td>'


def _distance_text(report: dict[str, Any]) -> str:
    if "fid" not in report:
        return ""
    fid, kid = report["fid"], report["kid"]
    few = (
        f" There are fewer pictures than the {fid['features']} features, so FID is biased upwards: "
        "compare it with that of equally many pictures only."
        if fid["pictures"] <= fid["features"]
        else ""
    )
    spread = "" if kid["deviation"] is None else f" ± {kid['deviation']:.5f}"
    return (
        f"<p>FID {fid['value']:.3f}, KID {kid['value']:.5f}{spread} "
        f"({kid['subsets']} subsets of {kid['subset_size']}), by the features of "
        f"{html.escape(fid['network'])}, weights <code>{fid['weights_sha256']}</code>.{few}</p>"
    )


def _class_table(report: dict[str, Any], pictures: bool) -> str:
    columns = ("pictures", "oracle") if pictures else ("oracle",)
    head = "".join(f'<th class="number">{column}</th>' for column in columns)
    present = [row for row in report["classes"] if row["oracle"]["value"] is not None]
    rows = "".join(_class(row, columns) for row in sorted(present, key=lambda r: -r["share"]))
    absent = ", ".join(report["classes_absent"])
    ignored = ", ".join(report["classes_ignored"])
    return (
        "<p>IoU in per cent; classes by their share of the pixels. "
        + ("The grey bar is the oracle's." if pictures else "")
        + f'</p>\n<table>\n<tr><th>class</th><th class="number">share</th>{head}<th></th></tr>\n'
        + f"{rows}</table>\n"
        + (f"<p>Not in these label maps: {html.escape(absent)}.</p>\n" if absent else "")
        + (f"<p>Ignored, unknown to the segmenter: {html.escape(ignored)}.</p>" if ignored else "")
    )


def _class(row: dict[str, Any], columns: tuple[str, ...]) -> str:
    red, green, blue = row["colour"]
    bars = "".join(
        f'<div class="bar{" oracle" if column == "oracle" else ""}" '
        f'style="width:{100 * row[column]["value"]:.1f}%"></div>'
        for column in columns
    )
    return (
        f'<tr><td><span class="swatch" style="background:rgb({red},{green},{blue})"></span>'
        f'{html.escape(row["name"])}</td><td class="number">{100 * row["share"]:.2f}</td>'
        + "".join(_number(row[column]) for column in columns)
        + f'<td class="bars">{bars}</td></tr>\n'
    )


def _protocol(report: dict[str, Any]) -> str:
    data, source, bootstrap = report["data"], report["source"], report["bootstrap"]
    segmenter = report["segmenter"]
    facts = {
        "segmenter": f"{segmenter['name']}, schema {segmenter['schema']}",
        "its weights, SHA-256": segmenter["weights_sha256"],
        "data": ", ".join(str(v) for k, v in data.items() if k != "pictures" and v is not None),
        "samples": f"{data['pictures']}; {report['pixels_scored']:,} pixels scored",
        "pictures": ", ".join(
            f"{k.replace('_', ' ')} {v}" for k, v in source.items() if v is not None
        ),
        "size of pictures and photographs": ", ".join(report["rendered_sizes"]),
        "size segmented and compared": report["segmented_size"],
        "intervals": f"{100 * bootstrap['level']:.0f} % percentile bootstrap over the samples, "
        f"{bootstrap['draws']} draws, seed {bootstrap['seed']}; the gap's are paired",
        "mean IoU": "over the classes that occur in the label maps; ignored pixels are left out",
        "made by": f"sceneloom {report['sceneloom']}",
    }
    rows = "".join(
        f"<tr><td>{name}</td><td>{html.escape(str(value))}</td></tr>\n"
        for name, value in facts.items()
    )
    return f"<table>\n{rows}</table>"


_WIDEST, _HIGHEST = 512, 2048
_GAP, _HEAD = 8, 32
_PAPER, _INK = (250, 250, 250), (60, 60, 60)

_Cells = list[tuple[str, npt.NDArray[np.uint8], bool]]


def draw_sheet(rows: Sequence[SheetRow], schema: LabelSchema) -> Image.Image:
    """Draw the rows, all of one size and kind, below headings; a cell is at most 512x2048."""
    height, width = rows[0].label_map.shape
    scale = min(1.0, _WIDEST / width, _HIGHEST / height)
    cell = (max(1, round(width * scale)), max(1, round(height * scale)))
    headings = [heading for heading, _, _ in _cells(rows[0], schema)]
    size = (
        _GAP + len(headings) * (cell[0] + _GAP),
        _HEAD + len(rows) * (cell[1] + _GAP),
    )
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
