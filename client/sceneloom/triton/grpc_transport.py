"""gRPC: tensors travel in the messages."""

from __future__ import annotations

import ipaddress
import os
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from sceneloom.contract import ENGINE_PARAMETER
from sceneloom.errors import (
    ConnectionClosedError,
    DeadlineExceededError,
    ModelFailedError,
    ModelNotFoundError,
    ServerUnavailableError,
    ServingError,
)
from sceneloom.triton.transport import (
    TRITON_DTYPES,
    ModelConfig,
    TensorSpec,
    explain_not_found,
    map_triton_error,
    served_version,
    server_address,
)

_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")


def proxy_options(address: str) -> list[tuple[str, int]]:
    """Options for a gRPC channel to ``HOST:PORT``: no proxy where that is this machine."""
    return [("grpc.enable_http_proxy", 0)] if is_loopback(address) else []


def is_loopback(address: str) -> bool:
    """Whether ``HOST:PORT`` never leaves this machine."""
    host = _host(address)
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None) or found
    return bool(mapped.is_loopback or mapped.is_unspecified)


def proxy_words(address: str) -> str:
    """What to say of the proxy that gRPC reaches ``HOST:PORT`` through; empty for none."""
    if is_loopback(address):
        return ""
    host = _host(address)
    name = next((name for name in _PROXIES if os.environ.get(name)), None)
    excepted = next((os.environ[one] for one in _EXCEPTIONS if os.environ.get(one)), "")
    if name is None or any(_fits(host, one.strip()) for one in excepted.split(",")):
        return ""
    proxy = urlsplit(os.environ[name])
    there = proxy.netloc.rpartition("@")[2] or "no address"  # without a password
    return f"; gRPC goes through the proxy of {name} ({there}): no_proxy={host} leaves it out"


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]").lower()


def _fits(host: str, exception: str) -> bool:
    if not exception:
        return False
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(exception, strict=False)
    except ValueError:
        return exception == "*" or host.endswith(exception.lower())


# What tritonclient sets when nothing is given; and a server that was away is tried again after
# two seconds at most, where gRPC would wait for up to two minutes.
_OPTIONS = [
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
]


def channel_options(address: str) -> list[tuple[str, int]]:
    """Options of a gRPC channel to ``HOST:PORT``."""
    return [*_OPTIONS, *proxy_options(address)]


