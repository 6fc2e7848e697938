"""Triton's answers in our error family, timeouts, and real sockets that are no Triton."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sceneloom.errors import (
    DeadlineExceededError,
    InputError,
    ModelFailedError,
    ModelNotFoundError,
    QueueFullError,
    QueueTimeoutError,
    RequestRejectedError,
    ServerUnavailableError,
    ServingError,
)
from sceneloom.triton.client import TritonSynthesizer, connect
from sceneloom.triton.grpc_transport import GrpcTransport
from sceneloom.triton.http_transport import HttpTransport
from sceneloom.triton.transport import (
    Timeouts,
    map_triton_error,
    server_address,
)

STOPPING = "Request for unknown model: 'synthesis' has no available versions"

# The table "Serving facts a client must know", observed on Triton 2.51, and what gRPC adds.
ANSWERS: list[tuple[str, str, bool, type[ServingError], bool]] = [
    ("UNAVAILABLE", "Exceeds maximum queue size", True, QueueFullError, True),
    ("UNAVAILABLE", "[request id: x] Exceeds maximum queue size", False, QueueFullError, True),
    ("UNAVAILABLE", "Request timeout expired", True, QueueTimeoutError, True),
    ("DEADLINE_EXCEEDED", "Deadline Exceeded", True, DeadlineExceededError, True),
    ("NOT_FOUND", STOPPING, True, ServerUnavailableError, True),
    ("NOT_FOUND", STOPPING, False, ServerUnavailableError, True),
    ("NOT_FOUND", "Request for unknown model: 'x' is not found", False, ModelNotFoundError, False),
    ("INVALID_ARGUMENT", "inference input data-type is 'INT32'", True, RequestRejectedError, False),
    ("INVALID_ARGUMENT", "unexpected shape for input", False, RequestRejectedError, False),
    ("INTERNAL", "Stub process 'synthesis_0_0' is not healthy.", True, ModelFailedError, False),
    ("UNAVAILABLE", "failed to connect to all addresses", False, ServerUnavailableError, True),
    ("UNAVAILABLE", "Socket closed", True, ServerUnavailableError, True),
    ("CANCELLED", "Channel closed!", True, ServerUnavailableError, True),
    ("UNIMPLEMENTED", "unsupported", True, RequestRejectedError, False),
    ("RESOURCE_EXHAUSTED", "Received message larger than max", True, RequestRejectedError, False),
    ("UNKNOWN", "what?", True, ModelFailedError, False),
    ("NOT_FOUND", "Unable to find shared memory region: 'x'", False, ServerUnavailableError, True),
    ("", "", True, ModelFailedError, False),
]


@pytest.mark.parametrize(("status", "message", "seen_ready", "kind", "retryable"), ANSWERS)
def test_answers_are_mapped(
    status: str, message: str, seen_ready: bool, kind: type[ServingError], retryable: bool
) -> None:
    error = map_triton_error(
        f"StatusCode.{status}" if status else "",
        message,
        where="host:1, model 'synthesis'",
        seen_ready=seen_ready,
    )
    assert type(error) is kind
    assert error.retryable is retryable
    assert str(error).startswith("host:1, model 'synthesis': ")


def test_a_long_answer_is_cut_to_its_first_line() -> None:
    error = map_triton_error(
        "INTERNAL", "\nValueError: broken\nAt:\n  model.py(3)\n", where="x", seen_ready=True
    )
    assert str(error) == "x: ValueError: broken"


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, 1e10, 1e300])
@pytest.mark.parametrize("which", ["connect", "infer"])
def test_timeouts_are_positive_and_finite(which: str, seconds: float) -> None:
    with pytest.raises(InputError, match=f"^the {which} timeout is"):
        Timeouts(**{which: seconds})


def test_timeouts_have_finite_defaults() -> None:
    assert 0 < Timeouts().connect < Timeouts().infer < 86400
    assert Timeouts(infer=86400).infer == 86400


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost",
        ":8001",
        "http://localhost:8001",
        "localhost:8001/v2",
        "localhost:0",
        "localhost:99999",
        "localhost:http",
        "a:b:c",
        "local host:8001",
        "localhost:8001\n",
    ],
)
def test_addresses_of_another_form_are_refused(address: str) -> None:
    with pytest.raises(InputError, match="HOST:PORT"):
        GrpcTransport(address)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://host/v1", "https://HOST:PORT of a gateway, .*; a path is not supported"),
        ("HTTPS://host:1", "https:// is written in small letters"),
        ("grpcs://host", "HOST:PORT of its gRPC port.*it names no port"),
        ("http://host:8000/triton", "http://HOST:PORT.*a path is not supported"),
        ("http://host:8000/?a=b", "a path is not supported"),
        ("http://host", "http://HOST:PORT, such as http://127.0.0.1:8000; it names no port"),
        ("host", "HOST:PORT of its gRPC port, such as 127.0.0.1:8001; it names no port"),
        ("[::1]", "it names no port"),
        ("::1:8001", r"an IPv6 address stands in brackets, as in \[::1\]:8001"),
        ("host:99999", "port 99999 is not from 1 to 65535"),
        (" host:8001", "it has a space"),
        ("", "it is empty"),
        ("HTTP://host:8000", "http:// is written in small letters"),
        ("unix:///run/triton", "unix:// is not supported"),
        ("http://bob:secret@host:8000", r"'http://\.\.\.@host:8000' .* a user or password"),
    ],
)
def test_the_fault_of_an_address_is_said(url: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        server_address(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("address", ["localhost:8001", "10.0.0.1:1", "[::1]:65535", "a-b.c_d:80"])
def test_addresses(address: str) -> None:
    for url in (address, f"grpc://{address}", f"grpc://{address}/"):
        transport = GrpcTransport(url)
        assert transport.address == address
        transport.close()
    for url in (f"http://{address}", f"http://{address}/"):
        http = HttpTransport(url)
        assert http.address == f"http://{address}"
        http.close()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_nothing_listens(unused_port: int) -> None:
    start = time.monotonic()
    with pytest.raises(
        ServerUnavailableError, match=f"127.0.0.1:{unused_port}.*not reachable"
    ) as e:
        TritonSynthesizer(f"127.0.0.1:{unused_port}", timeouts=Timeouts(connect=5))
    assert e.value.retryable
    assert time.monotonic() - start < 5


def test_a_server_that_never_answers(silent_port: int) -> None:
    start = time.monotonic()
    with pytest.raises(ServingError) as caught:
        TritonSynthesizer(f"127.0.0.1:{silent_port}", timeouts=Timeouts(connect=0.5))
    assert caught.value.retryable
    assert str(silent_port) in str(caught.value)
    assert 0.4 < time.monotonic() - start < 3


def test_a_request_that_is_never_answered(silent_port: int) -> None:
    transport = GrpcTransport(f"127.0.0.1:{silent_port}")
    label_maps = np.zeros((1, 16, 16), np.uint8)
    start = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        transport.infer("synthesis", {"label_map": label_maps}, "image", timeout=0.5)
    assert time.monotonic() - start < 3
    transport.close()


def test_a_port_that_speaks_another_protocol(silent_port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for _ in range(2):
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        transport = GrpcTransport(f"127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(ServingError):
            transport.model_config("synthesis", timeout=1)
        transport.close()


def test_a_closed_connection(unused_port: int) -> None:
    transport = GrpcTransport(f"127.0.0.1:{unused_port}")
    transport.close()
    transport.close()
    with pytest.raises(ServerUnavailableError, match="was closed"):
        transport.model_config("synthesis", timeout=1)
    with pytest.raises(ServerUnavailableError, match="was closed"):
        transport.infer("synthesis", {}, "image", timeout=1)


@pytest.mark.parametrize("url", [None, 8001, b"127.0.0.1:8001", ("127.0.0.1:8001",)])
def test_an_address_is_a_text(url: Any) -> None:
    for ask in (TritonSynthesizer, connect, HttpTransport):
        with pytest.raises(InputError, match="where the address of a server, a text, belongs"):
            ask(url)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"model": None}, "NoneType where the name of the model"),
        ({"timeouts": 5.0}, "float where an object of Timeouts"),
        ({"timeouts": {}}, "dict where an object of Timeouts"),
        ({"transport": 5}, "int where the name of a transport"),
    ],
)
def test_arguments_of_another_type_are_named(named: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        TritonSynthesizer("127.0.0.1:8001", **named)


@pytest.mark.parametrize("seconds", ["3", None, True])
def test_a_timeout_is_a_number(seconds: Any) -> None:
    with pytest.raises(InputError, match=r"^the infer timeout is .*a number"):
        Timeouts(infer=seconds)


def test_an_http_address_where_only_grpc_goes() -> None:
    with pytest.raises(InputError, match=r"HOST:PORT of its gRPC port.*http:// is another port"):
        GrpcTransport("http://127.0.0.1:8000")
