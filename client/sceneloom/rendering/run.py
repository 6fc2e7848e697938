"""A rendering run that is going on: iterate it, with `for` or with `async for`.

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
from types import TracebackType
from typing import TYPE_CHECKING

from sceneloom.contract import Contract, precision_of
from sceneloom.errors import out_of_resources
from sceneloom.file_tree import LeftOut
from sceneloom.rendering.connections import Connection, Route
from sceneloom.rendering.items import Result, Sink, Source
from sceneloom.rendering.listeners import Levels, Listener
from sceneloom.rendering.loading import Loader
from sceneloom.rendering.manifest import Manifest, Origin
from sceneloom.rendering.pipeline import Pipeline
from sceneloom.rendering.servers import Address, Server, Servers, request_threads
from sceneloom.rendering.settings import RenderSettings
from sceneloom.rendering.store import Store
from sceneloom.style import style_chooser

if TYPE_CHECKING:
    from typing_extensions import Self

_WAITING_RESULTS = 256
_WAITING_PICTURES = 4  # they are whole pictures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run does."""

    source: Callable[[Contract], Source]
    """Opens the data set, once the model's contract is known."""
    addresses: Sequence[Address]
    settings: RenderSettings
    sink: Sink | None = None
    """Where the pictures go; without it they are in the results."""
    manifest: Path | None = None
    """The manifest's file, with a sink."""
    listeners: tuple[Listener, ...] = ()
    """Hear what happens."""


