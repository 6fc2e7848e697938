"""Procedural streets as files, in pix2pixHD's layout: painted once, read many times.

Painting a street costs some hundred milliseconds, reading it a few; a data set that several runs
train on is better painted once::

    from sceneloom_training.data.street_files import write_streets

    write_streets(Path("streets"), "train", range(1500), height=256, width=512, processes=2)
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sceneloom.errors import DataSetError, InputError
from sceneloom_training.scenes import draw_pair
from sceneloom_training.scenes.painting import check_size

_CHUNK = 8


def write_streets(
    root: Path,
    split: str,
    seeds: Sequence[int],
    *,
    height: int,
    width: int,
    processes: int = 1,
    markings: bool = False,
) -> int:
    """Write ``<split>_label``, ``<split>_inst`` and ``<split>_img`` below a folder.

    Every file appears whole or not at all and the photograph last, so that a call that was stopped
    goes on where it was when it is made again.

    Args:
        root: the data set's folder; made if it is not there.
        split: such as ``train``.
        seeds: of the streets, from 0; the sample of seed 12 is ``street_000012``.
        height: pixels, 16 to 16384.
        width: pixels, 16 to 16384 and at most four times the height.
        processes: that paint side by side, from 1.
        markings: as for `sceneloom_training.scenes.draw_street`; streets that are there stay as
            they are.

    Returns:
        number of streets that were painted; the others were there.

    Raises:
        InputError: the size or a seed is out of range.
        DataSetError: the folder cannot be written.
    """
    check_size(height, width)
    if min(seeds, default=0) < 0 or processes < 1:
        raise InputError(f"seeds are from 0 on and processes from 1, not {processes}")
    try:
        for kind in ("label", "inst", "img"):
            (root / f"{split}_{kind}").mkdir(parents=True, exist_ok=True)
        missing = [seed for seed in seeds if not _path(root, split, "img", seed).is_file()]
        paint = partial(_write, root, split, height, width, markings)
        for _ in _everywhere(paint, missing, min(processes, len(missing))):
            pass
    except OSError as error:
        raise DataSetError(f"{root}: cannot be written ({error.strerror or error})") from None
    return len(missing)


def _everywhere(paint: partial[None], seeds: Sequence[int], processes: int) -> Iterable[None]:
    if processes <= 1:
        return map(paint, seeds)
    # Forked processes would inherit whatever locks torch's or OpenCV's threads hold.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        return list(pool.map(paint, seeds, chunksize=_CHUNK))


def _write(root: Path, split: str, height: int, width: int, markings: bool, seed: int) -> None:
    cv2.setNumThreads(1)
    pair = draw_pair(seed, height, width, markings=markings)
    _save(_path(root, split, "label", seed), pair.label_map)
    _save(_path(root, split, "inst", seed), pair.instance_map.astype(np.uint16))
    _save(_path(root, split, "img", seed), np.ascontiguousarray(pair.photo[..., ::-1]))


def _path(root: Path, split: str, kind: str, seed: int) -> Path:
    return root / f"{split}_{kind}" / f"street_{seed:06d}.png"


def _save(path: Path, values: npt.NDArray[Any]) -> None:
    """Write a PNG under another name, then rename it."""
    ok, encoded = cv2.imencode(".png", values)
    assert ok, path
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_bytes(encoded.tobytes())
    fresh.replace(path)
