"""Samples to batches. Order, crops and flips follow from seed and step alone, also on resume."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import multiprocessing
import os
import pickle
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from multiprocessing.connection import Connection
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sceneloom import errors
from sceneloom.text import reason
from sceneloom_training.data import DataSet, Geometry, Sample
from sceneloom_training.data.settings import SKIP_BROKEN
from sceneloom_training.process import World

Batch = dict[str, Tensor]
"""uint8 `photo` and `source` [N, H, W, 3], `label_map` [N, H, W]; int32 `instance_map`."""


class Loaded(NamedTuple):
    """A batch, and the samples that others took the place of."""

    batch: Batch
    broken: dict[str, str]
    """Name of a sample -> why it cannot be used."""


_ORDER, _CUT = 0, 1
"""Streams of random numbers that must not repeat one another."""


def epoch_order(seed: int, epoch: int, count: int) -> list[int]:
    """Order of the samples in an epoch, each once."""
    order: list[int] = np.random.default_rng((_ORDER, seed, epoch)).permutation(count).tolist()
    return order


class TrainingSet:
    """A data set in training: an item is named by its epoch and its index."""

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
        skip_broken: bool = False,
    ) -> None:
        """Take the first `count` samples. Sides are multiples of `multiple`, from `smallest` on.
        With `skip_broken` a broken sample is replaced by the next one in the order of names.
        """
        self.count = count
        self._skip_broken = skip_broken
        self._geometry, self._multiple, self._seed = geometry, multiple, seed
        self._smallest = smallest
        self._data, self._cache = data, cache

    def batch(self, items: list[tuple[int, int]]) -> Loaded:
        """The samples of several (epoch, index), each cut for its epoch, stacked."""
        read, broken = [], {}
        for epoch, place in items:
            for index in range(place, place + self.count):
                try:
                    read.append(self._read(index % self.count, (epoch, place)))
                    break
                except errors.InputError as error:
                    if not self._skip_broken:
                        raise errors.InputError(f"{error}; {SKIP_BROKEN}") from None
                    broken[self._data.keys[index % self.count]] = str(error)
                    if index == place + self.count - 1:
                        raise
        return Loaded(stack(read), broken)

    def _read(self, index: int, draws: tuple[int, int]) -> Batch:
        """One sample's tensors, without batch. `draws` seeds its window and flip."""
        rng = np.random.default_rng((_CUT, self._seed, *draws))
        # Made on first use, in the process that loads: a cache cannot be pickled.
        if "_cached" not in self.__dict__:
            self._cached = lru_cache(self._cache)(self._data.read)
        sample = self._geometry.apply(self._cached(index), rng, multiple=self._multiple)
        check_large_enough(sample.photo.shape, self._smallest, self._data.keys[index])
        return to_tensors(sample)

    def arrays(
        self, items: list[tuple[int, int]]
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
        """`batch` as arrays: torch sends its tensors between processes through /dev/shm."""
        batch, broken = self.batch(items)
        return {name: tensor.numpy() for name, tensor in batch.items()}, broken

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "_cached"}


def check_large_enough(size: tuple[int, ...], smallest: int, name: str) -> None:
    """Raise SizeError if a sample of (height, width, ...) after the geometry is smaller than the
    networks take.
    """
    height, width = size[:2]
    if min(height, width) < smallest:
        raise errors.SizeError(
            f"{name}: comes out as {width}x{height} (width x height), and the networks need "
            f"{smallest} pixels on each side; choose another geometry, fewer downsamplings or "
            "fewer scales of the discriminator"
        )


