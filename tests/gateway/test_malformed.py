"""Malformed requests and uploads by the hundred: no crash, bounded memory, the right status, and
good requests beside them answered.

    pytest tests/gateway/test_malformed.py -m soak     # 5,000 of them
"""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import httpx
import psutil
import pytest
from gateways import Gateway, StartGateway, Triton, contract, serve_fake

from sceneloom.testing import FakeTransport

ROUTE = b"/v1/synthesize"
CLIENTS = 8
IDLE = 200
MOST_GROWTH = 150 << 20
Case = tuple[str, bytes, set[int]]
"""Name, bytes to send, and the right statuses; 0 is an end without an answer."""


def post(body: bytes, *headers: bytes, path: bytes = ROUTE, length: int | None = None) -> bytes:
    lines = [
        b"POST " + path + b" HTTP/1.1",
        b"Host: x",
        b"Content-Length: %d" % (len(body) if length is None else length),
        *headers,
    ]
    return b"\r\n".join([*lines, b"", body])


def form(**fields: bytes) -> bytes:
    parts = [
        b'--xx\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
        % (
            name.encode(),
            b'; filename="a.png"' if name in ("label", "instances") else b"",
            value,
        )
        for name, value in fields.items()
    ]
    kind = b"Content-Type: multipart/form-data; boundary=xx"
    return post(b"".join(parts) + b"--xx--\r\n", kind)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(width: int, height: int, pixels: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


IMAGE = b"Content-Type: image/png"
ZEROS = zlib.compress(bytes(4_000_000), 9)


def malformed(rng: random.Random, maps: dict[str, bytes]) -> Iterator[Case]:
    """Endless malformed requests, of every kind in turn."""
    label, instances = maps["label"], maps["instances"]

    def damaged(data: bytes) -> bytes:
        where = rng.randrange(8, len(data) - 4)
        kind = rng.randrange(3)
        if kind == 0:
            return data[:where]
        if kind == 1:
            return data[:where] + rng.randbytes(4) + data[where + 4 :]
        return data[:where] + rng.randbytes(rng.randrange(1, 50)) + data[where:]

    def side() -> int:
        return rng.choice((0, 1, 65_535, 2**31 - 1, 2**31, 2**32 - 1))  # as int32: negative ones

    def deep() -> bytes:
        depth = rng.randrange(1000, 20_000)
        return rng.choice((b"[" * depth, b'{"1":' * depth, b"[" * depth + b"]" * depth))

    makers: list[Callable[[], Case]] = [
        lambda: ("noise", rng.randbytes(rng.randrange(1, 300)) + b"\r\n\r\n", {400, 0}),
        lambda: ("no version", b"GET /" + rng.randbytes(3).hex().encode() + b"\r\n\r\n", {400}),
        lambda: ("method", b"G\x00T / HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
        lambda: ("no host", b"GET /healthz HTTP/1.1\r\n\r\n", {400}),
        lambda: ("long header", b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 99_999, {431}),
        lambda: ("length", post(b"", IMAGE, length=-rng.randrange(1, 99)), {400}),
        lambda: ("two lengths", post(b"abc", IMAGE, b"Content-Length: 5"), {400}),
        lambda: ("announced", post(b"", IMAGE, length=rng.randrange(10**6, 10**15)), {413}),
        lambda: (
            "chunks",
            b"POST " + ROUTE + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: image/png\r\n\r\n"
            + rng.choice((b"zz\r\n", b"-1\r\n", b"5\r\nabcdefgh")),
            {400},
        ),
        lambda: ("slow body", post(label[:20], IMAGE, length=len(label)), {408}),
        lambda: ("slow header", b"POST " + ROUTE + b" HTTP/1.1\r\nHost: x\r\nX-A: ", {0}),
        lambda: ("no picture", post(rng.randbytes(50), IMAGE), {415}),
        lambda: ("damaged label", form(label=damaged(label), instances=instances), {200, 422, 413}),
        lambda: ("damaged form", form(label=label)[:-9] + rng.randbytes(9), {400, 422}),
        lambda: ("sizes", form(label=raw_png(side(), side(), ZEROS[:99])), {413, 422}),
        lambda: ("bomb", form(label=raw_png(30_000, 30_000, ZEROS), instances=instances), {413}),
        lambda: ("small bomb", form(label=raw_png(64, 48, ZEROS), instances=instances), {200, 422}),
        lambda: ("deep", form(label=label, instances=instances, style=deep()), {400, 422}),
        lambda: ("fields", form(**{f"f{n}": b"" for n in range(20)}), {400}),
        lambda: ("long field", form(label=label, style=bytes(100_000)), {400}),
        lambda: (
            "media type",
            post(b"{}", b"Content-Type: " + rng.randbytes(4).hex().encode()),
            {415},
        ),
        lambda: (
            "negative size",
            post(json.dumps({"inputs": [{"shape": [-1, -5]}]}).encode(), b"Content-Type: a/json"),
            {415},
        ),
        lambda: (
            "path",
            post(
                b"", path=rng.choice((b"/../../etc/passwd", b"/v2/models", b"/%2e%2e/x", b"/\xff"))
            ),
            {400, 404},
        ),
        lambda: (
            "accept",
            post(label, IMAGE, b"Accept: image/png;q=" + rng.randbytes(3).hex().encode()),
            {400, 406, 422},
        ),
        lambda: ("unknown key", post(label, b"Authorization: Bearer " + b"\xff" * 50), {400, 415}),
    ]
    while True:
        for make in makers:
            yield make()


def ask(port: int, data: bytes) -> int:
    """Send bytes and return the status of the answer, 0 for an end without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as one:
        answer = b""
        with suppress(ConnectionResetError, BrokenPipeError):
            one.sendall(data)
            while b"\r\n\r\n" not in answer and (piece := one.recv(4096)):
                answer += piece
    return int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def attack(gateway: Gateway, triton: Triton, maps: dict[str, bytes], count: int) -> None:
    process = psutil.Process(gateway.process.pid)
    cases = malformed(random.Random(22), maps)
    lock, wrong, seen = threading.Lock(), [], Counter[str]()
    left, end = count, threading.Event()

    def send() -> None:
        nonlocal left
        while True:
            with lock:
                if left <= 0:
                    return
                left -= 1
                name, data, right = next(cases)
            status = ask(gateway.port, data)
            with lock:
                seen[name] += 1
                if status not in right:
                    wrong.append((name, status, data[:200]))

    good: list[tuple[int, float]] = []

    def be_good() -> None:
        with httpx.Client(base_url=gateway.url, timeout=30, trust_env=False) as client:
            while not end.is_set():
                began = time.monotonic()
                answer = client.post(ROUTE.decode(), files=maps)
                good.append((answer.status_code, time.monotonic() - began))
                time.sleep(0.05)

    for _ in range(30):  # what every gateway has in memory
        ask(gateway.port, next(cases)[1])
    before = process.memory_info().rss
    with ExitStack() as stack:
        address = ("127.0.0.1", gateway.port)
        for _ in range(IDLE):
            stack.enter_context(socket.create_connection(address, timeout=10))
        threads = [threading.Thread(target=send) for _ in range(CLIENTS)]
        threads.append(threading.Thread(target=be_good))
        for thread in threads:
            thread.start()
        for thread in threads[:-1]:
            thread.join()
        end.set()
        threads[-1].join()
    assert wrong == []
    assert len(seen) == 25
    assert {status for status, _ in good} == {200}
    assert max(seconds for _, seconds in good) < 10
    assert process.memory_info().rss - before < MOST_GROWTH
    assert process.num_fds() < IDLE
    assert "Traceback" not in gateway.log_path.read_text("utf-8")
    for inputs in triton.transport.requests:  # whole maps alone
        for array in inputs.values():
            assert min(array.shape) > 0


@pytest.fixture
def attacked(start_gateway: StartGateway) -> Iterator[tuple[Gateway, Triton]]:
    with ExitStack() as stack:
        triton = serve_fake(stack, FakeTransport(contract()))
        flags = ("--max-bytes", "300000", "--max-pixels", "40000", "--most-requests", "64")
        slow = ("--body-seconds", "1", "--header-seconds", "1")
        yield start_gateway(*flags, *slow, url=triton.url), triton


def test_malformed_requests_harm_nobody(
    attacked: tuple[Gateway, Triton], maps: dict[str, bytes]
) -> None:
    attack(*attacked, maps, 500)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_five_thousand_malformed_requests_harm_nobody(
    attacked: tuple[Gateway, Triton], maps: dict[str, bytes]
) -> None:
    attack(*attacked, maps, 5000)
