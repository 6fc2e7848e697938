"""The driver of `sceneloom render MAPS PICTURES --engine ray`: lists the maps, writes the pictures
and keeps the manifest. Ray actors read, decode, request and encode, here or on a cluster.

Maps travel in blocks, at most two in flight to an actor. A block whose actor dies goes to another.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from sceneloom.errors import InputError, SceneLoomError, out_of_resources, require
from sceneloom.rendering.connections import Connection
from sceneloom.rendering.items import Failed, MapItem, Result, Source
from sceneloom.rendering.listeners import Levels
from sceneloom.rendering.manifest import Store, failure_row, location_is_gone
from sceneloom.rendering.plan import TritonServers
from sceneloom.rendering.ray_worker import Assigned, BlockResult, BlockWorker, Work
from sceneloom.rendering.run import Plan, Run, open_plan
from sceneloom.rendering.servers import Servers
from sceneloom.rendering.settings import RenderSettings
from sceneloom.text import counted
from sceneloom.triton.shared_memory import sweep_regions
from sceneloom.validation import checked

_BLOCKS_PER_ACTOR = 2  # while one ends, the other keeps the server busy
_TRIES = 5
_TICK, _CLOSE_SECONDS = 0.1, 10


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class RaySettings:
    """How a run is spread over Ray actors."""

    address: str | None = None
    """Address of a running cluster, such as auto on one of its machines; without it Ray starts here
    and stops with the run.
    """
    actors: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Most actors; without it as many as there are cores for. They start as there is work."""
    cpus: Annotated[int, Field(ge=1, le=1024)] = 1
    """Cores of an actor: as many threads decode and encode in it."""
    maps_per_block: Annotated[int, Field(ge=1, le=10_000)] = 16
    """Maps that an actor is given at once. Their pictures are in memory together."""
    object_store: Annotated[int, Field(ge=128, le=1 << 20)] = 1024
    """MiB of shared memory for blocks on their way, where Ray starts here; more goes to disk."""


