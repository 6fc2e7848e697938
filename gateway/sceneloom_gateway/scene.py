"""A studio's scene as one JSON file: label map, instance map and looks. ``studio/scene.js`` reads
and writes the same; docs/studio.md describes it.

    scene = read_scene(Path("scene.json"))
    scene.label_map      # uint8 [H, W], ids of the schema `scene.schema`
    scene.instance_map   # int32 [H, W]
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
from annotated_types import Interval

from sceneloom.errors import InputError
from sceneloom.files import write_whole
from sceneloom.maps import DEFAULT_MAX_PIXELS, decode_map
from sceneloom.text import parse_json

FORMAT = 1
_MAPS = ("labels", "instances_upper", "instances_lower")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A scene of the studio."""

    schema: str
    """Name of the label schema."""
    label_map: npt.NDArray[np.uint8]
    """Label ids, uint8 [H, W]."""
    instance_map: npt.NDArray[np.int32]
    """Instance ids, int32 [H, W]."""
    seed: Annotated[int, Interval(ge=0)] | None = None
    """Seed of the looks of all instances; None gives every class its default."""
    looks: Mapping[int, int] = dataclasses.field(default_factory=dict)
    """Instance id -> index of a look (a style cluster) of its class."""


def write_scene(path: Path, scene: Scene) -> None:
    """Write a scene. Raises OSError."""
    height, width = scene.label_map.shape
    ids = scene.instance_map.view(np.uint32)
    maps: tuple[npt.NDArray[Any], ...] = (
        scene.label_map,
        (ids >> 16).astype(np.uint16),
        (ids & 0xFFFF).astype(np.uint16),
    )
    document = {
        "format": FORMAT,
        "schema": scene.schema,
        "width": width,
        "height": height,
        **{name: _to_base64(values) for name, values in zip(_MAPS, maps, strict=True)},
        "seed": scene.seed,
        "looks": {str(instance): look for instance, look in scene.looks.items()},
    }
    write_whole(path, json.dumps(document).encode())


def read_scene(path: Path) -> Scene:
    """Read a scene. Raises InputError for a file that is none, and for maps of different sizes."""
    document = parse_json(path.read_bytes(), source=str(path), error=InputError)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f"{path}: not a scene of format {FORMAT}")
    labels, upper, lower = (_from_base64(document, name, path) for name in _MAPS)
    if not labels.shape == upper.shape == lower.shape:
        raise InputError(f"{path}: its maps have different sizes")
    seed, looks = document.get("seed"), document.get("looks", {})
    if not isinstance(looks, dict) or not all(
        key.isdigit() and isinstance(look, int) for key, look in looks.items()
    ):
        raise InputError(f"{path}: looks are not instance ids with whole numbers")
    if seed is not None and (not isinstance(seed, int) or seed < 0):
        raise InputError(f"{path}: seed is {seed!r}; it is a whole number from 0, or null")
    instances = upper.astype(np.uint32) << 16 | lower
    return Scene(
        schema=str(document.get("schema", "")),
        label_map=labels.astype(np.uint8),
        instance_map=instances.view(np.int32),
        seed=seed,
        looks={int(key): look for key, look in looks.items()},
    )


def _to_base64(values: npt.NDArray[Any]) -> str:
    ok, encoded = cv2.imencode(".png", values)
    assert ok
    return base64.b64encode(encoded.tobytes()).decode()


def _from_base64(document: Mapping[str, Any], name: str, path: Path) -> npt.NDArray[Any]:
    try:
        data = base64.b64decode(document.get(name, ""), validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise InputError(f"{path}: {name} is not base64") from None
    return decode_map(data, f"{path}, {name}", DEFAULT_MAX_PIXELS)[0]
