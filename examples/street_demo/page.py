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
.row { display: grid; grid-template-columns: repeat(3, 1fr); gap: .75rem; margin: .75rem 0 2.5rem; }
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
    painted: str
    """What the painter of the training streets makes of the same street."""


def write(
    folder: Path,
    rows: Sequence[Row],
    looks: Sequence[str],
    seconds: Mapping[str, float],
    *,
    weights: str,
    serve_again: str,
) -> None:
    """Write `index.html`.

    Args:
        folder: where; the rows' paths are relative to it.
        rows: one per map.
        looks: the first map's pictures in several styles.
        seconds: stage -> seconds.
        weights: which weights made the pictures.
        serve_again: the command that serves the same model again.
    """
    stages = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{value:.1f}</td></tr>"
        for name, value in seconds.items()
    )
    total = sum(seconds.values())
    styles = "".join(_figure(path, f"style seed {n}") for n, path in enumerate(looks, 1))
    body = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>SceneLoom: label maps in, pictures out</title>
<style>{_STYLE}</style>
<h1>Label maps in, pictures out</h1>
<p>Every large picture is synthesized from the label map and the instance boundaries under it, by a
generator that a real Triton Inference Server runs on this machine. Weights: {html.escape(weights)};
these streets were not among them. The third small picture is what the painter of the training
streets makes of the same street, in a light of its own.</p>
{"".join(_row(row) for row in rows)}
<h2>One street, {len(looks)} styles</h2>
<p>The style of every class and of every car is drawn from the clusters that travel with the model:
<code>sceneloom render --style-seed</code>.</p>
<div class="row">{styles}</div>
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
    small = (
        (row.labels, "label map"),
        (row.boundaries, "instance boundaries"),
        (row.painted, "painted"),
    )
    figures = "".join(_figure(path, f"{row.name}: {what}") for path, what in small)
    return f'{_figure(row.picture, f"{row.name}: synthesized")}<div class="row">{figures}</div>\n'


def _figure(path: str, caption: str) -> str:
    path, caption = html.escape(path), html.escape(caption)
    return (
        f'<figure><a href="{path}"><img src="{path}" loading="lazy" alt="{caption}"></a>'
        f"<figcaption>{caption}</figcaption></figure>"
    )
