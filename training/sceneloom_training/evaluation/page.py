"""The page of an evaluation: scores beside the oracle, classes as bars, the sheet, the protocol."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

from PIL import Image

from sceneloom_training.evaluation.scores import SCORES

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
    """Write the page, which needs no other file.

    Args:
        path: of the HTML file.
        report: as `sceneloom_training.evaluation.report.to_json` gives it.
        sheet: the sheet, or None for a page without it.
    """
    name = html.escape(report["source"]["name"])
    pictures = report["scores"]["pictures"] is not None
    title = f"{name}, segmented again" if pictures else "The oracle: photographs, segmented"
    body = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>SceneLoom: {title}</title>
<style>{_STYLE}</style>
<h1>{title}</h1>
<p>{_lead(report)}</p>
{_scores(report, pictures)}
{_distances(report)}
<h2>Pictures</h2>
{_sheet(sheet)}
<h2>Classes</h2>
{_classes(report, pictures)}
<h2>Protocol</h2>
{_protocol(report)}
</html>
"""
    path.write_text(body, "utf-8", errors="backslashreplace")  # names that are not UTF-8


def _lead(report: dict[str, Any]) -> str:
    count = report["data"]["pictures"]
    if report["scores"]["pictures"] is None:
        return (
            f"{count} photographs were segmented and compared with their label maps. This is what "
            "a perfect picture could reach with this segmenter."
        )
    return (
        f"{count} pictures were segmented and compared with the label maps that they were made "
        "from. The oracle is the same segmenter on the photographs of the same samples at the same "
        "size: what a perfect picture could reach."
    )


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


def _distances(report: dict[str, Any]) -> str:
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


def _sheet(sheet: Image.Image | None) -> str:
    if sheet is None:
        return "<p>None was kept.</p>"
    data = io.BytesIO()
    sheet.save(data, "JPEG", quality=_QUALITY, subsampling=0)
    text = base64.b64encode(data.getvalue()).decode("ascii")
    return (
        '<img alt="label maps, photographs, pictures and their segmentations" '
        f'src="data:image/jpeg;base64,{text}">'
    )


def _classes(report: dict[str, Any], pictures: bool) -> str:
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
