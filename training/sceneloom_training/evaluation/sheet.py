"""The sheet: label map, photograph, picture, and what the segmenter sees in both, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from sceneloom.schema import LabelSchema
from sceneloom_training.evaluation.evaluate import SheetRow

_WIDEST, _HIGHEST = 512, 2048
_GAP, _HEAD = 8, 32
_PAPER, _INK = (250, 250, 250), (60, 60, 60)

_Cells = list[tuple[str, npt.NDArray[np.uint8], bool]]


def draw_sheet(rows: Sequence[SheetRow], schema: LabelSchema) -> Image.Image:
    """Draw the rows below one line of headings.

    Args:
        rows: from one, all of one size and kind.
        schema: the segmenter's, whose colours label maps are painted in.

    Returns:
        an RGB picture, whose cells are at most 512 pixels wide and 2048 high.
    """
    height, width = rows[0].label_map.shape
    scale = min(1.0, _WIDEST / width, _HIGHEST / height)
    cell = (max(1, round(width * scale)), max(1, round(height * scale)))
    headings = [heading for heading, _, _ in _cells(rows[0], schema)]
    size = (
        _GAP + len(headings) * (cell[0] + _GAP),
        _HEAD + len(rows) * (cell[1] + _GAP),
    )
    sheet = Image.new("RGB", size, _PAPER)
    _write_headings(sheet, headings, cell[0])
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


def _write_headings(sheet: Image.Image, headings: Sequence[str], width: int) -> None:
    draw = ImageDraw.Draw(sheet)
    # The longest heading fits: about half as wide as high per letter.
    font = ImageFont.load_default(max(8, min(17, round(width / 11))))
    for column, heading in enumerate(headings):
        place = (_GAP + column * (width + _GAP), _HEAD - _GAP)
        draw.text(place, heading, _INK, font, anchor="ls")
