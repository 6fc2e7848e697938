"""The servers that answer the requests of one run: which is asked next, and what happens when one
goes away.

Each server has a window of requests in flight. One that cannot be reached, or whose model breaks,
gets nothing until a new connection to it has answered a real request; the others go on. While none
answers everything waits, up to the run's patience. All of this is called from one event loop.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar

from sceneloom.contract import Contract, precision_of
from sceneloom.errors import (
    ConnectionClosedError,
    DeadlineExceededError,
    InputError,
    ModelFailedError,
    SceneLoomError,
    ServerUnavailableError,
    ServingError,
)
from sceneloom.rendering.connections import Connection, Route
from sceneloom.rendering.flow_control import AdaptiveWindow
from sceneloom.rendering.settings import RenderSettings

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0
_SPARE_THREADS = 2
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Address:
    """A server that can be connected to."""

    name: str
    """For messages, such as its URL."""
    connect: Callable[[], Connection]
    """Opens one; raises ServerUnavailableError where nothing answers."""


def request_threads(servers: int, settings: RenderSettings) -> ThreadPoolExecutor:
    """Threads for as many requests as may be in flight to so many servers, and a few for
    connections that are opened meanwhile.
    """
    most = settings.in_flight or settings.most_in_flight
    return ThreadPoolExecutor(servers * most + _SPARE_THREADS, "sceneloom-request")


class _Link:
    """A connection that is closed once nobody uses it any more."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.users = 0
        self.retired = False


class Server:
    """One server: its connection, its window, and whether it is away."""

    def __init__(self, address: Address) -> None:
        self.name = address.name
        """For messages."""
        self.address = address
        """How to connect to it."""
        self.link: _Link | None = None
        """The connection, or None before the first."""
        self.window: AdaptiveWindow | None = None
        """How many requests may be in flight to it."""
        self.in_flight = 0
        """Requests that are."""
        self.away_since: float | None = None
        """When it went away, by `time.monotonic`; None while it is there."""

    def has_room(self) -> bool:
        """Whether another request may be sent to it now."""
        there = self.window is not None and self.away_since is None
        return there and self.window is not None and self.in_flight < self.window.limit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lease:
    """A request's place in a server's window."""

    server: Server
    """Which server."""
    link: _Link
    """The connection to send over."""

    @property
    def connection(self) -> Connection:
        """The connection to send over."""
        return self.link.connection


