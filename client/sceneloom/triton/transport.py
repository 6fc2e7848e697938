"""The interface of a connection to a Triton server, and the one map from a server's errors to
SceneLoom's.

The connections are in `grpc_transport`, `shared_memory`, `http_transport` and, to a gateway in
front of Triton and with errors of its own, `gateway_transport`; `client.connect`
chooses among them. `sceneloom.testing.FakeTransport` has the same methods without a server.
"""

from __future__ import annotations

import abc
import dataclasses
import re
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import Field

from sceneloom import errors
from sceneloom.contract import (
    ENGINE_PARAMETER,
    INPUT_INSTANCES,
    INPUT_STYLE,
    OUTPUT_IMAGE,
    STYLE_ROWS,
    Contract,
)
from sceneloom.maps import Array
from sceneloom.validation import check_kind, checked

_HOST = re.compile(r"[\w.-]+|\[[0-9A-Fa-f:.]+\]", re.ASCII)
_ADDRESS = re.compile(rf"({_HOST.pattern}):[0-9]{{1,5}}", re.ASCII)
SCHEMES = ("grpc", "grpcs", "http", "https")
"""Schemes of addresses; s is TLS, and https:// a gateway's."""
MAX_SECONDS = 86400
"""Longest wait: a day."""
TRITON_DTYPES: dict[np.dtype[Any], str] = {
    np.dtype(np.uint8): "UINT8",
    np.dtype(np.int32): "INT32",
    np.dtype(np.float32): "FP32",
    np.dtype(np.object_): "BYTES",
}
"""NumPy's type of a tensor -> Triton's; BYTES is an array of Python's `bytes`."""
Arrays = Mapping[str, Array]
"""Name of an input -> its array."""
NUMPY_DTYPES = {name: dtype for dtype, name in TRITON_DTYPES.items()}
Document = Literal["config", "metadata", "index"]
"""JSON of Triton: about a model, or the list of all models."""
WRONG_FORM = (KeyError, TypeError, ValueError, AttributeError, OverflowError, struct.error)
"""Errors of reading an answer of another form than Triton's."""


# gRPC counts in 64-bit nanoseconds: above about 9e9 s every call fails at once.
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]


@checked(noun="timeout")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Timeouts of a client in seconds, above 0 and at most a day."""

    connect: Seconds = 10.0
    """Seconds for the first call to a server, which reads the model's configuration."""
    infer: Seconds = 120.0
    """Seconds for one request: sending, the server's queue, the network and the answer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of a served model, without the batch axis."""

    dtype: str
    """Triton's name, such as ``UINT8``."""
    dims: tuple[int, ...]
    """Shape; -1 where it is free."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Configuration of a served model, as far as the client needs it."""

    parameters: Mapping[str, str]
    """The `parameters` of config.pbtxt."""
    max_batch_size: int
    """Largest batch of one request."""
    inputs: Mapping[str, TensorSpec]
    """Name -> type."""
    outputs: Mapping[str, TensorSpec]
    """Name -> type."""
    version: str
    """Version that answers: the requested one, else the latest of those served; empty for none."""
    dynamic_batching: bool
    """Whether the server joins requests of equal size into one execution."""


def input_specs(contract: Contract) -> dict[str, TensorSpec]:
    """Inputs of a model with this contract, by name."""
    dims = (-1, -1) if contract.kind == "labels" else (-1, -1, 3)
    specs = {contract.main_input: TensorSpec(dtype="UINT8", dims=dims)}
    if contract.wants_instances:
        specs[INPUT_INSTANCES] = TensorSpec(dtype="INT32", dims=(-1, -1))
    if contract.style_channels:
        specs[INPUT_STYLE] = TensorSpec(dtype="FP32", dims=(STYLE_ROWS, contract.style_channels))
    return specs


OUTPUT_SPECS = {OUTPUT_IMAGE: TensorSpec(dtype="UINT8", dims=(-1, -1, 3))}
"""Outputs of every model, by name."""


