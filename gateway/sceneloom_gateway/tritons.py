"""The Triton servers behind the gateway: the least loaded one draws, the others stand in for it.

The rules are those of a rendering run (`sceneloom.rendering.servers`), for as long as the gateway
lives.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Sequence

from sceneloom import errors
from sceneloom.contract import Contract
from sceneloom.maps import Image
from sceneloom.rendering.connections import Connection
from sceneloom.rendering.retries import RetryPolicy
from sceneloom.rendering.servers import Address, Servers
from sceneloom.rendering.settings import RenderSettings
from sceneloom.request import Request, prepare, smallest_map
from sceneloom.triton.client import TritonSynthesizer
from sceneloom.triton.transport import Timeouts

_READY_SECONDS = 5.0
_WEEK = 7 * 86400


class _Drawing(Connection):
    """A connection that draws single requests."""

    def __init__(self, synthesizer: TritonSynthesizer) -> None:
        super().__init__(synthesizer, synthesizer.close)
        self.synthesizer = synthesizer

    def draw(self, request: Request) -> Image:
        """The picture, uint8 [H, W, 3] RGB at the map's size; raises ServingError."""
        return request.padding.crop(self._synthesizer.run_requests([request])[0])


class Tritons:
    """All servers of a gateway; one event loop calls its coroutines."""

    def __init__(
        self, urls: Sequence[str], *, model: str, timeouts: Timeouts, mix_precisions: bool = False
    ) -> None:
        """Prepare; `open` connects. The arguments are those of `TritonSynthesizer`."""
        self._retries, self._seconds = RetryPolicy(), timeouts.infer

        def connect(url: str) -> Connection:
            return _Drawing(
                TritonSynthesizer(url, model=model, timeouts=timeouts, transport="auto")
            )

        addresses = [Address(name=url, connect=functools.partial(connect, url)) for url in urls]
        settings = RenderSettings(patience=_WEEK, mix_precisions=mix_precisions)
        self._servers = Servers(addresses, settings)
        self.first: TritonSynthesizer
        """A client of the served model, once opened: contract, engine, difference."""
        self._proof: tuple[float, errors.SceneLoomError | None] | None = None
        self._proving = asyncio.Lock()

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
        self.first = opened.synthesizer

    async def close(self) -> None:
        """Close all connections."""
        await self._servers.close()

    def in_flight(self) -> int:
        """Requests in flight to all servers."""
        return self._servers.in_flight()

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
                image = await loop.run_in_executor(self._servers.pool, draw, request)
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

    async def prove(self) -> None:
        """Draw the smallest map, at most once in some seconds; raises SceneLoomError."""
        async with self._proving:
            now = time.monotonic()
            if self._proof is None or now - self._proof[0] > _READY_SECONDS:
                self._proof = (now, await self._failure())
        if (failure := self._proof[1]) is not None:
            raise failure

    async def _failure(self) -> errors.SceneLoomError | None:
        """The reason why no server draws now, or None."""
        if not self._servers.limit():
            return self._no_server([])
        try:
            await self.picture(prepare(self.contract, *smallest_map(self.contract)))
        except errors.SceneLoomError as error:
            return error
        return None

    def _no_server(self, failures: list[errors.ServingError]) -> errors.ServingError:
        """The error of a request that got no place at a server."""
        if failures:
            return failures[-1]
        if not self._servers.limit():
            return errors.ServerUnavailableError("no server answers now; try again in a while")
        return errors.QueueTimeoutError(
            f"no server had room for the request within {self._seconds:g} s"
        )
