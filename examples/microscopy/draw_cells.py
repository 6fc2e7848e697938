"""Draw maps of cells: palette PNGs of class ids, and 32-bit TIFFs with one id per cell.

A field other than streets needs a label schema (`cells.json`), maps, and photographs to train on.
No code of SceneLoom knows cells.

    python examples/microscopy/draw_cells.py build/cells --maps 4
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import tyro
from PIL import Image

from sceneloom import load_schema
from sceneloom.schema import LabelSchema

SCHEMA_FILE = Path(__file__).parent / "cells.json"
FIRST_ID = 100_000
"""Ids beyond 16 bits, as segmentation tools write them for whole slides."""


def main(
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")],
    maps: int = 4,
    size: int = 512,
    photographs: bool = False,
) -> None:
    """Draw label maps into DIR/labels and instance maps into DIR/instances.

    Args:
        out: folder to write.
        maps: number of fields of view.
        size: pixels on each side.
        photographs: also draw a micrograph of each map, into DIR/photographs.
    """
    schema = load_schema(SCHEMA_FILE)
    for folder in ("labels", "instances", *(["photographs"] if photographs else [])):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for seed in range(maps):
        label_map, instance_map = draw_cells(seed, size)
        save_palette(out / "labels" / f"field_{seed:03}.png", label_map, schema)
        Image.fromarray(instance_map).save(out / "instances" / f"field_{seed:03}.tif")
        if photographs:
            picture = draw_photograph(seed, label_map, schema)
            Image.fromarray(picture).save(out / "photographs" / f"field_{seed:03}.png")
    print(f"wrote {maps} fields of view to {out}")


def draw_cells(seed: int, size: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Draw one field of view: label ids of `cells.json`, and one instance id per cell."""
    rng = np.random.default_rng(seed)
    label_map = np.zeros((size, size), np.uint8)
    instance_map = np.zeros((size, size), np.int32)
    for number in range(int(rng.integers(25, 45))):
        centre = rng.integers(0, size, 2)
        radius = float(rng.uniform(0.035, 0.075)) * size
        outline = _blob(rng, centre, radius)
        cell = _filled(outline, size)
        label_map[cell] = 50
        cv2.polylines(label_map, [outline], True, (150,), max(size // 256, 1))
        label_map[_filled(_blob(rng, centre, 0.45 * radius), size)] = 100
        instance_map[cell] = FIRST_ID + number
    for _ in range(12):
        x, y = (int(v) for v in rng.integers(0, size, 2))
        cv2.circle(label_map, (x, y), max(size // 170, 1), (200,), -1)
    return label_map, instance_map


def save_palette(path: Path, label_map: npt.NDArray[np.uint8], schema: LabelSchema) -> None:
    """Write class ids as a palette PNG: any viewer shows colours, the file holds the ids."""
    image = Image.fromarray(label_map).convert("P")
    image.putdata(label_map.ravel().tolist())
    image.putpalette(_colours(schema).tobytes())
    image.save(path)


def draw_photograph(
    seed: int, label_map: npt.NDArray[np.uint8], schema: LabelSchema
) -> npt.NDArray[np.uint8]:
    """Draw the micrograph of a map, uint8 [H, W, 3]: soft colours, uneven light, grain."""
    rng = np.random.default_rng(seed)
    height, width = label_map.shape
    tint = rng.normal(0, 12, (*label_map.shape, 3)).astype(np.float32)
    picture = _colours(schema)[label_map] + cv2.GaussianBlur(tint, (0, 0), 3) * 4
    light = cv2.resize(
        rng.uniform(0.7, 1.2, (4, 4)), (width, height), interpolation=cv2.INTER_CUBIC
    )
    picture = cv2.GaussianBlur(picture, (0, 0), 1.2) * light[..., None]
    return (picture + rng.normal(0, 4, picture.shape)).clip(0, 255).round().astype(np.uint8)


def _colours(schema: LabelSchema) -> npt.NDArray[np.uint8]:
    """RGB by class id, [256, 3]."""
    colours = np.zeros((256, 3), np.uint8)
    for label in schema.labels:
        colours[label.id] = label.colour
    return colours


def _blob(
    rng: np.random.Generator, centre: npt.NDArray[np.int64], radius: float
) -> npt.NDArray[np.int32]:
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    wobble = 1 + 0.18 * np.sin(angles * rng.integers(2, 5) + rng.uniform(0, 6))
    points = np.stack([np.cos(angles), np.sin(angles)], 1) * (radius * wobble)[:, None] + centre
    return points.round().astype(np.int32)


def _filled(outline: npt.NDArray[np.int32], size: int) -> npt.NDArray[Any]:
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [outline], (1,))
    return mask == 1


if __name__ == "__main__":
    tyro.cli(main)
