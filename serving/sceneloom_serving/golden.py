"""The golden probe: a real inference whose answer is known, because a server that says "ready" may
still be broken.

An export bundle holds `golden.npz`: one map, and the means of PyTorch's picture over blocks of
16x16 pixels. A served model passes if its own block means are within 2 grey levels; lower
precisions have more room.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sceneloom.contract import precision_of
from sceneloom.errors import ModelFailedError, ServerStartError
from sceneloom.maps import Image, InstanceMap, LabelMap, Style
from sceneloom.request import Request
from sceneloom.synthesizer import Synthesizer

GOLDEN_FILE = "golden.npz"
BLOCK = 16
"""Side of a block, in pixels."""
TOLERANCE = 2.0
"""Largest difference of a block's mean, in grey levels."""
_TOLERANCES = {"bf16": 4.0, "int8": 12.0}
"""The same for engines of a lower precision. Another model's picture is tens of levels away."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Golden:
    """A map and the block means of the picture it must give."""

    label_map: LabelMap
    """uint8 [H, W] at network size."""
    instance_map: InstanceMap | None
    """int32 [H, W], or None where the model takes none."""
    style: Style | None
    """float32 [256, F], or None where the model takes none."""
    block_means: npt.NDArray[np.float32]
    """float32 [H // 16, W // 16, 3], grey levels."""


def make_golden(reference: Synthesizer, request: Request) -> Golden:
    """Run the reference once and keep what it answered."""
    image = _probe(reference, request.label_map, request.instance_map, request.style)
    return Golden(
        label_map=request.label_map,
        instance_map=request.instance_map,
        style=request.style,
        block_means=block_means(image),
    )


def block_means(image: Image) -> npt.NDArray[np.float32]:
    """Mean of each whole 16x16 block: uint8 [H, W, 3] -> float32 [H // 16, W // 16, 3].

    A picture that is smaller than a block on one side has blocks of that side.
    """
    height, width = min(BLOCK, image.shape[0]), min(BLOCK, image.shape[1])
    rows, columns = image.shape[0] // height, image.shape[1] // width
    blocks = image[: rows * height, : columns * width].reshape(rows, height, columns, width, 3)
    means: npt.NDArray[np.float32] = blocks.mean(axis=(1, 3), dtype=np.float64).astype(np.float32)
    return means


def check_golden(synthesizer: Synthesizer, golden: Golden, engine: str = "") -> float:
    """Prove a served model with a real inference.

    Args:
        synthesizer: the served model.
        golden: of the bundle that is served.
        engine: its name, which ends in the precision; without one, float32's tolerance holds.

    Returns:
        the largest difference of a block's mean, in grey levels.

    Raises:
        ModelFailedError: the picture is not the one that was exported.
        ServingError: there was no picture.
    """
    image = _probe(synthesizer, golden.label_map, golden.instance_map, golden.style)
    return check_picture(image, golden, engine)


def check_picture(image: Image, golden: Golden, engine: str = "") -> float:
    """Compare a picture of the golden map with the one that was exported.

    Args:
        image: uint8 [H, W, 3], RGB.
        golden: of the bundle that is served.
        engine: its name, which ends in the precision; without one, float32's tolerance holds.

    Returns:
        the largest difference of a block's mean, in grey levels.

    Raises:
        ModelFailedError: it differs by more than the tolerance.
    """
    difference = float(np.abs(block_means(image) - golden.block_means).max())
    tolerance = _TOLERANCES.get(precision_of(engine), TOLERANCE)
    if not difference <= tolerance:
        raise ModelFailedError(
            "the served model is not the one that was exported: on the golden map its picture "
            "differs by "
            f"{difference:.1f} grey levels, {tolerance:g} is the limit"
        )
    return difference


def save_golden(golden: Golden, folder: Path) -> None:
    """Write `golden.npz` into an export bundle."""
    fields = {name: value for name, value in vars(golden).items() if value is not None}
    np.savez_compressed(folder / GOLDEN_FILE, **fields)


def load_golden(folder: Path) -> Golden:
    """Read `golden.npz` of an export bundle.

    Raises:
        ServerStartError: the folder is not an export bundle, or the file is damaged.
    """
    path = folder / GOLDEN_FILE
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
            fields = {name: data[name] for name in data.files}
        golden = Golden(**{"instance_map": None, "style": None, **fields})
    except FileNotFoundError:
        raise ServerStartError(
            f"{folder}: no {GOLDEN_FILE}; this is not a folder that sceneloom export wrote"
        ) from None
    except OSError as error:
        raise ServerStartError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # zip, zlib, header and field errors of a damaged file
        raise ServerStartError(f"{path}: damaged ({error})") from None
    _check_fields(golden, path)
    return golden


def _check_fields(golden: Golden, path: Path) -> None:
    size = golden.label_map.shape
    fits = golden.label_map.dtype == np.uint8 and len(size) == 2 and min(size) > 0
    if fits:
        image = np.zeros((*size, 3), np.uint8)
        means = golden.block_means
        fits = means.dtype == np.float32 and means.shape == block_means(image).shape
    if fits and golden.instance_map is not None:
        fits = golden.instance_map.dtype == np.int32 and golden.instance_map.shape == size
    if fits and golden.style is not None:
        fits = golden.style.dtype == np.float32 and golden.style.ndim == 2
    if not fits:
        raise ServerStartError(f"{path}: damaged (its arrays are not those that export writes)")


def _probe(
    synthesizer: Synthesizer,
    label_map: LabelMap,
    instance_map: InstanceMap | None,
    style: Style | None,
) -> Image:
    images = synthesizer.run_batch(
        label_map[None],
        None if instance_map is None else instance_map[None],
        None if style is None else style[None],
    )
    image: Image = images[0]
    return image
