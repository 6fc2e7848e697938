"""What the client asks of a connection to a Triton server, and the one place where a server's
errors are mapped to SceneLoom's.

The connections are in `grpc_transport`, `shared_memory_transport` and `http_transport`; `connect`
chooses among them, and `sceneloom.testing.FakeTransport` has the same methods and no server.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

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
from sceneloom.kinds import check_kind

_ADDRESS = re.compile(r"([\w.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}", re.ASCII)
MAX_SECONDS = 86400
"""Longest that anything waits: a day."""
TRITON_DTYPES: dict[np.dtype[Any], str] = {
    np.dtype(np.uint8): "UINT8",
    np.dtype(np.int32): "INT32",
    np.dtype(np.float32): "FP32",
    np.dtype(np.object_): "BYTES",
}
"""What tensors consist of; BYTES is an array of Python's `bytes`."""
NUMPY_DTYPES = {name: dtype for dtype, name in TRITON_DTYPES.items()}
_STATUS_OF_HTTP = {
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long a client waits, in seconds; all finite, at most a day."""

    connect: float = 10.0
    """For the model's configuration, the first call to a server."""
    infer: float = 120.0
    """For one request: its way there, the server's queue, the network, and the way back."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            check_kind(value, (int, float), f"the {field.name} timeout, in seconds,")
            # gRPC counts in 64-bit nanoseconds: above about 9e9 s every call fails at once.
            if not 0 < value <= MAX_SECONDS:
                raise InputError(
                    f"the {field.name} timeout is {value!r}; it is above 0 and at most "
                    f"{MAX_SECONDS} "
                    "seconds"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of a served model, without the batch axis."""

    dtype: str
    """Triton's name, such as ``UINT8``."""
    dims: tuple[int, ...]
    """Shape; -1 where it is free."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What the client reads of a model's configuration."""

    parameters: Mapping[str, str]
    """The `parameters` of config.pbtxt."""
    max_batch_size: int
    """Largest batch of one request."""
    inputs: Mapping[str, TensorSpec]
    """Name -> type."""
    outputs: Mapping[str, TensorSpec]
    """Name -> type."""
    version: str
    """The version that the server serves, the latest where there are several; empty for none."""
    dynamic_batching: bool
    """Whether the server joins requests of equal size into one execution."""


class Transport(Protocol):
    """What the client needs of a connection."""

    @property
    def address(self) -> str:
        """Where it leads, for error messages."""

    @property
    def kind(self) -> str:
        """How tensors travel: ``grpc``, ``grpc-shm`` (shared memory) or ``http``."""

    @property
    def why(self) -> str:
        """Why they travel so, in one sentence."""

    def model_config(self, model: str, *, timeout: float) -> ModelConfig:
        """Read a model's configuration; raises a ServingError."""

    def infer(
        self, model: str, inputs: Mapping[str, npt.NDArray[Any]], output: str, *, timeout: float
    ) -> npt.NDArray[Any]:
        """Send one request and wait for its output.

        Args:
            model: the model's name; one connection may ask several models.
            inputs: name -> uint8, int32 or float32 array, or an object array of `bytes`, with the
                batch axis.
            output: name of the output.
            timeout: seconds.

        Returns:
            the output, of the same kinds; nothing else will write to it. It may be read-only.

        Raises:
            ServingError: by the server's answer, see `map_triton_error`.
        """

    def close(self) -> None:
        """Close the connection; calling it twice is fine."""


def scheme_of(url: str) -> str:
    """``http`` for the URL of an HTTP port, else ``grpc``.

    Raises:
        InputError: it is no text.
    """
    check_kind(url, str, "the address of a server, a text,")
    return "http" if url.startswith("http://") else "grpc"


def server_address(url: str, scheme: str) -> str:
    """``HOST:PORT`` of a server's URL.

    Args:
        url: ``SCHEME://HOST:PORT``, or ``HOST:PORT`` alone where the scheme is ``grpc``; a slash at
            its end is left out.
        scheme: ``grpc`` or ``http``.

    Raises:
        InputError: it is of another form, or of another scheme.
    """
    is_http = scheme_of(url) == "http"
    address = url.removeprefix(f"{scheme}://").removesuffix("/")
    well_formed = _ADDRESS.fullmatch(address) and (is_http or scheme == "grpc")
    # gRPC itself takes port 99999 and connects to 34463.
    if well_formed and 0 < int(address.rpartition(":")[2]) < 65536:
        return address
    shown = re.sub(r"(^|//)[^/@]*@", r"\1...@", url)  # a password is not repeated
    form = "HOST:PORT of its gRPC port, such as 127.0.0.1:8001"
    if scheme == "http" or (url.lower().startswith("http") and not is_http):
        form = "http://HOST:PORT, such as http://127.0.0.1:8000"
    fault = _fault(url, scheme)
    raise InputError(
        f"{shown!r} is not the address of a server: {form}" + (f"; {fault}" if fault else "")
    )


def _fault(url: str, scheme: str) -> str:
    """What is wrong with an address, as far as that is clear."""
    named, separator, rest = url.partition("://")
    kind, rest = (named.lower(), rest) if separator else ("", url)
    host, _, path = rest.partition("/")
    if not url:
        return "it is empty"
    if any(c.isspace() or not c.isprintable() for c in url):
        return "it has a space or an unprintable character"
    if kind in ("https", "grpcs"):
        return (
            f"TLS ({kind}://) is not supported: name the server's own port, or a port of this "
            "machine where a tunnel (ssh -L, stunnel) adds TLS"
        )
    if kind not in ("", "http", "grpc"):
        return f"{kind}:// is no way to reach it"
    if "@" in host:
        return "a user or password is not supported"
    if path or "?" in rest or "#" in rest:
        return (
            "a path is not supported: name the server itself, or have the proxy in front of it "
            "pass /v2 on"
        )
    if host.count(":") > 1 and not host.startswith("["):
        return "an IPv6 address stands in brackets, as in [::1]:8001"
    port = host.rpartition("]")[2].rpartition(":")[2] if ":" in host.rpartition("]")[2] else ""
    if not port:
        return "it names no port"
    if port.isascii() and port.isdigit() and not 0 < int(port) < 65536:
        return f"port {port} is none, they are from 1 to 65535"
    if kind and named != kind:
        return f"{kind}:// is written in small letters"
    return f"{kind}:// is another port of the server" if kind and kind != scheme else ""


def status_of_http(code: int) -> str:
    """The gRPC status that says what an HTTP status says."""
    return _STATUS_OF_HTTP.get(code, "INVALID_ARGUMENT" if 400 <= code < 500 else "UNKNOWN")


def served_version(versions: Iterable[str]) -> str:
    """The version that answers requests which name none: the latest."""
    return max(versions, key=int, default="")


def map_triton_error(status: str, message: str, *, where: str, seen_ready: bool) -> ServingError:
    """Turn Triton's answer into the error family; the cases are those observed on Triton 2.51
    (docs/errors.md).

    Args:
        status: gRPC status, such as ``StatusCode.UNAVAILABLE``; `status_of_http` gives it for HTTP.
        message: the server's text.
        where: server and model, for the message.
        seen_ready: whether this connection has had an answer from the model: a server that is
            stopping says "not found" about a model it had a moment ago.
    """
    code = status.removeprefix("StatusCode.")
    message = "".join(c if c.isprintable() or c == "\n" else "?" for c in message)
    text = f"{where}: {message.strip().splitlines()[0] if message.strip() else code}"
    if code == "UNAVAILABLE":
        if "maximum queue size" in message:
            return QueueFullError(f"{where}: the queue is full ({message})")
        if "timeout expired" in message:
            return QueueTimeoutError(
                f"{where}: waited in the server's queue for longer than it allows ({message})"
            )
        return ServerUnavailableError(f"{text} (not reachable, starting or stopping)")
    if code == "DEADLINE_EXCEEDED":
        return DeadlineExceededError(f"{where}: no answer within the client's deadline")
    if code == "NOT_FOUND":
        if "shared memory region" in message:
            return ServerUnavailableError(f"{text} (the server was restarted)")
        if seen_ready or "has no available versions" in message:  # it knows the name
            return ServerUnavailableError(f"{text} (the server is stopping, or unloaded the model)")
        return ModelNotFoundError(text)
    if code in (
        "INVALID_ARGUMENT",
        "UNIMPLEMENTED",
        "OUT_OF_RANGE",
        "FAILED_PRECONDITION",
        "RESOURCE_EXHAUSTED",  # a message above gRPC's limit
    ):
        return RequestRejectedError(text)
    if code == "CANCELLED":
        return ServerUnavailableError(f"{text} (cancelled)")
    return ModelFailedError(text)


def explain_not_found(
    error: ModelNotFoundError, model: str, index: Mapping[str, str]
) -> ServingError:
    """Say of a model that a server did not find whether it may come, or which models there are.

    Args:
        error: what the server's answer was mapped to.
        model: the name that was asked for.
        index: what the server's repository has: name -> its state, and the reason for it.
    """
    if model in index:
        state = f": {index[model]}" if index[model] else ""
        return ServerUnavailableError(f"{error} (the server has it, but does not serve it{state})")
    if not index:
        return error
    return ModelNotFoundError(f"{error}; the server has {', '.join(sorted(index))}")
