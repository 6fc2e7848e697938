"""HTTP with tensors as binary data: Triton's extension of the KServe protocol, version 2.

Request and answer are a JSON header, whose length is in a header field, and the tensors' bytes in
its order. The standard library's client sends and fills tensors without a copy; tritonclient's own
(over geventhttpclient) works in one thread only.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import select
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from sceneloom import tracing
from sceneloom.contract import ENGINE_PARAMETER
from sceneloom.maps import Array
from sceneloom.text import parse_json
from sceneloom.triton.access import Access
from sceneloom.triton.transport import (
    NUMPY_DTYPES,
    TRITON_DTYPES,
    WRONG_FORM,
    Arrays,
    Document,
    TritonTransport,
    map_triton_error,
    server_address,
)

_PIECE = 1 << 20
_HEADER_LENGTH = "Inference-Header-Content-Length"
_LONGEST_JSON = 1 << 24
_STATUSES = {  # HTTP -> gRPC
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    413: "RESOURCE_EXHAUSTED",
    429: "UNAVAILABLE",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class HttpConnection:
    """Connection for one exchange after the other; for one thread at a time."""

    def __init__(self, host: str, port: int) -> None:
        self._http = http.client.HTTPConnection(host, port)
        self._deadline = 0.0
        self._answer: http.client.HTTPResponse | None = None

    def exchange(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        parts: Sequence[bytes | memoryview],
        deadline: float,
    ) -> http.client.HTTPResponse:
        """Send a request and read the status and header fields of its answer.

        The body is given in pieces; its length joins the header fields. The deadline, of
        `time.monotonic`, is for this and for reading the answer. Raises TimeoutError after it,
        OSError if the server is not reachable or went away, HTTPException if the answer is not
        HTTP.
        """
        self._deadline, self._answer = deadline, None
        if self._http.sock is None:
            self._http.timeout = self._left()
            self._http.connect()
        # With an answer that closes the connection, http.client forgets the socket before the
        # answer's body is read.
        self._socket = self._http.sock
        self._socket.settimeout(self._left())
        self._http.putrequest(method, path)
        for name, value in headers.items():
            self._http.putheader(name, value)
        self._http.putheader("Content-Length", str(sum(len(part) for part in parts)))
        self._http.endheaders()
        # A server that refuses a request may close the connection before it has read it all, and
        # have said why.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for part in parts:
                self._socket.settimeout(self._left())
                self._http.send(part)
        self._socket.settimeout(self._left())
        self._answer = self._http.getresponse()
        return self._answer

    def read(self, limit: int) -> bytes:
        """Read the rest of the answer's body; raises HTTPException if it has more than `limit`
        bytes or ends too early, OSError as `exchange`.
        """
        assert self._answer is not None, "no exchange yet"
        read = bytearray()
        while not self._answer.isclosed():
            self._socket.settimeout(self._left())
            piece = self._answer.read(_PIECE)
            if not piece:
                break
            read += piece
            if len(read) > limit:
                raise http.client.HTTPException(f"an answer of more than {limit:,} bytes")
        if self._answer.length:
            raise http.client.IncompleteRead(b"", self._answer.length)
        return bytes(read)

    def read_into(self, buffer: memoryview) -> None:
        """Fill a buffer of bytes from the answer's body; raises HTTPException if that ends too
        early, OSError as `exchange`.
        """
        assert self._answer is not None, "no exchange yet"
        filled = 0
        while filled < len(buffer):
            self._socket.settimeout(self._left())
            count = self._answer.readinto(buffer[filled : filled + _PIECE])
            if not count:
                raise http.client.IncompleteRead(b"", len(buffer) - filled)
            filled += count

    def is_reusable(self) -> bool:
        """Whether the answer was read to its end and the connection is still open."""
        if self._answer is None or not self._answer.isclosed() or self._http.sock is None:
            return False
        # Between answers a socket is readable only if the server has closed it.
        readable, _, _ = select.select([self._http.sock], [], [], 0)
        return not readable

    def close(self) -> None:
        """Close it; a second call does nothing."""
        self._http.close()

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        return left


class HttpTransport(TritonTransport):
    """HTTP to a Triton server; safe to use from several threads: each request in flight has a
    connection of its own, kept for the next.
    """

    def __init__(self, url: str, *, why: str = "requested", access: Access | None = None) -> None:
        """Prepare a connection to ``http://HOST:PORT``; the first call opens it. Raises InputError
        for an address of another form.
        """
        _, address = server_address(url, "http")
        super().__init__(f"http://{address}", "http", why)
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._headers = dict(access.headers) if access is not None else {}
        self._idle: list[HttpConnection] = []
        self._lock = threading.Lock()

    def _read(self, what: Document, model: str, deadline: float) -> Any:
        path = f"/v2/models/{quote(model, safe='')}" + ("/config" if what == "config" else "")
        asked = ("POST", "/v2/repository/index", [b"{}"])
        method, path, parts = asked if what == "index" else ("GET", path, [])
        with self._exchange(method, model, path, {}, parts, deadline) as (connection, _):
            data = connection.read(_LONGEST_JSON)
        return parse_json(data)

    def is_gateway(self, *, timeout: float) -> bool:
        """Whether a gateway listens at the address, not Triton; False without an answer."""
        connection = self._take()
        try:
            answer = connection.exchange(
                "GET", "/v1/model", self._headers, [], time.monotonic() + timeout
            )
            found = parse_json(connection.read(_LONGEST_JSON))
        except (OSError, http.client.HTTPException, ValueError):
            return False
        finally:
            connection.close()
        # A gateway refuses a client without a key by a problem document.
        known = answer.status == 200 or "problem" in answer.headers.get("Content-Type", "")
        return known and isinstance(found, dict) and not {"contract", "status"}.isdisjoint(found)

    def infer(
        self, model: str, inputs: Arrays, output: str, *, timeout: float, version: str = ""
    ) -> Array:
        """Send one request and wait for its output; see `Transport.infer`."""
        from tritonclient.utils import deserialize_bytes_tensor

        deadline = time.monotonic() + timeout
        parts = _request(inputs, output, self._engines.get(model))
        headers = {_HEADER_LENGTH: str(len(parts[0])), "Content-Type": "application/octet-stream"}
        chosen = f"/versions/{quote(version, safe='')}" if version else ""
        path = f"/v2/models/{quote(model, safe='')}{chosen}/infer"
        attributes = {"server.address": self.address}
        with (
            tracing.span("triton infer", attributes=attributes) as parent,
            self._exchange(
                *("POST", model, path),
                {**headers, **({tracing.HEADER: parent} if parent else {})},
                *(parts, deadline),
            ) as (connection, answer),
        ):
            self._answered.add(model)
            try:
                length = int(answer.headers.get(_HEADER_LENGTH, ""))
                if not 0 < length <= _LONGEST_JSON:
                    raise ValueError("a header of such a length")
                header = bytearray(length)
                connection.read_into(memoryview(header))
                (described,) = parse_json(header)["outputs"]
                shape, size = described["shape"], described["parameters"]["binary_data_size"]
                if described["name"] != output:
                    raise KeyError(output)
                dtype = NUMPY_DTYPES[described["datatype"]]
                if dtype == np.object_:
                    data = connection.read(size)
                    array: Array = deserialize_bytes_tensor(data).reshape(shape)
                elif size != math.prod(shape) * dtype.itemsize:
                    raise ValueError("as many bytes as the shape says")
                else:
                    array = np.empty(shape, dtype)
                    connection.read_into(_bytes_of(array))
                connection.read(0)
            except WRONG_FORM:
                raise self._no_output(model, output) from None
        return array

    def close(self) -> None:
        """Close the connections; later calls raise ServerUnavailableError."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @contextlib.contextmanager
    def _exchange(
        self,
        method: str,
        model: str,
        path: str,
        headers: Mapping[str, str],
        parts: Sequence[bytes | memoryview],
        deadline: float,
    ) -> Iterator[tuple[HttpConnection, http.client.HTTPResponse]]:
        """Send a request about a model; the answer has the status 200, its body is to be read."""
        connection = self._take()
        try:
            answer = connection.exchange(
                method, path, {**self._headers, **headers}, parts, deadline
            )
            if answer.status != 200:
                text = connection.read(_LONGEST_JSON).decode(errors="replace")
                words = f"HTTP status {answer.status} {text}".strip()
                with contextlib.suppress(*WRONG_FORM):
                    words = str(parse_json(text)["error"])
                unknown = "INVALID_ARGUMENT" if 400 <= answer.status < 500 else "UNKNOWN"
                status = _STATUSES.get(answer.status, unknown)
            else:
                status = words = ""
                yield connection, answer
        except TimeoutError:
            status, words = "DEADLINE_EXCEEDED", ""
        except (OSError, http.client.HTTPException) as error:
            status = "UNAVAILABLE"
            words = getattr(error, "strerror", None) or str(error) or type(error).__name__
            if isinstance(error, http.client.BadStatusLine) and not isinstance(error, OSError):
                words = "the answer is not HTTP; write the address of a gRPC port without http://"
        finally:
            with self._lock:
                if not self._closed and connection.is_reusable():
                    self._idle.append(connection)
                else:
                    connection.close()
        if status:
            raise map_triton_error(
                status,
                words,
                where=f"{self.address}, model {model!r}",
                seen_ready=model in self._answered,
            )

    def _take(self) -> HttpConnection:
        with self._lock:
            self._check_open()
            while self._idle:
                connection = self._idle.pop()
                if connection.is_reusable():
                    return connection
                connection.close()
        return HttpConnection(self._host, self._port)


def _request(inputs: Arrays, output: str, engine: str | None) -> list[bytes | memoryview]:
    """The body of a request: its JSON header, then each input's bytes."""
    from tritonclient.utils import serialize_byte_tensor

    described, parts = [], []
    for name, array in inputs.items():
        datatype = TRITON_DTYPES[array.dtype]
        if datatype == "BYTES":
            serialized = serialize_byte_tensor(array)
            data = memoryview(serialized.item() if serialized.size else b"")
        else:
            data = _bytes_of(np.ascontiguousarray(array))
        parts.append(data)
        described.append(
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": datatype,
                "parameters": {"binary_data_size": len(data)},
            }
        )
    wanted = [{"name": output, "parameters": {"binary_data": True}}]
    header: dict[str, Any] = {"inputs": described, "outputs": wanted}
    if engine:
        header["parameters"] = {ENGINE_PARAMETER: engine}
    return [json.dumps(header).encode(), *parts]


def _bytes_of(array: Array) -> memoryview:
    """The bytes of a contiguous array, not copied."""
    return array.reshape(-1).view(np.uint8).data
