"""The choice of how to reach a server: addresses, and shared memory that is not what it seems."""

from __future__ import annotations

import dataclasses
import mmap
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from fake_triton import FakeTriton
from tritonclient.grpc import service_pb2

from sceneloom.contract import Contract
from sceneloom.errors import InputError, QueueFullError, ServerUnavailableError
from sceneloom.files import SHARED_MEMORY
from sceneloom.request import random_inputs
from sceneloom.schema import load_schema
from sceneloom.testing import FakeTransport
from sceneloom.triton.client import TritonSynthesizer, connect
from sceneloom.triton.transport import Timeouts

if TYPE_CHECKING:
    from conftest import Start

CONTRACT = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=16)


class MemoryTriton(FakeTriton):
    """A server with shared memory: this machine's, or, as at the other end of a tunnel, memory of
    its own under the same names.
    """

    def __init__(
        self,
        transport: FakeTransport,
        *,
        version: str = "2.51.0",
        reads_ours: bool = True,
        writes_ours: bool = True,
        opens: bool = True,
        closed: str = "",
    ) -> None:
        super().__init__(transport)
        self.version = version
        self.reads_ours = reads_ours
        self.writes_ours = writes_ours
        self.opens = opens
        self.closed = closed
        self.regions: dict[str, mmap.mmap] = {}
        self.own: dict[str, mmap.mmap] = {}

    def ServerMetadata(self, request: Any, context: Any) -> Any:
        return service_pb2.ServerMetadataResponse(name="fake", version=self.version)

    def SystemSharedMemoryRegister(self, request: Any, context: Any) -> Any:
        if self.closed:
            context.abort(grpc.StatusCode.UNAVAILABLE, self.closed)
        if not self.opens:
            text = f"Unable to open shared memory region: '{request.key}'"
            context.abort(grpc.StatusCode.INTERNAL, text)
        with (SHARED_MEMORY / request.key.strip("/")).open("r+b") as file:
            self.regions[request.name] = mmap.mmap(file.fileno(), request.byte_size)
        self.own[request.name] = mmap.mmap(-1, request.byte_size)
        return service_pb2.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryStatus(self, request: Any, context: Any) -> Any:
        return service_pb2.SystemSharedMemoryStatusResponse()

    def SystemSharedMemoryUnregister(self, request: Any, context: Any) -> Any:
        self.regions.pop(request.name, None)
        return service_pb2.SystemSharedMemoryUnregisterResponse()

    def ModelInfer(self, request: Any, context: Any) -> Any:
        read = self.regions if self.reads_ours else self.own
        for tensor in request.inputs:
            place = Place.of(tensor.parameters)
            if place is not None:
                start = place.offset
                request.raw_input_contents.append(
                    read[place.region][start : start + place.byte_size]
                )
        answer = super().ModelInfer(request, context)
        place = Place.of(request.outputs[0].parameters)
        if place is not None:
            data = answer.raw_output_contents[0]
            written = self.regions if self.writes_ours else self.own
            written[place.region][place.offset : place.offset + len(data)] = data
            answer.raw_output_contents[0] = b""
        return answer


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a tensor lies."""

    region: str
    byte_size: int
    offset: int

    @classmethod
    def of(cls, parameters: Any) -> Place | None:
        if "shared_memory_region" not in parameters:
            return None
        return cls(
            parameters["shared_memory_region"].string_param,
            parameters["shared_memory_byte_size"].int64_param,
            parameters["shared_memory_offset"].int64_param,
        )


def our_regions() -> list[Path]:
    return list(SHARED_MEMORY.glob(f"sceneloom-{os.getpid()}-*-client-*"))


def with_memory(**options: Any) -> Callable[[FakeTransport], MemoryTriton]:
    return lambda transport: MemoryTriton(transport, **options)


def test_shared_memory_that_is_the_servers_too(start_server: Start) -> None:
    server = start_server(CONTRACT, servicer=with_memory())
    transport = connect(server.url)
    assert (transport.kind, transport.address) == ("grpc-shm", server.url)
    assert transport.why == "checked: same picture as over gRPC"
    first, second = (random_inputs(CONTRACT) for _ in range(2))
    for inputs in (first, second, first):
        picture = transport.infer("synthesis", inputs, "image", timeout=5)
        assert (picture == server.transport.infer("synthesis", inputs, "image", timeout=5)).all()
    assert our_regions()
    transport.close()
    assert our_regions() == []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"reads_ours": False}, "differs from the one over gRPC"),
        ({"writes_ours": False}, "differs from the one over gRPC"),
        ({"reads_ours": False, "writes_ours": False}, "differs from the one over gRPC"),
        ({"opens": False}, r"the server cannot open .*\(Unable to open shared memory region"),
        # A restricted API, and a server of 26.04 that nobody told to open it.
        ({"closed": "This protocol is restricted"}, r"cannot open .*\(This protocol is restricted"),
        ({"closed": "disabled", "version": "2.75.0"}, r"cannot open .*\(disabled"),
        ({"version": "2.49.0"}, r"needs Triton 2\.50; the server is 2\.49\.0"),
        ({"version": "2"}, "the server is 2"),
        ({"version": "nightly"}, "the server is nightly"),
    ],
)
def test_shared_memory_that_is_not(start_server: Start, options: dict[str, Any], why: str) -> None:
    server = start_server(CONTRACT, servicer=with_memory(**options))
    transport = connect(server.url)
    assert transport.kind == "grpc"
    inputs = random_inputs(CONTRACT)
    picture = transport.infer("synthesis", inputs, "image", timeout=5)
    assert picture.shape == (*inputs["label_map"].shape, 3)
    transport.close()
    with pytest.raises(InputError, match=f"shared memory cannot be used: .*{why}"):
        connect(server.url, transport="grpc-shm")
    assert our_regions() == []
    assert re.search(why, transport.why)


def test_memory_that_nobody_wrote_to_is_no_black_picture(start_server: Start) -> None:
    labels = tuple(dataclasses.replace(label, colour=(0, 0, 0)) for label in CONTRACT.schema.labels)
    schema = dataclasses.replace(CONTRACT.schema, labels=labels)
    black = dataclasses.replace(CONTRACT, schema=schema, boundaries=False)
    for writes_ours, kind in ((False, "grpc"), (True, "grpc-shm")):
        server = start_server(black, servicer=with_memory(writes_ours=writes_ours))
        transport = connect(server.url)
        assert not transport.infer("synthesis", random_inputs(black), "image", timeout=5).any()
        assert transport.kind == kind
        transport.close()


def test_a_server_without_shared_memory(start_server: Start) -> None:
    transport = connect(start_server(CONTRACT).url)
    assert transport.kind == "grpc"
    assert "could not be proven" in transport.why
    transport.close()


def test_a_proof_that_the_server_was_too_busy_for(start_server: Start) -> None:
    failures = [QueueFullError("full")]
    server = start_server(CONTRACT, servicer=with_memory(), failures=failures)
    transport = connect(server.url)
    assert transport.kind == "grpc"
    assert "queue is full" in transport.why
    transport.close()


def test_a_model_without_a_contract_proves_nothing(start_server: Start) -> None:
    server = start_server(CONTRACT, servicer=with_memory())
    transport = connect(server.url, model="other")
    assert transport.kind == "grpc"
    assert "model 'other'" in transport.why
    transport.close()


def test_memory_that_a_new_server_refuses_is_not_used_again(start_server: Start) -> None:
    servicers = []

    def servicer(transport: FakeTransport) -> MemoryTriton:
        servicers.append(MemoryTriton(transport))
        return servicers[0]

    server = start_server(CONTRACT, servicer=servicer)
    transport = connect(server.url)
    servicers[0].opens = False
    large = {
        "label_map": np.full((2, 512, 512), 7, np.uint8),
        "instance_map": np.zeros((2, 512, 512), np.int32),
    }
    server.transport.max_batch_size = 2
    expected = server.transport.infer("synthesis", large, "image", timeout=5)
    assert (transport.infer("synthesis", large, "image", timeout=5) == expected).all()
    assert transport.kind == "grpc"
    assert "refused a region" in transport.why
    transport.close()


@pytest.mark.parametrize(
    ("url", "transport", "reason"),
    [
        ("https://a:1/v1", "auto", "https://HOST:PORT of a gateway.*a path"),
        ("https://a:1", "grpc", "a gateway is behind https://, not grpc"),
        ("http://a", "auto", "http://HOST:PORT"),
        ("http://a:1/v2", "auto", "http://HOST:PORT"),
        ("http://a:70000", "auto", "http://HOST:PORT"),
        ("http://grpc://a:1", "auto", "http://HOST:PORT"),
        ("a:1", "http", "http://HOST:PORT"),
        ("grpc://a:1", "http", "http://HOST:PORT"),
        ("http://a:1", "grpc", "grpc goes to the server's gRPC port"),
        ("http://a:1", "grpc-shm", "grpc-shm goes to the server's gRPC port"),
        ("grpc://a", "auto", "HOST:PORT"),
        ("grpc://grpc://a:1", "grpc", "HOST:PORT"),
        ("", "auto", "HOST:PORT"),
        ("a:1", "carrier pigeon", "choose one of auto, grpc, grpc-shm, http"),
    ],
)
def test_addresses_that_do_not_fit(url: str, transport: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        connect(url, transport=transport)


@pytest.mark.parametrize("url", ["http://127.0.0.1:{}", "grpc://127.0.0.1:{}", "127.0.0.1:{}"])
def test_the_address_says_the_protocol(url: str, start_server: Start) -> None:
    server = start_server(CONTRACT)
    url = url.format(server.url.split(":")[1])
    kind = "http" if url.startswith("http") else "grpc"
    transport = connect(url)
    assert transport.kind == kind
    transport.close()
    if kind == "grpc":
        with TritonSynthesizer(url) as synthesizer:
            assert synthesizer.transport.kind == kind
            assert synthesizer.transport.why == "requested"
            assert synthesizer.version == "1"


def test_nothing_listens() -> None:
    with pytest.raises(ServerUnavailableError):
        connect("127.0.0.1:1", timeouts=Timeouts(connect=5))
    assert our_regions() == []
