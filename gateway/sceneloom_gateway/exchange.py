"""One HTTP exchange around the application: request id, limits of the body, headers, log, metrics.

The limit on bytes acts before a body is read where its length is announced, else while it is read.
Every exchange writes one line of JSON to standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sceneloom import tracing
from sceneloom_gateway.problems import Problem

REQUEST_ID = "x-request-id"
FULL = "full"
"""Key of a request's state: its connection is one too many."""
_GIVEN_ID = re.compile(rb"[\w.:-]{1,64}", re.ASCII)
_BUCKETS = (
    *(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0),
)
_NOTED = ("trace", "problem", "server", "bundle", "detail")
_QUIET = ("/healthz", "/readyz", "/metrics")
_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]
_STRICT_TRANSPORT = (b"strict-transport-security", b"max-age=31536000")


class Metrics:
    """The figures of `/metrics`; all names begin with ``sceneloom_gateway_``."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.registry = registry = CollectorRegistry()
        self.seconds = Histogram(
            "sceneloom_gateway_request_seconds",
            "Requests, from their headers to the end of the answer.",
            ["route", "status"],
            registry=registry,
            buckets=_BUCKETS,
        )
        self.rejections = Counter(
            "sceneloom_gateway_rejections",
            "Requests answered with a problem document, by class of error.",
            ["kind"],
            registry=registry,
        )
        self.bytes = Counter(
            "sceneloom_gateway_bytes", "Bytes of bodies.", ["direction"], registry=registry
        )
        self.in_flight = Gauge(
            "sceneloom_gateway_in_flight",
            "Requests being answered.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._levels: list[tuple[Gauge, Callable[[], float]]] = []

    def level(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge that `refresh` reads; of several workers the sum is shown."""
        name = f"sceneloom_gateway_{name}"
        gauge = Gauge(name, text, registry=self.registry, multiprocess_mode="livesum")
        self._levels.append((gauge, value))

    def refresh(self) -> None:
        """Read all levels: at the end of each request, as another worker may show them."""
        for gauge, value in self._levels:
            gauge.set(value())

    def text(self) -> bytes:
        """All figures in Prometheus's text form, of all workers."""
        self.refresh()
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


