"""The Triton servers behind the gateway: the least loaded one draws, the others stand in for it.

The rules are those of a rendering run (`sceneloom.rendering.servers`), for as long as the gateway
lives. A request keeps to the servers that it began with: `Tritons.switch` connects to new ones, of
the same or another bundle, and closes the earlier ones after their last answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from sceneloom import errors
from sceneloom.contract import Contract
from sceneloom.maps import Image
from sceneloom.rendering.connections import Connection
from sceneloom.rendering.retries import RetryPolicy
from sceneloom.rendering.servers import Address, Servers
from sceneloom.rendering.settings import RenderSettings
from sceneloom.request import Request, prepare, smallest_map
from sceneloom.text import printable
from sceneloom.triton.client import TritonSynthesizer, connect
from sceneloom.triton.grpc_transport import GrpcTransport
from sceneloom.triton.transport import Timeouts, server_address

_READY_SECONDS = 5.0
_WEEK = 7 * 86400
_MOST_CHANGE = 2.0
"""Mean difference of the smallest map's picture from the first one, in grey levels, above which the
served model counts as changed. One engine differs from itself by rounding only."""


def read_addresses(path: Path) -> tuple[str, ...]:
    """Read a file of servers: ``HOST:PORT`` a line, comments behind ``#``; raises InputError."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.InputError(f"{path}: cannot be read ({error})") from None
    found = [stripped for line in lines if (stripped := line.partition("#")[0].strip())]
    for url in found:
        try:
            server_address(url, "grpc")
        except errors.InputError as error:
            raise errors.InputError(f"{path}: {error}") from None
    if not found:
        raise errors.InputError(f"{path}: names no server; it has HOST:PORT of a gRPC port a line")
    if len(set(found)) < len(found):
        raise errors.InputError(f"{path}: names a server twice")
    return tuple(found)


class _Drawing(Connection):
    """A connection that draws single requests, always of the version found at connect."""

    def __init__(self, url: str, *, model: str, timeouts: Timeouts) -> None:
        transport = connect(url, model=model, timeouts=timeouts)
        assert isinstance(transport, GrpcTransport), "a gRPC address"
        newest = TritonSynthesizer(url, model=model, timeouts=timeouts, transport=transport)
        synthesizer = TritonSynthesizer(
            url, model=model, version=newest.version, timeouts=timeouts, transport=transport
        )
        super().__init__(synthesizer, synthesizer.close)
        self.synthesizer, self._transport = synthesizer, transport
        transport.watch()

    def draw(self, request: Request) -> Image:
        """The picture, uint8 [H, W, 3] RGB at the map's size; raises ServingError."""
        self._check_held()
        image = request.padding.crop(self._synthesizer.run_requests([request])[0])
        self._check_held()
        return image

    def _check_held(self) -> None:
        """A server of another bundle may answer after the connection was lost."""
        if self._transport.connection_lost:
            raise errors.ServerUnavailableError(
                f"{self._transport.address}: the connection was lost"
            )


class Served:
    """Servers of one bundle, from their first connection to their last answer."""

    def __init__(
        self, urls: Sequence[str], *, model: str, timeouts: Timeouts, mix_precisions: bool
    ) -> None:
        self.urls = tuple(urls)
        self._model, self._timeouts = model, timeouts
        self._retries, self._seconds = RetryPolicy(), timeouts.infer
        addresses = [
            Address(name=url, connect=functools.partial(self._connect, url)) for url in urls
        ]
        settings = RenderSettings(patience=_WEEK, mix_precisions=mix_precisions)
        self._servers = Servers(addresses, settings)
        self._firsts: dict[str, Image] = {}  # server -> its first picture of the smallest map
        self._other = ""
        self.users = 0
        """Requests that keep to these servers."""
        self._first: TritonSynthesizer | None = None

    @property
    def first(self) -> TritonSynthesizer:
        """A client of the served model, once opened: contract, engine, difference."""
        assert self._first is not None, "not opened"
        return self._first

    @property
    def contract(self) -> Contract:
        """Inputs and outputs of the served model."""
        return self.first.contract

    async def open(self) -> None:
        """Connect to every server; raises as `Servers.open`."""
        try:
            opened = await self._servers.open()
        except BaseException:
            await self._servers.close()
            raise
        assert isinstance(opened, _Drawing)
        self._first = opened.synthesizer

    async def close(self) -> None:
        """Close all connections."""
        await self._servers.close()

    def in_flight(self) -> int:
        """Requests in flight to all servers."""
        return self._servers.in_flight()

    def away(self) -> list[str]:
        """Servers that have not answered, by their first pictures."""
        return [url for url in self.urls if url not in self._firsts]

    async def picture(self, request: Request) -> tuple[Image, str]:
        """Draw a picture, uint8 [H, W, 3], and name the server that drew it.

        A request that a server loses, refuses for want of room or fails at is sent again, to
        another one where there is one, until the time of `Timeouts.infer` is over. Raises
        ServingError.
        """
        loop, deadline = asyncio.get_running_loop(), time.monotonic() + self._seconds
        failures: list[errors.ServingError] = []
        while True:
            try:
                lease = await asyncio.wait_for(
                    self._servers.lease(), max(deadline - time.monotonic(), 0.001)
                )
            except asyncio.TimeoutError:
                raise self._no_server(failures) from None
            failure: Exception | None = None
            try:
                assert isinstance(lease.link.connection, _Drawing)
                draw = lease.link.connection.draw
                in_trace = contextvars.copy_context().run
                image = await loop.run_in_executor(self._servers.pool, in_trace, draw, request)
                return image, lease.server.address.name
            except errors.ServingError as error:
                failure = error
                failures.append(error)
                wait = self._retries.wait(len(failures))
                late = time.monotonic() + wait >= deadline
                if late or not self._retries.again(error, failures):
                    raise
            finally:
                self._servers.release(lease, failure)
            await asyncio.sleep(wait)

    async def failure(self) -> errors.SceneLoomError | None:
        """The reason why no server draws the smallest map as it first did, or None."""
        if not self._servers.limit():
            return self._no_server([])
        try:
            image, server = await self.picture(prepare(self.contract, *smallest_map(self.contract)))
            self._compare(server, image)
        except errors.SceneLoomError as error:
            return error
        return None

    def _connect(self, url: str) -> Connection:
        """Open a connection that draws the smallest map as the server first did."""
        drawing = _Drawing(url, model=self._model, timeouts=self._timeouts)
        try:
            contract = drawing.contract
            if self._first is not None and contract != self._first.contract:
                other = contract.bundle_hash[:12] or "without hash"
                self._other = f"{url} serves another bundle now ({other}); SIGHUP takes it"
            else:
                self._compare(url, drawing.draw(prepare(contract, *smallest_map(contract))))
        except (errors.QueueFullError, errors.QueueTimeoutError) as error:
            drawing.close()
            raise errors.ServerUnavailableError(str(error)) from None
        except BaseException:
            drawing.close()
            raise
        return drawing

    def _compare(self, server: str, image: Image) -> None:
        """Keep a server's first picture of the smallest map; raises ModelFailedError if a later
        one is another.
        """
        first = self._firsts.setdefault(server, image)
        change = float(np.abs(first.astype(np.int16) - image).mean())
        if change > _MOST_CHANGE:
            raise errors.ModelFailedError(
                f"{server}: draws the smallest map {change:.1f} grey levels from its first picture "
                f"(up to {_MOST_CHANGE:g} are rounding); its model is damaged, or another"
            )

    def _no_server(self, failures: list[errors.ServingError]) -> errors.ServingError:
        """The error of a request that got no place at a server."""
        away = not self._servers.limit()
        if away and self._other:
            return errors.ServerUnavailableError(f"no server answers now: {self._other}")
        if failures:
            return failures[-1]
        if away:
            return errors.ServerUnavailableError("no server answers now; try again in a while")
        return errors.QueueTimeoutError(
            f"no server had room for the request within {self._seconds:g} s"
        )


