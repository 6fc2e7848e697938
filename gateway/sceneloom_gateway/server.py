"""The HTTP server: uvicorn, with TLS, an end to half-sent headers, a drain on SIGTERM, and SIGHUP.

uvicorn closes idle connections after an answer only. The gateway's protocol also closes a
connection on which no whole request header has arrived in time.
"""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import h11
import uvicorn
from pydantic import Field
from uvicorn.protocols.http.h11_impl import H11Protocol

from sceneloom.errors import InputError, SceneLoomError
from sceneloom.validation import checked
from sceneloom_gateway.exchange import FULL, Exchange
from sceneloom_gateway.problems import Problem

Work = Callable[[], Coroutine[Any, Any, None]]


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Connections of the HTTP server."""

    tls_cert: Path | None = None
    """Certificate chain as PEM; with tls-key, the gateway speaks HTTPS."""
    tls_key: Path | None = None
    """Private key of the certificate as PEM."""
    header_seconds: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """Seconds for the headers of a request to arrive; the connection is closed then."""
    keep_alive_seconds: Annotated[int, Field(ge=1, le=3600)] = 30
    """Seconds that an idle connection stays open after an answer."""
    drain_seconds: Annotated[int, Field(ge=1, le=3600)] = 120
    """Seconds for the requests in work to end after SIGTERM."""
    most_connections: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Most open connections; a request on a further one gets 503."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that share the address; each counts its own connections, requests and limits of
    keys.
    """

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InputError("--tls-cert and --tls-key belong together; give both or none")


def listen_address(listen: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``; raises InputError for another form."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InputError(f"--listen is {listen!r}; it is HOST:PORT, such as 127.0.0.1:8080")
    return host, int(port)


def open_socket(host: str, port: int) -> socket.socket:
    """Listen at a port, a free one for 0; raises InputError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{host}:{port}: cannot be listened at ({reason})") from None
    # For every connection: asyncio sets it for sockets of a stated protocol only, and an answer's
    # body would wait 40 ms for the acknowledgement of its header.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def serve(
    app: Exchange,
    listening: socket.socket,
    settings: ServerSettings,
    *,
    begin: Work,
    ready: Callable[[], None],
    hangup: Work,
    closing: Callable[[], None],
) -> None:
    """Await `begin`, then serve until SIGTERM or SIGINT, and finish the requests in work. Call
    `ready` once requests are answered, `hangup` at each SIGHUP, and `closing` before the wait for
    the last requests. Raises InputError for a wrong certificate, and the SceneLoomError of `begin`.
    """
    config = uvicorn.Config(
        app,
        http=_protocol(app, settings),
        ws="none",
        lifespan="on",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.drain_seconds,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        names = f"{settings.tls_cert} and {settings.tls_key}"
        raise InputError(f"{names}: no certificate with its key ({error})") from None
    server = _Server(config, begin, ready, hangup, closing)
    # uvicorn raises a signal again after the drain: by then it is done with. A SIGHUP before the
    # start has nothing to do.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listening])
    if server.failure is not None:
        raise server.failure


class _Server(uvicorn.Server):
    def __init__(
        self,
        config: uvicorn.Config,
        begin: Work,
        ready: Callable[[], None],
        hangup: Work,
        closing: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._begin, self._ready, self._hangup = begin, ready, hangup
        self._closing = closing
        self._hangups: set[asyncio.Task[None]] = set()
        self.failure: SceneLoomError | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await self._begin()
        except SceneLoomError as error:
            self.failure, self.should_exit = error, True
            return
        await super().startup(sockets=sockets)
        loop = asyncio.get_running_loop()

        def on_hangup() -> None:
            task = loop.create_task(self._hangup())
            self._hangups.add(task)
            task.add_done_callback(self._hangups.discard)

        loop.add_signal_handler(signal.SIGHUP, on_hangup)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._closing()
        await super().shutdown(sockets=sockets)


def _protocol(app: Exchange, settings: ServerSettings) -> type[asyncio.Protocol]:
    """uvicorn's protocol that closes connections without a whole header after some seconds, and
    answers with problem documents where uvicorn writes plain text.
    """

    class Protocol(H11Protocol):
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > settings.most_connections:
                self.app_state = {**self.app_state, FULL: True}
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self._late is not None:
                self._late.cancel()

        def send_400_response(self, msg: str) -> None:
            """Answer to bytes that are no HTTP request; called while h11's error is handled."""
            error = sys.exc_info()[1]
            if self.cycle is not None and not self.cycle.response_complete:
                self.cycle.disconnected = True  # its own answer can no longer be sent
                self.cycle.message_event.set()
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                status = getattr(error, "error_status_hint", 400)
                problem = Problem(status, f"this is no HTTP/1.1 request: {error}", kind="NoRequest")
                client = self.client[0] if self.client else ""
                answer = app.unreadable(problem, client, self.scheme or "http")
                start = h11.Response(status_code=status, headers=answer.raw_headers)
                for event in (start, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                    self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

        def _watch(self) -> None:
            """Let the time run while no request is being answered."""
            waits = self.cycle is None or self.cycle.response_complete
            if waits and self._late is None:
                self._late = self.loop.call_later(settings.header_seconds, self.transport.abort)
            elif not waits and self._late is not None:
                self._late.cancel()
                self._late = None

    return Protocol
