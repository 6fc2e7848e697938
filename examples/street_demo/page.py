"""The demo's page: pictures over their label maps, the looks of a street and of a thing in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Street:
    """One map on the page; paths are relative to the page."""

    name: str
    """Name of the map."""
    labels: str
    """Label map in its schema's colours."""
    boundaries: str
    """Instance boundaries, black on white."""
    picture: str
    """Synthesized picture, as JPEG."""
    painted: str
    """Picture of the same street by the painter of the training streets."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """A picture in one style; paths are relative to the page."""

    caption: str
    shown: str
    """Picture, as JPEG."""
    full: str
    """Picture as it was rendered."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """What the page shows."""

    rows: Sequence[Street]
    looks: Sequence[Look]
    """The first street in several styles."""
    thing: str
    """Name of the class of the thing whose looks are shown; empty without one."""
    thing_looks: Sequence[Look]
    seconds: Mapping[str, float]
    """Stage -> seconds."""
    size: str
    """WIDTHxHEIGHT."""
    score: str
    """Sentence on the generator's evaluation."""
    weights: str
    """Description of the generator's weights."""
    serve_again: str
    """Command that serves the model again."""
    paint: str
    """Command that opens the studio on the model."""
    checkout: str
    """Path from the page to the checkout, for links to its documents."""

    def write(self, folder: Path) -> None:
        """Write FOLDER/index.html."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            keep_trailing_newline=True,
        )
        page = environment.get_template("page.html").render(**vars(self))
        (folder / "index.html").write_text(page, "utf-8")