class Exchange:
    """The outermost layer of the application."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        *,
        most_bytes: int,
        body_seconds: float,
        uploads: Mapping[str, tuple[int, float]] | None = None,
        logs: bool = True,
    ) -> None:
        """Wrap `app`; a body has at most `most_bytes` and arrives within `body_seconds`; those
        posted to the paths of `uploads` have limits of their own. Without `logs` only failures of
        the gateway and of its servers have a line.
        """
        self._app, self._metrics = app, metrics
        self._most_bytes, self._body_seconds = most_bytes, body_seconds
        self._uploads, self._logs = uploads or {}, logs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; see `starlette.types.ASGIApp`."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, headers = time.perf_counter(), dict(scope["headers"])
        given = headers.get(REQUEST_ID.encode(), b"")
        request_id = given.decode() if _GIVEN_ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        full = scope["state"].get(FULL, False)
        most_bytes, body_seconds = self._most_bytes, self._body_seconds
        if scope["method"] == "POST":
            most_bytes, body_seconds = self._uploads.get(scope["path"], (most_bytes, body_seconds))
        deadline = started + body_seconds
        seen: dict[str, Any] = {
            "status": 0,
            "received": 0,
            "sent": 0,
            "whole": not _has_body(headers),
        }

        async def limited() -> Message:
            if seen["whole"]:
                return await receive()
            left = deadline - time.perf_counter()
            try:
                message = await asyncio.wait_for(receive(), max(left, 0.001))
            except asyncio.TimeoutError:
                raise Problem(408, f"the body has not arrived within {body_seconds:g} s") from None
            seen["received"] += len(message.get("body", b""))
            seen["whole"] = not message.get("more_body", False)
            if seen["received"] > most_bytes:
                raise _too_large(most_bytes)
            return message

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Closed on unread data, the connection would be reset, and the answer lost.
                with contextlib.suppress(Problem):
                    unread = max(_announced(headers), seen["received"])
                    while not seen["whole"] and unread <= self._most_bytes:
                        await limited()
                        unread = max(unread, seen["received"])
                seen["status"] = message["status"]
                own = list(message.get("headers", []))
                extra = _security_headers(request_id, scope["scheme"])
                if not seen["whole"] or full:  # the rest of the body is not read
                    extra.append((b"connection", b"close"))
                names = {name for name, _ in own}
                own += [(name, value) for name, value in extra if name not in names]
                message = {**message, "headers": own}
            else:
                seen["sent"] += len(message.get("body", b""))
            await send(message)

        parent = tracing.given_parent(headers.get(tracing.HEADER.encode(), b"").decode("latin-1"))
        name = f"{scope['method']} {scope['path']}"
        with (
            self._metrics.in_flight.track_inprogress(),
            tracing.span(name, parent=parent or tracing.new_parent(), serves=True) as current,
        ):
            scope["state"]["trace"] = current.split("-")[1]
            try:
                if full:
                    raise Problem(
                        503,
                        "the gateway has as many connections as it takes",
                        kind="TooManyConnections",
                        retry_after=1,
                    )
                if not seen["whole"] and _announced(headers) > most_bytes:
                    raise _too_large(most_bytes)
                await self._app(scope, limited, noted)
            except Problem as problem:
                await self._answer(problem, scope, limited, noted)
            except ClientDisconnect:
                scope["state"]["problem"] = "ClientDisconnect"
            except Exception:  # the answer was sent by FastAPI, if none had begun
                traceback.print_exc()
                if not seen["status"]:
                    fault = Problem(500, "a fault of the gateway's; its log has the reason")
                    await self._answer(fault, scope, limited, noted)
        self._note(scope, seen, time.perf_counter() - started)

    def unreadable(self, problem: Problem, client: str, scheme: str) -> Response:
        """The answer to bytes that are no HTTP request; logged and counted as any other."""
        request_id = secrets.token_hex(8)
        answer = problem.response(request_id)
        extra = [*_security_headers(request_id, scheme), (b"connection", b"close")]
        answer.raw_headers.extend(extra)
        scope: Scope = {
            "path": "",
            "method": "",
            "client": (client, 0),
            "state": {"request_id": request_id},
        }
        note_problem(scope, problem)
        self._note(scope, {"status": problem.status, "received": 0, "sent": len(answer.body)}, 0.0)
        return answer

    async def _answer(self, problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
        note_problem(scope, problem)
        await problem.response(scope["state"]["request_id"])(scope, receive, send)

    def _note(self, scope: Scope, seen: dict[str, Any], seconds: float) -> None:
        """Write the line of the log, and count."""
        route = getattr(scope.get("route"), "path", "none")
        state, status = scope["state"], seen["status"]
        self._metrics.seconds.labels(route, str(status)).observe(seconds)
        self._metrics.bytes.labels("received").inc(seen["received"])
        self._metrics.bytes.labels("sent").inc(seen["sent"])
        self._metrics.refresh()
        if kind := state.get("problem"):
            self._metrics.rejections.labels(kind).inc()
        if (scope["path"] in _QUIET and status == 200) or (status < 500 and not self._logs):
            return
        client = scope.get("client")
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "request_id": state["request_id"],
            "client": client[0] if client else "",
            "key": state.get("key", ""),
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "milliseconds": round(1000 * seconds, 1),
            "received": seen["received"],
            "sent": seen["sent"],
            **{name: state[name] for name in _NOTED if state.get(name)},
        }
        print(json.dumps(line), file=sys.stderr, flush=True)


def _security_headers(request_id: str, scheme: str) -> list[tuple[bytes, bytes]]:
    extra = [*_HEADERS, (REQUEST_ID.encode(), request_id.encode())]
    return [*extra, _STRICT_TRANSPORT] if scheme == "https" else extra


def note_problem(scope: Scope, problem: Problem) -> None:
    """Keep a problem for the log and the metrics."""
    state = scope["state"]
    state["problem"], state["detail"] = problem.kind or str(problem.status), problem.detail


def _too_large(most_bytes: int) -> Problem:
    return Problem(413, f"the body is larger than {most_bytes:,} bytes")


def _has_body(headers: dict[bytes, bytes]) -> bool:
    return b"transfer-encoding" in headers or _announced(headers) > 0


def _announced(headers: dict[bytes, bytes]) -> int:
    return int(headers.get(b"content-length", b"0"))  # h11 has checked that it is a number
