"""HTTP with tensors as binary data: Triton's extension of the KServe protocol, version 2.

Request and answer are a JSON header, whose length is in a header field, and the tensors' bytes in
its order. The standard library's client is used: tensors go to and come from the socket without a
copy, and tritonclient's own (over geventhttpclient) can be used in one thread only.
"""

from __future__ import annotations

import contextlib
import json
import math
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http.client import BadStatusLine, HTTPException
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from sceneloom.contract import ENGINE_PARAMETER
from sceneloom.errors import (
    ConnectionClosedError,
    ModelFailedError,
    ModelNotFoundError,
    ServerUnavailableError,
    ServingError,
)
from sceneloom.http_connection import HttpConnection
from sceneloom.json_text import parse_json
from sceneloom.transport import (
    NUMPY_DTYPES,
    TRITON_DTYPES,
    ModelConfig,
    TensorSpec,
    explain_not_found,
    map_triton_error,
    served_version,
    server_address,
    status_of_http,
)

_HEADER_LENGTH = "Inference-Header-Content-Length"
_LONGEST_JSON = 1 << 24
_WRONG = (KeyError, TypeError, ValueError, AttributeError, OverflowError, struct.error)


class HttpTransport:
    """HTTP to a Triton server; safe to use from several threads: each request in flight has a
    connection of its own, which is kept for the next.
    """

    def __init__(self, url: str, *, why: str = "HTTP was asked for") -> None:
        """Prepare a connection; the first call opens it.

        Args:
            url: ``http://HOST:PORT`` of the server's HTTP port.
            why: why this is the way, for `why`.

        Raises:
            InputError: the address is of another form.
        """
        address = server_address(url, "http")
        host, _, port = address.rpartition(":")
        self._url = f"http://{address}"
        self._host, self._port = host.strip("[]"), int(port)
        self._why = why
        self._idle: list[HttpConnection] = []
        self._lock = threading.Lock()
        self._ready: set[str] = set()
        self._engines: dict[str, str] = {}
        self._closed = False

    @property
    def address(self) -> str:
        """``http://HOST:PORT``."""
        return self._url

    @property
    def kind(self) -> str:
        """``http``."""
        return "http"

    @property
    def why(self) -> str:
        """Why tensors travel so, in one sentence."""
        return self._why

    def model_config(self, model: str, *, timeout: float) -> ModelConfig:
        """Read a model's configuration; see `sceneloom.transport.Transport.model_config`."""
        deadline = time.monotonic() + timeout
        of_model = f"/v2/models/{quote(model, safe='')}"
        try:
            with self._exchange("GET", model, f"{of_model}/config", deadline) as connection:
                config = connection.read(_LONGEST_JSON)
            with self._exchange("GET", model, of_model, deadline) as connection:
                metadata = connection.read(_LONGEST_JSON)
        except ModelNotFoundError as error:
            raise explain_not_found(error, model, self._index(model, deadline)) from None
        self._ready.add(model)
        try:
            found = _model_config(parse_json(config), parse_json(metadata))
            self._engines[model] = found.parameters.get(ENGINE_PARAMETER, "")
            return found
        except _WRONG as error:
            raise ModelFailedError(
                f"{self._url}: the configuration of model {model!r} is not one "
                f"({type(error).__name__}: {error})"
            ) from None

    def infer(
        self, model: str, inputs: Mapping[str, npt.NDArray[Any]], output: str, *, timeout: float
    ) -> npt.NDArray[Any]:
        """Send one request and wait for its output; see `sceneloom.transport.Transport.infer`."""
        deadline = time.monotonic() + timeout
        parts = _request(inputs, output, self._engines.get(model))
        headers = {_HEADER_LENGTH: str(len(parts[0])), "Content-Type": "application/octet-stream"}
        path = f"/v2/models/{quote(model, safe='')}/infer"
        with self._exchange("POST", model, path, deadline, headers, parts) as connection:
            self._ready.add(model)
            try:
                return _read_output(connection, output)
            except _WRONG:
                raise ModelFailedError(
                    f"{self._url}: model {model!r} answered without a whole output {output!r}"
                ) from None

    def _index(self, model: str, deadline: float) -> dict[str, str]:
        """The models of the server's repository -> state and reason; empty where it does not say.

        Raises:
            ServerUnavailableError: it is stopping.
        """
        try:
            path = "/v2/repository/index"
            with self._exchange("POST", model, path, deadline, {}, [b"{}"]) as connection:
                models = parse_json(connection.read(_LONGEST_JSON))
            return {
                str(one["name"]): f"{one.get('state', '')} {one.get('reason', '')}".strip()
                for one in models
            }
        except ServerUnavailableError:
            raise
        except (ServingError, *_WRONG):
            return {}

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
        deadline: float,
        headers: Mapping[str, str] | None = None,
        parts: Sequence[bytes | memoryview] = (),
    ) -> Iterator[HttpConnection]:
        """Send a request about a model; the connection, once its answer's status says success and
        to be read from.
        """
        connection = self._take()
        try:
            connection.exchange(method, path, headers or {}, parts, deadline)
            if connection.status != 200:
                raise self._map(status_of_http(connection.status), _error_text(connection), model)
            yield connection
        except TimeoutError:
            connection.close()
            raise self._map("DEADLINE_EXCEEDED", "", model) from None
        except (OSError, HTTPException) as error:
            connection.close()
            text = getattr(error, "strerror", None) or str(error) or type(error).__name__
            if isinstance(error, BadStatusLine) and not isinstance(error, OSError):
                text = "what answers does not speak HTTP; a gRPC port is named without http://"
            raise self._map("UNAVAILABLE", text, model) from None
        except BaseException:
            self._give_back(connection)
            raise
        self._give_back(connection)

    def _take(self) -> HttpConnection:
        with self._lock:
            if self._closed:
                raise ConnectionClosedError(f"{self._url}: this connection was closed")
            while self._idle:
                connection = self._idle.pop()
                if connection.is_reusable():
                    return connection
                connection.close()
        return HttpConnection(self._host, self._port)

    def _give_back(self, connection: HttpConnection) -> None:
        with self._lock:
            if not self._closed and connection.is_reusable():
                self._idle.append(connection)
                return
        connection.close()

    def _map(self, status: str, message: str, model: str) -> ServingError:
        where = f"{self._url}, model {model!r}"
        return map_triton_error(status, message, where=where, seen_ready=model in self._ready)