class Servers:
    """All servers of a run."""

    def __init__(
        self,
        addresses: Sequence[Address],
        pool: Executor,
        settings: RenderSettings,
        *,
        engine: str = "",
        on_change: Callable[[Server], None] = lambda server: None,
    ) -> None:
        """Prepare; `open` connects.

        Args:
            addresses: at least one.
            pool: runs what blocks.
            settings: windows, patience, and whether precisions may be mixed.
            engine: that the run began with elsewhere; empty where it begins here.
            on_change: called for each server at first, and when one goes away or comes back.
        """
        self.all = [Server(address) for address in addresses]
        """The servers, in the order given."""
        self._pool = pool
        self._settings = settings
        self._last: Connection | None = None
        self.engine = engine
        """What runs the model of the first server that says it, once opened; empty for none."""
        self._on_change = on_change
        self._waiting: deque[asyncio.Future[Lease]] = deque()
        self._reviving: set[asyncio.Task[None]] = set()
        self._lost: ServingError | None = None
        self._turn = 0

    async def open(self) -> Connection:
        """Connect to every server; one that is away is tried again later.

        Returns:
            a connection; all have its contract.

        Raises:
            ServerUnavailableError: none answers.
            InputError: two serve different models, or in different precisions.
            SceneLoomError: one serves nothing that this client can talk to.
        """
        tries = await asyncio.gather(
            *(self._run(server.address.connect) for server in self.all), return_exceptions=True
        )
        opened: list[tuple[Server, Connection]] = []
        errors: list[BaseException] = []
        for server, found in zip(self.all, tries, strict=True):
            if isinstance(found, BaseException):
                errors.append(found)
            else:
                opened.append((server, found))
                self._attach(server, found)
        late = (ServerUnavailableError, DeadlineExceededError)
        wrong = next((e for e in errors if not isinstance(e, late)), None)
        if wrong is not None or not opened:
            raise wrong or errors[0]
        first = opened[0][1]
        for server, connection in opened[1:]:
            _check_same(first.contract, connection.contract, server.name)
        self._contract = first.contract
        engines = [(server.name, connection.engine) for server, connection in opened]
        self._check_precisions([("the run", self.engine), *engines])
        self.engine = next((e for e in (self.engine, *(e for _, e in engines)) if e), "")
        for server in self.all:
            if server.link is None:
                self._leave(server)
            else:
                self._on_change(server)
        return first

    async def lease(self) -> Lease:
        """Wait for a place in a server's window.

        Raises:
            ServerUnavailableError: no server has answered for as long as the run's patience lasts.
        """
        if self._lost is not None:
            raise self._lost
        if not self._waiting and (server := self._next()):
            return self._take(server)
        future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._drop(future.result())
            raise

    def answered(self, lease: Lease, seconds: float, kind: Hashable) -> None:
        """Give a place back after an answer."""
        assert lease.server.window is not None
        lease.server.window.answered(seconds, kind)
        self._drop(lease)

    def failed(self, lease: Lease, error: Exception) -> None:
        """Give a place back after a failure; the server is away if the error says so."""
        server = lease.server
        assert server.window is not None
        if isinstance(error, (ServerUnavailableError, ModelFailedError)):
            if lease.link is server.link and server.away_since is None:
                self._leave(server)
        elif isinstance(error, ServingError) and error.retryable:
            server.window.rejected()
        self._drop(lease)

    def route(self) -> Route:
        """How pictures travel to the server that was connected to last."""
        return Route() if self._last is None else self._last.route

    def in_flight(self) -> int:
        """Requests that are in flight to all servers."""
        return sum(server.in_flight for server in self.all)

    def limit(self) -> int:
        """Requests that may be in flight now to all servers that are there."""
        return sum(s.window.limit for s in self.all if s.window and s.away_since is None)

    async def close(self) -> None:
        """Stop trying servers that are away, and close all connections."""
        for task in self._reviving:
            task.cancel()
        await asyncio.gather(*self._reviving, return_exceptions=True)
        links = [server.link for server in self.all if server.link is not None]
        for server in self.all:
            server.link = None
        # Requests that are still under way end with it.
        await asyncio.gather(*(self._run(link.connection.close) for link in links))

    def _next(self) -> Server | None:
        """The server with the most room for its window; equal ones take turns."""

        def fullness(server: Server) -> float:
            assert server.window is not None
            return server.in_flight / server.window.limit

        free = [server for server in self.all if server.has_room()]
        if not free:
            return None
        self._turn += 1
        shift = self._turn % len(free)
        return min(free[shift:] + free[:shift], key=fullness)

    def _take(self, server: Server) -> Lease:
        assert server.link is not None
        server.in_flight += 1
        server.link.users += 1
        return Lease(server=server, link=server.link)

    def _drop(self, lease: Lease) -> None:
        lease.server.in_flight -= 1
        lease.link.users -= 1
        if lease.link.retired and not lease.link.users:
            self._pool.submit(lease.link.connection.close)
        self._wake()

    def _wake(self) -> None:
        while self._waiting and (server := self._next()):
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(self._take(server))

    def _attach(self, server: Server, connection: Connection) -> None:
        server.link = _Link(connection)
        self._last = connection
        if server.window is None:
            settings = self._settings
            server.window = AdaptiveWindow(
                largest=settings.most_in_flight, fixed=settings.in_flight
            )
        server.away_since = None

    def _leave(self, server: Server) -> None:
        server.away_since = time.monotonic()
        self._on_change(server)
        task = asyncio.get_running_loop().create_task(self._revive(server))
        self._reviving.add(task)
        task.add_done_callback(self._reviving.discard)

    async def _revive(self, server: Server) -> None:
        pause = _FIRST_PAUSE
        while True:
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, _LONGEST_PAUSE)
            try:
                connection = await self._run(self._connect_again, server)
            except ConnectionClosedError as error:
                self._give_up(error)
                return
            except SceneLoomError as error:
                self._give_up_if_late(server, error)
                if self._lost is not None:
                    return
                continue
            old = server.link
            self._attach(server, connection)
            self._on_change(server)
            if old is not None:
                old.retired = True
                if not old.users:
                    await self._run(old.connection.close)
            self._wake()
            return

    def _connect_again(self, server: Server) -> Connection:
        connection = server.address.connect()
        try:
            _check_same(self._contract, connection.contract, server.name)
            self._check_precisions([("the run", self.engine), (server.name, connection.engine)])
            connection.prove()
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_precisions(self, engines: Sequence[tuple[str, str]]) -> None:
        """Refuse servers of different precision; one that does not say it goes with any."""
        said = [(name, engine) for name, engine in engines if engine]
        if self._settings.mix_precisions or len({precision_of(engine) for _, engine in said}) < 2:
            return
        listed = ", ".join(f"{name} has {engine}" for name, engine in said)
        raise InputError(
            f"the servers are of different precision ({listed}), and their pictures would differ; "
            "name servers of one precision, or --mix-precisions"
        )

    def _give_up_if_late(self, server: Server, error: SceneLoomError) -> None:
        away = [s.away_since for s in self.all if s.away_since is not None]
        if len(away) < len(self.all) or time.monotonic() - max(away) < self._settings.patience:
            return
        self._give_up(
            ServerUnavailableError(
                f"no server has answered for {self._settings.patience:g} s (the last to be tried: "
                f"{error})"
            )
        )

    def _give_up(self, error: ServingError) -> None:
        """End the run: whoever waits for a place, now or later, gets the error."""
        self._lost = error
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(self._lost)

    async def _run(self, function: Callable[..., _T], *values: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *values)


def _check_same(first: Contract, other: Contract, name: str) -> None:
    if first != other:
        raise InputError(
            f"{name}: serves another model than the run began with (bundle "
            f"{other.bundle_hash[:12] or 'without hash'} instead of "
            f"{first.bundle_hash[:12] or 'one without hash'}); its pictures would not match"
        )
