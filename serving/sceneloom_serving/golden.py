"""The golden probe: a real inference whose answer is known, because a server that says "ready" may
still be broken.

An export bundle holds `golden.npz`: one map, and the means of PyTorch's picture over blocks of
16x16 pixels. A served model passes if its own block means are within 2 grey levels.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sceneloom.errors import ModelFailedError, ServerStartError
from sceneloom.synthesizer import Image, InstanceMap, LabelMap, Request, Style, Synthesizer

GOLDEN_FILE = "golden.npz"
BLOCK = 16
"""Side of a block, in pixels."""
TOLERANCE = 2.0
"""Largest difference of a block's mean, in grey levels."""


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
    """Mean of each whole 16x16 block: uint8 [H, W, 3] -> float32 [H // 16, W // 16, 3]."""
    rows, columns = image.shape[0] // BLOCK, image.shape[1] // BLOCK
    blocks = image[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK, 3)
    means: npt.NDArray[np.float32] = blocks.mean(axis=(1, 3), dtype=np.float64).astype(np.float32)
    return means


def check_golden(synthesizer: Synthesizer, golden: Golden) -> float:
    """Prove a served model with a real inference.

    Returns:
        the largest difference of a block's mean, in grey levels.

    Raises:
        ModelFailedError: the picture is not the one that was exported.
        ServingError: there was no picture.
    """
    image = _probe(synthesizer, golden.label_map, golden.instance_map, golden.style)
    difference = float(np.abs(block_means(image) - golden.block_means).max())
    if not difference <= TOLERANCE:
        raise ModelFailedError(
            "the served model is not the one that was exported: on the golden map its picture "
            "differs by "
            f"{difference:.1f} grey levels, {TOLERANCE:g} is the limit"
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
    if not path.is_file():
        raise ServerStartError(
            f"{folder}: no {GOLDEN_FILE}; this is not a folder that sceneloom export wrote"
        )
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
            return Golden(
                label_map=data["label_map"],
                instance_map=data.get("instance_map"),
                style=data.get("style"),
                block_means=data["block_means"],
            )
    except Exception as error:  # zip, zlib and header errors of a damaged file
        raise ServerStartError(f"{path}: damaged ({error})") from None


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
