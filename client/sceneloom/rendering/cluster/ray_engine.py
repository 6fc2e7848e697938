"""A run whose maps are rendered by Ray actors, on this machine or on a cluster:
`sceneloom render ... --engine ray`.

This process lists the maps, writes every picture and keeps the manifest; actors read, decode, have
rendered and encode. Killed, the run goes on from its manifest like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from sceneloom.contract import Contract
from sceneloom.errors import InputError, out_of_resources, require
from sceneloom.rendering.cluster.block_feeder import BlockFeeder
from sceneloom.rendering.cluster.blocks import Answered, Made, Outcome, Unchanged, Work
from sceneloom.rendering.cluster.ray_cluster import RaySettings, most_actors, ray_started
from sceneloom.rendering.dataset import TritonServers
from sceneloom.rendering.interfaces import Source
from sceneloom.rendering.manifest import Manifest, Row
from sceneloom.rendering.results import Failed, Result, Skipped
from sceneloom.rendering.run import Plan, Run, open_store
from sceneloom.rendering.servers import Servers
from sceneloom.rendering.store import Store, failure_row, place_is_gone
from sceneloom.rendering.triton import Way
from sceneloom.rendering.watching.listener import Levels
from sceneloom.style import style_chooser

if TYPE_CHECKING:
    from sceneloom.rendering.cluster.ray_data import Stream

_SPARE_BLOCKS = 4


class RayRun(Run):
    """A run whose maps Ray actors render."""

    def __init__(
        self,
        plan: Plan,
        servers: TritonServers,
        settings: RaySettings | None = None,
        way: Way | None = None,
    ) -> None:
        """Prepare; nothing happens yet.

        Args:
            plan: with a sink and a manifest.
            servers: those of the plan, by addresses that every machine reaches them at.
            settings: how it is spread.
            way: takes which way the pictures go, as the last actor found it.

        Raises:
            InputError: the plan has no place for pictures.
            MissingDependencyError: Ray is not installed.
        """
        require(("ray", "pandas", "pyarrow"), extra="ray", purpose="rendering with Ray")
        if plan.sink is None or plan.manifest is None:
            raise InputError("rendering with Ray needs a place for the pictures")
        super().__init__(plan)
        self._servers = servers
        self._settings = settings or RaySettings()
        self._way = way or Way()
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
            stack.callback(begun.close)
            self._workers = stack.enter_context(ray_started(self._settings))
            from sceneloom.rendering.cluster.ray_data import BLOCKS_PER_ACTOR, Stream

            self._actors = most_actors(self._settings)
            stream = Stream(begun.work, actors=self._actors, cpus=self._settings.cpus)
            stack.callback(stream.close)
            pool = stack.enter_context(
                ThreadPoolExecutor(self._plan.settings.threads, "sceneloom-write")
            )
            self._count_aside(begun.source)
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
                if error is not None and place_is_gone(error):
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

    def _hear(self, answered: Answered) -> None:
        """Tell the listeners what an actor heard, and remember what it said of itself."""
        self._workers.add(answered.worker)
        self._levels.pop(answered.worker, None)
        self._levels[answered.worker] = answered.levels
        for gone in list(self._levels)[: -self._actors]:  # there are no more actors than that
            del self._levels[gone]
        if answered.requests:
            self._way.why, self._way.transport = answered.way.why, answered.way.transport
            self._way.engine = answered.way.engine
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
    manifest: Manifest
    store: Store
    work: Work

    def close(self) -> None:
        """Close the place and the manifest, and leave its rows as JSON Lines beside it."""
        self.store.close()
        self.manifest.finish()


def _begin(plan: Plan, servers: TritonServers, cpus: int) -> _Begun:
    """Ask the servers for the contract, and open source, place and manifest."""
    contract, model, version, engine = _ask(plan)
    settings = plan.settings
    style_chooser(contract, settings)  # says what is wrong with a style file
    source = plan.source(contract)
    file = settings.style_file
    style_file = file.read_bytes() if file is not None and file.is_file() else None
    store, manifest = open_store(plan, contract, model, version, engine)
    work = Work(
        servers=servers,
        settings=dataclasses.replace(settings, workers=settings.workers or cpus),
        contract=contract,
        origin=store.origin,
        engine=engine,
        style=store.style,
        style_file=style_file,
        folder=str(Path.cwd()),
    )
    return _Begun(source=source, manifest=manifest, store=store, work=work)


def _ask(plan: Plan) -> tuple[Contract, str, str, str]:
    """The contract that the servers agree on, name and version of the model, and its engine."""
    settings = plan.settings

    async def ask() -> tuple[Contract, str, str, str]:
        with ThreadPoolExecutor(len(plan.addresses), "sceneloom-request") as pool:
            servers = Servers(
                plan.addresses,
                pool,
                patience=settings.patience,
                mix_precisions=settings.mix_precisions,
            )
            try:
                connection = await servers.open()
                model, version = connection.model, connection.version
                return connection.contract, model, version, servers.engine
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
            return list(store.keep(outcome.row, outcome.data)), None
        row = outcome.row
        store.keep_failure(row)
        return [Failed(key=row.key, error=outcome.error, attempts=row.attempts)], None
    except OSError as error:
        failed = Failed(key=outcome.row.key, error=error)
        with contextlib.suppress(OSError):  # of the manifest, which has not been met before
            store.keep_failure(
                failure_row(failed, origin=outcome.row.origin, input_hash=outcome.row.input_hash)
            )
        return [failed], error