class GrpcTransport:
    """gRPC to a Triton server; safe to use from several threads."""

    def __init__(self, url: str, *, why: str = "gRPC was asked for") -> None:
        """Prepare a connection; the first call opens it.

        Args:
            url: ``HOST:PORT`` of the server's gRPC port, or ``grpc://HOST:PORT``.
            why: why this is the way, for `why`.

        Raises:
            InputError: the address is of another form.
        """
        import tritonclient.grpc

        self._address = server_address(url, "grpc")
        self._grpc = tritonclient.grpc
        self._client = tritonclient.grpc.InferenceServerClient(
            self._address, channel_args=channel_options(self._address)
        )
        self._why = why
        self._ready: set[str] = set()
        self._engines: dict[str, str] = {}
        self._closed = False

    @property
    def address(self) -> str:
        """``HOST:PORT``."""
        return self._address

    @property
    def kind(self) -> str:
        """``grpc``."""
        return "grpc"

    @property
    def why(self) -> str:
        """Why tensors travel so, in one sentence."""
        return self._why

    def model_config(self, model: str, *, timeout: float) -> ModelConfig:
        """Read a model's configuration; see `sceneloom.triton.transport.Transport.model_config`."""
        self._check_open()
        deadline = time.monotonic() + timeout
        try:
            config = self._client.get_model_config(model, client_timeout=timeout).config
            left = max(deadline - time.monotonic(), 0.001)
            versions = self._client.get_model_metadata(model, client_timeout=left).versions
        except self._grpc.InferenceServerException as error:
            mapped = self._map(error, model)
            if isinstance(mapped, ModelNotFoundError):
                mapped = explain_not_found(mapped, model, self._index(model, deadline))
            raise mapped from None
        self._ready.add(model)
        parameters = {key: value.string_value for key, value in config.parameters.items()}
        self._engines[model] = parameters.get(ENGINE_PARAMETER, "")
        return ModelConfig(
            parameters=parameters,
            max_batch_size=config.max_batch_size,
            inputs=self._specs(config.input),
            outputs=self._specs(config.output),
            version=served_version(versions),
            dynamic_batching=config.HasField("dynamic_batching"),
        )

    def _index(self, model: str, deadline: float) -> dict[str, str]:
        """The models of the server's repository -> state and reason; empty where it does not say.

        Raises:
            ServerUnavailableError: it is stopping.
        """
        left = max(deadline - time.monotonic(), 0.001)
        try:
            models = self._client.get_model_repository_index(client_timeout=left).models
        except self._grpc.InferenceServerException as error:
            if isinstance(mapped := self._map(error, model), ServerUnavailableError):
                raise mapped from None
            return {}
        return {one.name: " ".join((one.state, one.reason)).strip() for one in models}

    def _specs(self, tensors: Any) -> dict[str, TensorSpec]:
        names = {
            v: k.removeprefix("TYPE_") for k, v in self._grpc.model_config_pb2.DataType.items()
        }
        names[self._grpc.model_config_pb2.TYPE_STRING] = "BYTES"
        return {t.name: TensorSpec(dtype=names[t.data_type], dims=tuple(t.dims)) for t in tensors}

    def infer(
        self, model: str, inputs: Mapping[str, npt.NDArray[Any]], output: str, *, timeout: float
    ) -> npt.NDArray[Any]:
        """Send one request and wait for its output; see `Transport.infer`."""
        self._check_open()
        tensors = []
        for name, array in inputs.items():
            tensor = self._grpc.InferInput(name, list(array.shape), TRITON_DTYPES[array.dtype])
            tensor.set_data_from_numpy(np.ascontiguousarray(array))
            tensors.append(tensor)
        wanted = self._grpc.InferRequestedOutput(output)
        try:
            result = self._send(model, tensors, wanted, timeout)
        except self._grpc.InferenceServerException as error:
            raise self._map(error, model) from None
        return self._output(result, model, output)

    def answered(self, model: str, *, timeout: float) -> int:
        """How many requests a model has answered with success since it was loaded; raises a
        ServingError.
        """
        self._check_open()
        try:
            found = self._client.get_inference_statistics(model, client_timeout=timeout)
        except self._grpc.InferenceServerException as error:
            raise self._map(error, model) from None
        return sum(int(one.inference_stats.success.count) for one in found.model_stats)

    def _send(self, model: str, tensors: Sequence[Any], wanted: Any, timeout: float) -> Any:
        engine = self._engines.get(model)
        result = self._client.infer(
            model,
            tensors,
            outputs=[wanted],
            client_timeout=timeout,
            parameters={ENGINE_PARAMETER: engine} if engine else None,
        )
        self._ready.add(model)
        return result

    def _output(self, result: Any, model: str, output: str) -> npt.NDArray[Any]:
        try:
            answer: npt.NDArray[Any] | None = result.as_numpy(output)
        except (ValueError, struct.error):  # fewer or more bytes than its shape says
            answer = None
        if answer is None:
            raise self._no_output(model, output)
        return answer

    def _no_output(self, model: str, output: str) -> ModelFailedError:
        return ModelFailedError(
            f"{self._address}: model {model!r} answered without a whole output {output!r}"
        )

    def close(self) -> None:
        """Close the connection; later calls raise ServerUnavailableError."""
        self._closed = True
        self._client.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionClosedError(f"{self._address}: this connection was closed")

    def _map(self, error: Any, model: str) -> ServingError:
        mapped = map_triton_error(
            str(error.status() or ""),
            str(error.message() or error),
            where=f"{self._address}, model {model!r}",
            seen_ready=model in self._ready,
        )
        if isinstance(mapped, (ServerUnavailableError, DeadlineExceededError)):
            return type(mapped)(f"{mapped}{proxy_words(self._address)}")
        return mapped
