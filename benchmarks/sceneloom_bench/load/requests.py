"""What one request of a load is, for each way to the server: everything is prepared before the
clock runs, and a request ends when its picture is in memory and has the right shape.

Over gRPC, shared memory and HTTP it is tensors there and a picture back; on the encoded path it is
PNG files there and the picture's file back, not decoded. All threads share one client, as the
product's own do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from sceneloom import TritonSynthesizer
from sceneloom.errors import InputError, ModelNotFoundError
from sceneloom.maps import instance_map_png, label_map_png
from sceneloom.request import Request
from sceneloom.triton.encoded import ENCODED_MODEL, ENCODED_MODELS, EncodedClient, EncodedFormat
from sceneloom.triton.grpc_transport import GrpcTransport
from sceneloom.triton.http_transport import HttpTransport
from sceneloom.triton.transport import Timeouts, Transport
from sceneloom_bench.bench_inputs import batches
from sceneloom_bench.load.answers import Send
from sceneloom_bench.load.server_statistics import ServerView
from sceneloom_bench.served import Served

TransportName = Literal["grpc", "grpc-shm", "http", "encoded"]


class Connection(Protocol):
    """One way to the server."""

    @property
    def models(self) -> Sequence[str]:
        """Whose statistics a request is in: the one that is asked first, then the one that draws,
        then others.
        """

    @property
    def largest_batch(self) -> int:
        """Most maps of a request."""

    def sender(self, maps: Sequence[Request], batch: int) -> Send:
        """Prepare requests of `batch` maps each, another one every time."""

    def mark(self) -> str:
        """What a reader must know of how tensors really travelled; empty if as asked."""

    def close(self) -> None:
        """Close it."""


class TensorConnection:
    """Tensors over gRPC, through shared memory, or over HTTP."""

    def __init__(self, client: TritonSynthesizer) -> None:
        """Use a client; it is closed with this."""
        self.client = client
        self._asked = (client.transport.kind, client.transport.why)

    @property
    def models(self) -> Sequence[str]:
        """The served model."""
        return (self.client.model,)

    @property
    def largest_batch(self) -> int:
        """As the model's configuration says."""
        return self.client.max_batch_size

    def sender(self, maps: Sequence[Request], batch: int) -> Send:
        """Join maps to batches; see `Connection.sender`.

        Raises:
            InputError: the maps of a batch differ in size.
        """
        check_sizes(maps, batch)
        client = self.client
        joined = [_joined(one) for one in _different(maps, batch)]

        def send(number: int) -> None:
            client.run_batch(*joined[number % len(joined)])

        return send

    def mark(self) -> str:
        """Whether shared memory was given up on the way."""
        now = (self.client.transport.kind, self.client.transport.why)
        return "" if now == self._asked else f"not all requests went through memory: {now[1]}"

    def close(self) -> None:
        """Close the client."""
        self.client.close()


class EncodedConnection:
    """PNG files of maps, and the picture's file back."""

    largest_batch = 1

    def __init__(
        self, transport: Transport, client: EncodedClient, format: EncodedFormat, drawing: str
    ) -> None:
        """Use a client; its transport is closed with this.

        Args:
            transport: of the client.
            client: of the ensemble.
            format: of the pictures.
            drawing: the ensemble's step that draws.
        """
        self._transport, self._client, self._format = transport, client, format
        self.models = (ENCODED_MODEL, drawing, *ENCODED_MODELS[1:])

    def sender(self, maps: Sequence[Request], batch: int) -> Send:
        """Encode the maps; see `Connection.sender`."""
        assert batch == 1
        client, format = self._client, self._format
        files = [_files(client, request) for request in maps]

        def send(number: int) -> None:
            client.synthesize(*files[number % len(files)], format=format)

        return send

    def mark(self) -> str:
        """Nothing can change on the way."""
        return ""

    def close(self) -> None:
        """Close the transport."""
        self._transport.close()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
    """The ways to a server, and why others are not among them."""

    connections: Mapping[TransportName, Connection]
    """In the order in which they were asked for."""
    left_out: Sequence[str]
    """A sentence for each that the server does not offer."""


def open_connections(
    server: Served,
    model: str,
    names: Sequence[TransportName],
    *,
    timeout: float = 120,
    format: EncodedFormat = "png",
) -> Opened:
    """Connect in each way that the server offers.

    Args:
        server: which.
        model: name of the served model.
        names: the ways.
        timeout: seconds that a request may take.
        format: of the encoded path's pictures.

    Raises:
        ServerUnavailableError: nothing answers at an address.
        InputError: it offers none of them.
    """
    connections: dict[TransportName, Connection] = {}
    left_out: list[str] = []
    timeouts = Timeouts(infer=timeout)
    for name in names:
        try:
            connections[name] = _connect(server, model, name, timeouts, format)
        except (InputError, ModelNotFoundError) as error:
            left_out.append(f"{name} left out: {_without_address(str(error), server)}")
        except BaseException:
            close_all(connections)
            raise
    if not connections:
        raise InputError("; ".join(left_out))
    return Opened(connections=connections, left_out=left_out)


