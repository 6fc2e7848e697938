"""Prometheus metrics of a run: `sceneloom render --metrics-port` serves them.

curl http://127.0.0.1:9200/metrics
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from sceneloom.errors import InputError, ServingError
from sceneloom.rendering.items import Failed, Rendered, Result, Skipped
from sceneloom.rendering.listeners import Levels, Listener

_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)
_QUEUES = ("reading", "waiting", "active", "pausing")


class Metrics(Listener):
    """Counts the events of a run; all names begin with ``sceneloom_render_``."""

    def __init__(self, levels: Callable[[], Levels] = Levels) -> None:
        """Begin at zero; `levels` is called at each request for the metrics."""
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, label: str) -> Counter:
            return Counter(f"sceneloom_render_{name}", text, [label], registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"sceneloom_render_{name}", text, labels, registry=registry)

        def level(name: str) -> int:
            return int(getattr(levels(), name))

        self._pictures = counter("pictures", "Maps that are done with.", "status")
        self._failures = counter(
            "failures", "Maps that gave no picture, by class of error.", "kind"
        )
        self._retries = counter(
            "retries", "Requests that are sent again, by class of error.", "kind"
        )
        self._bytes = counter(
            "bytes", "Bytes of tensors sent and received, and of pictures written.", "what"
        )
        self._leaves = counter("server_leaves", "Times that a server went away.", "server")
        self._latency = Histogram(
            "sceneloom_render_request_seconds",
            "Answered requests, from sending to the whole answer.",
            registry=registry,
            buckets=_BUCKETS,
        )
        self._up = gauge("server_up", "Whether a server is there.", "server")
        in_flight = gauge("in_flight", "Requests in flight.")
        in_flight.set_function(partial(level, "in_flight"))
        window = gauge("window", "Requests that may be in flight now.")
        window.set_function(partial(level, "window"))
        depth = gauge(
            "queue_depth",
            "Maps being read, read and waiting, being worked on, and waiting to be sent again.",
            "queue",
        )
        for queue in _QUEUES:
            depth.labels(queue).set_function(partial(level, queue))

    def on_result(self, result: Result) -> None:
        """Count it."""
        if isinstance(result, Failed):
            self._pictures.labels("failed").inc()
            self._failures.labels(type(result.error).__name__).inc()
            return
        self._pictures.labels("skipped" if isinstance(result, Skipped) else "rendered").inc()
        if isinstance(result, Rendered):
            self._bytes.labels("written").inc(result.bytes)

    def on_answer(self, seconds: float, sent: int, received: int) -> None:
        """Count it."""
        self._latency.observe(seconds)
        self._bytes.labels("sent").inc(sent)
        self._bytes.labels("received").inc(received)

    def on_retry(self, error: ServingError) -> None:
        """Count it."""
        self._retries.labels(type(error).__name__).inc()

    def on_server(self, name: str, away: bool) -> None:
        """Count it."""
        self._up.labels(name).set(not away)
        if away:
            self._leaves.labels(name).inc()


@contextlib.contextmanager
def serve_metrics(metrics: Metrics, port: int, *, host: str = "127.0.0.1") -> Iterator[int]:
    """Serve metrics over HTTP; yields the port, a free one for 0. Raises InputError."""
    if not 0 <= port < 65536:
        raise InputError(f"port {port} is none; they are from 0 to 65535")
    try:
        server, thread = start_http_server(port, addr=host, registry=metrics.registry)
    except OSError as error:
        reason = error.strerror or str(error)
        free = "; --metrics-port 0 takes a free one" if error.errno == errno.EADDRINUSE else ""
        raise InputError(f"metrics cannot be served at {host}:{port} ({reason}){free}") from None
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