class Run(Iterator[Result]):
    """The results of a run, in the order they finish; it begins when the first one is asked for.

    Use it as a context manager: leaving it ends the run, and what is under way is dropped.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._stop_asked = False
        self.rendering = False
        """Whether all that it needs was fine to begin: servers, data set, the pictures' place."""
        self.count: int | None = None
        """How many maps the data set has, once that is known."""
        self._source: Source | None = None

    def left_out(self) -> Sequence[LeftOut]:
        """What the data set leaves out, as far as it has been gone through."""
        return () if self._source is None else self._source.left_out()

    @abc.abstractmethod
    def stop(self) -> None:
        """Take no further map; what is under way is finished, and its results still come. Safe to
        call from a signal handler and from any thread.
        """

    @abc.abstractmethod
    def levels(self) -> Levels:
        """How full the parts of the pipeline are."""

    @abc.abstractmethod
    def route(self) -> Route:
        """How pictures travel to the server that was connected to last."""

    @abc.abstractmethod
    def close(self) -> None:
        """End the run; what is under way is dropped. Calling it twice is fine."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _count_aside(self, source: Source) -> None:
        """Begin to count the maps; listing a remote data set may take long, and nothing waits."""
        self._source = source

        def count() -> None:
            with contextlib.suppress(Exception):  # reading it says what is wrong
                self.count = source.count()

        threading.Thread(target=count, name="sceneloom-count", daemon=True).start()


class RenderRun(Run, AsyncIterator[Result]):
    """A run in this process, for `for` and for `async for`.

    A loop that is left early, and not in a with block, leaves the run waiting, with its place,
    until the process ends.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._thread: threading.Thread | None = None
        self._beginning = threading.Lock()
        self._begun = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._results: asyncio.Queue[Result | None]
        self._main: asyncio.Task[None]
        self._taken: asyncio.Event
        self._servers: Servers | None = None
        self._pipeline: Pipeline | None = None
        self._error: BaseException | None = None
        self._stillborn: Exception | None = None  # why it has no thread or no event loop
        self._over = False

    def __next__(self) -> Result:
        """Wait for the next result.

        Raises:
            ServerUnavailableError: no server answered for longer than the run's patience.
            OSError: the place of the pictures is full or gone.
            OutOfResourcesError: this machine has no memory, or no thread, left.
            SceneLoomError: the run cannot begin, or its source cannot be read on.
        """
        self._begin()
        if not self._over:
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
        if not self._over:
            asked = asyncio.run_coroutine_threadsafe(self._results.get(), self._loop)
            try:
                result = await asyncio.wrap_future(asked)
            except asyncio.CancelledError:
                if self._is_over() and asked.cancelled():  # another consumer has had the end
                    raise StopAsyncIteration from None
                raise
            if result is not None:
                return result
            self._end()
        raise StopAsyncIteration

    def stop(self) -> None:
        """Take no further map; see `Run.stop`."""
        self._stop_asked = True
        if self._pipeline is not None and not self._over:
            self._loop.call_soon_threadsafe(self._pipeline.stop)

    def levels(self) -> Levels:
        """How full the parts of the pipeline are."""
        return self._pipeline.levels() if self._pipeline is not None else Levels()

    def route(self) -> Route:
        """How pictures travel to the server that was connected to last."""
        return Route() if self._servers is None else self._servers.route()

    def close(self) -> None:
        """End the run; what is under way is dropped. Calling it twice is fine."""
        if self._thread is None or self._over:
            self._over = True
            return
        self._over = True
        self._loop.call_soon_threadsafe(self._main.cancel)
        self._thread.join()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def _is_over(self) -> bool:
        return self._over

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
            self._over = True
            raise self._stillborn

    def _end(self) -> None:
        assert self._thread is not None
        self._over = True
        self._loop.call_soon_threadsafe(self._taken.set)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _live(self) -> None:
        try:
            asyncio.run(self._work())
        except Exception as error:  # no loop: files, memory; after the run's end nobody asks
            self._stillborn = out_of_resources(error) or error
        finally:
            self._begun.set()

    async def _work(self) -> None:
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
        def tell(server: Server) -> None:
            for listener in plan.listeners:
                listener.on_server(server.name, server.away_since is not None)

        requests = request_threads(len(plan.addresses), plan.settings)
        servers = Servers(
            plan.addresses,
            requests,
            plan.settings,
            on_change=tell,
        )
        self._servers = servers
        manifest = None
        try:
            connection = await servers.open()
            source, loader, settled = await self._loop.run_in_executor(
                None, _prepare, plan, connection, servers.engine
            )
            store, manifest = settled or (None, None)
            self._count_aside(source)
            pipeline = Pipeline(
                source,
                servers,
                loader,
                plan.settings,
                requests=requests,
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
            if not self._stop_asked:
                loader.check_styles_used()
        finally:
            try:
                await servers.close()
            finally:
                requests.shutdown(cancel_futures=True)
                if manifest is not None:
                    await self._loop.run_in_executor(None, manifest.finish)


def _prepare(
    plan: Plan, connection: Connection, engine: str
) -> tuple[Source, Loader, tuple[Store, Manifest] | None]:
    """What needs the model's contract; files are opened here."""
    contract, settings = connection.contract, plan.settings
    loader = Loader(contract, settings, style_chooser(contract, settings))
    source = plan.source(contract)
    if plan.sink is None:
        return source, loader, None
    store = open_store(plan, contract, connection.model, connection.version, engine)
    return source, loader, store


def open_store(
    plan: Plan, contract: Contract, model: str, version: str, engine: str
) -> tuple[Store, Manifest]:
    """Open the place of a plan's pictures, and its manifest.

    Args:
        plan: with a sink and a manifest.
        contract: of the model.
        model: its name.
        version: the version that is served.
        engine: what runs it; empty where unknown.

    Raises:
        InputError: this cannot be a place for pictures, or the manifest is damaged or another's.
    """
    assert plan.sink is not None
    assert plan.manifest is not None
    settings, styled = plan.settings, contract.style_channels > 0
    origin = Origin(
        model=model,
        model_version=version,
        bundle_hash=contract.bundle_hash,
        parameters=settings.parameters(styled=styled),
    )
    manifest = Manifest(plan.manifest)
    try:
        style = settings.style_words() if styled else ""
        precision = precision_of(engine)
        return Store(plan.sink, manifest, origin, settings, style, precision), manifest
    except BaseException:
        manifest.close()
        raise
