"""Every sample of a data set read once: all that is wrong, and counts of classes and sizes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt

from sceneloom.errors import InputError, UnknownLabelError
from sceneloom.schema import NO_CHANNEL
from sceneloom_training.data.opening import THREADS
from sceneloom_training.data.sample import DataSet

Size = tuple[int, int]
"""(height, width)."""


@dataclasses.dataclass(kw_only=True)
class Survey:
    """The samples of a data set that can be used, counted, and the faults of the others."""

    wrong: list[str]
    """A sentence for each fault, in the order of the samples."""
    sizes: Counter[Size]
    """Size of a file -> samples."""
    trained: Counter[Size]
    """Size in training -> samples."""
    pixels: npt.NDArray[np.int64]
    """Channel -> pixels, int64 [256]; 255 is `NO_CHANNEL` in a schema with fewer channels."""
    samples: npt.NDArray[np.int64]
    """Channel -> samples with it, int64 [256]."""
    unknown: Counter[int]
    """Label id outside the schema -> pixels."""
    instances: list[int]
    """Instances of each sample; empty without instance maps."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Seen:
    wrong: list[InputError]
    size: Size | None = None
    trained: Size | None = None
    pixels: npt.NDArray[np.int64] | None = None
    instances: int | None = None


def survey(
    data: DataSet,
    size_after: Callable[[str, Size], Size],
    *,
    track: Callable[[range], Iterable[int]] = lambda indices: indices,
) -> Survey:
    """Read every sample once, in several threads. `size_after` takes a sample's name and (height,
    width), returns those in training, and raises InputError for a sample that does not fit.
    """
    found = Survey(
        wrong=list(data.incomplete),
        sizes=Counter(),
        trained=Counter(),
        pixels=np.zeros(NO_CHANNEL + 1, np.int64),
        samples=np.zeros(NO_CHANNEL + 1, np.int64),
        unknown=Counter(),
        instances=[],
    )
    indices = range(len(data))
    with ThreadPoolExecutor(THREADS) as pool:
        results = pool.map(partial(_look_at, data, size_after), indices)
        for _, seen in zip(track(indices), results, strict=True):
            found.wrong += map(str, seen.wrong)
            for error in seen.wrong:
                if isinstance(error, UnknownLabelError):
                    found.unknown.update(error.counts)
            if seen.size is not None:
                found.sizes[seen.size] += 1
            if seen.trained is not None:
                found.trained[seen.trained] += 1
            if seen.pixels is not None:
                found.pixels += seen.pixels
                found.samples += seen.pixels > 0
            if seen.instances is not None:
                found.instances.append(seen.instances)
    return found


def _look_at(data: DataSet, size_after: Callable[[str, Size], Size], index: int) -> _Seen:
    sample, wrong = data.inspect(index)
    if sample is None:
        return _Seen(wrong=wrong)
    height, width = sample.photo.shape[:2]
    trained = pixels = instances = None
    try:
        trained = size_after(data.keys[index], (height, width))
    except InputError as error:
        wrong = [error]
    if sample.label_map is not None:
        pixels = np.bincount(sample.label_map.ravel(), minlength=NO_CHANNEL + 1)
    if sample.instance_map is not None:
        instances = len(np.unique(sample.instance_map))
    return _Seen(
        wrong=wrong, size=(height, width), trained=trained, pixels=pixels, instances=instances
    )
