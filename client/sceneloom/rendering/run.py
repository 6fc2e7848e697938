"""A run: iterate it, with `for` or with `async for`.

with render(synthesizer, "datasets/cityscapes") as run:
    for result in run:
        ...
"""

from __future__ import annotations

import abc
import asyncio
import concurrent.futures
import contextlib
import dataclasses
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sceneloom.contract import Contract, precision_of
from sceneloom.errors import out_of_resources
from sceneloom.rendering.connections import Connection, Route
from sceneloom.rendering.datasets import all_maps
from sceneloom.rendering.items import Result, Sink, Source
from sceneloom.rendering.listeners import Levels, Listener
from sceneloom.rendering.loading import Loader
from sceneloom.rendering.manifest import Manifest, Origin, Store
from sceneloom.rendering.pipeline import Pipeline
from sceneloom.rendering.servers import Address, Servers
from sceneloom.rendering.settings import RenderSettings
from sceneloom.style import style_chooser

if TYPE_CHECKING:
    from typing_extensions import Self

_WAITING_RESULTS = 256
_WAITING_PICTURES = 4  # they are whole pictures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Data set, servers, settings and output of a run."""

    source: Callable[[Contract], Source]
    """Opens the data set for a model."""
    addresses: Sequence[Address]
    settings: RenderSettings
    sink: Sink | None = None
    """Takes the pictures; without it the results hold them."""
    manifest: Path | None = None
    """The manifest's file, with a sink."""
    listeners: tuple[Listener, ...] = ()


