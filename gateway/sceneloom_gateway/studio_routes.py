"""The studio's page, its modules and the streets that it begins with (docs/studio.md)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal, cast, get_args

import cv2
import numpy as np
from fastapi import FastAPI
from fastapi.responses import FileResponse, RedirectResponse, Response

from sceneloom.contract import Contract
from sceneloom.maps import Array
from sceneloom_gateway.problems import Problem
from sceneloom_gateway.tritons import Tritons
from sceneloom_streets import draw_street
from sceneloom_streets.painting import StreetLabels

PAGE = Path(__file__).with_name("studio")
"""Folder of the page and its modules."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page's Content-Security-Policy."""
SAMPLE = (256, 512)
"""Height and width of the streets to begin with, where the model takes every size."""
_FIRST_STREET, _STREETS = 1_000_003, 1000
_PNG = "image/png"
_MEDIA = {".css": "text/css", ".html": "text/html", ".js": "text/javascript"}
_PEOPLE = ("person", "pedestrian", "rider", "bicyclist", "motorcyclist")
_VEHICLES = (
    *("car", "truck", "bus", "caravan", "trailer", "train", "vehicle"),
    *("motorcycle", "motorbike", "bicycle"),
)
_COUNTED = {*_PEOPLE, *_VEHICLES, "animal"}


def countable(contract: Contract) -> list[int]:
    """Ids of the classes whose things are counted, by the names that data sets give them, such as
    car or object--vehicle--car.
    """
    labels = contract.schema.labels if contract.schema else ()
    return [one.id for one in labels if one.name.lower().split("--")[-1] in _COUNTED]


def add_studio(app: FastAPI, tritons: Tritons) -> None:
    """Serve the studio at `/studio/`, where `/` leads, for models of label maps."""

    @app.get("/", include_in_schema=False)
    async def to_studio() -> RedirectResponse:
        return RedirectResponse("/studio/")

    @app.get("/studio/start.json", include_in_schema=False)
    async def start() -> dict[str, Any]:
        with tritons.using() as served:
            contract = served.contract
        height, width = sample_size(contract)
        return {
            "width": width,
            "height": height,
            "countable": countable(contract),
            "has_streets": _painted(contract) is not None,
        }

    @app.get("/studio/samples/{number}/{kind}.png", include_in_schema=False)
    def sample(number: int, kind: Literal["labels", "instances"]) -> Response:
        with tritons.using() as served:
            contract = served.contract
        labels = _painted(contract)
        if labels is None or not 0 <= number < _STREETS:
            raise Problem(404, f"there is no street {number} with the labels of this model")
        return Response(_street(number, *sample_size(contract), labels)[kind], media_type=_PNG)

    @app.get("/studio/{name:path}", include_in_schema=False)
    async def file(name: str) -> FileResponse:
        path = PAGE / (name or "index.html")
        if path.parent != PAGE or path.suffix not in _MEDIA or not path.is_file():
            raise Problem(404, f"the studio has no file {name[:80]!r}")
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
        return FileResponse(path, media_type=_MEDIA[path.suffix], headers=headers)


def sample_size(contract: Contract) -> tuple[int, int]:
    """(height, width) to begin with: the model's own smallest area of at least `SAMPLE`'s, or
    `SAMPLE` as the model's multiple allows it.
    """
    height, width = SAMPLE
    if contract.sizes:
        large = [one for one in contract.sizes if one[0] * one[1] >= height * width]
        return min(large or [max(contract.sizes)], key=lambda one: one[0] * one[1])
    multiple = contract.size_multiple
    least = contract.smallest_side
    up = [max(least, -(-side // multiple) * multiple) for side in (height, width)]
    return up[0], up[1]


def _painted(contract: Contract) -> StreetLabels | None:
    """The kind of labels of painted streets that the model takes, or None."""
    name = contract.schema.name if contract.schema else ""
    return cast(StreetLabels, name) if name in get_args(StreetLabels) else None


@functools.lru_cache(maxsize=8)
def _street(number: int, height: int, width: int, labels: StreetLabels) -> dict[str, bytes]:
    street = draw_street(_FIRST_STREET + number, height, width, labels=labels)
    return {"labels": _png(street.label_map), "instances": _png(street.instance_map)}


def _png(values: Array) -> bytes:
    kind: Any = np.uint8 if values.max() < 256 else np.uint16
    ok, data = cv2.imencode(".png", values.astype(kind))
    assert ok
    return data.tobytes()
