"""One trace across client, gateway and Triton: W3C `traceparent`, and OpenTelemetry's spans.

A `traceparent` is taken over and passed on without any package. Spans need the extra `otel`; a
program that runs OpenTelemetry's SDK itself gets them without `start`. docs/gateway.md has an
example.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from sceneloom.errors import require

HEADER = "traceparent"
COLLECTOR = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Environment variables with the address of a collector of spans."""
_FORM = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_HAS_API = importlib.util.find_spec("opentelemetry") is not None
_current: ContextVar[str] = ContextVar("traceparent", default="")


def given_parent(header: str) -> str:
    """A traceparent as a request gave it; empty for another form."""
    return header if _FORM.fullmatch(header) else ""


def new_parent() -> str:
    """A traceparent of a trace of its own."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def traces_url() -> str:
    """Where the environment wants traces over OTLP and HTTP; empty for nowhere."""
    traces, general = (os.environ.get(name, "") for name in COLLECTOR)
    return traces or (f"{general.rstrip('/')}/v1/traces" if general else "")


def start(service: str) -> None:
    """Send this program's spans to the collector of `COLLECTOR`, if one is named; raises
    MissingDependencyError.
    """
    if not traces_url():
        return
    require(
        ("opentelemetry.sdk", "opentelemetry.exporter"),
        extra="otel",
        purpose=f"sending spans, as {' or '.join(COLLECTOR)} asks,",
    )
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = os.environ.get("OTEL_SERVICE_NAME", service)
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=traces_url())))
    trace.set_tracer_provider(provider)


@contextlib.contextmanager
def span(
    name: str,
    *,
    parent: str = "",
    serves: bool = False,
    attributes: Mapping[str, Any] | None = None,
) -> Iterator[str]:
    """A step of the work; gives the traceparent to send on, empty without a trace.

    `parent` is the traceparent of a received request, by default that of the step around this one.
    `serves` tells a request that is answered from one that is sent.
    """
    given = parent or _current.get()
    with contextlib.ExitStack() as stack:
        sent = given
        if _HAS_API:
            from opentelemetry import trace
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

            propagator, carrier = TraceContextTextMapPropagator(), {HEADER: given}
            context = propagator.extract(carrier) if given else None
            kind = trace.SpanKind.SERVER if serves else trace.SpanKind.CLIENT
            tracer = trace.get_tracer("sceneloom")
            stack.enter_context(
                tracer.start_as_current_span(name, context, kind, dict(attributes or {}))
            )
            propagator.inject(carrier)  # leaves it as it is where nothing records
            sent = carrier[HEADER]
        token = _current.set(sent)
        stack.callback(_current.reset, token)
        yield sent