class Run(Iterator[Result]):
    """The results of a run, in the order they finish. The first `next` begins it.

    As a context manager it ends the run at exit, and drops the maps in work.
    """

    rendering = False
    """Whether servers, data set and output location were fine, so that rendering began."""
    count: int | None = None
    """Number of maps, once it is known."""
    source: Source | None = None
    """The data set, once it is open."""
    reading: Sequence[str] = ()
    """How the maps are read, in sentences, once the data set is open."""
    route = Route()
    """How pictures travel; complete at the end of the run."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Take no further map, finish those in work; safe in a signal handler and any thread."""

    @abc.abstractmethod
    def levels(self) -> Levels:
        """How full the parts of the pipeline are."""

    @abc.abstractmethod
    def close(self) -> None:
        """End the run and drop the maps in work; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _count_maps(self) -> None:
        """Set `count`, in a thread of its own: listing a remote data set may take long."""
        assert self.source is not None
        with contextlib.suppress(Exception):  # reading the source gives the error
            self.count = self.source.count()


class RenderRun(Run, AsyncIterator[Result]):
    """A run in this process, for `for` and for `async for`.

    A loop that is left early outside a with block leaves the run waiting until the process ends.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._stop_asked = False
        self._thread: threading.Thread | None = None
        self._beginning = threading.Lock()
        self._begun = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._results: asyncio.Queue[Result | None]
        self._main: asyncio.Task[None]
        self._taken: asyncio.Event
        self._pipeline: Pipeline | None = None
        self._error: BaseException | None = None
        self._stillborn: Exception | None = None  # why it has no thread or no event loop
        self._over = threading.Event()

    def __next__(self) -> Result:
        """Wait for the next result.

        Raises:
            ServerUnavailableError: no server answered within the run's patience.
            OSError: the output location is full or gone.
            OutOfResourcesError: this machine has no memory, or no thread, left.
            SceneLoomError: the run cannot begin, or its source cannot be read on.
        """
        self._begin()
        if not self._over.is_set():
            asked = asyncio.run_coroutine_threadsafe(self._results.get(), self._loop)
            try:
                result = asked.result()
            except concurrent.futures.CancelledError:  # another consumer has had the end
                raise StopIteration from None
            if result is not None:
                return result
            self._end()
        raise StopIteration

    async def __anext__(self) -> Result:
        self._begin()
        if not self._over.is_set():
            asked = asyncio.run_coroutine_threadsafe(self._results.get(), self._loop)
            try:
                result = await asyncio.wrap_future(asked)
            except asyncio.CancelledError:
                if self._over.is_set() and asked.cancelled():  # another consumer has had the end
                    raise StopAsyncIteration from None
                raise
            if result is not None:
                return result
            self._end()
        raise StopAsyncIteration

    def stop(self) -> None:
        """Take no further map; see `Run.stop`."""
        self._stop_asked = True
        if self._pipeline is not None and not self._over.is_set():
            self._loop.call_soon_threadsafe(self._pipeline.stop)

    def levels(self) -> Levels:
        """How full the parts of the pipeline are."""
        return self._pipeline.levels() if self._pipeline is not None else Levels()

    def close(self) -> None:
        """End the run and drop the maps in work; a second call does nothing."""
        if self._thread is not None and not self._over.is_set():
            self._over.set()
            self._loop.call_soon_threadsafe(self._main.cancel)
            self._thread.join()
        self._over.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def _begin(self) -> None:
        with self._beginning:  # several consumers may begin together
            if self._thread is None and self._stillborn is None:
                thread = threading.Thread(target=self._live, name="sceneloom-render", daemon=True)
                try:
                    thread.start()
                    self._thread = thread
                except RuntimeError as error:
                    self._stillborn = out_of_resources(error) or error
                    self._begun.set()
        self._begun.wait()
        if self._stillborn is not None:
            self._over.set()
            raise self._stillborn

    def _end(self) -> None:
        assert self._thread is not None
        self._over.set()
        self._loop.call_soon_threadsafe(self._taken.set)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _live(self) -> None:
        try:
            asyncio.run(self._work())
        except Exception as error:  # no loop, for want of files or memory
            self._stillborn = out_of_resources(error) or error
        finally:
            self._begun.set()

    async def _work(self) -> None:
        """Make results until the end, and wait for their consumer."""
        self._loop = asyncio.get_running_loop()
        self._results = asyncio.Queue(
            _WAITING_PICTURES if self._plan.sink is None else _WAITING_RESULTS
        )
        self._taken = asyncio.Event()
        task = asyncio.current_task()
        assert task is not None
        self._main = task
        self._begun.set()
        try:
            await self._render(self._plan)
        except asyncio.CancelledError:
            return
        except Exception as error:
            self._error = out_of_resources(error) or error
        with contextlib.suppress(asyncio.CancelledError):
            await self._results.put(None)
            await self._taken.wait()  # the loop has to live until then

    async def _render(self, plan: Plan) -> None:
        """Connect, open the data set and the output location, and run the pipeline."""
        servers = Servers(plan.addresses, plan.settings, listeners=plan.listeners)
        store = None
        try:
            connection = await servers.open()
            source, loader, store = await self._loop.run_in_executor(
                None, open_plan, plan, connection, servers.engine, lambda: self._stop_asked
            )
            self.source, self.reading = source, loader.reader.describe()
            threading.Thread(target=self._count_maps, name="sceneloom-count", daemon=True).start()
            pipeline = Pipeline(
                source,
                servers,
                loader,
                plan.settings,
                results=self._results,
                store=store,
                batch=connection.batch,
                listeners=plan.listeners,
            )
            self._pipeline = pipeline
            self.rendering = True
            if self._stop_asked:
                pipeline.stop()
            await pipeline.run()
        finally:
            if servers.last is not None:
                self.route = servers.last.route
            try:
                await servers.close()
            finally:
                if store is not None:
                    await self._loop.run_in_executor(None, store.close)


def open_plan(
    plan: Plan, connection: Connection, engine: str, stopped: Callable[[], bool]
) -> tuple[Source, Loader, Store | None]:
    """Open a plan's data set, style file, output location and manifest.

    The connection gives the model and may be closed; the engine is the run's, empty if unknown.
    `stopped` ends the search for the instances that the style names. Raises InputError.
    """
    contract, settings = connection.contract, plan.settings
    loader = Loader(contract, settings, style_chooser(contract, settings))
    source = plan.source(contract)
    loader.check_styles_used(all_maps(source), stopped)
    if plan.sink is None:
        return source, loader, None
    assert plan.manifest is not None
    styled = contract.style_channels > 0
    origin = Origin(
        model=connection.model,
        model_version=connection.version,
        bundle_hash=contract.bundle_hash,
        parameters=settings.parameters(styled=styled),
    )
    with contextlib.ExitStack() as opened:
        manifest = Manifest(plan.manifest)
        opened.callback(manifest.close)
        style = settings.style_words() if styled else ""
        precision = "" if settings.mix_precisions else precision_of(engine)
        plan.sink.open(manifest.is_known)
        store = Store(plan.sink, manifest, origin, settings, style, precision)
        opened.pop_all()
    return source, loader, store
