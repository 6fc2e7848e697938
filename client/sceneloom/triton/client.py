"""The Triton client, and the choice of its connection.

with TritonSynthesizer("127.0.0.1:8001", transport="auto") as synthesizer:
    image = synthesizer.synthesize(label_map, instance_map)
"""

from __future__ import annotations

import contextlib
from typing import Literal, get_args

from sceneloom import errors
from sceneloom.contract import (
    DIFFERENCE_PARAMETER,
    ENGINE_PARAMETER,
    FAST_PARAMETER,
    MODEL_NAME,
    OUTPUT_IMAGE,
    PARAMETER,
    Contract,
)
from sceneloom.maps import Image, InstanceMap, LabelMap, Style
from sceneloom.request import random_inputs, tensors
from sceneloom.synthesizer import Synthesizer
from sceneloom.triton.access import Access, AccessFlags
from sceneloom.triton.grpc_transport import GrpcTransport
from sceneloom.triton.http_transport import HttpTransport
from sceneloom.triton.shared_memory import SharedMemoryTransport
from sceneloom.triton.transport import (
    OUTPUT_SPECS,
    ModelConfig,
    Timeouts,
    Transport,
    input_specs,
    server_address,
)
from sceneloom.validation import check_kind

TransportChoice = Literal["auto", "grpc", "grpc-shm", "http", "gateway"]
"""``auto`` takes shared memory where it works, and a gateway where one answers."""
_PROVEN = "checked: same picture as over gRPC"


def connect(
    url: str,
    *,
    transport: TransportChoice = "auto",
    model: str = MODEL_NAME,
    version: str = "",
    timeouts: Timeouts | None = None,
    access: Access | None = None,
) -> Transport:
    """Connect to a server, at ``HOST:PORT`` or ``grpc://HOST:PORT`` of its gRPC port, with TLS
    ``grpcs://HOST:PORT``, or ``http://HOST:PORT`` of its HTTP port; or to a gateway, at
    ``https://HOST:PORT`` or ``http://HOST:PORT``.

    With ``auto`` and a gRPC address, the server gets a random map of the smallest size that `model`
    takes, in a message and through shared memory; unless both give the same picture, tensors travel
    in messages. An empty `version` means the latest. Without `access` the environment variable
    SCENELOOM_API_KEY may hold a gateway's key. `kind` and `why` of the connection name the choice
    and its reason.

    Raises InputError if the address has another form or does not fit `transport`, or shared memory
    was requested and does not work; ServerUnavailableError or DeadlineExceededError if the server
    does not answer the proof (without one, the first request raises them); MissingDependencyError
    for a gateway without the extra ``https``.
    """
    timeouts, access = timeouts or Timeouts(), access or AccessFlags().read([url])
    if transport not in get_args(TransportChoice):
        choices = ", ".join(get_args(TransportChoice))
        raise errors.InputError(f"no transport {transport!r}; choose one of {choices}")
    scheme, _ = server_address(url)
    if scheme == "https" or transport == "gateway":
        if transport not in ("auto", "gateway"):
            raise errors.InputError(f"{url}: a gateway is behind https://, not {transport}")
        return _connect_gateway(url, f"{scheme.upper()} address", access)
    if scheme == "http" or transport == "http":
        if transport not in ("auto", "http"):
            raise errors.InputError(f"{url}: {transport} goes to the server's gRPC port, HOST:PORT")
        over_http = HttpTransport(url, why="HTTP address", access=access)
        if transport == "auto" and over_http.is_gateway(timeout=timeouts.connect):
            over_http.close()
            return _connect_gateway(url, "a gateway answered", access)
        return over_http
    if transport == "grpc":
        return GrpcTransport(url, access=access)
    if transport == "auto" and scheme == "grpcs":
        return GrpcTransport(url, why="TLS address", access=access)
    with contextlib.ExitStack() as unless_proven:
        shared = SharedMemoryTransport(url, why=_PROVEN, access=access)
        unless_proven.callback(shared.close)
        try:
            config = shared.model_config(model, timeout=timeouts.connect, version=version)
            text = config.parameters.get(PARAMETER, "")
            inputs = random_inputs(Contract.loads(text, source=f"model {model!r}"))
            reason = shared.prove(
                model, inputs, OUTPUT_IMAGE, timeout=timeouts.infer, version=version
            )
        except (errors.ServerUnavailableError, errors.DeadlineExceededError):
            raise
        except (errors.ServingError, errors.SchemaError) as error:
            reason = f"shared memory could not be proven ({error})"
        if not reason:
            unless_proven.pop_all()
            return shared
    if transport == "grpc-shm":
        raise errors.InputError(f"{url}: shared memory cannot be used: {reason}")
    return GrpcTransport(url, why=reason, access=access)


