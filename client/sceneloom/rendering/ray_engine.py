"""The driver of `sceneloom render MAPS PICTURES --engine ray`: lists the maps, writes the pictures
and keeps the manifest. Ray actors read, decode, request and encode, here or on a cluster.

Maps travel in blocks, at most two in flight to an actor. A block whose actor dies goes to another.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sceneloom.errors import InputError, SceneLoomError, out_of_resources, require
from sceneloom.rendering.connections import Connection, Route
from sceneloom.rendering.items import Failed, MapItem, Result, Source
from sceneloom.rendering.listeners import Levels
from sceneloom.rendering.manifest import Row
from sceneloom.rendering.plan import TritonServers
from sceneloom.rendering.ray_worker import Assigned, BlockResult, BlockWorker, Work
from sceneloom.rendering.run import Plan, Run, open_store
from sceneloom.rendering.servers import Servers
from sceneloom.rendering.settings import RenderSettings
from sceneloom.rendering.store import Store, failure_row, place_is_gone
from sceneloom.style import style_chooser
from sceneloom.text import counted
from sceneloom.triton.shared_memory import sweep_regions

_BLOCKS_PER_ACTOR = 2  # while one ends, the other keeps the server busy
_TRIES = 5
_TICK, _CLOSE_SECONDS = 0.1, 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class RaySettings:
    """How a run is spread over Ray actors."""

    address: str | None = None
    """Address of a running cluster, such as auto on one of its machines; without it Ray starts here
    and stops with the run.
    """
    actors: int | None = None
    """Most actors; without it as many as there are cores for. They start as there is work."""
    cpus: int = 1
    """Cores of an actor: as many threads decode and encode in it."""
    maps_per_block: int = 16
    """Maps that an actor is given at once. Their pictures are in memory together."""
    object_store: int = 1024
    """MiB of shared memory for blocks on their way, where Ray starts here; more goes to disk."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("actors", 1, 100_000),
            ("cpus", 1, 1024),
            ("maps_per_block", 1, 10_000),
            ("object_store", 128, 1 << 20),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"{name} is {value}; it is from {low} to {high}")


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


