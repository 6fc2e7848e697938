"""A run as a data set of Ray Data: read from a queue that the driver fills, mapped by a pool of
actors. Only `ray_engine` imports this module, since it imports Ray.

A row is a block of maps on the way to an actor, and what became of them on the way back. One block
in gives one row out, so that an actor that dies and does its block again gives the same rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sceneloom.errors import SceneLoomError, out_of_resources
from sceneloom.rendering.ray_worker import Assigned, BlockResult, BlockWorker, Work


class BlockQueue:
    """Hands blocks out by their numbers, and holds each until it has its answer: who reads them and
    dies begins again at the first one.
    """

    def __init__(self) -> None:
        self._blocks: dict[int, bytes | None] = {}
        self._count = 0
        self._stopped = False
        self._tries: Counter[int] = Counter()
        self._changed = asyncio.Condition()

    async def put(self, number: int, block: bytes | None) -> None:
        """Take a block, or with None the end.

        Args:
            number: counts from 0.
            block: the maps, pickled.
        """
        async with self._changed:
            self._blocks[number] = block
            self._count = number + 1
            self._changed.notify_all()

    async def get(self, number: int) -> bytes | None:
        """A block, once it is there; None at the end, nothing for a block that was answered."""
        async with self._changed:
            await self._changed.wait_for(lambda: number < self._count)
        return self._blocks.get(number, b"")

    async def begin(self, number: int) -> int:
        """Which try at a block this is, from 1; 0 where the run stops."""
        self._tries[number] += 1
        return 0 if self._stopped else self._tries[number]

    async def drop(self, number: int) -> None:
        """Report that a block was answered."""
        self._blocks.pop(number, None)
        self._tries.pop(number, None)

    async def stop(self) -> None:
        """Have no further block begun."""
        self._stopped = True


_AT_ONCE = 2  # blocks in an actor: while one ends, the next keeps the server busy
_WAITING = 2  # blocks that wait at an actor; with fewer Ray Data adds no actors
_TRIES = 5  # of a block whose actor dies; Ray would go on for ever
_CLOSE_SECONDS = 10
_NUMBER, _BLOCK = "number", "block"
_SCHEMA = pa.schema([(_NUMBER, pa.int64()), (_BLOCK, pa.large_binary())])

BLOCKS_PER_ACTOR = _AT_ONCE + _WAITING
"""Blocks that an actor is given before it has answered one."""


class Stream:
    """Blocks in, answers out, in the order they finish; Ray must have been started."""

    def __init__(self, work: Work, *, actors: int, cpus: float) -> None:
        """Prepare; actors start when the first answer is asked for.

        Args:
            work: what all blocks have in common.
            actors: most of them.
            cpus: cores for each.
        """
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        queue: Any = ray.remote(BlockQueue)
        self._queue = queue.options(num_cpus=0, scheduling_strategy=here).remote()
        with DataContext.current(_context()):
            self._dataset = ray.data.read_datasource(
                _QueueSource(self._queue), override_num_blocks=1, num_cpus=0
            ).map_batches(
                _Actor,
                batch_size=None,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(
                    min_size=1,
                    max_size=actors,
                    max_tasks_in_flight_per_actor=BLOCKS_PER_ACTOR,
                    max_concurrent_calls_per_actor=_AT_ONCE,
                ),
                fn_constructor_args=(pickle.dumps(work), self._queue),
                num_cpus=cpus,
            )

    def put(self, number: int, block: Sequence[Assigned] | None) -> None:
        """Give a block, or with None the end.

        Args:
            number: counts from 0.
            block: the maps.
        """
        ray.get(self._queue.put.remote(number, None if block is None else pickle.dumps(block)))

    def answers(self) -> Iterator[tuple[int, BlockResult]]:
        """The number of each block, and what became of it; a block may come twice.

        Raises:
            SceneLoomError: Ray gave up.
        """
        batches = self._dataset.iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=1
        )
        for table in _told(batches):
            for number, block in zip(table[_NUMBER], table[_BLOCK], strict=True):
                if data := block.as_buffer():
                    self._queue.drop.remote(number.as_py())
                    yield number.as_py(), pickle.loads(data)

    def stop(self) -> None:
        """Have blocks that wait at an actor come back as they are; what is under way goes on."""
        self._queue.stop.remote()

    def close(self) -> None:
        """Give up what is under way."""
        ray.kill(self._queue)


class _QueueSource(Datasource):
    """The queue as what Ray Data reads: one task on the driver's machine, as long as the run."""

    def __init__(self, queue: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._queue = queue

    def estimate_inmemory_data_size(self) -> None:
        return None

    @property
    def supports_distributed_reads(self) -> bool:
        return False

    def get_read_tasks(self, parallelism: int, *args: Any, **more: Any) -> list[ReadTask]:
        queue = self._queue

        def read() -> Iterator[pa.Table]:
            number = 0
            while (block := ray.get(queue.get.remote(number))) is not None:
                yield _row(number, block)
                number += 1

        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(read, metadata, schema=_SCHEMA)]


class _Actor:
    """A worker as Ray Data calls it."""

    def __init__(self, work: bytes, queue: Any) -> None:
        begun: Work = pickle.loads(work)
        with contextlib.suppress(OSError):  # a machine without it has no relative paths either
            os.chdir(begun.folder)
        self._worker, self._queue = BlockWorker(begun), queue
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, table: pa.Table) -> pa.Table:
        self._loop = asyncio.get_running_loop()
        if not table.num_rows or not (data := table[_BLOCK][0].as_buffer()):
            return table
        number: int = table[_NUMBER][0].as_py()
        block: list[Assigned] = pickle.loads(data)
        tries: Any = await asyncio.to_thread(ray.get, self._queue.begin.remote(number))
        if tries > _TRIES:
            answered = self._worker.give_up(block, _TRIES)
        else:
            answered = await self._worker.render(block if tries else [])
        return _row(number, pickle.dumps(answered, pickle.HIGHEST_PROTOCOL))

    def __del__(self) -> None:
        if self._loop is not None:
            closed = asyncio.run_coroutine_threadsafe(self._worker.close(), self._loop)
            with contextlib.suppress(Exception):
                closed.result(_CLOSE_SECONDS)


def _told(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The batches; what Ray raises in between as an error of ours."""
    left = iter(batches)
    while True:
        try:
            table = next(left)
        except StopIteration:
            return
        except Exception as error:
            # The first exception's own line, out of the tracebacks that Ray puts around it.
            first = str(error).split("\n\nThe above exception")[0].strip()
            said = first.splitlines()[-1].strip() if first else type(error).__name__
            gave_up = SceneLoomError(f"Ray gave up: {said}")
            raise out_of_resources(error) or gave_up from error
        yield table


def _row(number: int, data: bytes) -> pa.Table:
    return pa.table({_NUMBER: [number], _BLOCK: [data]}, schema=_SCHEMA)


def _context() -> DataContext:
    """Ray Data's settings: a block to a task, nothing on the screen."""
    context = DataContext.get_current().copy()
    context.target_max_block_size = 1  # bytes: rows are handed on one by one, not collected
    context.execution_no_progress_timeout_s = -1  # the run's patience says when to give up
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.issue_detectors_config.detectors = []
    for handler in logging.getLogger("ray.data").handlers:
        if handler.name == "console":
            handler.setLevel(logging.ERROR)
    return context
