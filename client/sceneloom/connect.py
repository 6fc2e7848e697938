"""Choosing how requests reach a server: what the URL says, and shared memory where it is proven.

transport = connect("127.0.0.1:8001")
print(transport.kind, transport.why)
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from sceneloom.contract import (
    INPUT_INSTANCES,
    INPUT_LABELS,
    INPUT_STYLE,
    MODEL_NAME,
    OUTPUT_IMAGE,
    PARAMETER,
    Contract,
)
from sceneloom.errors import (
    DeadlineExceededError,
    InputError,
    SchemaError,
    ServerUnavailableError,
    ServingError,
)
from sceneloom.grpc_transport import GrpcTransport
from sceneloom.http_transport import HttpTransport
from sceneloom.shared_memory_transport import SharedMemoryTransport
from sceneloom.synthesizer import prepare
from sceneloom.transport import Timeouts, Transport, scheme_of

TransportChoice = Literal["auto", "grpc", "grpc-shm", "http"]
"""``auto`` takes shared memory where it works; ``grpc``, ``grpc-shm`` and ``http`` are as asked."""
_PROVEN = "through shared memory the server gave the picture that it gives in a message"


def connect(
    url: str,
    *,
    transport: TransportChoice = "auto",
    model: str = MODEL_NAME,
    timeouts: Timeouts | None = None,
) -> Transport:
    """Connect to a server.

    With ``auto`` and a gRPC address, the server is sent a random map of the smallest size in a
    message and through shared memory; unless both give the same picture, tensors travel in
    messages. What was chosen, and why, is in `kind` and `why`.

    Args:
        url: ``HOST:PORT`` or ``grpc://HOST:PORT`` of the server's gRPC port, or
            ``http://HOST:PORT`` of its HTTP port.
        transport: how tensors shall travel.
        model: the model that is asked for the proof; it carries a contract.
        timeouts: how long to wait for it.

    Raises:
        InputError: the address is of another form or does not fit `transport`, or shared memory was
            asked for and cannot be used.
        ServerUnavailableError: nothing answers there; without shared memory to prove, the first
            request says so.
        DeadlineExceededError: it does not answer in time.
    """
    if transport not in get_args(TransportChoice):
        choices = ", ".join(get_args(TransportChoice))
        raise InputError(f"{transport!r} is not a way to reach a server; choose one of {choices}")
    if scheme_of(url) == "http" or transport == "http":
        if transport not in ("auto", "http"):
            raise InputError(f"{url}: {transport} goes to the server's gRPC port, HOST:PORT")
        return HttpTransport(url, why="the address is one of HTTP")
    if transport == "grpc":
        return GrpcTransport(url)
    shared = SharedMemoryTransport(url, why=_PROVEN)
    try:
        reason = _reason_against(shared, model, timeouts or Timeouts())
    except BaseException:
        shared.close()
        raise
    if not reason:
        return shared
    shared.close()
    if transport == "grpc-shm":
        raise InputError(f"{url}: shared memory cannot be used: {reason}")
    return GrpcTransport(url, why=reason)


def _reason_against(shared: SharedMemoryTransport, model: str, timeouts: Timeouts) -> str:
    """Why shared memory cannot be used, or empty if it can."""
    try:
        config = shared.model_config(model, timeout=timeouts.connect)
        contract = Contract.loads(config.parameters.get(PARAMETER, ""), source=f"model {model!r}")
        return shared.prove(model, random_inputs(contract), OUTPUT_IMAGE, timeout=timeouts.infer)
    except (ServerUnavailableError, DeadlineExceededError):
        raise
    except (ServingError, SchemaError) as error:
        return f"shared memory could not be proven ({error})"


def random_inputs(contract: Contract) -> dict[str, npt.NDArray[np.generic]]:
    """A request of one random map of the smallest size that a model takes."""
    side = contract.min_side
    height, width = min(contract.sizes or [(side, side)], key=lambda size: size[0] * size[1])
    rng = np.random.default_rng()
    label_map = rng.integers(0, contract.schema.channels, (height, width), np.uint8)
    instance_map = None
    if contract.boundaries or contract.style_channels:
        instance_map = rng.integers(0, 100, (height, width), np.int32)
    request = prepare(contract, label_map, instance_map, None)
    arrays = {
        INPUT_LABELS: request.label_map,
        INPUT_INSTANCES: request.instance_map,
        INPUT_STYLE: request.style,
    }
    return {name: array[None] for name, array in arrays.items() if array is not None}
