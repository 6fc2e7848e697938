"""The pipeline of one run: read, decode, check -> requests in flight -> encode, write.

One event loop decides, pools of threads work: one reads, one decodes and encodes (a thread per
core), one waits for servers. Memory is bounded for any data set: `look_ahead` maps as files, and as
pixels those in flight and a few on either side.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sceneloom.errors import InputError, SceneLoomError, ServingError
from sceneloom.pictures import decode_picture
from sceneloom.rendering.connections import Reply
from sceneloom.rendering.items import Failed, MapItem, Picture, Result, Skipped
from sceneloom.rendering.listeners import Levels, Listener
from sceneloom.rendering.loading import Loaded, Loader, Prepared
from sceneloom.rendering.manifest import PictureStore, location_is_gone
from sceneloom.rendering.retries import RetryBudget
from sceneloom.rendering.servers import Servers
from sceneloom.rendering.settings import RenderSettings

# A request of 8 pictures at 2048x1024 takes three times as long as 8 requests.
_REQUEST_BYTES = 4 << 20


@dataclasses.dataclass
class SizeBuckets:
    """Loaded maps by size. `take` keeps to one size as long as it has maps, then changes to that
    which has waited longest.

    A server joins requests of equal size only: 16 of one size took 4 executions, 16 of two
    alternating sizes 9.
    """

    _by_size: dict[tuple[int, int], deque[Loaded]] = dataclasses.field(default_factory=dict)
    _current: tuple[int, int] | None = None
    count: int = 0
    """Number of maps."""
    bytes: int = 0
    """Memory of their files."""

    def add(self, loaded: Loaded) -> None:
        """Add a map."""
        self._by_size.setdefault(loaded.size, deque()).append(loaded)
        self.count += 1
        self.bytes += len(loaded.label) + len(loaded.instance or b"")

    def take(self, max_maps: int = 1) -> list[Loaded]:
        """Take maps of one size, fewer than `max_maps` if their pictures exceed 4 MiB."""
        if self._current not in self._by_size:
            self._current = next(iter(self._by_size))
        assert self._current is not None
        height, width = self._current
        fitting = _REQUEST_BYTES // (3 * height * width) if height * width else 1
        queue = self._by_size[self._current]
        taken = [queue.popleft() for _ in range(min(max_maps, max(1, fitting), len(queue)))]
        if not queue:
            del self._by_size[self._current]
        self.count -= len(taken)
        self.bytes -= sum(len(loaded.label) + len(loaded.instance or b"") for loaded in taken)
        return taken

    def clear(self) -> int:
        """Drop all maps, and return their number."""
        dropped = self.count
        self._by_size.clear()
        self.count = self.bytes = 0
        return dropped


_CHUNK = 16
_MAX_BUCKET_BYTES = 128 << 20
_READERS = 4


class Pipeline:
    """One run; `run` may be called once."""

    def __init__(
        self,
        source: Iterable[MapItem],
        servers: Servers,
        loader: Loader,
        settings: RenderSettings,
        *,
        results: asyncio.Queue[Result | None],
        store: PictureStore | None = None,
        batch: int = 1,
        listeners: Sequence[Listener] = (),
    ) -> None:
        """Prepare the run, in its event loop.

        Args:
            source: the maps.
            servers: opened.
            loader: reads and decodes.
            settings: limits.
            results: takes a result per map, in the order they finish; a full queue halts the run.
            store: takes the pictures; without it the results hold them.
            batch: most maps of one request.
            listeners: hear of results, answers and retries.
        """
        self._source, self._servers, self._loader = source, servers, loader
        self._settings, self._store, self._batch = settings, store, batch
        self._results, self._listeners = results, listeners
        self._threads = settings.threads
        self._cpu = ThreadPoolExecutor(self._threads, "sceneloom-pixels")
        self._readers = ThreadPoolExecutor(_READERS, "sceneloom-read")
        self._lister = ThreadPoolExecutor(1, "sceneloom-list")
        self._in_thread = asyncio.get_running_loop().run_in_executor
        self._budget = RetryBudget(settings.retry.budget)
        self._room = asyncio.Semaphore(settings.look_ahead)
        self._buckets = SizeBuckets()
        self._taken = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading = self._active = self._pausing = 0
        self._stopping = asyncio.Event()
        self._broken: Exception | None = None

    def stop(self) -> None:
        """Take no new map, and finish those in work; call it from the loop."""
        self._stopping.set()
        for _ in range(self._buckets.clear()):
            self._room.release()
        self._room.release()  # the feeder may wait for room
        self._taken.set()

    def levels(self) -> Levels:
        """How full the parts of the pipeline are."""
        return Levels(
            in_flight=self._servers.in_flight(),
            window=self._servers.limit(),
            reading=self._reading,
            waiting=self._buckets.count,
            active=self._active,
            pausing=self._pausing,
        )

    async def run(self) -> None:
        """Render everything.

        Raises:
            ServerUnavailableError: no server answered within the patience.
            OSError: the output location is full or gone.
            SceneLoomError: the source cannot be read on.
        """
        try:
            self._tasks.add(asyncio.create_task(self._guard(self._feed)))
            while self._tasks:
                await asyncio.wait(self._tasks)
            if self._store is not None:
                try:
                    finished = await self._in_thread(self._cpu, self._store.finish)
                except OSError as error:
                    self._break(error)
                    finished = []
                for result in finished:
                    await self._report(result)
        except BaseException:
            self.stop()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            raise
        finally:
            for pool in (self._cpu, self._readers, self._lister):
                pool.shutdown(cancel_futures=True)
        if self._broken is not None:
            raise self._broken

    async def _feed(self) -> None:
        """List the maps, as far as there is room for them."""
        items = await self._in_thread(self._lister, iter, self._source)
        while not self._stopping.is_set():
            chunk: list[MapItem] = []
            try:
                some = itertools.islice(items, _CHUNK)
                await self._in_thread(self._lister, chunk.extend, some)
            except Exception as error:  # the chunk holds the maps before it, which are rendered
                self._broken = self._broken or error
            for item in chunk:
                await self._room.acquire()
                while self._buckets.bytes > _MAX_BUCKET_BYTES and not self._stopping.is_set():
                    self._taken.clear()
                    await self._taken.wait()
                if self._stopping.is_set():
                    return
                self._reading += 1
                self._tasks.add(asyncio.create_task(self._guard(self._load, item)))
            if len(chunk) < _CHUNK:
                return

    async def _load(self, item: MapItem) -> None:
        """Read a map, and skip it if its picture exists."""
        row, failed = None, None
        try:
            loaded = await self._in_thread(self._readers, self._loader.load, item)
            if (store := self._store) is not None:
                row = await self._in_thread(self._readers, store.found, item.key, loaded.input_hash)
        except (SceneLoomError, OSError) as error:
            failed = error
        finally:
            self._reading -= 1
        if row is None and failed is None and not self._stopping.is_set():
            self._buckets.add(loaded)
            self._pump()
            return
        self._room.release()
        if row is not None:
            await self._report(Skipped(key=row.key, output=row.output, engine=row.engine))
        elif failed is not None:
            await self._fail(item, failed)

    def _pump(self) -> None:
        """Start work on loaded maps, as far as there is room for their pixels."""
        more = 2 * self._threads + 1
        while self._buckets.count and self._active < self._servers.limit() * self._batch + more:
            maps = self._buckets.take(self._batch)
            self._taken.set()
            for _ in maps:
                self._room.release()
            self._active += len(maps)
            self._tasks.add(asyncio.create_task(self._guard(self._work, maps)))

    async def _work(self, maps: list[Loaded]) -> None:
        """Decode maps of one size and render them in one request."""
        ready = []
        try:
            for loaded in maps:
                try:
                    ready.append(await self._in_thread(self._cpu, self._loader.prepare, loaded))
                except (SceneLoomError, OSError) as error:
                    await self._fail(loaded.item, error, loaded.input_hash)
            if ready:
                await self._render(ready, [])
        finally:
            self._active -= len(maps)
            self._pump()

    async def _render(self, maps: list[Prepared], failures: list[ServingError]) -> None:
        """Render maps of one size in one request, or one by one after a batch has failed."""
        while True:
            lease = await self._servers.lease()
            self._budget.requests += not failures
            start = time.perf_counter()
            try:
                replies = await self._in_thread(
                    self._servers.pool, lease.link.connection.send, maps
                )
            except ServingError as error:
                self._servers.release(lease, error)
                failures.append(error)
            except BaseException:
                self._servers.release(lease)
                raise
            else:
                break
            self._pump()
            if len(maps) > 1 and not failures[-1].retryable:
                await asyncio.gather(*(self._render([one], list(failures)) for one in maps))
                return
            if not await self._pause(failures):
                for one in maps:
                    await self._fail(one.loaded.item, failures[-1], one.loaded.input_hash, failures)
                return
        seconds = time.perf_counter() - start
        lease.server.window.answered(seconds, (maps[0].request.size, len(maps)))
        self._servers.release(lease)
        sent, received = sum(r.sent for r in replies), sum(r.received for r in replies)
        for listener in self._listeners:
            listener.on_answer(seconds, sent, received)
        attempts = len(failures) + 1
        done = (self._keep(*pair, attempts) for pair in zip(maps, replies, strict=True))
        await asyncio.gather(*done)

    async def _pause(self, failures: list[ServingError]) -> bool:
        """Wait, and return True; False if the policy allows no further request."""
        policy, error = self._settings.retry, failures[-1]
        if not policy.again(error, failures):
            return False
        for listener in self._listeners:
            listener.on_retry(error)
        wait = max(policy.wait(len(failures)), self._budget.spend(time.monotonic()))
        self._pausing += 1
        try:
            await asyncio.sleep(wait)
        finally:
            self._pausing -= 1
        return True

    async def _keep(self, prepared: Prepared, reply: Reply, attempts: int) -> None:
        """Store a picture, or report it without a store."""
        loaded = prepared.loaded
        if self._store is None:
            picture = Picture(
                key=loaded.item.key,
                image=decode_picture(reply.encoded or b"") if reply.image is None else reply.image,
                padding=prepared.request.padding,
                seconds=time.perf_counter() - loaded.started,
                attempts=attempts,
                engine=reply.engine,
            )
            await self._report(picture)
            return
        try:
            put = await self._in_thread(self._cpu, self._store.put, prepared, reply, attempts)
        except (InputError, OSError) as error:
            await self._fail(loaded.item, error, loaded.input_hash)
            if isinstance(error, OSError) and location_is_gone(error):
                self._break(error)
            return
        for result in put:
            await self._report(result)

    async def _fail(
        self,
        item: MapItem,
        error: Exception,
        input_hash: str = "",
        failures: Sequence[ServingError] = (),
    ) -> None:
        if (store := self._store) is not None:
            try:
                await self._in_thread(
                    self._cpu,
                    lambda: store.fail(item, error, input_hash=input_hash, failures=failures),
                )
            except OSError as full:
                self._break(full)
        await self._report(Failed(key=item.key, error=error, attempts=len(failures)))

    async def _report(self, result: Result) -> None:
        for listener in self._listeners:
            listener.on_result(result)
        await self._results.put(result)

    def _break(self, error: Exception) -> None:
        """Stop the run for a reason that every further map would meet."""
        if self._broken is None:
            self._broken = error
        self.stop()

    async def _guard(self, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Run one of the run's tasks, and stop the run at an error."""
        try:
            await work(*args)
        except Exception as error:
            self._break(error)
        finally:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.discard(task)
