"""The demo's page: label colours, boundaries and picture side by side, and seconds per stage."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; padding: 0 1.5rem;
       max-width: 120rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
p { max-width: 50rem; }
.row { display: grid; grid-template-columns: repeat(3, 1fr); gap: .75rem; margin: 1.5rem 0; }
figure { margin: 0; }
img { width: 100%; height: auto; display: block; border-radius: 4px; background: #8884; }
figcaption { font-size: .85rem; opacity: .75; padding-top: .25rem; }
table { border-collapse: collapse; }
td, th { padding: .2rem .9rem .2rem 0; text-align: left; border-bottom: 1px solid #8884; }
td:last-child, th:last-child { text-align: right; font-variant-numeric: tabular-nums; }
code { background: #8882; padding: .1rem .3rem; border-radius: 3px; }
@media (max-width: 60rem) { .row { grid-template-columns: 1fr; } }
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What the page shows of one map; the paths are relative to the page."""

    name: str
    """Of the map."""
    labels: str
    """The label map in its schema's colours."""
    boundaries: str
    """The instance boundaries, black on white."""
    picture: str
    """The synthesized picture."""


def write(
    folder: Path,
    rows: Sequence[Row],
    seconds: Mapping[str, float],
    *,
    weights: str,
    serve_again: str,
) -> None:
    """Write `index.html`.

    Args:
        folder: where; the rows' paths are relative to it.
        rows: one per map.
        seconds: stage -> seconds.
        weights: which weights made the pictures.
        serve_again: the command that serves the same model again.
    """
    stages = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{value:.1f}</td></tr>"
        for name, value in seconds.items()
    )
    total = sum(seconds.values())
    body = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>SceneLoom: label maps in, pictures out</title>
<style>{_STYLE}</style>
<h1>Label maps in, pictures out</h1>
<p>Street scenes drawn by SceneLoom, rendered by a generator through a real Triton Inference Server
on this machine. Weights: {html.escape(weights)}.</p>
{"".join(_row(row) for row in rows)}
<h2>Seconds per stage</h2>
<table>
<tr><th>stage</th><th>seconds</th></tr>
{stages}
<tr><th>all</th><th>{total:.1f}</th></tr>
</table>
<p>Serve the model again: <code>{html.escape(serve_again)}</code></p>
</html>
"""
    (folder / "index.html").write_text(body, "utf-8")


def _row(row: Row) -> str:
    figures = (
        ("label map", row.labels),
        ("instance boundaries", row.boundaries),
        ("picture", row.picture),
    )
    name = html.escape(row.name)
    return (
        '<div class="row">'
        + "".join(
            f'<figure><a href="{html.escape(path)}"><img src="{html.escape(path)}" loading="lazy" '
            f'alt="{name}: {what}"></a><figcaption>{name}: {what}</figcaption></figure>'
            for what, path in figures
        )
        + "</div>\n"
    )
