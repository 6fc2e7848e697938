"""A run whose maps are rendered by Ray actors, on this machine or on a cluster:
`sceneloom render ... --engine ray`.

This process lists the maps, writes every picture and keeps the manifest; actors read, decode, have
rendered and encode. Killed, the run goes on from its manifest like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sceneloom.errors import InputError, SceneLoomError, out_of_resources, require
from sceneloom.files import SHARED_MEMORY
from sceneloom.rendering.connections import Connection, Route
from sceneloom.rendering.items import Failed, MapItem, Result, Skipped, Source
from sceneloom.rendering.listeners import Levels
from sceneloom.rendering.manifest import Row
from sceneloom.rendering.plan import TritonServers
from sceneloom.rendering.ray_worker import Assigned, BlockResult, Made, Outcome, Unchanged, Work
from sceneloom.rendering.run import Plan, Run, open_plan
from sceneloom.rendering.servers import Servers
from sceneloom.rendering.settings import RenderSettings
from sceneloom.rendering.store import Store, failure_row, location_is_gone
from sceneloom.triton.shared_memory import sweep_regions

if TYPE_CHECKING:
    from sceneloom.rendering.ray_stream import Stream

_MIB = 1 << 20
_ENDING_SECONDS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class RaySettings:
    """How a run is spread over Ray's actors."""

    address: str | None = None
    """Of a running cluster, such as auto on one of its machines; without it Ray is started here,
    and stopped with the run.
    """
    actors: int | None = None
    """Most actors; without it as many as there are cores for. They start as there is work."""
    cpus: int = 1
    """Cores of an actor: as many threads decode and encode in it."""
    maps_per_block: int = 16
    """Maps that an actor is given at once. Their pictures are in memory together."""
    object_store: int = 1024
    """MiB of shared memory for what is on its way, where Ray is started here; more goes to disk."""

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


