"""Slow, half-sent, oversized and wrong requests; TLS; the end of a gateway."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
import trustme
from gateways import Gateway, StartGateway, Triton, contract, serve_fake
from support import run_command

from sceneloom import errors
from sceneloom.maps import Array
from sceneloom.testing import FakeTransport

ROUTE = "/v1/synthesize"


def connect(gateway: Gateway) -> socket.socket:
    return socket.create_connection(("127.0.0.1", gateway.port), timeout=10)


def test_half_sent_headers_end_the_connection_and_others_are_answered(
    gateway: Gateway, client: httpx.Client
) -> None:
    start = time.monotonic()
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(gateway)) for _ in range(20)]
        for one in idle[10:]:
            one.sendall(b"POST /v1/synthesize HTTP/1.1\r\nHost: x\r\nX-A: ")
        again = stack.enter_context(connect(gateway))
        again.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"alive\n"):
            answer += again.recv(4096)
        again.sendall(b"GET /healthz HT")  # a second header on the same connection
        drip = stack.enter_context(connect(gateway))
        ended = 0.0
        for number in range(40):  # a byte now and then does not prolong the time
            try:
                drip.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: a" if not number else b"a")
                drip.settimeout(0.1)
                if not drip.recv(1):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        ended = time.monotonic() - start
        assert client.get("/healthz").status_code == 200
        assert 0.9 < ended < 3.5
        for one in [*idle, again]:
            one.settimeout(5)
            with suppress(ConnectionResetError):
                assert one.recv(1) == b""


def test_a_slow_body_is_answered_408_and_the_connection_closed(gateway: Gateway) -> None:
    with connect(gateway) as slow:
        slow.sendall(
            b"POST /v1/synthesize HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            b"Content-Length: 1000\r\n\r\n\x89PNG"
        )
        answer = b""
        while piece := slow.recv(4096):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in answer.lower()


def test_a_large_body_is_refused_before_it_is_read(gateway: Gateway) -> None:
    for framing, body in (
        (b"Content-Length: 999999999999", b""),
        (b"Transfer-Encoding: chunked", b"50000\r\n" + bytes(0x50000) + b"\r\n"),
    ):
        with connect(gateway) as one:
            one.sendall(
                b"POST /v1/synthesize HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
                + framing
                + b"\r\n\r\n"
                + body
            )
            assert one.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_connection_too_many_is_answered_503(start_gateway: StartGateway) -> None:
    gateway = start_gateway("--most-connections", "2")
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(connect(gateway))
        time.sleep(0.2)
        answer = httpx.get(f"{gateway.url}/v1/model", trust_env=False)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["type"] == "urn:sceneloom:TooManyConnections"
        assert answer.headers["content-type"] == "application/problem+json"
        assert (answer.headers["connection"], answer.headers["x-content-type-options"]) == (
            "close",
            "nosniff",
        )
    deadline = time.monotonic() + 5
    while httpx.get(f"{gateway.url}/healthz", trust_env=False).status_code != 200:
        assert time.monotonic() < deadline
    gateway.logged(problem="TooManyConnections")


def test_bytes_that_are_no_request_get_a_problem_document(gateway: Gateway) -> None:
    for sent, status in ((b"GET /\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nX: " + b"a" * 99_999, 431)):
        with connect(gateway) as one:
            one.sendall(sent)
            answer = b""
            with suppress(ConnectionResetError):
                while piece := one.recv(4096):
                    answer += piece
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.split()[1] == str(status).encode()
        assert b"content-security-policy: default-src 'none'" in head.lower()
        problem = json.loads(body)
        assert (problem["status"], problem["type"]) == (status, "urn:sceneloom:NoRequest")
        gateway.logged(request_id=problem["request_id"], status=status, client="127.0.0.1")
    assert "Invalid HTTP request" not in gateway.log_path.read_text("utf-8")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n\r\n",
        b"POST /v1/synthesize HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /v1/synthesize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    ],
)
def test_wrong_framing_is_answered_400_and_harms_nobody(
    gateway: Gateway, client: httpx.Client, request_bytes: bytes
) -> None:
    with connect(gateway) as one:
        one.sendall(request_bytes)
        one.settimeout(5)
        with suppress(ConnectionResetError):
            assert one.recv(4096).split()[1:2] in ([b"400"], [b"431"], [])
    assert client.get("/healthz").text == "alive\n"


def test_tls(start_gateway: StartGateway, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain, key, ca = (tmp_path / name for name in ("cert.pem", "key.pem", "ca.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(chain))
    certificate.private_key_pem.write_to_path(str(key))
    authority.cert_pem.write_to_path(str(ca))
    gateway = start_gateway("--tls-cert", chain, "--tls-key", key)
    assert gateway.url.startswith("https://127.0.0.1:")
    trusted = ssl.create_default_context(cafile=str(ca))
    answer = httpx.get(f"{gateway.url}/healthz", verify=trusted, trust_env=False)
    assert answer.text == "alive\n"
    assert "strict-transport-security" in answer.headers
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{gateway.url}/healthz", trust_env=False)
    old = ssl.create_default_context(cafile=str(ca))
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert httpx.get(f"{gateway.url}/healthz", verify=old, trust_env=False).status_code == 200


def test_an_answer_does_not_wait_for_acknowledgements(client: httpx.Client) -> None:
    times = []
    for _ in range(60):
        began = time.perf_counter()
        client.get("/healthz")
        times.append(time.perf_counter() - began)
    assert min(times[30:]) < 0.03  # 40 ms without TCP_NODELAY


def test_wrong_command_lines(triton: Triton, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no certificate")
    for flags, words in (
        (("--listen", "0.0.0.0:0"), "--keys"),
        (("--listen", "8080"), "HOST:PORT"),
        (("--tls-cert", wrong), "belong together"),
        (("--tls-cert", wrong, "--tls-key", wrong), "no certificate"),
        (("--keys", tmp_path / "none.json"), "gateway-keys add"),
        (("--triton", "127.0.0.1:1"), "not reachable"),
    ):
        done = run_command("gateway", "--triton", triton.url, "--listen", "127.0.0.1:0", *flags)
        assert (done.returncode in (1, 2), words in done.stderr) == (True, True), done.stderr
        assert "Traceback" not in done.stderr


class SlowTransport(FakeTransport):
    """Answers after the caller lets it."""

    go = threading.Event()
    reached = threading.Event()

    def infer(self, *arguments: object, **options: object) -> Array:  # type: ignore[override]
        self.reached.set()
        assert self.go.wait(30)
        return super().infer(*arguments, **options)  # type: ignore[arg-type]


def test_sigterm_lets_requests_in_work_end(
    start_gateway: StartGateway, maps: dict[str, bytes]
) -> None:
    with ExitStack() as stack:
        transport = SlowTransport(contract())
        transport.go.set()
        triton = serve_fake(stack, transport)
        gateway = start_gateway(url=triton.url)
        transport.go.clear()
        transport.reached.clear()
        answers: list[int] = []

        def ask() -> None:
            with httpx.Client(timeout=30, trust_env=False) as client:
                answers.append(client.post(gateway.url + ROUTE, files=maps).status_code)

        thread = threading.Thread(target=ask)
        thread.start()
        assert transport.reached.wait(20)
        gateway.process.terminate()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:  # no new connections
            try:
                connect(gateway).close()
            except OSError:
                break
            time.sleep(0.05)
        assert gateway.process.poll() is None
        transport.go.set()
        thread.join(30)
        assert answers == [200]
        assert gateway.process.wait(30) == 0


def test_a_lost_server_is_503_and_comes_back(
    start_gateway: StartGateway, maps: dict[str, bytes]
) -> None:
    with ExitStack() as stack:
        transport = FakeTransport(
            contract(),
            failures=[None, errors.RequestRejectedError("no"), errors.QueueFullError("full")],
        )
        triton = serve_fake(stack, transport)
        gateway = start_gateway("--timeouts.infer", "2", url=triton.url)
        with httpx.Client(base_url=gateway.url, timeout=30, trust_env=False) as client:
            assert client.post(ROUTE, files=maps).status_code == 502
            assert client.post(ROUTE, files=maps).status_code == 200  # sent again
            assert client.get("/readyz").text == "ready\n"
            triton.stop()
            answer = client.post(ROUTE, files=maps)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert answer.json()["type"] == "urn:sceneloom:ServerUnavailableError"
            time.sleep(5.1)  # the last proof is old then
            assert client.get("/readyz").status_code == 503
            assert client.get("/healthz").status_code == 200


class ChangedTransport(FakeTransport):
    """Draws in other colours once its `change` is set."""

    change = 0

    def infer(self, *arguments: object, **options: object) -> Array:  # type: ignore[override]
        found = super().infer(*arguments, **options)  # type: ignore[arg-type]
        return found + np.uint8(self.change)


def test_a_changed_picture_makes_the_gateway_not_ready(start_gateway: StartGateway) -> None:
    with ExitStack() as stack:
        transport = ChangedTransport(contract())
        gateway = start_gateway(url=serve_fake(stack, transport).url)
        with httpx.Client(base_url=gateway.url, timeout=30, trust_env=False) as client:
            transport.change = 1  # rounding
            assert client.get("/readyz").text == "ready\n"
            transport.change = 10
            time.sleep(5.1)  # the last proof is old then
            answer = client.get("/readyz")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert "10.0 grey levels from its first picture" in answer.json()["detail"]
            transport.change = 0
            time.sleep(5.1)
            assert client.get("/readyz").text == "ready\n"


def test_another_server_stands_in(start_gateway: StartGateway, maps: dict[str, bytes]) -> None:
    with ExitStack() as stack:
        one, other = (serve_fake(stack, FakeTransport(contract())) for _ in range(2))
        gateway = start_gateway(other.url, url=one.url)
        with httpx.Client(base_url=gateway.url, timeout=30, trust_env=False) as client:
            for _ in range(4):
                assert client.post(ROUTE, files=maps).status_code == 200
            assert one.transport.requests
            assert other.transport.requests
            one.stop()
            for _ in range(4):
                assert client.post(ROUTE, files=maps).status_code == 200