class Transport(Protocol):
    """Connection to a server."""

    address: str
    """Address, for error messages."""
    kind: str
    """Carrier of the tensors: ``grpc``, ``grpc-shm`` (shared memory), ``http`` or ``gateway``
    (files over HTTP).
    """
    why: str
    """Reason for this carrier."""

    def model_config(self, model: str, *, timeout: float, version: str = "") -> ModelConfig:
        """Read a model's configuration; an empty `version` means the latest. Raises a
        ServingError, ModelNotFoundError with the served versions if this one is not among them.
        """

    def infer(
        self, model: str, inputs: Arrays, output: str, *, timeout: float, version: str = ""
    ) -> Array:
        """Send one request and wait for its output; one connection may ask several models.

        Inputs and output are uint8, int32 or float32 arrays, or object arrays of `bytes`, with the
        batch axis. The output may be read-only, and is never overwritten. Raises a ServingError,
        see `map_triton_error`.
        """

    def close(self) -> None:
        """Close the connection; a second call does nothing."""


class TritonTransport(abc.ABC):
    """Common part of the connections to a real server."""

    def __init__(self, address: str, kind: str, why: str) -> None:
        """Keep the attributes of a `Transport`."""
        self.address, self.kind, self.why = address, kind, why
        self._answered: set[str] = set()  # models
        self._engines: dict[str, str] = {}
        self._closed = False

    @abc.abstractmethod
    def _read(self, what: Document, model: str, deadline: float) -> Any:
        """Read a document; raises a ServingError, or one of `WRONG_FORM` for another answer."""

    def model_config(self, model: str, *, timeout: float, version: str = "") -> ModelConfig:
        """Read a model's configuration; see `Transport.model_config`."""
        deadline = time.monotonic() + timeout
        try:
            config = self._read("config", model, deadline)
            served = self._read("metadata", model, deadline).get("versions", [])
            versions = [str(number) for number in sorted(map(int, served))]
            parameters = config.get("parameters", {})
            inputs, outputs = (
                {
                    tensor["name"]: TensorSpec(
                        dtype=tensor["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES"),
                        dims=tuple(map(int, tensor["dims"])),
                    )
                    for tensor in config[tensors]
                }
                for tensors in ("input", "output")
            )
            found = ModelConfig(
                parameters={k: v.get("string_value", "") for k, v in parameters.items()},
                max_batch_size=int(config.get("max_batch_size", 0)),
                inputs=inputs,
                outputs=outputs,
                version=version or (versions or [""])[-1],
                dynamic_batching="dynamic_batching" in config,
            )
        except errors.ModelNotFoundError as error:
            raise self._not_found(error, model, deadline) from None
        except WRONG_FORM as error:
            raise errors.ModelFailedError(
                f"{self.address}: the configuration of model {model!r} is not one "
                f"({type(error).__name__}: {error})"
            ) from None
        if version and version not in versions:
            raise no_version(f"{self.address}, model {model!r}", version, versions)
        self._answered.add(model)
        self._engines[model] = found.parameters.get(ENGINE_PARAMETER, "")
        return found

    def _not_found(
        self, error: errors.ModelNotFoundError, model: str, deadline: float
    ) -> errors.ServingError:
        """Name the models of the server; a model that it has may come back."""
        try:
            states = {
                str(one["name"]): f"{one.get('state', '')} {one.get('reason', '')}".strip()
                for one in self._read("index", model, deadline)
            }
        except errors.ServerUnavailableError as stopping:
            return stopping
        except (errors.ServingError, *WRONG_FORM):
            return error
        if model in states:
            state = f": {states[model]}" if states[model] else ""
            return errors.ServerUnavailableError(
                f"{error} (the server has it, but does not serve it{state})"
            )
        listed = f"; the server has {', '.join(sorted(states))}" if states else ""
        return errors.ModelNotFoundError(f"{error}{listed}")

    def _check_open(self) -> None:
        if self._closed:
            raise errors.ConnectionClosedError(f"{self.address}: this connection was closed")

    def _no_output(self, model: str, output: str) -> errors.ModelFailedError:
        return errors.ModelFailedError(
            f"{self.address}: model {model!r} answered without a whole output {output!r}"
        )


def no_version(where: str, version: str, versions: Sequence[str]) -> errors.ModelNotFoundError:
    """The error of a version that a server does not serve."""
    listed = f"serves {', '.join(versions)}" if versions else "serves no version"
    return errors.ModelNotFoundError(f"{where}: has no version {version!r}; the server {listed}")


def seconds_left(deadline: float) -> float:
    """Seconds to a deadline of `time.monotonic`, at least a millisecond."""
    return max(deadline - time.monotonic(), 0.001)


