"""The Triton server as a Synthesizer.

with TritonSynthesizer("127.0.0.1:8001") as synthesizer:
    image = synthesizer.synthesize(read_label_map("map.png", synthesizer.contract.schema))
"""

from __future__ import annotations

from collections.abc import Mapping

from sceneloom.connect import TransportChoice, connect
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
from sceneloom.errors import ModelFailedError, ModelNotFoundError
from sceneloom.kinds import check_kind
from sceneloom.synthesizer import Image, InstanceMap, LabelMap, Style, Synthesizer
from sceneloom.transport import ModelConfig, TensorSpec, Timeouts, Transport, scheme_of


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
            transport: how tensors travel, see `sceneloom.connect.connect`, or a connection to use
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
        """Send one request; see `Synthesizer.run_batch`.

        Raises:
            ServingError: the server did not answer with pictures.
        """
        feeds = {INPUT_LABELS: label_maps, INPUT_INSTANCES: instance_maps, INPUT_STYLE: styles}
        images = self._transport.infer(
            self.model,
            {name: array for name, array in feeds.items() if array is not None},
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
    if contract.boundaries or contract.style_channels:
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
