"""Samples to batches: which sample when, cut and flipped how.

Nothing here has a state: the samples of a step, their crops and their flips follow from the seed
and the step's number alone, so that a resumed run goes on with the samples it would have had,
whatever the number of loading processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sceneloom.errors import InputError, SizeError
from sceneloom_training.data import DataSet, Geometry, Sample
from sceneloom_training.distributed import World
from sceneloom_training.loading import loading

Batch = dict[str, Tensor]
"""`photo` uint8 [N, H, W, 3]; `label_map` uint8 [N, H, W]; `instance_map` int32 [N, H, W]; `source`
uint8 [N, H, W, 3]: those that the data set has.
"""

_ORDER, _CUT = 0, 1
"""Streams of random numbers that must not repeat one another."""


def epoch_order(seed: int, epoch: int, count: int) -> list[int]:
    """Order of the samples in an epoch: each once."""
    order: list[int] = np.random.default_rng((_ORDER, seed, epoch)).permutation(count).tolist()
    return order


class TrainingSet:
    """A data set as the training sees it: an item is named by its epoch and its index."""

    def __init__(
        self,
        data: DataSet,
        geometry: Geometry,
        *,
        count: int,
        multiple: int,
        smallest: int,
        seed: int,
        cache: int = 0,
    ) -> None:
        """Wrap a data set.

        Args:
            data: what to read.
            geometry: how to resize, crop and flip.
            count: its first samples are trained on.
            multiple: height and width come out as multiples of this.
            smallest: least height and width that the networks take.
            seed: of crops and flips.
            cache: most samples to keep in memory as they were read.
        """
        self.count = count
        self._geometry, self._multiple, self._seed = geometry, multiple, seed
        self._smallest = smallest
        self._data, self._cache = data, cache

    def __getitem__(self, item: tuple[int, int]) -> Batch:
        """The sample of an (epoch, index), cut as that epoch draws it; tensors without batch.

        Raises:
            InputError: it cannot be read, or is too small for the network.
        """
        epoch, index = item
        rng = np.random.default_rng((_CUT, self._seed, epoch, index))
        sample = self._geometry.apply(self._read(index), rng, multiple=self._multiple)
        check_large_enough(sample, self._smallest, self._data.keys[index])
        return to_tensors(sample)

    def batch(self, items: list[tuple[int, int]]) -> Batch:
        """The samples of several items, side by side; raises as each of them, and as `stack`."""
        return stack([self[item] for item in items])

    def arrays(self, items: list[tuple[int, int]]) -> dict[str, npt.NDArray[Any]]:
        """A batch as arrays: torch sends its tensors between processes through /dev/shm."""
        return {name: tensor.numpy() for name, tensor in self.batch(items).items()}

    def _read(self, index: int) -> Sample:
        # Made on first use, in the process that loads: a cache cannot be pickled.
        if "_cached" not in self.__dict__:
            self._cached = lru_cache(self._cache)(self._data.read)
        return self._cached(index)

    def __getstate__(self) -> dict[str, object]:
        """Everything but what was read."""
        return {k: v for k, v in self.__dict__.items() if k != "_cached"}


def check_large_enough(sample: Sample, smallest: int, name: str) -> None:
    """Refuse a sample that the networks cannot see.

    Args:
        sample: after the geometry.
        smallest: least height and width.
        name: what to call it in an error.

    Raises:
        SizeError: it is smaller.
    """
    height, width = sample.photo.shape[:2]
    if min(height, width) < smallest:
        raise SizeError(
            f"{name}: comes out as {width}x{height} (width x height), and the networks need "
            f"{smallest} pixels on each side; choose another geometry, fewer downsamplings or "
            "fewer scales of the discriminator"
        )


class StepSampler:
    """The items of each forward pass of one process, from a step on to the last."""

    def __init__(
        self, count: int, *, seed: int, world: World, batch: int, accumulate: int, steps: range
    ) -> None:
        """Plan.

        Args:
            count: samples in an epoch.
            seed: of their order.
            world: which process of how many this is.
            batch: items of a forward pass.
            accumulate: forward passes of a step.
            steps: numbers of the steps to do.
        """
        self._count, self._seed, self._world = count, seed, world
        self._batch, self._accumulate, self._steps = batch, accumulate, steps

    def __len__(self) -> int:
        """Number of forward passes."""
        return len(self._steps) * self._accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Items of each forward pass."""
        per_step = self._batch * self._accumulate * self._world.size
        per_epoch = self._count // per_step
        order: list[int] = []
        drawn = -1
        for step in self._steps:
            epoch, place = divmod(step, per_epoch)
            if epoch != drawn:
                order, drawn = epoch_order(self._seed, epoch, self._count), epoch
            mine = order[place * per_step : (place + 1) * per_step][
                self._world.rank :: self._world.size
            ]
            for start in range(0, len(mine), self._batch):
                yield [(epoch, index) for index in mine[start : start + self._batch]]


@contextlib.contextmanager
def load_batches(
    samples: TrainingSet, sampler: StepSampler, *, workers: int
) -> Iterator[Iterator[Batch]]:
    """Batches in the sampler's order.

    Args:
        samples: what to read.
        sampler: which, in what order.
        workers: loading processes, which are started at once and end with the block; 0 loads in
            this process.

    Returns:
        the batches; a sample that cannot be read raises an InputError in its turn.

    Raises:
        TrainingError: loading processes cannot be started, or one was lost.
        MemoryError: memory was not enough to load.
    """
    if not workers:
        yield map(samples.batch, sampler)
        return
    with loading(
        samples.arrays, sampler, workers=workers, prepare=partial(torch.set_num_threads, 1)
    ) as loaded:
        yield map(_from_arrays, loaded)


def _from_arrays(arrays: dict[str, npt.NDArray[Any]]) -> Batch:
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if torch.cuda.is_available():
        return {name: tensor.pin_memory() for name, tensor in tensors.items()}
    return tensors


def to_tensors(sample: Sample) -> Batch:
    """The arrays that a sample has, as tensors."""
    arrays = {
        "photo": sample.photo,
        "label_map": sample.label_map,
        "instance_map": sample.instance_map,
        "source": sample.source,
    }
    return {
        name: torch.from_numpy(np.ascontiguousarray(array))
        for name, array in arrays.items()
        if array is not None
    }


def stack(items: list[Batch]) -> Batch:
    """Put samples side by side.

    Raises:
        InputError: their sizes differ.
    """
    sizes = sorted({f"{item['photo'].shape[1]}x{item['photo'].shape[0]}" for item in items})
    if len(sizes) > 1:
        raise InputError(
            f"one batch would hold pictures of {' and '.join(sizes)} (width x height): choose a "
            "geometry with a fixed size, or optimizer.batch 1"
        )
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}