@dataclasses.dataclass(eq=False)
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

    items: list[MapItem] = []
    try:
        for item in source:
            items.append(item)
            if len(items) == size:
                yield Block(list(pool.map(assign, items)))
                items = []
    except Exception:
        if items:
            yield Block(list(pool.map(assign, items)))
        raise
    if items:
        yield Block(list(pool.map(assign, items)))


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

    def has_room(self) -> bool:
        """Whether to list another block: one waits, and one more for each actor to start."""
        return len(self._waiting) <= self._most - len(self._levels)

    def is_idle(self) -> bool:
        flying = any(block is not None for _, block in self._in_flight.values())
        return not self._waiting and not flying

    def give(self, block: Block) -> None:
        self._waiting.append(block)
        self._submit()

    def withdraw(self) -> None:
        """Forget the blocks that wait for an actor."""
        self._waiting.clear()

    def levels(self) -> Levels:
        reported, flying = list(self._levels.values()), list(self._in_flight.values())
        return Levels(
            in_flight=sum(levels.in_flight for levels in reported),
            window=sum(levels.window for levels in reported),
            active=sum(len(block.maps) for _, block in flying if block is not None),
        )

    def wait(self) -> BlockResult | None:
        """Wait a moment for the result of a block; None if none came."""
        import ray
        from ray import exceptions as ended

        ready, _ = ray.wait(list(self._in_flight), timeout=_TICK)
        if not ready:
            return None
        actor, block = self._in_flight.pop(ready[0])
        result: BlockResult | None = None
        try:
            got = ray.get(ready[0])
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
            else:
                block.deaths += 1
                if block.deaths == _TRIES:
                    result = _given_up(block)
                else:
                    self._waiting.appendleft(block)
        except Exception as error:
            raise _gave_up(error) from error
        else:
            if block is None:
                self._failed_starts = 0
            else:
                result = got
                if actor in self._levels:
                    self._levels[actor] = got.levels
        self._submit()
        return result

    def close(self) -> None:
        """End the actors; what is in flight is dropped."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            starting = [actor for actor, block in self._in_flight.values() if block is None]
            closing = [actor.close.remote() for actor in self._levels if actor not in starting]
            if closing:
                ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_SECONDS)
            for actor in self._levels:
                ray.kill(actor)
        sweep_regions()  # of actors that were killed

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


def _given_up(block: Block) -> BlockResult:
    died = (
        f"{block.deaths} processes died at it, or at one of the "
        f"{counted(len(block.maps), 'map')} that they were given together"
    )
    items = [assigned.item for assigned in block.maps]
    errors = [SceneLoomError(f"{item.label.name}: {died}") for item in items]
    failed = [Failed(key=i.key, error=error) for i, error in zip(items, errors, strict=True)]
    return BlockResult(failed=[(one, "") for one in failed])


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
            settings: how the run is spread.

        Raises:
            InputError: the plan has no place for pictures.
            MissingDependencyError: Ray is not installed.
        """
        require(("ray",), extra="ray", purpose="rendering with Ray")
        if plan.sink is None or plan.manifest is None:
            raise InputError("rendering with Ray needs a place for the pictures")
        super().__init__(plan)
        self._servers, self._settings = servers, settings or RaySettings()
        self._route = Route()
        self._results = self._render()
        self._broken: Exception | None = None
        self._actors: _Actors | None = None

    def __next__(self) -> Result:
        """Wait for the next result.

        Raises:
            ServerUnavailableError: no server answered for longer than the run's patience.
            OSError: the place of the pictures is full or gone.
            OutOfResourcesError: a machine has no memory, or no thread, left.
            SceneLoomError: the run cannot begin, its source cannot be read on, or Ray gave up.
        """
        try:
            return next(self._results)
        except (MemoryError, RuntimeError) as error:
            raise out_of_resources(error) or error from None

    def stop(self) -> None:
        """Give no further map to an actor; see `Run.stop`."""
        self._stop_asked = True

    def levels(self) -> Levels:
        """Sums of what the actors last reported, and how many maps they have."""
        return Levels() if self._actors is None else self._actors.levels()

    def route(self) -> Route:
        """How pictures travel, as the last actor that sent a request reported it."""
        return self._route

    def close(self) -> None:
        """End the run; what is in flight is dropped. Calling it twice is fine."""
        self._results.close()

    def _render(self) -> Generator[Result, None, None]:
        plan, settings = self._plan, self._plan.settings
        with contextlib.ExitStack() as stack:
            with ThreadPoolExecutor(1) as apart:  # the caller's thread may have an event loop
                connection, engine = apart.submit(asyncio.run, self._ask()).result()
            contract = connection.contract
            style_chooser(contract, settings)  # says what is wrong with a style file
            source, file = plan.source(contract), settings.style_file
            style_file = file.read_bytes() if file is not None and file.is_file() else None
            model, version = connection.model, connection.version
            store, manifest = open_store(plan, contract, model, version, engine)
            stack.callback(manifest.finish)
            stack.callback(store.close)
            workers = settings.workers or self._settings.cpus
            work = Work(
                servers=self._servers,
                settings=dataclasses.replace(settings, workers=workers),
                contract=contract,
                origin=store.origin,
                engine=engine,
                style=store.style,
                style_file=style_file,
                folder=str(Path.cwd()),
            )
            stack.enter_context(ray_started(self._settings))
            self._actors = actors = _Actors(work, self._settings)
            stack.callback(actors.close)
            pool = stack.enter_context(ThreadPoolExecutor(settings.threads, "sceneloom-write"))
            self._count_aside(source)
            blocks = list_blocks(source, store, self._settings.maps_per_block, pool)
            self.rendering = True
            for result in self._keep(self._answers(actors, blocks), store, pool):
                for listener in plan.listeners:
                    listener.on_result(result)
                yield result
            if self._broken is not None:
                raise self._broken

    async def _ask(self) -> tuple[Connection, str]:
        """Ask the servers what they serve: a connection, closed, and the engine."""
        plan = self._plan
        with ThreadPoolExecutor(len(plan.addresses), "sceneloom-request") as pool:
            servers = Servers(plan.addresses, pool, plan.settings)
            try:
                connection = await servers.open()
                self._route = servers.route()
                return connection, servers.engine
            finally:
                await servers.close()

    def _answers(self, actors: _Actors, blocks: Iterator[Block]) -> Iterator[BlockResult]:
        """Keep the actors busy until the source ends or the run stops."""
        with ThreadPoolExecutor(1, "sceneloom-list") as lister:
            coming, ended = lister.submit(next, blocks, None), False
            while True:
                if self._stop_asked:
                    actors.withdraw()
                elif not ended and actors.has_room() and (coming.done() or actors.is_idle()):
                    try:
                        block = coming.result()
                    except Exception as error:
                        self._break(error)
                        block = None
                    if block is None:
                        ended = True
                    else:
                        actors.give(block)
                        coming = lister.submit(next, blocks, None)
                    continue
                if actors.is_idle():
                    return
                if (answer := actors.wait()) is not None:
                    yield answer

    def _keep(
        self, answers: Iterator[BlockResult], store: Store, pool: Executor
    ) -> Iterator[Result]:
        """Put pictures and failures in their places."""
        for answered in answers:
            if answered.requests:
                self._route = answered.route
            for listener in self._plan.listeners:
                for seconds, sent, received in answered.requests:
                    listener.on_answer(seconds, sent, received)
                for retried in answered.retries:
                    listener.on_retry(retried)
            yield from answered.skipped
            kept = [pool.submit(_keep, store, *made) for made in answered.made]
            kept += [pool.submit(_keep_failure, store, *failed) for failed in answered.failed]
            for future in kept:
                results, error = future.result()
                yield from results
                if error is not None and place_is_gone(error):
                    self._break(error)
            if answered.error is not None:
                self._break(answered.error)
            if isinstance(self._broken, OSError):
                break  # other results have no place either
        try:
            yield from store.finish()
        except OSError as error:
            self._break(error)

    def _break(self, error: Exception) -> None:
        """Stop the run for a reason that further maps would meet too."""
        self._broken = self._broken or error
        self.stop()


def _keep(store: Store, row: Row, data: bytes) -> tuple[list[Result], OSError | None]:
    try:
        return list(store.keep(row, data)), None
    except OSError as error:
        return _keep_failure(store, Failed(key=row.key, error=error), row.input_hash)[0], error


def _keep_failure(
    store: Store, failed: Failed, input_hash: str
) -> tuple[list[Result], OSError | None]:
    try:
        store.keep_failure(failure_row(failed, origin=store.origin, input_hash=input_hash))
    except OSError as error:
        return [failed], error
    return [failed], None
