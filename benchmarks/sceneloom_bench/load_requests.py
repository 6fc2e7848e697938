"""One request of a load, for each way to the server: everything is prepared before the clock runs,
and a request ends when its picture is in memory and has the right shape.

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
from typing import Literal, Protocol

from sceneloom import TritonSynthesizer
from sceneloom.encoded import ENCODED_MODEL, ENCODED_MODELS, EncodedClient, EncodedFormat
from sceneloom.errors import InputError, ModelNotFoundError
from sceneloom.grpc_transport import GrpcTransport
from sceneloom.http_transport import HttpTransport
from sceneloom.png_maps import instance_map_png, label_map_png
from sceneloom.synthesizer import Request
from sceneloom.transport import Timeouts, Transport
from sceneloom_bench.harness import Served, batches
from sceneloom_bench.loops import Send
from sceneloom_bench.server_statistics import ServerView
from sceneloom_bench.turns import stacked

TransportName = Literal["grpc", "grpc-shm", "http", "encoded"]


class Connection(Protocol):
    """One way to the server."""

    @property
    def models(self) -> Sequence[str]:
        """The models of a request: the one that is asked, the one that draws, then others."""

    @property
    def largest_batch(self) -> int:
        """Most maps of a request."""

    def sender(self, maps: Sequence[Request], batch: int) -> Send:
        """Prepare requests of `batch` maps each, another one every time."""

    def mark(self) -> str:
        """A mark if tensors travelled otherwise than asked for; empty if not."""

    def close(self) -> None:
        """Close it."""


class TensorConnection:
    """Tensors over gRPC, through shared memory, or over HTTP."""

    def __init__(self, client: TritonSynthesizer) -> None:
        """Use a client; it is closed with this."""
        self.client = client
        self._asked = (client.transport.kind, client.transport.why)
        self.models = (client.model,)
        self.largest_batch = client.max_batch_size

    def sender(self, maps: Sequence[Request], batch: int) -> Send:
        """Join maps to batches, as many as come before the first one comes again.

        Raises:
            InputError: the maps of a batch differ in size.
        """
        check_sizes(maps, batch)
        client, count = self.client, math.lcm(len(maps), batch) // batch
        joined = [stacked(one) for one in itertools.islice(batches(maps, batch), count)]

        def send(number: int) -> None:
            client.run_batch(*joined[number % count])

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
        """Use a client of an ensemble whose step `drawing` draws; closes the transport."""
        self._transport, self._client, self._format = transport, client, format
        self.models = (ENCODED_MODEL, drawing, *ENCODED_MODELS[1:])

    def sender(self, maps: Sequence[Request], batch: int) -> Send:
        """Encode the maps; see `Connection.sender`."""
        assert batch == 1
        client, format, contract = self._client, self._format, self._client.contract
        files = [
            (
                label_map_png(contract, request.label_map),
                None
                if request.instance_map is None
                else instance_map_png(contract, request.label_map, request.instance_map),
            )
            for request in maps
        ]

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
    """The ways to a server."""

    connections: Mapping[TransportName, Connection]
    """In the order of the request for them."""
    left_out: Sequence[str]
    """A sentence for each way that the server does not offer."""


def open_connections(
    server: Served,
    model: str,
    names: Sequence[TransportName],
    *,
    timeout: float = 120,
    format: EncodedFormat = "png",
) -> Opened:
    """Connect in each of the named ways that the server offers.

    Raises:
        ServerUnavailableError: nothing answers at an address.
        InputError: the server offers none of them.
    """
    connections: dict[TransportName, Connection] = {}
    left_out: list[str] = []
    timeouts = Timeouts(infer=timeout)
    for name in names:
        try:
            if name == "encoded":
                connections[name] = _connect_encoded(server, model, timeouts, format)
                continue
            url, transport = server.grpc, name
            if name == "http":
                url = url if url.startswith("http://") else server.http or ""
                if not url:
                    raise InputError("--http names no address for it")
                url = url if url.startswith("http://") else f"http://{url}"
            elif url.startswith("http://"):
                raise InputError("--url names an address of HTTP")
            client = TritonSynthesizer(url, model=model, timeouts=timeouts, transport=transport)
            connections[name] = TensorConnection(client)
        except (InputError, ModelNotFoundError) as error:
            text = str(error)
            for address in filter(None, (server.http, server.grpc)):
                bare = address.split("://")[-1]
                for form in (f"http://{bare}", f"grpc://{bare}", bare):
                    text = text.replace(form, "the server")
            left_out.append(f"{name} left out: {text}")
        except BaseException:
            close_all(connections)
            raise
    if not connections:
        raise InputError("; ".join(left_out))
    return Opened(connections=connections, left_out=left_out)


def _connect_encoded(
    server: Served, model: str, timeouts: Timeouts, format: EncodedFormat
) -> Connection:
    """Refuses an encoded path around another model than the measured one."""
    http = server.grpc.startswith("http://")
    transport: Transport = HttpTransport(server.grpc) if http else GrpcTransport(server.grpc)
    try:
        client = EncodedClient(transport, timeouts=timeouts)
        with contextlib.closing(ServerView(server.grpc)) as view:
            steps = view.ensemble_steps(ENCODED_MODEL)
        if model not in steps:
            raise InputError(f"{ENCODED_MODEL} on the server runs {', '.join(steps)}, not {model}")
        return EncodedConnection(transport, client, format, model)
    except BaseException:
        transport.close()
        raise


def fitting_batches(
    connections: Mapping[TransportName, Connection], batches: Sequence[int]
) -> tuple[list[tuple[TransportName, int]], list[str]]:
    """Each way with each batch that it takes, and a sentence for each too large one.

    Raises:
        InputError: no way takes any.
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
    """Refuse as many maps as a batch takes: they make the same request for ever.

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