@contextlib.contextmanager
def ray_started(settings: RaySettings) -> Iterator[None]:
    """Start Ray or connect to a cluster, and stop it at the end; leave the caller's Ray as it is.

    Raises SceneLoomError if Ray cannot be started or reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    import ray

    if ray.is_initialized():
        yield
        return
    here: dict[str, Any] = {}
    if settings.address is None:
        here = {
            "num_cpus": max(RenderSettings().threads, settings.cpus * (settings.actors or 1)),
            "include_dashboard": False,
            "object_store_memory": settings.object_store << 20,
        }
    before = signal.getsignal(signal.SIGTERM)
    address = settings.address or "local"
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **here)
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray's own would end the run at once
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SceneLoomError(f"Ray cannot be started or reached: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


@dataclasses.dataclass(frozen=True)
class Block:
    """Maps that an actor renders together."""

    maps: list[Assigned]
    deaths: int = 0
    """Actors that died while they had it."""


def list_blocks(source: Source, store: Store, size: int, pool: Executor) -> Iterator[Block]:
    """The maps of a source in blocks of `size`; threads of `pool` look up the existing pictures.

    Raises what the source raises, after the maps before it.
    """

    def assign(item: MapItem) -> Assigned:
        row = None
        with contextlib.suppress(OSError):  # an unreadable picture is made again
            row = store.found(item.key)
        return Assigned(item=item, row=row)

    items, error = iter(source), None
    while error is None:
        taken: list[MapItem] = []
        try:
            for item in itertools.islice(items, size):
                taken.append(item)
        except Exception as met:
            error = met
        if taken:
            yield Block(list(pool.map(assign, taken)))
        if len(taken) < size:
            break
    if error is not None:
        raise error


class _Actors:
    """Actors that render blocks; they start as there is work."""

    def __init__(self, work: Work, settings: RaySettings) -> None:
        import ray

        cores = ray.cluster_resources().get("CPU", 1)  # type: ignore[no-untyped-call]
        self._most = settings.actors or max(1, int(cores) // settings.cpus)
        self._work = work
        remote: Any = ray.remote(BlockWorker)
        self._class = remote.options(
            num_cpus=settings.cpus,
            max_concurrency=_BLOCKS_PER_ACTOR + 1,  # `close` runs beside the blocks
            scheduling_strategy="SPREAD",
        )
        self._levels: dict[Any, Levels] = {}  # actor -> what it last reported
        self._waiting: deque[Block] = deque()
        self._in_flight: dict[Any, tuple[Any, Block | None]] = {}  # None: the actor starts
        self._failed_starts = 0

    def levels(self) -> Levels:
        reported, in_flight = list(self._levels.values()), list(self._in_flight.values())
        return Levels(
            in_flight=sum(levels.in_flight for levels in reported),
            window=sum(levels.window for levels in reported),
            active=sum(len(block.maps) for _, block in in_flight if block is not None),
        )

    def results(self, blocks: Iterator[Block], stop: threading.Event) -> Iterator[BlockResult]:
        """Render blocks until their end or a stop.

        Raises what `blocks` raises, after the results of the blocks before.
        """
        error: Exception | None = None
        with ThreadPoolExecutor(1, "sceneloom-list") as lister:
            listing: Future[Block | None] | None = lister.submit(next, blocks, None)
            while True:
                if stop.is_set():
                    self._waiting.clear()
                    listing = None
                busy = self._waiting or any(block for _, block in self._in_flight.values())
                # One block waits, and one more for each actor that can start.
                room = len(self._waiting) <= self._most - len(self._levels)
                if listing is not None and room and (listing.done() or not busy):
                    try:
                        block = listing.result()
                    except Exception as met:
                        error, block = met, None
                    listing = None
                    if block is not None and not stop.is_set():
                        listing = lister.submit(next, blocks, None)
                        self._waiting.append(block)
                        self._submit()
                elif busy:
                    result = self._wait()
                    if result is not None:
                        yield result
                elif error is not None:
                    raise error
                else:
                    return

    def _wait(self) -> BlockResult | None:
        """Wait a moment for the result of a block."""
        import ray
        from ray import exceptions as ended

        ready, _ = ray.wait(list(self._in_flight), timeout=_TICK)
        if not ready:
            return None
        actor, block = self._in_flight.pop(ready[0])
        result: BlockResult | None = None
        try:
            got = ray.get(ready[0])
            if block is None:
                self._failed_starts = 0
            else:
                result = got
                if actor in self._levels:
                    self._levels[actor] = got.levels
        except (
            ended.RayActorError,
            ended.NodeDiedError,
            ended.ObjectLostError,  # its machine died after the actor had answered
            ended.OutOfMemoryError,
        ) as error:
            if self._levels.pop(actor, None):
                ray.kill(actor)  # it may only be out of reach
            if block is None:
                self._failed_starts += 1
                if getattr(error, "actor_init_failed", False) or self._failed_starts == _TRIES:
                    raise _gave_up(error) from error
            elif (deaths := block.deaths + 1) < _TRIES:
                self._waiting.appendleft(Block(block.maps, deaths))
            else:
                result = _given_up(block)
        except Exception as error:
            raise _gave_up(error) from error
        self._submit()
        return result

    def _submit(self) -> None:
        """Give waiting blocks to actors with room, and start actors for the others."""
        while self._waiting:
            # A block at which an actor died has the next actor for itself, so that no other block
            # is taken for the cause. An actor that starts has no room either.
            room = dict.fromkeys(self._levels, _BLOCKS_PER_ACTOR)
            for actor, block in self._in_flight.values():
                if actor in room:
                    room[actor] -= _BLOCKS_PER_ACTOR if block is None or block.deaths else 1
            actor = max(room, key=room.__getitem__, default=None)
            wanted = _BLOCKS_PER_ACTOR if self._waiting[0].deaths else 1
            if actor is None or room[actor] < wanted:
                break
            block = self._waiting.popleft()
            self._in_flight[actor.render.remote(block.maps)] = actor, block
        starting = sum(block is None for _, block in self._in_flight.values())
        for _ in range(min(self._most - len(self._levels), len(self._waiting) - starting)):
            actor = self._class.remote(self._work)
            self._levels[actor] = Levels()
            self._in_flight[actor.__ray_ready__.remote()] = actor, None

    def close(self) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            starting = [actor for actor, block in self._in_flight.values() if block is None]
            closing = [actor.close.remote() for actor in self._levels if actor not in starting]
            if closing:
                ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_SECONDS)
            for actor in self._levels:
                ray.kill(actor)
        sweep_regions()  # of actors that were killed


def _given_up(block: Block) -> BlockResult:
    count = counted(len(block.maps), "map")
    died = f"{_TRIES} processes died at it, or at one of the {count} that they were given together"
    items = [assigned.item for assigned in block.maps]
    errors = [(item.key, SceneLoomError(f"{item.label.name}: {died}")) for item in items]
    return BlockResult(failed=[(Failed(key=key, error=error), "") for key, error in errors])


def _gave_up(error: Exception) -> SceneLoomError:
    cause = getattr(error, "cause", None) or error  # without Ray's tracebacks around it
    last = (str(cause).strip() or type(cause).__name__).splitlines()[-1].strip()
    return out_of_resources(cause) or SceneLoomError(f"Ray gave up: {last}")


class RayRun(Run):
    """A run whose maps Ray actors render."""

    def __init__(
        self, plan: Plan, servers: TritonServers, settings: RaySettings | None = None
    ) -> None:
        """Prepare; the first result begins the run.

        Args:
            plan: with a sink and a manifest.
            servers: those of the plan, by addresses that every machine reaches.
            settings: number and size of the actors.

        Raises InputError if the plan has no sink, and MissingDependencyError without Ray.
        """
        require(("ray",), extra="ray", purpose="rendering with Ray")
        if plan.sink is None or plan.manifest is None:
            raise InputError("rendering with Ray needs a place for the pictures")
        self._plan = plan
        self._servers, self._settings = servers, settings or RaySettings()
        self._results = self._render()
        self._broken: Exception | None = None
        self._stopped = threading.Event()
        self._actors: _Actors | None = None

    def __next__(self) -> Result:
        """Wait for the next result; see `RenderRun`. Raises SceneLoomError if Ray gave up."""
        try:
            return next(self._results)
        except (MemoryError, RuntimeError) as error:
            raise out_of_resources(error) or error from None

    def stop(self) -> None:
        """Give no further map to an actor; see `Run.stop`."""
        self._stopped.set()

    def levels(self) -> Levels:
        """Sums of what the actors last reported, and how many maps they have."""
        return Levels() if self._actors is None else self._actors.levels()

    def close(self) -> None:
        """End the run; what is in flight is dropped. Calling it twice is fine."""
        self._results.close()

    def _render(self) -> Generator[Result, None, None]:
        plan, settings = self._plan, self._plan.settings
        with contextlib.ExitStack() as stack:
            with ThreadPoolExecutor(1) as apart:  # the caller's thread may have an event loop
                connection, engine = apart.submit(asyncio.run, self._ask()).result()
            self.source, loader, store = open_plan(plan, connection, engine, self._stopped.is_set)
            self.reading = loader.reader.describe()
            assert store is not None
            stack.callback(store.close)
            file = settings.style_file
            style_file = file.read_bytes() if file is not None and file.is_file() else None
            map_schema = None
            if settings.map_schema_file is not None:
                map_schema = settings.map_schema_file.read_bytes()
            workers = settings.workers or self._settings.cpus
            work = Work(
                servers=self._servers,
                settings=dataclasses.replace(settings, workers=workers),
                contract=connection.contract,
                origin=store.origin,
                engine=engine,
                style=store.style,
                style_file=style_file,
                map_schema=map_schema,
                folder=str(Path.cwd()),
            )
            stack.enter_context(ray_started(self._settings))
            self._actors = actors = _Actors(work, self._settings)
            stack.callback(actors.close)
            pool = stack.enter_context(ThreadPoolExecutor(settings.threads, "sceneloom-write"))
            threading.Thread(target=self._count_maps, name="sceneloom-count", daemon=True).start()
            blocks = list_blocks(self.source, store, self._settings.maps_per_block, pool)
            self.rendering = True
            for result in self._keep(actors.results(blocks, self._stopped), store, pool):
                for listener in plan.listeners:
                    listener.on_result(result)
                yield result
            if self._broken is not None:
                raise self._broken

    async def _ask(self) -> tuple[Connection, str]:
        """Ask the servers what they serve: a connection, closed, and the engine."""
        servers = Servers(self._plan.addresses, self._plan.settings)
        try:
            connection = await servers.open()
            self.route = connection.route
            return connection, servers.engine
        finally:
            await servers.close()

    def _keep(
        self, results: Iterator[BlockResult], store: Store, pool: Executor
    ) -> Iterator[Result]:
        """Put pictures and failures in their places."""
        try:
            for block in results:
                if block.requests:
                    self.route = block.route
                for listener in self._plan.listeners:
                    for seconds, sent, received in block.requests:
                        listener.on_answer(seconds, sent, received)
                    for retried in block.retries:
                        listener.on_retry(retried)
                yield from block.skipped
                failed = list(block.failed)
                written = [(made[0], pool.submit(store.place, *made)) for made in block.made]
                for row, future in written:
                    try:
                        yield from store.record(future.result())
                    except OSError as error:
                        failed.append((Failed(key=row.key, error=error), row.input_hash))
                        if location_is_gone(error):
                            self._break(error)
                for one, input_hash in failed:
                    row = failure_row(one, origin=store.origin, input_hash=input_hash)
                    try:
                        store.manifest.record([row])
                    except OSError as error:
                        self._break(error)
                    yield one
                if block.error is not None:
                    self._break(block.error)
                if isinstance(self._broken, OSError):
                    break  # other results have no place either
        except Exception as error:  # of the source or of Ray; pictures of a shard are kept
            self._break(error)
        try:
            yield from store.finish()
        except OSError as error:
            self._break(error)

    def _break(self, error: Exception) -> None:
        """Stop the run for a reason that further maps would meet too."""
        self._broken = self._broken or error
        self._stopped.set()
