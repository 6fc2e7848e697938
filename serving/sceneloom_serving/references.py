"""Maps and PyTorch's pictures of them, which travel with an export bundle: what an engine is judged
by on a machine that has no torch.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sceneloom.errors import ServerStartError
from sceneloom.maps import Image
from sceneloom.request import Padding, Request

REFERENCES_FILE = "references.npz"
_FIELDS = ("label_map", "instance_map", "style", "picture")


@dataclasses.dataclass(frozen=True, kw_only=True)
class References:
    """Maps at network size, and the pictures they must give."""

    requests: list[Request]
    """The maps, from small to large."""
    pictures: list[Image]
    """PyTorch's, float32: uint8 [1, H, W, 3] each."""

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """The (height, width) of each."""
        return [(r.label_map.shape[0], r.label_map.shape[1]) for r in self.requests]


def save_references(references: References, folder: Path) -> None:
    """Write `references.npz` into an export bundle."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for number, request in enumerate(references.requests):
        values = (request.label_map, request.instance_map, request.style)
        for name, value in zip(_FIELDS, (*values, references.pictures[number]), strict=True):
            if value is not None:
                arrays[f"{name}_{number}"] = value
    np.savez_compressed(folder / REFERENCES_FILE, **arrays)


def load_references(folder: Path) -> References:
    """Read `references.npz` of an export bundle.

    Raises:
        ServerStartError: the folder has none, or it is damaged.
    """
    path = folder / REFERENCES_FILE
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
    except FileNotFoundError:
        raise ServerStartError(
            f"{folder}: no {REFERENCES_FILE}; this is not a folder that sceneloom export wrote"
        ) from None
    except OSError as error:
        raise ServerStartError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # zip, zlib and header errors of a damaged file
        raise ServerStartError(f"{path}: damaged ({error})") from None
    count = sum(name.startswith("picture_") for name in arrays)
    rows: list[list[Any]] = [
        [arrays.get(f"{field}_{number}") for field in _FIELDS] for number in range(count)
    ]
    if not rows or not all(_fits(*row) for row in rows):
        raise ServerStartError(f"{path}: damaged (its arrays are not those that export writes)")
    return References(
        requests=[
            Request(label_map=labels, instance_map=instances, style=style, padding=Padding())
            for labels, instances, style, _ in rows
        ],
        pictures=[picture for *_, picture in rows],
    )


def _fits(labels: Any, instances: Any, style: Any, picture: Any) -> bool:
    if labels is None or picture is None or labels.dtype != np.uint8 or labels.ndim != 2:
        return False
    fits = picture.dtype == np.uint8 and picture.shape == (1, *labels.shape, 3)
    if instances is not None:
        fits &= instances.dtype == np.int32 and instances.shape == labels.shape
    if style is not None:
        fits &= style.dtype == np.float32 and style.ndim == 2
    return bool(fits)
