"""The pipeline of one run: read, decode, check -> requests in flight -> encode, write.

One event loop decides, pools of threads work: one reads, one decodes and encodes (as many threads
as cores), one waits for servers. What is held is bounded whatever the data set's size: `look_ahead`
maps as files, and as pixels those in flight and a few on either side.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sceneloom.errors import InputError, SceneLoomError, ServingError
from sceneloom.rendering.connections import Reply
from sceneloom.rendering.flow_control import RetryBudget, SizeBuckets
from sceneloom.rendering.items import Failed, MapItem, Picture, Rendered, Result, Skipped, Source
from sceneloom.rendering.listeners import Levels, Listener
from sceneloom.rendering.loading import Loaded, Loader, Prepared
from sceneloom.rendering.servers import Servers
from sceneloom.rendering.settings import RenderSettings
from sceneloom.rendering.store import PictureStore, place_is_gone

_CHUNK = 16
_SHELF_BYTES = 128 << 20
_READERS = 4
# A request of 8 pictures at 2048x1024 takes three times as long as 8 requests.
_REQUEST_BYTES = 4 << 20


class Pipeline:
    """One run; `run` may be called once."""

    def __init__(
        self,
        source: Source,
        servers: Servers,
        loader: Loader,
        settings: RenderSettings,
        *,
        requests: ThreadPoolExecutor,
        results: asyncio.Queue[Result | None],
        store: PictureStore | None = None,
        batch: int = 1,
        listeners: Sequence[Listener] = (),
    ) -> None:
        """Prepare the run.

        Args:
            source: the maps.
            servers: opened.
            loader: reads and decodes.
            settings: limits.
            requests: threads for requests, as many as can be in flight.
            results: takes one result per map, in the order they finish; a full queue makes the
                pipeline wait.
            store: where pictures go; without it they are in the results.
            batch: most maps that one request is made of.
            listeners: hear what happens.
        """
        self._source, self._servers, self._loader = source, servers, loader
        self._settings, self._store, self._batch = settings, store, batch
        self._requests, self._results, self._listeners = requests, results, listeners
        self._threads = settings.threads
        self._cpu = ThreadPoolExecutor(self._threads, "sceneloom-pixels")
        self._readers = ThreadPoolExecutor(_READERS, "sceneloom-read")
        self._lister = ThreadPoolExecutor(1, "sceneloom-list")
        self._budget = RetryBudget(settings.retry.budget)
        self._room = asyncio.Semaphore(settings.look_ahead)
        self._shelf = SizeBuckets()
        self._lower = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading = self._active = self._pausing = 0
        self._stopping = False
        self._broken: Exception | None = None

    def stop(self) -> None:
        """Take nothing new; what is under way is finished. To be called from the loop."""
        self._stopping = True
        for _ in range(self._shelf.clear()):
            self._room.release()
        self._room.release()  # the feeder may wait for room
        self._lower.set()

    def levels(self) -> Levels:
        """How full everything is."""
        return Levels(
            in_flight=self._servers.in_flight(),
            window=self._servers.limit(),
            reading=self._reading,
            waiting=len(self._shelf),
            active=self._active,
            pausing=self._pausing,
        )

    async def run(self) -> None:
        """Render everything.

        Raises:
            ServerUnavailableError: no server answered for too long. What was not rendered has no
                row.
            OSError: the place of the pictures is full or gone.
            SceneLoomError: the source cannot be read on.
        """
        try:
            self._spawn(self._feed())
            while self._tasks:
                await asyncio.wait(self._tasks)
            if self._store is not None:
                try:
                    finished = await self._in(self._cpu, self._store.finish)
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
            if self._store is not None:
                self._store.close()
        if self._broken is not None:
            raise self._broken

    async def _feed(self) -> None:
        items: Iterator[MapItem] = await self._in(self._lister, iter, self._source)
        while not self._stopping:
            chunk, error = await self._in(self._lister, _take, items, _CHUNK)
            for item in chunk:
                await self._room.acquire()
                if not await self._is_shelf_low():
                    return
                self._reading += 1
                self._spawn(self._load(item))
            if error is not None:  # what came before it is rendered
                self._broken = self._broken or error
            if len(chunk) < _CHUNK:
                return

    async def _is_shelf_low(self) -> bool:
        """Wait until little memory is held; False where the run stops."""
        while self._shelf.bytes > _SHELF_BYTES and not self._stopping:
            self._lower.clear()
            await self._lower.wait()
        return not self._stopping

    async def _load(self, item: MapItem) -> None:

        def load_or_skip() -> Loaded | Skipped:
            loaded = self._loader.load(item)
            skipped = None if self._store is None else self._store.skip(loaded)
            return skipped or loaded

        try:
            found = await self._in(self._readers, load_or_skip)
        except (SceneLoomError, OSError) as error:
            found = error
        finally:
            self._reading -= 1
        if isinstance(found, Loaded) and not self._stopping:
            self._shelf.add(found)
            self._pump()
            return
        self._room.release()
        if isinstance(found, Skipped):
            await self._report(found)
        elif isinstance(found, Exception):
            await self._fail(item, found)

    def _pump(self) -> None:
        """Start work on the next maps, as long as there is room for their pixels."""

        def most_of(size: tuple[int, int]) -> int:
            """Maps of a size that make one request: few enough for their pictures to stay small."""
            picture = 3 * size[0] * size[1]
            return min(self._batch, max(1, _REQUEST_BYTES // picture)) if picture else 1

        more = 2 * self._threads + 1
        while len(self._shelf) and self._active < self._servers.limit() * self._batch + more:
            taken = self._shelf.take(most_of)
            self._lower.set()
            for _ in taken:
                self._room.release()
            self._active += len(taken)
            self._spawn(self._work(taken))

    async def _work(self, maps: list[Loaded]) -> None:
        try:
            tries = (self._prepare(loaded) for loaded in maps)
            ready = [one for one in await asyncio.gather(*tries) if one is not None]
            if ready:
                await self._render(ready, [])
        finally:
            self._active -= len(maps)
            self._pump()

    async def _prepare(self, loaded: Loaded) -> Prepared | None:
        try:
            prepared: Prepared = await self._in(self._cpu, self._loader.prepare, loaded)
        except (SceneLoomError, OSError) as error:
            await self._fail(loaded.item, error, loaded.input_hash)
            return None
        return prepared

    async def _render(self, maps: list[Prepared], failures: list[ServingError]) -> None:
        """Have maps of one size rendered; those that fail together are tried one by one."""
        while True:
            lease = await self._servers.lease()
            if not failures:
                self._budget.earn()
            start = time.perf_counter()
            try:
                answers = await self._in(self._requests, lease.connection.send, maps)
            except ServingError as error:
                self._servers.failed(lease, error)
                failures.append(error)
            except BaseException as error:
                self._servers.failed(lease, SceneLoomError(str(error)))
                raise
            else:
                seconds = time.perf_counter() - start
                kind = (maps[0].request.label_map.shape, len(maps))
                self._servers.answered(lease, seconds, kind)
                sent = sum(answer.sent for answer in answers)
                received = sum(answer.received for answer in answers)
                for listener in self._listeners:
                    listener.on_answer(seconds, sent, received)
                break
            self._pump()
            if len(maps) > 1 and not failures[-1].retryable:
                await asyncio.gather(*(self._render([one], list(failures)) for one in maps))
                return
            if not await self._pause(failures):
                for one in maps:
                    await self._fail(one.loaded.item, failures[-1], one.loaded.input_hash, failures)
                return
        attempts = len(failures) + 1
        done = (self._keep(*pair, attempts) for pair in zip(maps, answers, strict=True))
        await asyncio.gather(*done)

    async def _pause(self, failures: list[ServingError]) -> bool:
        """Wait before the next try; False where there is none."""
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

    async def _keep(self, prepared: Prepared, answer: Reply, attempts: int) -> None:
        loaded = prepared.loaded
        if self._store is None:
            picture = Picture(
                key=loaded.item.key,
                image=answer.decode(),
                padding=prepared.request.padding,
                seconds=time.perf_counter() - loaded.started,
                attempts=attempts,
                engine=answer.engine,
            )
            await self._report(picture)
            return
        try:
            put: list[Rendered] = await self._in(
                self._cpu, self._store.put, prepared, answer, attempts
            )
        except (InputError, OSError) as error:
            await self._fail(loaded.item, error, loaded.input_hash)
            if isinstance(error, OSError) and place_is_gone(error):
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
        failed = Failed(key=item.key, error=error, attempts=len(failures))
        if self._store is not None:
            try:
                await self._in(
                    self._cpu,
                    lambda store: store.fail(item, error, input_hash=input_hash, failures=failures),
                    self._store,
                )
            except OSError as full:
                self._break(full)
        await self._report(failed)

    async def _report(self, result: Result) -> None:
        for listener in self._listeners:
            listener.on_result(result)
        await self._results.put(result)

    def _break(self, error: Exception) -> None:
        """Stop the run for a reason that more maps would meet too."""
        if self._broken is None:
            self._broken = error
        self.stop()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guard(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            self._break(error)

    async def _in(
        self, pool: ThreadPoolExecutor, function: Callable[..., Any], *values: Any
    ) -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *values)


def _take(items: Iterator[MapItem], count: int) -> tuple[list[MapItem], Exception | None]:
    """The next items, and the error that ended them early."""
    taken: list[MapItem] = []
    try:
        for item in itertools.islice(items, count):
            taken.append(item)
    except Exception as error:
        return taken, error
    return taken, None
