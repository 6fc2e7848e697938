"""The demo's page: label colours, boundaries and picture side by side, and seconds per stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2


@dataclasses.dataclass(frozen=True, kw_only=True)
class PageRow:
    """One map on the page; paths are relative to the page."""

    name: str
    """Name of the map."""
    labels: str
    """Label map in its schema's colours."""
    boundaries: str
    """Instance boundaries, black on white."""
    picture: str
    """Synthesized picture."""
    painted: str
    """Picture of the same street by the painter of the training streets."""


def write(
    folder: Path,
    rows: Sequence[PageRow],
    looks: Sequence[str],
    seconds: Mapping[str, float],
    *,
    weights: str,
    serve_again: str,
) -> None:
    """Write FOLDER/index.html.

    Args:
        folder: folder of the page.
        rows: one per map.
        looks: paths of the first map's pictures in several styles.
        seconds: stage -> seconds.
        weights: description of the generator's weights.
        serve_again: command that serves the model again.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    page = environment.get_template("page.html").render(
        rows=rows, looks=looks, seconds=seconds, weights=weights, serve_again=serve_again
    )
    (folder / "index.html").write_text(page, "utf-8")