def fitting_batches(
    connections: Mapping[TransportName, Connection], batches: Sequence[int]
) -> tuple[list[tuple[TransportName, int]], list[str]]:
    """Each way with each batch that it takes, and a sentence for each that it does not.

    Raises:
        InputError: there is none that any takes.
    """
    fitting: list[tuple[TransportName, int]] = []
    too_large: list[str] = []
    for transport, connection in connections.items():
        for batch in batches:
            if batch <= connection.largest_batch:
                fitting.append((transport, batch))
                continue
            too_large.append(
                f"{transport} in batches of {batch} left out: a request takes "
                f"{connection.largest_batch} at most"
            )
    if not fitting:
        raise InputError("; ".join(too_large))
    return fitting, too_large


def check_maps(maps: Sequence[Request], batches: Sequence[int]) -> None:
    """Refuse maps that make no different requests: as many as a batch takes are the same request
    for ever.

    Raises:
        InputError: there are too few, or they differ in size.
    """
    largest = max(batches)
    if len(maps) <= largest:
        raise InputError(
            f"{len(maps)} different maps cannot make different requests of {largest}: it takes "
            f"{largest + 1} at least (--different-maps, and as many in the folder of --maps)"
        )
    check_sizes(maps, largest)


def check_sizes(maps: Sequence[Request], batch: int) -> None:
    """Refuse maps that cannot be joined.

    Raises:
        InputError: they differ in size, and more than one is in a batch.
    """
    if batch > 1 and len({request.label_map.shape for request in maps}) > 1:
        raise InputError("the maps differ in size, so they cannot be sent in batches")


def close_all(connections: Mapping[TransportName, Connection]) -> None:
    """Close them."""
    for connection in connections.values():
        connection.close()


def _connect(
    server: Served, model: str, name: TransportName, timeouts: Timeouts, format: EncodedFormat
) -> Connection:
    by_http_only = server.grpc.startswith("http://")
    if name == "http":
        http = server.grpc if by_http_only else server.http
        if http is None:
            raise InputError("--http names no address for it")
        url = http if http.startswith("http://") else f"http://{http}"
        return TensorConnection(TritonSynthesizer(url, model=model, timeouts=timeouts))
    if name == "encoded":
        transport: Transport = (
            HttpTransport(server.grpc) if by_http_only else GrpcTransport(server.grpc)
        )
        try:
            client = EncodedClient(transport, timeouts=timeouts)
            _check_draws(server, model)
            return EncodedConnection(transport, client, format, model)
        except BaseException:
            transport.close()
            raise
    if by_http_only:
        raise InputError("--url names an address of HTTP")
    return TensorConnection(
        TritonSynthesizer(server.grpc, model=model, timeouts=timeouts, transport=name)
    )


def _check_draws(server: Served, model: str) -> None:
    """Refuse an encoded path around another model than the one that is measured."""
    with contextlib.closing(ServerView(server.grpc)) as view:
        steps = view.ensemble_steps(ENCODED_MODEL)
    if model not in steps:
        raise InputError(f"{ENCODED_MODEL} on the server runs {', '.join(steps)}, not {model}")


def _different(maps: Sequence[Request], batch: int) -> list[list[Request]]:
    """The batches that come before the first one comes again."""
    count = math.lcm(len(maps), batch) // batch
    return list(itertools.islice(batches(maps, batch), count))


def _joined(batch: Sequence[Request]) -> tuple[Any, Any, Any]:
    import numpy as np

    def stack(arrays: list[Any]) -> Any:
        return None if arrays[0] is None else np.stack(arrays)

    return (
        stack([request.label_map for request in batch]),
        stack([request.instance_map for request in batch]),
        stack([request.style for request in batch]),
    )


def _files(client: EncodedClient, request: Request) -> tuple[bytes, bytes | None]:
    labels = label_map_png(client.contract, request.label_map)
    if request.instance_map is None:
        return labels, None
    return labels, instance_map_png(client.contract, request.label_map, request.instance_map)


def _without_address(text: str, server: Served) -> str:
    for url in filter(None, (server.http, server.grpc)):
        address = url.split("://")[-1]
        for form in (f"http://{address}", f"grpc://{address}", address):
            text = text.replace(form, "the server")
    return text
