"""The servers of one run: the next one to ask, and a lost one's way back.

Each server has a window of requests in flight. A server that cannot be reached, or whose model
breaks, gets nothing until a new connection to it has answered a real request; the others continue.
While no server answers, requests wait, up to the run's patience. One event loop calls all of this.

A window grows while more requests in flight bring more pictures, and shrinks when its server
rejects requests.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor

from sceneloom import errors
from sceneloom.contract import Contract, precision_of
from sceneloom.rendering.connections import Connection
from sceneloom.rendering.listeners import Listener
from sceneloom.rendering.settings import RenderSettings

_EPOCHS_BETWEEN_PROBES = 64
_EPOCHS_BETWEEN_TRIALS = 12
_SMALLEST_EPOCH = 2
_FEW_WAIT, _MANY_WAIT = 1.0, 3.0
_SHRINK_REJECTED, _SHRINK_SLOW = 0.5, 0.8
_TRIAL_GROWTH, _WORTH_IT = 1.5, 1.1


class AdaptiveWindow:
    """The number of requests that may be in flight; the caller keeps to it and reports answers."""

    def __init__(self, *, max_limit: int = 32, fixed: int | None = None) -> None:
        """Begin with one request, or keep to a `fixed` number; raises InputError below 1."""
        if min(max_limit, fixed or 1) < 1 or fixed == 0:
            raise errors.InputError("a window of requests in flight holds at least 1")
        self.limit = fixed or 1
        """Requests that may be in flight now."""
        self._max_limit = max_limit
        self._fixed = fixed is not None
        self._fastest: dict[Hashable, float] = {}
        self._samples: list[float] = []
        self._kind: Hashable = None
        self._epochs = 0
        self._until_trial = 2
        self._trial: tuple[int, float] | None = None  # limit and answers a second before it
        self._proven = 0  # a limit that a trial has shown to be of use
        self._after_probe = 0
        self._ignored = 0

    def answered(self, seconds: float, kind: Hashable) -> None:
        """Report an answer; `kind`, such as a size, tells which answers are alike."""
        if self._fixed:
            return
        if self._ignored:  # sent before the window last changed
            self._ignored -= 1
            return
        if kind != self._kind:
            self._kind, self._samples = kind, []
        self._samples.append(seconds)
        self._fastest[kind] = min(seconds, self._fastest.get(kind, seconds))
        if len(self._samples) >= max(self.limit, _SMALLEST_EPOCH):
            latency, self._samples = statistics.median(self._samples), []
            self._end_epoch(latency, self._fastest[kind])

    def rejected(self) -> None:
        """Report that the server rejected a request, or left it waiting too long."""
        if self._fixed:
            return
        if self._ignored:
            self._ignored -= 1
            return
        self._trial, self._proven = None, 0
        self._until_trial = _EPOCHS_BETWEEN_TRIALS
        self._resize(int(self.limit * _SHRINK_REJECTED))
        self._samples = []

    def _end_epoch(self, latency: float, fastest: float) -> None:
        self._epochs += 1
        if self._after_probe:
            self._resize(self._after_probe)
            self._after_probe = 0
        elif self._trial is not None:
            limit_before, rate_before = self._trial
            self._trial = None
            if self.limit / latency >= rate_before * _WORTH_IT:
                self._proven, self._until_trial = self.limit, 0
            else:
                self._until_trial = _EPOCHS_BETWEEN_TRIALS
                self._resize(limit_before)
        elif self._epochs % _EPOCHS_BETWEEN_PROBES == 0 and self.limit > 1:
            # A server that has become slower or faster shows its own speed without a queue.
            self._after_probe, self._fastest, self._proven = self.limit, {}, 0
            self._resize(1)
        else:
            self._adapt(self.limit * (1 - fastest / latency), latency)

    def _adapt(self, waiting: float, latency: float) -> None:
        """Follow the number of requests that wait in the server's queue."""
        if waiting < _FEW_WAIT / 2:
            self._resize(2 * self.limit)
        elif waiting < _FEW_WAIT:
            self._resize(self.limit + 1)
        elif waiting > _MANY_WAIT and self.limit > self._proven:
            self._resize(int(self.limit * _SHRINK_SLOW))
        elif self._until_trial:
            self._until_trial -= 1
        elif self.limit < self._max_limit:
            self._trial = self.limit, self.limit / latency
            self._resize(max(self.limit + 1, int(self.limit * _TRIAL_GROWTH)))

    def _resize(self, limit: int) -> None:
        limit = max(1, min(limit, self._max_limit))
        if limit != self.limit:
            self._ignored = self.limit  # answers to earlier requests
        self.limit = limit