def server_address(url: str, *wanted: str) -> tuple[str, str]:
    """Scheme, one of ``grpc``, ``grpcs``, ``http`` and ``https``, and ``HOST:PORT`` of
    ``SCHEME://HOST:PORT`` or ``HOST:PORT``, which is gRPC's; a slash may follow, and https:// may
    leave the port 443 out. Raises InputError for another form, or a scheme that is not wanted.
    """
    check_kind(url, str, "the address of a server, a text,")
    named = next((one for one in SCHEMES if url.startswith(f"{one}://")), "grpc")
    scheme = named if not wanted or named in wanted else wanted[0]
    address = url.removeprefix(f"{scheme}://").removesuffix("/")
    if scheme == "https" and "://" in url and _HOST.fullmatch(address):
        address += ":443"
    well_formed = _ADDRESS.fullmatch(address) and ("://" in url or scheme == "grpc")
    # gRPC itself takes port 99999 and connects to 34463.
    if well_formed and 0 < int(address.rpartition(":")[2]) < 65536:
        return scheme, address
    shown = re.sub(r"(^|//)[^/@]*@", r"\1...@", url)  # a password is not repeated
    form = "HOST:PORT of its gRPC port, such as 127.0.0.1:8001"
    if scheme == "https" or url.lower().startswith("https"):
        form = "https://HOST:PORT of a gateway, such as https://127.0.0.1:8443"
    elif scheme == "http" or (url.lower().startswith("http") and named != "http"):
        form = "http://HOST:PORT, such as http://127.0.0.1:8000"
    fault = _fault(url, scheme)
    raise errors.InputError(
        f"{shown!r} is not the address of a server: {form}" + (f"; {fault}" if fault else "")
    )


def _fault(url: str, scheme: str) -> str:
    """Reason why a URL is no address; empty if unknown."""
    named, separator, rest = url.partition("://")
    kind, rest = (named.lower(), rest) if separator else ("", url)
    host, _, path = rest.partition("/")
    if not url:
        return "it is empty"
    if any(c.isspace() or not c.isprintable() for c in url):
        return "it has a space or an unprintable character"
    if kind not in ("", *SCHEMES):
        return f"{kind}:// is not supported"
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
        return f"port {port} is not from 1 to 65535"
    if kind and named != kind:
        return f"{kind}:// is written in small letters"
    return f"{kind}:// is another port of the server" if kind and kind != scheme else ""


def map_triton_error(
    status: str, message: str, *, where: str, seen_ready: bool
) -> errors.ServingError:
    """Map an error of Triton, gRPC's status and text, to the error family, as observed on Triton
    2.51 (docs/errors.md). `where` names server and model.

    `seen_ready` tells that the model has answered on this connection: a stopping server says "not
    found" about a model that it had a moment ago.
    """
    code = status.removeprefix("StatusCode.")
    message = "".join(c if c.isprintable() or c == "\n" else "?" for c in message)
    text = f"{where}: {message.strip().splitlines()[0] if message.strip() else code}"
    if code == "UNAVAILABLE":
        if "maximum queue size" in message:
            return errors.QueueFullError(f"{where}: the queue is full ({message})")
        if "timeout expired" in message:
            return errors.QueueTimeoutError(
                f"{where}: waited in the server's queue for longer than it allows ({message})"
            )
        return errors.ServerUnavailableError(f"{text} (not reachable, starting or stopping)")
    if code == "DEADLINE_EXCEEDED":
        return errors.DeadlineExceededError(f"{where}: no answer within the client's deadline")
    if code == "NOT_FOUND":
        if "shared memory region" in message:
            return errors.ServerUnavailableError(f"{text} (the server was restarted)")
        if seen_ready or "has no available versions" in message:  # it knows the name
            return errors.ServerUnavailableError(
                f"{text} (the server is stopping, or unloaded the model)"
            )
        return errors.ModelNotFoundError(text)
    if code in (
        "INVALID_ARGUMENT",
        "UNIMPLEMENTED",
        "OUT_OF_RANGE",
        "FAILED_PRECONDITION",
        "RESOURCE_EXHAUSTED",  # a message above gRPC's limit
    ):
        return errors.RequestRejectedError(text)
    if code == "CANCELLED":
        return errors.ServerUnavailableError(f"{text} (cancelled)")
    return errors.ModelFailedError(text)
