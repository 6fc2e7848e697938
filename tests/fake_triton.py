"""A gRPC server that speaks Triton's protocol and answers from a `FakeTransport`.

It takes the client and the command through real sockets and real error statuses in milliseconds;
tests/serving does the same with the real tritonserver.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from sceneloom.contract import MODEL_NAME
from sceneloom.errors import (
    ModelNotFoundError,
    QueueFullError,
    QueueTimeoutError,
    RequestRejectedError,
    ServingError,
)
from sceneloom.testing import FakeTransport
from sceneloom.triton.transport import TRITON_DTYPES

STATUS = {
    QueueFullError: (grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size"),
    QueueTimeoutError: (grpc.StatusCode.UNAVAILABLE, "Request timeout expired"),
    ModelNotFoundError: (grpc.StatusCode.NOT_FOUND, "Request for unknown model"),
    RequestRejectedError: (grpc.StatusCode.INVALID_ARGUMENT, "wrong request"),
}
NUMPY = {triton: dtype for dtype, triton in TRITON_DTYPES.items()}


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The calls that the client makes."""

    def __init__(self, transport: FakeTransport) -> None:
        self.transport = transport
        self.metadata: list[dict[str, str]] = []
        """Of every inference."""

    def ModelConfig(self, request: Any, context: Any) -> Any:
        try:
            config = self.transport.model_config(request.name, timeout=1)
        except ServingError as error:
            context.abort(*STATUS[type(error)])
        out = model_config_pb2.ModelConfig(max_batch_size=config.max_batch_size)
        if config.dynamic_batching:
            out.dynamic_batching.SetInParent()
        for key, value in config.parameters.items():
            out.parameters[key].string_value = value
        for specs, tensors in ((config.inputs, out.input), (config.outputs, out.output)):
            for name, spec in specs.items():
                tensors.add(name=name, data_type=f"TYPE_{spec.dtype}", dims=spec.dims)
        return service_pb2.ModelConfigResponse(config=out)

    def ModelMetadata(self, request: Any, context: Any) -> Any:
        version = self.transport.model_config(request.name, timeout=1).version
        return service_pb2.ModelMetadataResponse(name=request.name, versions=[version])

    def RepositoryIndex(self, request: Any, context: Any) -> Any:
        answer = service_pb2.RepositoryIndexResponse()
        answer.models.add(name=MODEL_NAME, state="READY")
        return answer

    def ModelInfer(self, request: Any, context: Any) -> Any:
        self.metadata.append(dict(context.invocation_metadata()))
        arrays = {
            tensor.name: np.frombuffer(raw, NUMPY[tensor.datatype]).reshape(tensor.shape)
            for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        try:
            image = self.transport.infer(
                request.model_name, arrays, request.outputs[0].name, timeout=1
            )
        except ServingError as error:
            status = (grpc.StatusCode.INTERNAL, str(error))
            context.abort(*STATUS.get(type(error), status))
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        answer.outputs.add(name="image", datatype="UINT8", shape=image.shape)
        answer.raw_output_contents.append(image.tobytes())
        return answer


@dataclasses.dataclass(frozen=True)
class Running:
    """A fake server that is up."""

    url: str
    transport: FakeTransport
