"""A data set of streets on disk, in pix2pixHD's layout::

from sceneloom_streets.dataset import TRAIN_SEEDS, write_streets

write_streets(Path("streets"), "train", TRAIN_SEEDS, height=256, width=512, processes=2)
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sceneloom.errors import DataSetError, InputError
from sceneloom_streets.painting import StreetLabels, check_size
from sceneloom_streets.street import draw_pair

TRAIN_SEEDS = range(1500)
"""Streets that networks and segmenters of the method's table are trained on."""
DEMO_SEEDS = TRAIN_SEEDS[:240]
"""Streets that the demo's weights are trained on at 2048x1024."""
TEST_SEEDS = range(1_000_000, 1_000_200)
"""Test streets, fixed before anything was trained: no network is trained on or chosen by them."""


def write_streets(
    root: Path,
    split: str,
    seeds: Sequence[int],
    *,
    height: int,
    width: int,
    processes: int = 1,
    labels: StreetLabels = "cityscapes",
) -> int:
    """Write ``<split>_label``, ``<split>_inst`` and ``<split>_img`` below a folder.

    Files appear whole, and the photograph last: a second call paints the missing streets. Seed 12
    is ``street_000012``. Size and labels are those of `draw_street`.

    Returns the number of painted streets. Raises InputError if the size, a seed or the number of
    processes is out of range, DataSetError if the folder cannot be written.
    """
    check_size(height, width)
    if min(seeds, default=0) < 0 or processes < 1:
        raise InputError(f"seeds are from 0 on and processes from 1, not {processes}")
    try:
        for kind in ("label", "inst", "img"):
            (root / f"{split}_{kind}").mkdir(parents=True, exist_ok=True)
        missing = [seed for seed in seeds if not _path(root, split, "img", seed).is_file()]
        paint = partial(write_street, root, split, height, width, labels)
        if min(processes, len(missing)) <= 1:
            for seed in missing:
                paint(seed)
        else:
            # Forked processes would inherit whatever locks torch's or OpenCV's threads hold.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(min(processes, len(missing)), mp_context=context) as pool:
                list(pool.map(paint, missing, chunksize=8))
    except OSError as error:
        raise DataSetError(f"{root}: cannot be written ({error.strerror or error})") from None
    return len(missing)


def write_street(
    root: Path, split: str, height: int, width: int, labels: StreetLabels, seed: int
) -> None:
    """Paint one street and write its three files; arguments as for `write_streets`."""
    cv2.setNumThreads(1)
    pair = draw_pair(seed, height, width, labels=labels)
    files: dict[str, npt.NDArray[Any]] = {
        "label": pair.label_map,
        "inst": pair.instance_map.astype(np.uint16),
        "img": np.ascontiguousarray(pair.photo[..., ::-1]),
    }
    for kind, values in files.items():
        path = _path(root, split, kind, seed)
        ok, encoded = cv2.imencode(".png", values)
        assert ok, path
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        unfinished.write_bytes(encoded.tobytes())
        unfinished.replace(path)


def _path(root: Path, split: str, kind: str, seed: int) -> Path:
    return root / f"{split}_{kind}" / f"street_{seed:06d}.png"
