"""HTTP against sockets that say exactly what a test wants: the protocol's bytes, and wrong ones."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from sceneloom.errors import (
    DeadlineExceededError,
    InputError,
    ModelFailedError,
    ModelNotFoundError,
    QueueFullError,
    RequestRejectedError,
    ServerUnavailableError,
    ServingError,
)
from sceneloom.triton.http_transport import HttpTransport

INPUTS = {"a": np.arange(6, dtype=np.uint8).reshape(1, 2, 3), "b": np.array([[-1]], np.int32)}


class ScriptedServer:
    """Gives its answers in order, one to each request, and keeps the requests."""

    def __init__(self, listener: socket.socket, answers: list[bytes]) -> None:
        self.answers = answers
        self.requests: list[bytes] = []
        self.connections = 0
        self._listener = listener
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while self.answers:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                while self.answers and (request := _read_request(connection)):
                    self.requests.append(request)
                    answer = self.answers.pop(0)
                    connection.sendall(answer)
                    if b"keep-alive" not in answer:
                        break


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    fields = head.lower().split(b"\r\ncontent-length: ")
    length = int(fields[1].split(b"\r\n")[0]) if len(fields) > 1 else 0
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


Serve = Callable[..., tuple[ScriptedServer, HttpTransport]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def start(*answers: bytes) -> tuple[ScriptedServer, HttpTransport]:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            return ScriptedServer(listener, list(answers)), HttpTransport(url)

        yield start


def answer(body: bytes, header_length: int | str | None = None, status: str = "200 OK") -> bytes:
    length = (
        "" if header_length is None else f"Inference-Header-Content-Length: {header_length}\r\n"
    )
    head = f"HTTP/1.1 {status}\r\nConnection: keep-alive\r\n{length}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def output(
    data: bytes, shape: list[int], datatype: str = "UINT8", name: str = "image", size: int = -1
) -> bytes:
    """An answer with one output."""
    parameters = {"binary_data_size": len(data) if size < 0 else size}
    described = {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}
    header = json.dumps({"model_name": "m", "outputs": [described]}).encode()
    return answer(header + data, len(header))


def refusal(status: str, error: str) -> bytes:
    return answer(json.dumps({"error": error}).encode(), status=status)


def infer(transport: HttpTransport, timeout: float = 5) -> np.ndarray:
    return transport.infer("m", INPUTS, "image", timeout=timeout)


def test_the_bytes_of_a_request(serve: Serve) -> None:
    server, transport = serve(output(b"\x01\x02", [2, 1]))
    assert infer(transport).tolist() == [[1], [2]]
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    fields = head.decode().split("\r\n")
    assert fields[0] == "POST /v2/models/m/infer HTTP/1.1"
    header = (
        b'{"inputs": [{"name": "a", "shape": [1, 2, 3], "datatype": "UINT8", '
        b'"parameters": {"binary_data_size": 6}}, {"name": "b", "shape": [1, 1], '
        b'"datatype": "INT32", "parameters": {"binary_data_size": 4}}], '
        b'"outputs": [{"name": "image", "parameters": {"binary_data": true}}]}'
    )
    assert body == header + b"\x00\x01\x02\x03\x04\x05" + b"\xff\xff\xff\xff"
    assert f"Inference-Header-Content-Length: {len(header)}" in fields
    assert f"Content-Length: {len(body)}" in fields
    transport.close()


def test_bytes_in_and_out(serve: Serve) -> None:
    data = b"\x02\x00\x00\x00hi\x00\x00\x00\x00"
    server, transport = serve(output(data, [2], "BYTES"))
    files = np.array([[b"png"], [b""]], np.object_)
    got = transport.infer("m", {"files": files}, "image", timeout=5)
    assert got.dtype == np.object_
    assert got.tolist() == [b"hi", b""]
    assert server.requests[0].endswith(b"\x03\x00\x00\x00png\x00\x00\x00\x00")
    transport.close()


def test_names_are_quoted(serve: Serve) -> None:
    server, transport = serve(refusal("404 Not Found", "unknown"))
    with pytest.raises(ModelNotFoundError):
        transport.infer("a/b c?", INPUTS, "image", timeout=5)
    assert server.requests[0].startswith(b"POST /v2/models/a%2Fb%20c%3F/infer ")
    transport.close()


def test_a_connection_is_kept_and_replaced_when_the_server_closed_it(serve: Serve) -> None:
    good = output(b"\x07", [1])
    last = good.replace(b"keep-alive", b"close")
    server, transport = serve(good, refusal("400 Bad Request", "no"), good, last, good)
    results: list[object] = []
    for _ in range(5):
        try:
            results.append(infer(transport).tolist())
        except ServingError as error:
            results.append(type(error))
        time.sleep(0.02)  # until the end of the connection has arrived
    assert results == [[7], RequestRejectedError, [7], [7], [7]]
    assert server.connections == 2
    transport.close()
    with pytest.raises(ServerUnavailableError, match="was closed"):
        infer(transport)
    transport.close()


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        ("503 Service Unavailable", "Exceeds maximum queue size", QueueFullError),
        ("503 Service Unavailable", "anything", ServerUnavailableError),
        ("502 Bad Gateway", "", ServerUnavailableError),
        ("429 Too Many Requests", "", ServerUnavailableError),
        ("504 Gateway Timeout", "", DeadlineExceededError),
        ("500 Internal Server Error", "broken", ModelFailedError),
        ("404 Not Found", "Request for unknown model: 'm' is not found", ModelNotFoundError),
        ("400 Bad Request", "wrong", RequestRejectedError),
        ("401 Unauthorized", "who?", RequestRejectedError),
        ("413 Payload Too Large", "", RequestRejectedError),
        ("501 Not Implemented", "", RequestRejectedError),
        ("302 Found", "", ModelFailedError),
    ],
)
def test_statuses(serve: Serve, status: str, text: str, kind: type[ServingError]) -> None:
    _, transport = serve(refusal(status, text))
    with pytest.raises(ServingError, match=r"^http://127\.0\.0\.1:\d+, model 'm': ") as caught:
        infer(transport)
    assert type(caught.value) is kind
    assert text in str(caught.value) or kind is DeadlineExceededError
    transport.close()


def test_an_error_that_is_not_json(serve: Serve) -> None:
    _, transport = serve(answer(b"<html>\nproxy", status="503 Service Unavailable"))
    with pytest.raises(ServerUnavailableError, match="HTTP status 503 <html>"):
        infer(transport)
    transport.close()


def test_refused_before_the_request_was_read(serve: Serve) -> None:
    """A server with a limit on a request's size answers and closes, unread bytes or not."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(refusal("413 Payload Too Large", "over the limit"))
                connection.shutdown(socket.SHUT_WR)
                time.sleep(0.3)

        thread = threading.Thread(target=refuse)
        thread.start()
        transport = HttpTransport(f"http://127.0.0.1:{listener.getsockname()[1]}")
        big = {"a": np.zeros((1, 50_000_000), np.uint8)}
        with pytest.raises((RequestRejectedError, ServerUnavailableError)):
            transport.infer("m", big, "image", timeout=5)
        thread.join()
        transport.close()