class Tritons:
    """The servers that draw now, and earlier ones with requests in work; one event loop calls its
    coroutines.
    """

    def __init__(
        self,
        addresses: Callable[[], Sequence[str]],
        *,
        model: str,
        timeouts: Timeouts,
        mix_precisions: bool = False,
    ) -> None:
        """Prepare; `open` connects to the `addresses`, which `switch` asks again. The other
        arguments are those of `TritonSynthesizer`.
        """
        self._addresses = addresses
        self._serve = functools.partial(
            Served, model=model, timeouts=timeouts, mix_precisions=mix_precisions
        )
        self._now: Served
        self._earlier: set[Served] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._proof: tuple[Served, float, errors.SceneLoomError | None] | None = None
        self._proving, self._switching = asyncio.Lock(), asyncio.Lock()

    @property
    def contract(self) -> Contract:
        """Inputs and outputs of the model that is served now."""
        return self._now.contract

    @property
    def first(self) -> TritonSynthesizer:
        """A client of the model that is served now: contract, engine, difference."""
        return self._now.first

    async def open(self) -> None:
        """Connect to every server; raises as `Servers.open`."""
        self._now = self._serve(self._addresses())
        await self._now.open()

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*self._closing)
        await asyncio.gather(*(one.close() for one in (self._now, *self._earlier)))

    @contextlib.contextmanager
    def using(self) -> Iterator[Served]:
        """The servers of one request, the same ones to its end."""
        served = self._now
        served.users += 1
        try:
            yield served
        finally:
            served.users -= 1
            self._close_unused(served)

    async def switch(self) -> None:
        """Connect anew, and let all new requests go there; requests in work end where they began.
        What it did, or why it could not, is printed on standard error.
        """
        async with self._switching:
            try:
                new = self._serve(self._addresses())
                await new.open()
            except errors.SceneLoomError as error:
                _say(f"{error}; the earlier servers stay")
                return
            old, self._now = self._now, new
            self._earlier.add(old)
            away = f"; no answer yet from {', '.join(new.away())}" if new.away() else ""
            _say(
                f"bundle {new.contract.bundle_hash[:12] or 'without hash'} is served by "
                f"{', '.join(new.urls)}{away}"
            )
            self._close_unused(old)

    def in_flight(self) -> int:
        """Requests in flight to all servers."""
        return sum(one.in_flight() for one in (self._now, *self._earlier))

    async def prove(self) -> None:
        """Draw the smallest map, at most once in some seconds; raises SceneLoomError."""
        async with self._proving:
            now, served = time.monotonic(), self._now
            known = self._proof
            if known is None or known[0] is not served or now - known[1] > _READY_SECONDS:
                with self.using() as served:
                    known = self._proof = (served, now, await served.failure())
        if (failure := known[2]) is not None:
            raise failure

    def _close_unused(self, served: Served) -> None:
        if served in self._earlier and not served.users:
            self._earlier.remove(served)
            task = asyncio.get_running_loop().create_task(self._end(served))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _end(self, served: Served) -> None:
        await served.close()
        if gone := [url for url in served.urls if url not in self._now.urls]:
            _say(f"{', '.join(gone)} may be stopped: the last request there has ended")


def _say(words: str) -> None:
    print(f"sceneloom gateway: {printable(words)}", file=sys.stderr, flush=True)