def _connect_gateway(url: str, why: str, access: Access) -> Transport:
    errors.require(("httpx",), extra="https", purpose=f"a gateway, {url},")
    from sceneloom.triton.gateway_transport import GatewayTransport

    return GatewayTransport(url, why=why, access=access)


class TritonSynthesizer(Synthesizer):
    """Client of a model served by Triton; safe to use from several threads."""

    def __init__(
        self,
        url: str,
        *,
        model: str = MODEL_NAME,
        version: str = "",
        timeouts: Timeouts | None = None,
        transport: Transport | TransportChoice | None = None,
        access: Access | None = None,
    ) -> None:
        """Connect, read the model's contract and check that it fits this client.

        `version` is Triton's number of a version of the model; empty for the latest at each
        request. `transport` may be a connection to use instead of one to `url`, such as
        `sceneloom.testing.FakeTransport`; see `connect`, also for `access`. By default tensors
        travel in messages: a client of few pictures would not earn back the two that prove shared
        memory.

        Raises as `connect`; ModelNotFoundError if the server has no such model or version, or not
        one of SceneLoom's; SchemaError if its contract is damaged or newer than this client.
        """
        check_kind(model, str, "the name of the model")
        check_kind(version, str, "the version of the model")
        if timeouts is not None:
            check_kind(timeouts, Timeouts, "an object of Timeouts")
        self.timeouts = timeouts or Timeouts()
        """Timeouts of its calls."""
        if transport is None:
            scheme, _ = server_address(url)
            transport = "auto" if scheme in ("http", "https") else "grpc"
        if not hasattr(transport, "infer"):  # a Transport
            check_kind(transport, str, "the name of a transport, or a connection,")
        if isinstance(transport, str):
            transport = connect(
                url,
                transport=transport,
                model=model,
                version=version,
                timeouts=self.timeouts,
                access=access,
            )
        # A transport of the caller's own may know no versions.
        self._asked = {"version": version} if version else {}
        self.transport = transport
        """The connection; its `kind` and `why` name the carrier of the tensors and the reason."""
        try:
            config = transport.model_config(model, timeout=self.timeouts.connect, **self._asked)
            contract = _read_contract(config, f"{transport.address}, model {model!r}")
        except BaseException:
            transport.close()
            raise
        super().__init__(contract, config.max_batch_size)
        self.model = model
        """Name of the model."""
        self.dynamic_batching = config.dynamic_batching
        """Whether the server joins requests of equal size."""
        self.version = config.version
        """Version of the model: the requested one, else the latest at connect."""
        self.engine = config.parameters.get(ENGINE_PARAMETER, "")
        self.difference = config.parameters.get(DIFFERENCE_PARAMETER, "")
        """Difference of its pictures from PyTorch's, in words; empty if unknown."""
        self.fast = config.parameters.get(FAST_PARAMETER, "")
        """Gain of `sceneloom serve --precision fast`, in words; empty if unknown."""

    def run_batch(
        self, label_maps: LabelMap, instance_maps: InstanceMap | None, styles: Style | None
    ) -> Image:
        """Send one request; see `Synthesizer.run_batch`."""
        images = self.transport.infer(
            self.model,
            tensors(label_maps, instance_maps, styles),
            OUTPUT_IMAGE,
            timeout=self.timeouts.infer,
            **self._asked,
        )
        if images.shape != (*label_maps.shape[:3], 3) or images.dtype != "uint8":
            raise errors.ModelFailedError(
                f"{self.transport.address}: model {self.model!r} answered {images.dtype} "
                f"{list(images.shape)} to maps {list(label_maps.shape)}"
            )
        return images

    def close(self) -> None:
        """Close the connection."""
        self.transport.close()


def _read_contract(config: ModelConfig, where: str) -> Contract:
    if PARAMETER not in config.parameters:
        raise errors.ModelNotFoundError(
            f"{where}: has no contract; it is not a model that sceneloom exported"
        )
    contract = Contract.loads(config.parameters[PARAMETER], source=where)
    if config.max_batch_size < 1:
        raise errors.ModelNotFoundError(
            f"{where}: max_batch_size is {config.max_batch_size}; its tensors have no batch axis"
        )
    for found, wanted in ((config.inputs, input_specs(contract)), (config.outputs, OUTPUT_SPECS)):
        fits = found.keys() == wanted.keys() and all(
            found[name].dtype == spec.dtype
            and len(found[name].dims) == len(spec.dims)
            and all(
                a == b or -1 in (a, b) for a, b in zip(found[name].dims, spec.dims, strict=True)
            )
            for name, spec in wanted.items()
        )
        if not fits:
            raise errors.ModelNotFoundError(
                f"{where}: its tensors are {found}; its contract needs {wanted}"
            )
    return contract