_FIRST_PAUSE, _MAX_PAUSE = 0.25, 5.0
_SPARE_THREADS = 2  # for new connections


@dataclasses.dataclass(frozen=True, kw_only=True)
class Address:
    """A server to connect to."""

    name: str
    """Its name in messages, such as its URL."""
    connect: Callable[[], Connection]
    """Opens a connection; raises ServerUnavailableError without an answer."""


@dataclasses.dataclass(eq=False)
class OpenConnection:
    """A connection, closed after its last request once it is retired."""

    connection: Connection
    users: int = 0
    retired: bool = False


@dataclasses.dataclass(eq=False)
class Server:
    """One server: its connection and its window."""

    address: Address
    window: AdaptiveWindow
    link: OpenConnection | None = None
    """None before the first connection."""
    in_flight: int = 0
    resting: int = 0
    """Times that it wants to be left alone, not over yet."""
    away_since: float | None = None
    """Start of its absence, by `time.monotonic`, or None."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lease:
    """A request's place in a server's window."""

    server: Server
    link: OpenConnection


class Servers:
    """All servers of a run."""

    def __init__(
        self,
        addresses: Sequence[Address],
        settings: RenderSettings,
        *,
        engine: str = "",
        listeners: Sequence[Listener] = (),
    ) -> None:
        """Prepare; `open` connects.

        Args:
            addresses: at least one.
            settings: windows, patience, and whether precisions may be mixed.
            engine: the engine of a run that began elsewhere, or empty.
            listeners: hear of each server at first, and when one leaves or comes back.
        """
        fixed, max_limit = settings.in_flight, settings.most_in_flight
        self._servers = [
            Server(address, AdaptiveWindow(max_limit=max_limit, fixed=fixed))
            for address in addresses
        ]
        self._settings, self._listeners = settings, listeners
        self.engine = engine
        """The engine of the first server that names one, once opened; or empty."""
        self.last: Connection | None = None
        """The connection that was opened last."""
        most = len(addresses) * (fixed or max_limit) + _SPARE_THREADS
        self.pool = ThreadPoolExecutor(most, "sceneloom-request")
        """Threads for all requests in flight."""
        self._contract: Contract | None = None
        self._waiting: deque[asyncio.Future[Lease]] = deque()
        self._reviving: set[asyncio.Task[None]] = set()
        self._lost: errors.ServingError | None = None
        self._turn = 0

    async def open(self) -> Connection:
        """Connect to every server, and return one connection; all have its contract.

        A server that is away is tried again later.

        Raises:
            ServerUnavailableError: no server answers.
            InputError: two servers have different models, or different precisions.
            SceneLoomError: a server has no model for this client.
        """
        loop = asyncio.get_running_loop()
        tries = [loop.run_in_executor(self.pool, s.address.connect) for s in self._servers]
        answers = await asyncio.gather(*tries, return_exceptions=True)
        failures = [found for found in answers if isinstance(found, BaseException)]
        for server, found in zip(self._servers, answers, strict=True):
            if not isinstance(found, BaseException):
                server.link, self.last = OpenConnection(found), found
        late = (errors.ServerUnavailableError, errors.DeadlineExceededError)
        wrong = next((error for error in failures if not isinstance(error, late)), None)
        opened = [(s.address.name, s.link.connection) for s in self._servers if s.link is not None]
        if wrong is not None or not opened:
            raise wrong or failures[0]
        first = opened[0][1]
        self._contract = first.contract
        for name, connection in opened[1:]:
            _check_same(first.contract, connection.contract, name)
        engines = [("the run", self.engine), *((name, one.engine) for name, one in opened)]
        self._check_precisions(engines)
        self.engine = next((engine for _, engine in engines if engine), "")
        for server in self._servers:
            if server.link is None:
                self._leave(server)
            else:
                self._notify(server)
        return first

    async def lease(self) -> Lease:
        """Wait for a place in a window; raises ServerUnavailableError after the patience."""
        if self._lost is not None:
            raise self._lost
        future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._serve_waiting()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.release(future.result())
            raise

    def release(self, lease: Lease, error: Exception | None = None) -> None:
        """Give a place back; an error may send its server away, or shrink its window."""
        server, link = lease.server, lease.link
        if isinstance(error, (errors.ServerUnavailableError, errors.ModelFailedError)):
            if link is server.link and server.away_since is None:
                self._leave(server, error.retry_after)
        elif isinstance(error, errors.ServingError) and error.retryable:
            server.window.rejected()
            if error.retry_after:
                server.resting += 1
                asyncio.get_running_loop().call_later(error.retry_after, self._rested, server)
        server.in_flight -= 1
        link.users -= 1
        if link.retired and not link.users:
            self.pool.submit(link.connection.close)
        self._serve_waiting()

    def in_flight(self) -> int:
        """Requests in flight to all servers."""
        return sum(server.in_flight for server in self._servers)

    def limit(self) -> int:
        """Requests that may be in flight now to all connected servers."""
        there = (s for s in self._servers if s.link is not None and s.away_since is None)
        return sum(server.window.limit for server in there)

    async def close(self) -> None:
        """Close all connections; requests in flight end with them."""
        for task in self._reviving:
            task.cancel()
        await asyncio.gather(*self._reviving, return_exceptions=True)
        links = [server.link for server in self._servers if server.link is not None]
        for server in self._servers:
            server.link = None
        try:
            loop = asyncio.get_running_loop()
            closing = (loop.run_in_executor(self.pool, one.connection.close) for one in links)
            await asyncio.gather(*closing)
        finally:
            self.pool.shutdown(cancel_futures=True)

    def _serve_waiting(self) -> None:
        """Give free places to waiting requests, at the emptiest servers, equal ones in turn."""
        while self._waiting:
            free = [
                server
                for server in self._servers
                if server.link is not None
                and server.away_since is None
                and not server.resting
                and server.in_flight < server.window.limit
            ]
            if not free:
                return
            future = self._waiting.popleft()
            if future.done():  # cancelled
                continue
            self._turn += 1
            shift = self._turn % len(free)
            server = min(free[shift:] + free[:shift], key=lambda s: s.in_flight / s.window.limit)
            assert server.link is not None
            server.in_flight += 1
            server.link.users += 1
            future.set_result(Lease(server=server, link=server.link))

    def _rested(self, server: Server) -> None:
        server.resting -= 1
        self._serve_waiting()

    def _leave(self, server: Server, retry_after: float = 0.0) -> None:
        server.away_since = time.monotonic()
        self._notify(server)
        task = asyncio.get_running_loop().create_task(self._revive(server, retry_after))
        self._reviving.add(task)
        task.add_done_callback(self._reviving.discard)

    def _notify(self, server: Server) -> None:
        for listener in self._listeners:
            listener.on_server(server.address.name, server.away_since is not None)

    async def _revive(self, server: Server, retry_after: float) -> None:
        """Try a server that is away until it answers or the run's patience ends."""
        pause, loop = _FIRST_PAUSE, asyncio.get_running_loop()
        await asyncio.sleep(retry_after)
        while self._lost is None:
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, _MAX_PAUSE)
            try:
                connection = await loop.run_in_executor(self.pool, self._reconnect, server)
            except errors.ConnectionClosedError as error:
                self._give_up(error)
            except errors.SceneLoomError as error:
                away = [s.away_since for s in self._servers if s.away_since is not None]
                patience = self._settings.patience
                if len(away) == len(self._servers) and time.monotonic() - max(away) >= patience:
                    self._give_up(
                        errors.ServerUnavailableError(
                            f"no server has answered for {patience:g} s (the last to be tried: "
                            f"{error})"
                        )
                    )
            else:
                break
        else:
            return
        old, server.link = server.link, OpenConnection(connection)
        self.last, server.away_since = connection, None
        self._notify(server)
        if old is not None:
            old.retired = True
            if not old.users:
                await loop.run_in_executor(self.pool, old.connection.close)
        self._serve_waiting()

    def _reconnect(self, server: Server) -> Connection:
        connection = server.address.connect()
        name = server.address.name
        try:
            assert self._contract is not None
            _check_same(self._contract, connection.contract, name)
            self._check_precisions([("the run", self.engine), (name, connection.engine)])
            connection.prove()
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_precisions(self, engines: Sequence[tuple[str, str]]) -> None:
        """Refuse servers of different precision; an unknown one goes with any."""
        known = [(name, engine) for name, engine in engines if engine]
        if self._settings.mix_precisions or len({precision_of(engine) for _, engine in known}) < 2:
            return
        listed = ", ".join(f"{name} has {engine}" for name, engine in known)
        raise errors.InputError(
            f"the servers are of different precision ({listed}), and their pictures would differ; "
            "name servers of one precision, or --mix-precisions"
        )

    def _give_up(self, error: errors.ServingError) -> None:
        """End the run: every present and later `lease` raises the error."""
        self._lost = error
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(error)


def _check_same(first: Contract, other: Contract, name: str) -> None:
    if first != other:
        raise errors.InputError(
            f"{name}: serves another model than the run began with (bundle "
            f"{other.bundle_hash[:12] or 'without hash'} instead of "
            f"{first.bundle_hash[:12] or 'one without hash'}); its pictures would not match"
        )