def damaged(datatype: str = "UINT8", shape: object = (2,), header: bytes | None = None) -> bytes:
    parameters = {"binary_data_size": 2}
    described = {"name": "image", "datatype": datatype, "shape": shape, "parameters": parameters}
    header = header or json.dumps({"outputs": [described]}).encode()
    return answer(header + b"\x01\x02", len(header))


@pytest.mark.parametrize(
    "answer_bytes",
    [
        output(b"\x01", [1], name="other"),
        output(b"\x01", [2]),
        output(b"\x01\x02\x03", [2]),
        output(b"\x01", [10**6, 10**6, 10**6], size=1),
        output(b"\x05\x00\x00\x00hi", [1], "BYTES"),
        damaged(datatype="FP64"),
        damaged(shape=None),
        damaged(shape=["x"]),
        damaged(shape=[-2]),
        damaged(header=b"{"),
        damaged(header=b"[]"),
        damaged(header=b'{"outputs": []}'),
        answer(b"{}"),
        answer(b"{}", "many"),
        answer(b"{}", -3),
        answer(b"{}", 10**12),
    ],
)
def test_answers_without_a_whole_output(serve: Serve, answer_bytes: bytes) -> None:
    _, transport = serve(answer_bytes)
    with pytest.raises(ModelFailedError, match="answered without a whole output 'image'"):
        infer(transport)
    transport.close()


@pytest.mark.parametrize(
    "answer_bytes",
    [
        b"",
        b"\x00\x01",
        b"220 mail.example.org ESMTP\r\n",
        output(bytes(1000), [1000])[:-1],
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    ],
)
def test_answers_that_break_off_or_are_not_http(serve: Serve, answer_bytes: bytes) -> None:
    _, transport = serve(answer_bytes.replace(b"keep-alive", b"close"))
    with pytest.raises(ServerUnavailableError, match="not reachable, starting or stopping"):
        infer(transport)
    transport.close()


