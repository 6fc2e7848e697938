"""The Triton client, and how its requests reach a server.

with TritonSynthesizer("127.0.0.1:8001", transport="auto") as synthesizer:
    image = synthesizer.synthesize(label_map, instance_map)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from sceneloom.contract import (
    DIFFERENCE_PARAMETER,
    ENGINE_PARAMETER,
    FAST_PARAMETER,
    INPUT_INSTANCES,
    INPUT_LABELS,
    INPUT_STYLE,
    MODEL_NAME,
    OUTPUT_IMAGE,
    PARAMETER,
    STYLE_ROWS,
    Contract,
)
from sceneloom.errors import (
    DeadlineExceededError,
    InputError,
    ModelFailedError,
    ModelNotFoundError,
    SchemaError,
    ServerUnavailableError,
    ServingError,
)
from sceneloom.kinds import check_kind
from sceneloom.maps import Image, InstanceMap, LabelMap, Style
from sceneloom.request import random_inputs, tensors
from sceneloom.synthesizer import Synthesizer
from sceneloom.triton.grpc_transport import GrpcTransport
from sceneloom.triton.http_transport import HttpTransport
from sceneloom.triton.shared_memory import SharedMemoryTransport
from sceneloom.triton.transport import ModelConfig, TensorSpec, Timeouts, Transport, scheme_of

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


class TritonSynthesizer(Synthesizer):
    """Client of a model served by Triton; safe to use from several threads."""

    def __init__(
        self,
        url: str,
        *,
        model: str = MODEL_NAME,
        timeouts: Timeouts | None = None,
        transport: Transport | TransportChoice | None = None,
    ) -> None:
        """Connect, read the model's contract and check that this client can talk to it.

        Args:
            url: ``HOST:PORT`` or ``grpc://HOST:PORT`` of the server's gRPC port, or
                ``http://HOST:PORT`` of its HTTP port.
            model: name of the model.
            timeouts: how long to wait; finite defaults.
            transport: how tensors travel, see `sceneloom.triton.client`, or a connection to use
                instead of one to `url`, such as `sceneloom.testing.FakeTransport`. By default they
                travel in messages: a client of few pictures would not earn back the two that prove
                shared memory.

        Raises:
            InputError: `url` is of another form, or does not fit `transport`.
            ServerUnavailableError: nothing answers at `url`.
            ModelNotFoundError: the server has no such model, or it is not one of SceneLoom's.
            SchemaError: the model's contract is damaged or newer than this client.
        """
        check_kind(model, str, "the name of the model")
        if timeouts is not None:
            check_kind(timeouts, Timeouts, "an object of Timeouts")
        self.timeouts = timeouts or Timeouts()
        """How long it waits."""
        if transport is None:
            transport = "http" if scheme_of(url) == "http" else "grpc"
        if not hasattr(transport, "infer"):  # a Transport
            check_kind(transport, str, "the name of a transport, or a connection,")
        if isinstance(transport, str):
            transport = connect(url, transport=transport, model=model, timeouts=self.timeouts)
        self._transport = transport
        try:
            config = self._transport.model_config(model, timeout=self.timeouts.connect)
            contract = _read_contract(config, f"{self._transport.address}, model {model!r}")
        except BaseException:
            self._transport.close()
            raise
        super().__init__(contract, config.max_batch_size)
        self.model = model
        """Name of the model."""
        self.dynamic_batching = config.dynamic_batching
        """Whether the server joins requests of equal size."""
        self.version = config.version
        """The version of the model that answers."""
        self.engine = config.parameters.get(ENGINE_PARAMETER, "")
        self.difference = config.parameters.get(DIFFERENCE_PARAMETER, "")
        """How far its pictures are from PyTorch's, in words; empty where the server does not say
        it.
        """
        self.fast = config.parameters.get(FAST_PARAMETER, "")
        """What `sceneloom serve --precision fast` would bring, in words; likewise."""

    @property
    def transport(self) -> Transport:
        """The connection; its `kind` and `why` say how tensors travel."""
        return self._transport

    def run_batch(
        self, label_maps: LabelMap, instance_maps: InstanceMap | None, styles: Style | None
    ) -> Image:
        """Send one request; see `Synthesizer.run_batch`."""
        images = self._transport.infer(
            self.model,
            tensors(label_maps, instance_maps, styles),
            OUTPUT_IMAGE,
            timeout=self.timeouts.infer,
        )
        if images.shape != (*label_maps.shape, 3) or images.dtype != "uint8":
            raise ModelFailedError(
                f"{self._transport.address}: model {self.model!r} answered {images.dtype} "
                f"{list(images.shape)} to label maps {list(label_maps.shape)}"
            )
        return images

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()


def _read_contract(config: ModelConfig, where: str) -> Contract:
    if PARAMETER not in config.parameters:
        raise ModelNotFoundError(
            f"{where}: carries no contract; it is not a model that sceneloom exported"
        )
    contract = Contract.loads(config.parameters[PARAMETER], source=where)
    if config.max_batch_size < 1:
        raise ModelNotFoundError(
            f"{where}: max_batch_size is {config.max_batch_size}; its tensors have no batch axis"
        )
    wanted = {INPUT_LABELS: TensorSpec(dtype="UINT8", dims=(-1, -1))}
    if contract.wants_instances:
        wanted[INPUT_INSTANCES] = TensorSpec(dtype="INT32", dims=(-1, -1))
    if contract.style_channels:
        wanted[INPUT_STYLE] = TensorSpec(dtype="FP32", dims=(STYLE_ROWS, contract.style_channels))
    _check_specs(config.inputs, wanted, where)
    _check_specs(config.outputs, {OUTPUT_IMAGE: TensorSpec(dtype="UINT8", dims=(-1, -1, 3))}, where)
    return contract


def _check_specs(
    found: Mapping[str, TensorSpec], wanted: dict[str, TensorSpec], where: str
) -> None:
    fits = found.keys() == wanted.keys() and all(
        found[name].dtype == spec.dtype
        and len(found[name].dims) == len(spec.dims)
        and all(-1 in (a, b) or a == b for a, b in zip(found[name].dims, spec.dims, strict=True))
        for name, spec in wanted.items()
    )
    if not fits:
        raise ModelNotFoundError(f"{where}: its tensors are {found}; its contract needs {wanted}")
