"""gRPC: tensors travel in the messages."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import struct
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from sceneloom import tracing
from sceneloom.contract import ENGINE_PARAMETER
from sceneloom.errors import DeadlineExceededError, ServerUnavailableError, ServingError
from sceneloom.maps import Array
from sceneloom.triton.access import Access
from sceneloom.triton.transport import (
    TRITON_DTYPES,
    Arrays,
    Document,
    TritonTransport,
    map_triton_error,
    seconds_left,
    server_address,
)

_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")
# The message sizes are tritonclient's own. A lost server is tried again after two seconds at most;
# gRPC would wait for up to two minutes.
_OPTIONS = [
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
]


def channel_options(address: str) -> list[tuple[str, int]]:
    """Options of a gRPC channel to ``HOST:PORT``; no proxy to this machine."""
    return [*_OPTIONS, *([("grpc.enable_http_proxy", 0)] if is_loopback(address) else [])]


def tls_credentials(access: Access) -> Any:
    """gRPC's credentials of a channel with TLS."""
    import grpc

    return grpc.ssl_channel_credentials(access.ca.encode() or None)


def is_loopback(address: str) -> bool:
    """Whether ``HOST:PORT`` never leaves this machine."""
    host = address.rpartition(":")[0].strip("[]").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None) or found
    return bool(mapped.is_loopback or mapped.is_unspecified)


def proxy_words(address: str) -> str:
    """Note on the proxy between gRPC and ``HOST:PORT``; empty for none."""
    host = address.rpartition(":")[0].strip("[]").lower()
    name = next((name for name in _PROXIES if os.environ.get(name)), None)
    excepted = next((os.environ[one] for one in _EXCEPTIONS if os.environ.get(one)), "")
    fits = any(_fits(host, one.strip()) for one in excepted.split(","))
    if is_loopback(address) or name is None or fits:
        return ""
    proxy = urlsplit(os.environ[name])
    there = proxy.netloc.rpartition("@")[2] or "no address"  # without a password
    return f"; gRPC goes through the proxy of {name} ({there}): no_proxy={host} leaves it out"


def _fits(host: str, exception: str) -> bool:
    if not exception:
        return False
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(exception, strict=False)
    except ValueError:
        return exception == "*" or host.endswith(exception.lower())


@dataclasses.dataclass(kw_only=True)
class Placement:
    """Location of a request's tensors in a region of shared memory; the others are in messages."""

    region: str
    """Name at the server."""
    offsets: Mapping[str, int]
    """Input -> its first byte."""
    output_offset: int
    """First byte of the output."""
    output_size: int
    """Bytes for the output; 0 for an output in the message."""


class GrpcTransport(TritonTransport):
    """gRPC to a Triton server; safe to use from several threads."""

    def __init__(self, url: str, *, why: str = "requested", access: Access | None = None) -> None:
        """Prepare a connection to ``HOST:PORT``, ``grpc://HOST:PORT`` or, with TLS,
        ``grpcs://HOST:PORT``; the first call opens it. Raises InputError for an address of another
        form.
        """
        import tritonclient.grpc

        scheme, address = server_address(url, "grpc", "grpcs")
        super().__init__(address, "grpc", why)
        self._grpc = tritonclient.grpc
        access = access or Access()
        self._client = tritonclient.grpc.InferenceServerClient(
            address,
            channel_args=channel_options(address),
            creds=tls_credentials(access) if scheme == "grpcs" else None,
        )
        self._headers = {name.lower(): value for name, value in access.headers.items()}
        self.connection_lost = False
        """Whether the connection has ended since `watch`, even between two requests."""

    def watch(self) -> None:
        """Note the end of the connection from now on; called after a first answer. gRPC connects
        again by itself, and a server with another model may answer then.
        """

        def on_state(state: Any) -> None:
            self.connection_lost |= state.name != "READY"

        self._client._channel.subscribe(on_state)

    def _read(self, what: Document, model: str, deadline: float) -> Any:
        self._check_open()
        options = {
            "client_timeout": seconds_left(deadline),
            "as_json": True,
            "headers": self._headers,
        }
        try:
            if what == "config":
                return self._client.get_model_config(model, **options)["config"]
            if what == "metadata":
                return self._client.get_model_metadata(model, **options)
            return self._client.get_model_repository_index(**options)["models"]
        except self._grpc.InferenceServerException as error:
            raise self._map(error, model) from None

    def infer(
        self, model: str, inputs: Arrays, output: str, *, timeout: float, version: str = ""
    ) -> Array:
        """Send one request and wait for its output; see `Transport.infer`."""
        self._check_open()
        try:
            _, answer = self._ask(model, inputs, output, timeout, version=version)
        except self._grpc.InferenceServerException as error:
            raise self._map(error, model) from None
        assert answer is not None, "an output in memory"
        return answer

    def answered(self, model: str, *, timeout: float) -> int:
        """Number of requests that a model has answered since it was loaded; raises a
        ServingError.
        """
        self._check_open()
        try:
            found = self._client.get_inference_statistics(
                model, client_timeout=timeout, headers=self._headers
            )
        except self._grpc.InferenceServerException as error:
            raise self._map(error, model) from None
        return sum(int(one.inference_stats.success.count) for one in found.model_stats)

    def close(self) -> None:
        """Close the connection; later calls raise ServerUnavailableError."""
        self._closed = True
        self._client.close()

    def _ask(
        self,
        model: str,
        inputs: Arrays,
        output: str,
        timeout: float,
        place: Placement | None = None,
        *,
        version: str,
    ) -> tuple[Any, Array | None]:
        """Answer of tritonclient, and its output if that is in the message."""
        tensors = []
        for name, array in inputs.items():
            tensor = self._grpc.InferInput(name, list(array.shape), TRITON_DTYPES[array.dtype])
            if place is not None and name in place.offsets:
                tensor.set_shared_memory(place.region, array.nbytes, place.offsets[name])
            else:
                tensor.set_data_from_numpy(np.ascontiguousarray(array))
            tensors.append(tensor)
        wanted = self._grpc.InferRequestedOutput(output)
        if place is not None and place.output_size:
            wanted.set_shared_memory(place.region, place.output_size, place.output_offset)
        engine = self._engines.get(model)
        with tracing.span("triton infer", attributes={"server.address": self.address}) as parent:
            result = self._client.infer(
                model,
                tensors,
                model_version=version,
                outputs=[wanted],
                client_timeout=timeout,
                headers={**self._headers, tracing.HEADER: parent} if parent else self._headers,
                parameters={ENGINE_PARAMETER: engine} if engine else None,
            )
        self._answered.add(model)
        in_memory = place is not None and place.output_size
        if in_memory and not any(result.get_response().raw_output_contents):
            return result, None
        try:
            answer: Array | None = result.as_numpy(output)
        except (ValueError, struct.error):  # fewer or more bytes than its shape says
            answer = None
        if answer is None:
            raise self._no_output(model, output)
        return result, answer

    def _map(self, error: Any, model: str) -> ServingError:
        mapped = map_triton_error(
            str(error.status() or ""),
            str(error.message() or error),
            where=f"{self.address}, model {model!r}",
            seen_ready=model in self._answered,
        )
        if isinstance(mapped, (ServerUnavailableError, DeadlineExceededError)):
            return type(mapped)(f"{mapped}{proxy_words(self.address)}")
        return mapped
