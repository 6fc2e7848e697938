"""gRPC's proxies: none on the way to this machine, and named where one was in between."""

from __future__ import annotations

import pytest
from fake_triton import Running

from sceneloom.contract import Contract
from sceneloom.errors import ServerUnavailableError
from sceneloom.schema import load_schema
from sceneloom.triton.client import TritonSynthesizer
from sceneloom.triton.grpc_transport import GrpcTransport, is_loopback, proxy_words

CONTRACT = Contract(schema=load_schema("cityscapes"), boundaries=False, size_multiple=8)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", ["grpc_proxy", "https_proxy", "http_proxy"])
def test_this_machine_is_reached_without_a_proxy(
    start_server: object, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    running: Running = start_server(CONTRACT)  # type: ignore[operator]
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    port = running.url.partition(":")[2]
    for host in ("127.0.0.1", "localhost"):
        with TritonSynthesizer(f"{host}:{port}") as synthesizer:
            assert synthesizer.contract == CONTRACT


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:8001", True),
        ("127.1.2.3:8001", True),
        ("[::1]:8001", True),
        ("[::ffff:127.0.0.1]:8001", True),
        ("0.0.0.0:8001", True),
        ("LocalHost:8001", True),
        ("10.0.0.1:8001", False),
        ("[2001:db8::1]:8001", False),
        ("triton:8001", False),
        ("localhost.example.org:8001", False),
    ],
)
def test_addresses_of_this_machine(address: str, expected: bool) -> None:
    assert is_loopback(address) == expected


def test_a_proxy_in_between_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://bob:secret@127.0.0.1:9")
    transport = GrpcTransport("192.0.2.1:8001")
    with pytest.raises(ServerUnavailableError) as caught:
        transport.model_config("synthesis", timeout=20)
    transport.close()
    said = str(caught.value)
    assert "the proxy of http_proxy (127.0.0.1:9): no_proxy=192.0.2.1 leaves it out" in said
    assert "secret" not in said


@pytest.mark.parametrize("exception", ["triton", "example.org,triton", "*"])
def test_hosts_that_are_excepted(monkeypatch: pytest.MonkeyPatch, exception: str) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert "https_proxy" in proxy_words("triton:8001")
    monkeypatch.setenv("no_proxy", exception)
    assert proxy_words("triton:8001") == ""
    monkeypatch.setenv("no_proxy", "10.0.0.0/8")
    assert proxy_words("10.1.2.3:8001") == ""
    assert proxy_words("11.1.2.3:8001")
