"""How requests reach a Triton server, and the one place where its errors are mapped to SceneLoom's.

`GrpcTransport` is the real one; `sceneloom.testing.FakeTransport` has the same methods and no
server.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
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

# gRPC itself takes port 99999 and connects to 34463.
_ADDRESS = re.compile(r"([\w.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}", re.ASCII)
MAX_SECONDS = 86400
"""Longest that anything waits: a day."""
TRITON_DTYPES = {
    np.dtype(np.uint8): "UINT8",
    np.dtype(np.int32): "INT32",
    np.dtype(np.float32): "FP32",
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


class Transport(Protocol):
    """What the client needs of a connection."""

    @property
    def address(self) -> str:
        """Where it leads, for error messages."""

    def model_config(self, model: str, *, timeout: float) -> ModelConfig:
        """Read a model's configuration; raises a ServingError."""

    def infer(
        self, model: str, inputs: Mapping[str, npt.NDArray[Any]], output: str, *, timeout: float
    ) -> npt.NDArray[Any]:
        """Send one request and wait for its output; raises a ServingError."""

    def close(self) -> None:
        """Close the connection; calling it twice is fine."""


class GrpcTransport:
    """gRPC to a Triton server; safe to use from several threads."""

    def __init__(self, address: str) -> None:
        """Prepare a connection; the first call opens it.

        Args:
            address: ``HOST:PORT`` of the server's gRPC port.

        Raises:
            InputError: the address is of another form.
        """
        import tritonclient.grpc

        if not _ADDRESS.fullmatch(address) or not 0 < int(address.rpartition(":")[2]) < 65536:
            raise InputError(
                f"{address!r} is not the address of a server: HOST:PORT of its gRPC port, such as "
                "127.0.0.1:8001"
            )
        self._grpc = tritonclient.grpc
        self._address = address
        self._client = tritonclient.grpc.InferenceServerClient(address)
        self._seen_ready = False
        self._closed = False

    @property
    def address(self) -> str:
        """``HOST:PORT``."""
        return self._address

    def model_config(self, model: str, *, timeout: float) -> ModelConfig:
        """Read a model's configuration.

        Raises:
            ServingError: by Triton's answer, see `map_triton_error`.
        """
        self._check_open()
        try:
            config = self._client.get_model_config(model, client_timeout=timeout).config
        except self._grpc.InferenceServerException as error:
            raise self._map(error, model) from None
        self._seen_ready = True

        def specs(tensors: Any) -> dict[str, TensorSpec]:
            name = self._grpc.model_config_pb2.DataType.Name
            return {
                t.name: TensorSpec(
                    dtype=name(t.data_type).removeprefix("TYPE_"), dims=tuple(t.dims)
                )
                for t in tensors
            }

        return ModelConfig(
            parameters={key: value.string_value for key, value in config.parameters.items()},
            max_batch_size=config.max_batch_size,
            inputs=specs(config.input),
            outputs=specs(config.output),
        )

    def infer(
        self, model: str, inputs: Mapping[str, npt.NDArray[Any]], output: str, *, timeout: float
    ) -> npt.NDArray[Any]:
        """Send one request and wait for its output.

        Args:
            model: the model's name.
            inputs: name -> uint8, int32 or float32 array with the batch axis.
            output: name of the output.
            timeout: seconds.

        Raises:
            ServingError: by Triton's answer, see `map_triton_error`.
        """
        self._check_open()
        tensors = []
        for name, array in inputs.items():
            tensor = self._grpc.InferInput(name, list(array.shape), TRITON_DTYPES[array.dtype])
            tensor.set_data_from_numpy(np.ascontiguousarray(array))
            tensors.append(tensor)
        wanted = [self._grpc.InferRequestedOutput(output)]
        try:
            result = self._client.infer(model, tensors, outputs=wanted, client_timeout=timeout)
        except self._grpc.InferenceServerException as error:
            raise self._map(error, model) from None
        self._seen_ready = True
        try:
            answer: npt.NDArray[Any] | None = result.as_numpy(output)
        except ValueError:  # fewer or more bytes than its shape says
            answer = None
        if answer is None:
            raise ModelFailedError(
                f"{self._address}: model {model!r} answered without a whole output {output!r}"
            )
        return answer

    def close(self) -> None:
        """Close the connection; later calls raise ServerUnavailableError."""
        self._closed = True
        self._client.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ServerUnavailableError(f"{self._address}: this connection was closed")

    def _map(self, error: Exception, model: str) -> ServingError:
        status = getattr(error, "status", lambda: None)()
        message = getattr(error, "message", lambda: None)() or str(error)
        return map_triton_error(
            str(status or ""),
            str(message),
            where=f"{self._address}, model {model!r}",
            seen_ready=self._seen_ready,
        )


def map_triton_error(status: str, message: str, *, where: str, seen_ready: bool) -> ServingError:
    """Turn Triton's answer into the error family; the cases are those observed on Triton 2.51
    (docs/errors.md).

    Args:
        status: gRPC status, such as ``StatusCode.UNAVAILABLE``.
        message: the server's text.
        where: server and model, for the message.
        seen_ready: whether this connection has had an answer from the model: a server that is
            stopping says "not found" about a model it had a moment ago.
    """
    code = status.removeprefix("StatusCode.")
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
        if seen_ready:
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
