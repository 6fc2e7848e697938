"""The fake server as a fixture, and hypothesis's settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from fake_triton import FakeTriton, Running
from hypothesis import settings
from tritonclient.grpc import service_pb2_grpc

from sceneloom.contract import Contract
from sceneloom.testing import FakeTransport

# Two busy cores can hold any example up for longer than hypothesis's 0.2 s.
settings.register_profile("sceneloom", deadline=None)
settings.load_profile("sceneloom")

Start = Callable[..., Running]


@pytest.fixture
def start_server() -> Iterator[Start]:
    """Starts fake servers: ``start_server(contract, failures=..., max_batch_size=...)``; with
    `servicer` it makes the fake of its transport.
    """
    servers = []

    def start(
        contract: Contract,
        servicer: Callable[[FakeTransport], FakeTriton] = FakeTriton,
        **options: Any,
    ) -> Running:
        transport = FakeTransport(contract, **options)
        server = grpc.server(ThreadPoolExecutor(8))
        service = servicer(transport)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return Running(url=f"127.0.0.1:{port}", transport=transport)

    yield start
    for server in servers:
        server.stop(None).wait()