def step_items(
    count: int, *, seed: int, world: World, batch: int, accumulate: int, steps: range
) -> Iterator[list[tuple[int, int]]]:
    """The (epoch, index) items of each forward pass of one process, epoch by epoch."""
    per_step = batch * accumulate * world.size
    order: list[int] = []
    drawn = -1
    for step in steps:
        epoch, place = divmod(step, count // per_step)
        if epoch != drawn:
            order, drawn = epoch_order(seed, epoch, count), epoch
        mine = order[place * per_step : (place + 1) * per_step][world.rank :: world.size]
        for start in range(0, len(mine), batch):
            yield [(epoch, index) for index in mine[start : start + batch]]


_SPARE_CORES, _MOST_WORKERS = 4, 16
"""A street of 1024x512 takes a core 0.22 s, and a GPU trains on 20 a second: two processes would
feed it 9. The training process, its pinning and the system have cores of their own.
"""


def loading_processes(workers: int | None, device: torch.device, *, trainings: int = 1) -> int:
    """Number of loading processes of one of `trainings` processes that share the machine."""
    if workers is not None:
        return workers
    if device.type != "cuda":
        return 2
    cores = len(os.sched_getaffinity(0)) // trainings
    return min(max(cores - _SPARE_CORES, 2), _MOST_WORKERS)


@contextlib.contextmanager
def load_batches(
    samples: TrainingSet, items: Iterable[list[tuple[int, int]]], *, workers: int
) -> Iterator[Iterator[Loaded]]:
    """Load batches in the items' order, here or in `workers` processes that end with the block. The
    iterator raises InputError for a sample that cannot be used, in turn, and the errors of
    `loading`.
    """
    if not workers:
        yield map(samples.batch, items)
        return
    pin = torch.cuda.is_available()
    one_thread = partial(torch.set_num_threads, 1)
    with loading(samples.arrays, items, workers=workers, prepare=one_thread) as loaded:

        def to_batch(arrays: dict[str, npt.NDArray[Any]]) -> Batch:
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            return {name: x.pin_memory() if pin else x for name, x in tensors.items()}

        yield (Loaded(to_batch(arrays), broken) for arrays, broken in loaded)


def to_tensors(sample: Sample) -> Batch:
    """A sample's arrays as tensors."""
    return {
        name: torch.from_numpy(np.ascontiguousarray(array))
        for name, array in vars(sample).items()
        if array is not None
    }


def stack(items: list[Batch]) -> Batch:
    """Stack samples. Raises InputError if their sizes differ."""
    sizes = sorted({f"{item['photo'].shape[1]}x{item['photo'].shape[0]}" for item in items})
    if len(sizes) > 1:
        raise errors.InputError(
            f"one batch would hold pictures of {' and '.join(sizes)} (width x height): choose a "
            "geometry with a fixed size, or optimizer.batch 1"
        )
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


_Item = TypeVar("_Item")
_Made = TypeVar("_Made")

_LOST_S = 5.0
"""Longest wait for the exit code of a process that was lost."""
_SET_PIPE_SIZE = 1031
"""Linux's F_SETPIPE_SZ, which fcntl lacks in some builds of Python 3.10."""
_PIPE_BYTES = 1 << 20
"""The system's limit for users. A batch of 2048x1024 is 14 MiB."""
_MADE, _REFUSED, _NO_MEMORY, _FAULT = range(4)


class _Loader(Generic[_Item, _Made]):
    """One loading process. It has one item at a time, so that no pipe fills on both sides."""

    def __init__(
        self, make: Callable[[_Item], _Made], prepare: Callable[[], None], inherited: list[Any]
    ) -> None:
        # Forked: started within milliseconds, and with all that `make` has in memory.
        context = multiprocessing.get_context("fork")
        answers, theirs_out = context.Pipe(duplex=False)
        theirs_in, requests = context.Pipe(duplex=False)
        self._answers: Connection = answers
        self._requests: Connection = requests
        self.connections = [answers, requests]
        with contextlib.suppress(OSError):  # where it stays small, batches only take longer
            fcntl.fcntl(answers.fileno(), _SET_PIPE_SIZE, _PIPE_BYTES)
        self.process = context.Process(
            target=_serve,
            args=(make, prepare, theirs_in, theirs_out, [*inherited, *self.connections]),
            daemon=True,
        )
        self.process.start()
        theirs_in.close()
        theirs_out.close()

    def ask(self, item: _Item) -> None:
        with self._noticed():
            self._requests.send(item)

    def answer(self) -> _Made:
        with self._noticed():
            kind, value = _receive(self._answers)
        if kind == _REFUSED:
            raise errors.InputError(value)
        if kind == _NO_MEMORY:
            raise MemoryError(value)
        if kind == _FAULT:
            raise RuntimeError(f"in a loading process: {value}")
        made: _Made = value
        return made

    @contextlib.contextmanager
    def _noticed(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            self.process.join(_LOST_S)
            code = self.process.exitcode
            how = f"killed by signal {-code}" if code is not None and code < 0 else f"code {code}"
            raise errors.TrainingError(
                f"a loading process was lost ({how}); a system that runs out of memory kills "
                "processes: fewer workers and a smaller cache need less"
            ) from None

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        for connection in self.connections:
            connection.close()


@contextlib.contextmanager
def loading(
    make: Callable[[_Item], _Made],
    items: Iterable[_Item],
    *,
    workers: int,
    prepare: Callable[[], None],
) -> Iterator[Iterator[_Made]]:
    """Make something of each item, in order, in `workers` processes that end with the block.
    `prepare` runs once in each, and results are pickled. The iterator raises InputError if `make`
    raised a SceneLoomError, TrainingError if a process does not start or is lost, and MemoryError.
    """
    loaders: list[_Loader[_Item, _Made]] = []
    try:
        try:
            for _ in range(workers):
                inherited = [each for loader in loaders for each in loader.connections]
                loaders.append(_Loader(make, prepare, inherited))
        except OSError as error:
            raise errors.TrainingError(
                f"{workers} loading processes cannot be started ({reason(error)}); with fewer "
                "workers, or 0, the training process loads"
            ) from None
        yield _in_turn(loaders, iter(items))
    finally:
        for loader in loaders:
            loader.end()


def _in_turn(loaders: list[_Loader[_Item, _Made]], items: Iterator[_Item]) -> Iterator[_Made]:
    asked: deque[_Loader[_Item, _Made]] = deque()
    for loader, item in zip(loaders, items, strict=False):
        loader.ask(item)
        asked.append(loader)
    while asked:
        loader = asked.popleft()
        made = loader.answer()
        for item in itertools.islice(items, 1):
            loader.ask(item)
            asked.append(loader)
        yield made


def _serve(
    make: Callable[[Any], Any],
    prepare: Callable[[], None],
    requests: Connection,
    answers: Connection,
    inherited: list[Connection],
) -> None:
    # A service manager signals every process of a run: only the training one is to act on it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    for connection in inherited:  # or they stay open here when the training process is lost
        connection.close()
    prepare()
    with contextlib.suppress(EOFError, OSError):  # the training process is gone
        while True:
            item = requests.recv()
            try:
                answer = (_MADE, make(item))
            except errors.SceneLoomError as error:
                answer = (_REFUSED, str(error))
            except Exception as error:
                kind = _NO_MEMORY if errors.is_out_of_memory(error) else _FAULT
                text = errors.said(error) if kind == _NO_MEMORY else traceback.format_exc()
                answer = (kind, text)
            _send(answers, answer)


def _send(connection: Connection, value: Any) -> None:
    """Send a value. The memory of its arrays is written without a copy."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    connection.send((data, [view.nbytes for view in views]))
    for view in views:
        while view:
            view = view[os.write(connection.fileno(), view) :]


def _receive(connection: Connection) -> Any:
    """Receive a value of `_send`, with writable arrays."""
    data, sizes = connection.recv()
    buffers = [bytearray(size) for size in sizes]
    for buffer in buffers:
        view = memoryview(buffer)
        while view:
            read = os.readv(connection.fileno(), [view])
            if not read:
                raise EOFError
            view = view[read:]
    return pickle.loads(data, buffers=buffers)
