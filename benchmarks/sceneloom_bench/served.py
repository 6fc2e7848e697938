"""The server that a benchmark asks: one that runs somewhere, or an export bundle that is served
here for as long as the benchmark runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sceneloom.contract import MODEL_NAME
from sceneloom.errors import InputError
from sceneloom_bench.reports.report import flags_of, say
from sceneloom_serving.bundle import bundle_hash
from sceneloom_serving.choice import choose_engine
from sceneloom_serving.embedded import EmbeddedServer, ServerSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServedSettings:
    """Which server is measured: `url`, or `repository`."""

    url: str | None = None
    """``HOST:PORT`` of a running server's gRPC port."""
    http: str | None = None
    """``HOST:PORT`` of its HTTP port, where that is to be measured, too."""
    repository: Path | None = None
    """An export bundle to serve with the bundled Triton while the benchmark runs."""
    engine: str | None = None
    """Of the repository; the fastest exact one unless named."""
    model: str = MODEL_NAME
    """Name of the served model."""

    def __post_init__(self) -> None:
        """Check that one server is named."""
        if (self.url is None) == (self.repository is None):
            raise InputError("name a server with --url or an export bundle with --repository")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
    """A server that answers."""

    grpc: str
    """``HOST:PORT``."""
    http: str | None
    """``HOST:PORT``; None where it was not named."""
    embedded: EmbeddedServer | None
    """The server, where it was started here."""


@contextlib.contextmanager
def served(settings: ServedSettings, *, encoded: bool = False) -> Iterator[Served]:
    """The server of the settings, started where it does not run.

    Args:
        settings: which.
        encoded: whether one that is started here serves the encoded path, too.

    Raises:
        ServerStartError: it did not come up; the text says why.
    """
    if settings.url is not None:
        yield Served(grpc=settings.url, http=settings.http, embedded=None)
        return
    assert settings.repository is not None
    repository, engine = settings.repository, settings.engine
    # As `sceneloom serve` does: the configuration's engine is the fastest where it was exported.
    engine = engine or choose_engine(repository, bundle_hash(repository), say=say)
    ports = ServerSettings(http_port=0, grpc_port=0, metrics_port=0, start_timeout=900)
    with EmbeddedServer(repository, ports, engine=engine, encoded=encoded) as server:
        yield Served(grpc=server.grpc, http=server.http, embedded=server)


def served_flags(settings: Any) -> dict[str, Any]:
    """Settings with a field ``server`` of `ServedSettings`, for `Report.settings`: flat as flags
    are, and without addresses.
    """
    flags = flags_of(settings)
    named = {**flags.pop("server"), **flags}
    return named | {name: "HOST:PORT" for name in ("url", "http") if named[name] is not None}


def elsewhere(settings: ServedSettings) -> list[str]:
    """A mark if the server is not on this machine, so that its environment is another."""
    if settings.url is None:
        return []
    host = settings.url.split("://")[-1].rpartition(":")[0]
    if host in ("127.0.0.1", "localhost", "[::1]"):
        return []
    return ["the server ran elsewhere: versions, hardware and clocks are of the machine that asked"]