def test_chunked_answers(serve: Serve) -> None:
    whole = output(bytes(range(200)), [200])
    head, _, body = whole.partition(b"\r\n\r\n")
    fields = [f for f in head.split(b"\r\n") if not f.startswith(b"Content-Length")]
    pieces = [body[i : i + 60] for i in range(0, len(body), 60)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    chunked = b"\r\n".join([*fields, b"Transfer-Encoding: chunked"]) + b"\r\n\r\n"
    _, transport = serve(chunked + chunks + b"0\r\n\r\n", whole)
    for _ in range(2):
        assert infer(transport).tolist() == list(range(200))
    transport.close()


@pytest.mark.parametrize("pause_after", [0, 20, 250])
def test_the_deadline_holds_however_slowly_an_answer_comes(pause_after: int) -> None:
    whole = output(bytes(3 << 20), [3 << 20])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        enough = threading.Event()

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                _read_request(connection)
                connection.sendall(whole[:pause_after])
                for start in range(pause_after, len(whole), 1 << 20):
                    if enough.wait(0.25):
                        return
                    connection.sendall(whole[start : start + (1 << 20)])

        thread = threading.Thread(target=drip)
        thread.start()
        transport = HttpTransport(f"http://127.0.0.1:{listener.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(DeadlineExceededError):
            infer(transport, timeout=0.4)
        assert 0.3 < time.monotonic() - start < 3
        enough.set()
        thread.join()
        transport.close()


def test_nothing_listens() -> None:
    transport = HttpTransport("http://127.0.0.1:1")
    with pytest.raises(ServerUnavailableError, match="Connection refused"):
        transport.model_config("m", timeout=2)
    transport.close()


def test_no_such_host() -> None:
    transport = HttpTransport("http://nowhere.invalid:8000")
    with pytest.raises(ServerUnavailableError):
        transport.model_config("m", timeout=5)
    transport.close()


CONFIG = (
    b'{"max_batch_size":4,"input":[{"name":"x","data_type":"TYPE_STRING","dims":[1]}],"output":'
    b'[{"name":"y","data_type":"TYPE_UINT8","dims":["-1",3]}],"parameters":{"k":{"string_value":"v"}}'
)


def test_the_configuration(serve: Serve) -> None:
    metadata = answer(b'{"name":"m","versions":["2","10","9"]}')
    batching = answer(CONFIG + b',"dynamic_batching":{}}')
    _, transport = serve(batching, metadata, answer(CONFIG + b"}"), answer(b"{}"))
    config = transport.model_config("m", timeout=5)
    assert (config.max_batch_size, config.version, config.dynamic_batching) == (4, "10", True)
    assert config.parameters == {"k": "v"}
    assert (config.inputs["x"].dtype, config.inputs["x"].dims) == ("BYTES", (1,))
    assert config.outputs["y"].dims == (-1, 3)
    config = transport.model_config("m", timeout=5)
    assert (config.version, config.dynamic_batching) == ("", False)
    transport.close()


@pytest.mark.parametrize("config", [b"{}", b"[]", b"{", b'{"input":[{}],"output":[]}', b"1"])
def test_a_configuration_that_is_none(serve: Serve, config: bytes) -> None:
    _, transport = serve(answer(config), answer(b"{}"))
    with pytest.raises(ModelFailedError, match="the configuration of model 'm' is not one"):
        transport.model_config("m", timeout=5)
    transport.close()


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "http://x", "http://x:1//", ""])
def test_addresses_of_another_form(url: str) -> None:
    with pytest.raises(InputError, match="http://HOST:PORT"):
        HttpTransport(url)


def test_a_model_that_is_not_found_is_looked_for_in_the_repository(serve: Serve) -> None:
    unknown = refusal("404 Not Found", "Request for unknown model: 'm' is not found")
    index = answer(b'[{"name": "other", "state": "READY"}]')
    away = answer(b'[{"name": "m", "state": "UNAVAILABLE", "reason": "unloaded"}]')
    stopping = refusal("503 Service Unavailable", "Server not ready")
    refused = refusal("403 Forbidden", "not allowed")
    server, transport = serve(unknown, index, unknown, away, unknown, stopping, unknown, refused)
    with pytest.raises(ModelNotFoundError, match="is not found; the server has other"):
        transport.model_config("m", timeout=5)
    assert server.requests[1].startswith(b"POST /v2/repository/index HTTP/1.1")
    with pytest.raises(ServerUnavailableError, match="does not serve it: UNAVAILABLE unloaded"):
        transport.model_config("m", timeout=5)
    with pytest.raises(ServerUnavailableError, match="Server not ready"):
        transport.model_config("m", timeout=5)
    with pytest.raises(ModelNotFoundError, match=r"is not found$"):
        transport.model_config("m", timeout=5)
    transport.close()


def test_a_port_that_does_not_speak_http_is_called_so(serve: Serve) -> None:
    _, transport = serve(b"\x00\x00\x12\x04" * 50)
    with pytest.raises(
        ServerUnavailableError, match="the answer is not HTTP; write the address of a gRPC port"
    ):
        infer(transport)
    transport.close()