def _request(
    inputs: Mapping[str, npt.NDArray[Any]], output: str, engine: str | None = None
) -> list[bytes | memoryview]:
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


def _read_output(connection: HttpConnection, output: str) -> npt.NDArray[Any]:
    """The one output of an answer; raises one of `_WRONG` where the answer is not whole."""
    from tritonclient.utils import deserialize_bytes_tensor

    length = int(connection.header(_HEADER_LENGTH))
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
        array: npt.NDArray[Any] = deserialize_bytes_tensor(connection.read(size)).reshape(shape)
    elif size != math.prod(shape) * dtype.itemsize:
        raise ValueError("as many bytes as the shape says")
    else:
        array = np.empty(shape, dtype)
        connection.read_into(_bytes_of(array))
    connection.read(0)
    return array


def _bytes_of(array: npt.NDArray[Any]) -> memoryview:
    """The bytes of a contiguous array, not copied."""
    return array.reshape(-1).view(np.uint8).data


def _error_text(connection: HttpConnection) -> str:
    """What an answer that is an error says."""
    text = connection.read(_LONGEST_JSON).decode(errors="replace")
    with contextlib.suppress(*_WRONG):
        return str(parse_json(text)["error"])
    return f"HTTP status {connection.status} {text}".strip()


def _model_config(config: Any, metadata: Any) -> ModelConfig:
    def specs(tensors: Any) -> dict[str, TensorSpec]:
        return {
            t["name"]: TensorSpec(
                dtype=t["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES"),
                dims=tuple(map(int, t["dims"])),
            )
            for t in tensors
        }

    return ModelConfig(
        parameters={k: v["string_value"] for k, v in config.get("parameters", {}).items()},
        max_batch_size=int(config.get("max_batch_size", 0)),
        inputs=specs(config["input"]),
        outputs=specs(config["output"]),
        version=served_version(metadata.get("versions", [])),
        dynamic_batching="dynamic_batching" in config,
    )