def most_actors(settings: RaySettings) -> int:
    """The most actors of a run; Ray must have been started."""
    import ray

    if settings.actors is not None:
        return settings.actors
    cores = ray.cluster_resources().get("CPU", 1)  # type: ignore[no-untyped-call]
    return max(1, int(cores) // settings.cpus)


@contextlib.contextmanager
def ray_started(settings: RaySettings) -> Iterator[set[int]]:
    """Ray while it is wanted: what the caller has started stays, and else it is started, or a
    cluster connected to, and stopped again.

    Yields:
        takes the process ids of the actors that were seen. Those that Ray ends on this machine have
        no time to clear up; it is done for them.

    Raises:
        SceneLoomError: it cannot be started, or no cluster is there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    import ray

    workers: set[int] = set()
    if ray.is_initialized():
        yield workers
        return
    here: dict[str, Any] = {}
    if settings.address is None:
        here = {
            "num_cpus": max(RenderSettings().threads, settings.cpus * (settings.actors or 1)),
            "include_dashboard": False,
            "object_store_memory": settings.object_store * _MIB,
        }
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=settings.address or "local",
            logging_level=logging.ERROR,
            log_to_driver=False,
            **here,
        )
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray's own would end the run at once
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SceneLoomError(f"Ray cannot be started or reached: {error}") from error
    try:
        yield workers
    finally:
        ray.shutdown()
        if settings.address is None:
            _sweep_after(workers)


def _sweep_after(processes: set[int]) -> None:
    """Remove what is in shared memory of processes that are ending."""
    deadline = time.monotonic() + _ENDING_SECONDS
    while any(list(SHARED_MEMORY.glob(f"sceneloom-{pid}-*")) for pid in processes):
        if time.monotonic() > deadline:  # the next connection does it
            return
        sweep_regions()
        time.sleep(0.05)


class Taker(Protocol):
    """Where blocks go."""

    def put(self, number: int, block: Sequence[Assigned] | None) -> None:
        """Take a block, or with None the end.

        Args:
            number: counts from 0.
            block: the maps.
        """


class BlockFeeder:
    """Gives blocks until the source ends or the run stops; then the end."""

    def __init__(
        self,
        source: Source,
        store: Store,
        taker: Taker,
        *,
        maps_per_block: int,
        most_blocks: int,
        threads: int,
    ) -> None:
        """Prepare.

        Args:
            source: the maps.
            store: knows which pictures are there.
            taker: where blocks go.
            maps_per_block: how many maps make one.
            most_blocks: that are on their way at once.
            threads: how many look for pictures that are there.
        """
        self._source, self._store, self._taker = source, store, taker
        self._maps_per_block = maps_per_block
        self._room = threading.Semaphore(most_blocks)
        self._given: dict[int, dict[str, Row | None]] = {}
        self._lookers = ThreadPoolExecutor(threads, "sceneloom-look")
        self._thread = threading.Thread(target=self._feed, name="sceneloom-feed", daemon=True)
        self._stopping = False
        self.error: Exception | None = None
        """Why the source could not be read to its end."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Give no further block. Safe to call from a signal handler."""
        self._stopping = True
        self._room.release()  # the thread may wait for it

    def take(self, number: int) -> dict[str, Row | None] | None:
        """Report that a block was answered.

        Returns:
            key -> the row of the picture that was there when the block was given, or None where
            there was none; None for a block that was answered before.
        """
        block = self._given.pop(number, None)
        if block is not None:
            self._room.release()
        return block

    def maps_given(self) -> int:
        """How many maps are on their way."""
        return sum(len(block) for block in list(self._given.values()))

    def close(self) -> None:
        """Stop, and wait for the thread."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join()
        self._lookers.shutdown(cancel_futures=True)

    def _feed(self) -> None:
        number = 0
        try:
            for items in self._blocks():
                self._room.acquire()
                if self._stopping:
                    break
                self._give(number, items)
                number += 1
        except Exception as error:
            self.error = error
        with contextlib.suppress(Exception):  # its answers say what is wrong with it
            self._taker.put(number, None)

    def _give(self, number: int, items: list[MapItem]) -> None:
        def found(key: str) -> Row | None:
            with contextlib.suppress(OSError):  # what cannot be read is made again
                return self._store.found(key)
            return None

        keys = [item.key for item in items]
        rows = dict(zip(keys, self._lookers.map(found, keys), strict=True))
        known = {key: "" if row is None else row.input_hash for key, row in rows.items()}
        self._given[number] = rows
        self._taker.put(number, [Assigned(item=item, known=known[item.key]) for item in items])

    def _blocks(self) -> Iterator[list[MapItem]]:
        """The source's maps in blocks; where it breaks off, those before come first."""
        block: list[MapItem] = []
        try:
            for item in self._source:
                block.append(item)
                if len(block) == self._maps_per_block:
                    yield block
                    block = []
        except Exception:
            if block:
                yield block
            raise
        if block:
            yield block


_SPARE_BLOCKS = 4


class RayRun(Run):
    """A run whose maps Ray actors render."""

    def __init__(
        self,
        plan: Plan,
        servers: TritonServers,
        settings: RaySettings | None = None,
    ) -> None:
        """Prepare; nothing happens yet.

        Args:
            plan: with a sink and a manifest.
            servers: those of the plan, by addresses that every machine reaches them at.
            settings: how it is spread.

        Raises:
            InputError: the plan has no place for pictures.
            MissingDependencyError: Ray is not installed.
        """
        require(("ray", "pandas", "pyarrow"), extra="ray", purpose="rendering with Ray")
        if plan.sink is None or plan.manifest is None:
            raise InputError("rendering with Ray needs a place for the pictures")
        self._plan = plan
        self._stop_asked = False
        self._servers = servers
        self._settings = settings or RaySettings()
        self._results = self._render()
        self._broken: Exception | None = None
        self._levels: dict[int, Levels] = {}
        self._workers: set[int] = set()
        self._actors = 1
        self._feeder: BlockFeeder | None = None

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
        """Give no further map to an actor; what they have is finished, and its results still come.
        Safe to call from a signal handler and from any thread.
        """
        self._stop_asked = True
        if self._feeder is not None:
            self._feeder.stop()

    def levels(self) -> Levels:
        """How full the actors' pipelines are, as each last said, and how many maps they have."""
        feeder, reported = self._feeder, list(self._levels.values())
        return Levels(
            in_flight=sum(levels.in_flight for levels in reported),
            window=sum(levels.window for levels in reported),
            active=0 if feeder is None else feeder.maps_given(),
        )

    def close(self) -> None:
        """End the run; what is under way is dropped. Calling it twice is fine."""
        self._results.close()

    def _render(self) -> Generator[Result, None, None]:
        with contextlib.ExitStack() as stack:
            begun = _begin(self._plan, self._servers, self._settings.cpus)
            stack.callback(begun.store.close)
            self.route = begun.route
            self._workers = stack.enter_context(ray_started(self._settings))
            from sceneloom.rendering.ray_stream import BLOCKS_PER_ACTOR, Stream

            self._actors = most_actors(self._settings)
            stream = Stream(begun.work, actors=self._actors, cpus=self._settings.cpus)
            stack.callback(stream.close)
            pool = stack.enter_context(
                ThreadPoolExecutor(self._plan.settings.threads, "sceneloom-write")
            )
            self.source = begun.source
            threading.Thread(target=self._count_maps, name="sceneloom-count", daemon=True).start()
            feeder = BlockFeeder(
                begun.source,
                begun.store,
                stream,
                maps_per_block=self._settings.maps_per_block,
                most_blocks=BLOCKS_PER_ACTOR * self._actors + _SPARE_BLOCKS,
                threads=self._plan.settings.threads,
            )
            stack.callback(feeder.close)
            self._feeder = feeder
            if self._stop_asked:
                feeder.stop()
            feeder.start()
            self.rendering = True
            for result in self._collect(stream, feeder, begun.store, pool):
                for listener in self._plan.listeners:
                    listener.on_result(result)
                yield result
            if self._broken is not None:
                raise self._broken

    def _collect(
        self, stream: Stream, feeder: BlockFeeder, store: Store, pool: ThreadPoolExecutor
    ) -> Iterator[Result]:
        """Put what comes back in its place, until nothing more comes."""
        for number, answered in stream.answers():
            if self._stop_asked:  # a signal handler could not say it
                stream.stop()
            block = feeder.take(number)
            if block is None:  # its actor died after it had answered, and did it again
                continue
            self._hear(answered)
            outcomes = answered.outcomes.values()
            kept = [pool.submit(_keep, store, one, block) for one in outcomes]
            for future in kept:
                results, error = future.result()
                yield from results
                if error is not None and location_is_gone(error):
                    self._break(error)
            if answered.error is not None:
                self._break(answered.error)
            if isinstance(self._broken, OSError):
                break  # what else comes has no place either
        if feeder.error is not None:  # what came before it is rendered
            self._break(feeder.error)
        try:
            yield from store.finish()
        except OSError as error:
            self._break(error)

    def _hear(self, answered: BlockResult) -> None:
        """Tell the listeners what an actor heard, and remember what it said of itself."""
        self._workers.add(answered.worker)
        self._levels.pop(answered.worker, None)
        self._levels[answered.worker] = answered.levels
        for gone in list(self._levels)[: -self._actors]:  # there are no more actors than that
            del self._levels[gone]
        if answered.requests:
            self.route = answered.route
        for listener in self._plan.listeners:
            for seconds, sent, received in answered.requests:
                listener.on_answer(seconds, sent, received)
            for error in answered.retries:
                listener.on_retry(error)

    def _break(self, error: Exception) -> None:
        """End the run for a reason that more maps would meet too."""
        if self._broken is None:
            self._broken = error
        self.stop()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Begun:
    """What this process holds for the run."""

    source: Source
    store: Store
    work: Work
    route: Route


def _begin(plan: Plan, servers: TritonServers, cpus: int) -> _Begun:
    """Ask the servers for the contract, and open source, place and manifest."""
    connection, engine = _ask(plan)
    settings = plan.settings
    source, _, store = open_plan(plan, connection, engine)
    assert store is not None
    file = settings.style_file
    style_file = file.read_bytes() if file is not None and file.is_file() else None
    work = Work(
        servers=servers,
        settings=dataclasses.replace(settings, workers=settings.workers or cpus),
        contract=connection.contract,
        origin=store.origin,
        engine=engine,
        style=store.style,
        style_file=style_file,
        folder=str(Path.cwd()),
    )
    return _Begun(source=source, store=store, work=work, route=connection.route)


def _ask(plan: Plan) -> tuple[Connection, str]:
    """A connection to a server, closed, and the engine of the run."""

    async def ask() -> tuple[Connection, str]:
        servers = Servers(plan.addresses, plan.settings)
        try:
            return await servers.open(), servers.engine
        finally:
            await servers.close()

    with ThreadPoolExecutor(1) as apart:  # the caller's thread may have an event loop
        return apart.submit(asyncio.run, ask()).result()


def _keep(
    store: Store, outcome: Outcome, block: dict[str, Row | None]
) -> tuple[list[Result], OSError | None]:
    """Put what became of a map in its place, and in the manifest."""
    if isinstance(outcome, Unchanged):
        known = block[outcome.key]
        assert known is not None
        return [Skipped(key=known.key, output=known.output, engine=known.engine)], None
    try:
        if isinstance(outcome, Made):
            row, data = outcome.row, outcome.data
            return list(store.record(store.sink.put(row.key, data, row))), None
        row = outcome.row
        store.manifest.record([row])
        return [Failed(key=row.key, error=outcome.error, attempts=row.attempts)], None
    except OSError as error:
        failed = Failed(key=outcome.row.key, error=error)
        with contextlib.suppress(OSError):  # of the manifest, which has not been met before
            row = outcome.row
            store.manifest.record(
                [failure_row(failed, origin=row.origin, input_hash=row.input_hash)]
            )
        return [failed], error
