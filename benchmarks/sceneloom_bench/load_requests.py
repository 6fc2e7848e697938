"""Requests of a load on each transport, prepared before the clock runs.

A request ends when its picture is in memory and has the right shape. gRPC, shared memory and HTTP
carry tensors; a gateway carries PNG files and the picture's file, which is not decoded. All threads
share one client.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sceneloom import TritonSynthesizer
from sceneloom.contract import Contract
from sceneloom.errors import InputError, ModelNotFoundError
from sceneloom.maps import instance_map_png, label_map_png
from sceneloom.pictures import EncodedFormat
from sceneloom.request import Request, stack
from sceneloom.triton.access import Access
from sceneloom.triton.transport import Timeouts
from sceneloom_bench.harness import Served, batches
from sceneloom_bench.loops import Send

TransportName = Literal["grpc", "grpc-shm", "http", "gateway"]


class TensorConnection:
    """Tensors over gRPC, shared memory, or HTTP."""

    def __init__(self, client: TritonSynthesizer) -> None:
        """Use a client and close it at the end."""
        self.client = client
        self._asked = (client.transport.kind, client.transport.why)
        self.models: tuple[str, ...] = (client.model,)
        """The requested model; none behind a gateway."""
        self.largest_batch = client.max_batch_size

    def sender(self, maps: Sequence[Request], batch: int) -> Send:
        """Prepare all different requests of `batch` maps; raises InputError for mixed sizes."""
        check_sizes(maps, batch)
        client, count = self.client, math.lcm(len(maps), batch) // batch
        joined = [stack(one) for one in itertools.islice(batches(maps, batch), count)]

        def send(number: int) -> None:
            client.run_batch(*joined[number % count])

        return send

    def mark(self) -> str:
        """A mark if shared memory was given up."""
        now = (self.client.transport.kind, self.client.transport.why)
        return "" if now == self._asked else f"not all requests used shared memory: {now[1]}"

    def close(self) -> None:
        """Close the client."""
        self.client.close()


class GatewayConnection:
    """PNG files of maps to a gateway, the picture's file back; see `TensorConnection`."""

    largest_batch = 1
    models: tuple[str, ...] = ()

    def __init__(self, client: TritonSynthesizer, format: EncodedFormat) -> None:
        """Use a client of a gateway and close it at the end."""
        self._client, self._format = client, format

    def sender(self, maps: Sequence[Request], batch: int) -> Send:
        """Encode the maps."""
        assert batch == 1
        transport: Any = self._client.transport
        contract, timeout = self._client.contract, self._client.timeouts.infer
        files = [map_files(contract, request) for request in maps]
        size = maps[0].size

        def send(number: int) -> None:
            transport.draw(
                *files[number % len(files)], size=size, timeout=timeout, format=self._format
            )

        return send

    def mark(self) -> str:
        """No mark: the transport cannot change."""
        return ""

    def close(self) -> None:
        """Close the client."""
        self._client.close()


def map_files(contract: Contract, request: Request) -> tuple[bytes, bytes | None]:
    """The label map and the instance map as PNG files."""
    label_map, instance_map = request.label_map, request.instance_map
    instance = None
    if instance_map is not None:
        instance = instance_map_png(contract, label_map, instance_map)
    return label_map_png(contract, label_map), instance


Connection = TensorConnection | GatewayConnection


def open_connections(
    server: Served,
    model: str,
    names: Sequence[TransportName],
    *,
    version: str = "",
    timeout: float = 120,
    format: EncodedFormat = "png",
    access: Access | None = None,
) -> tuple[dict[TransportName, Connection], list[str]]:
    """Connect over each named transport that the server offers, in order.

    Returns the connections, and a sentence for each transport that the server does not offer.
    Raises ServerUnavailableError if an address does not answer, InputError without a connection.
    """
    connections: dict[TransportName, Connection] = {}
    left_out: list[str] = []
    timeouts = Timeouts(infer=timeout)
    for name in names:
        try:
            if name == "gateway":
                client = TritonSynthesizer(
                    server.grpc,
                    model=model,
                    version=version,
                    timeouts=timeouts,
                    transport="gateway",
                    access=access,
                )
                connections[name] = GatewayConnection(client, format)
                continue
            url, transport = server.grpc, name
            if name == "http":
                url = url if url.startswith("http://") else server.http or ""
                if not url:
                    raise InputError("it needs an address: --http HOST:PORT")
                url = url if url.startswith("http://") else f"http://{url}"
            elif url.startswith("http://"):
                raise InputError("--url is an address of HTTP")
            client = TritonSynthesizer(
                url,
                model=model,
                version=version,
                timeouts=timeouts,
                transport=transport,
                access=access,
            )
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
    return connections, left_out


def fitting_batches(
    connections: Mapping[TransportName, Connection], batches: Sequence[int]
) -> tuple[list[tuple[TransportName, int]], list[str]]:
    """Pairs of a transport and a batch that it takes, and a sentence for each too large batch."""
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
    """Raise InputError if the maps differ in size, or are too few for different requests."""
    largest = max(batches)
    if len(maps) <= largest:
        raise InputError(
            f"{len(maps)} different maps cannot make different requests of {largest}; give at "
            f"least {largest + 1} (--different-maps, and as many in the folder of --maps)"
        )
    check_sizes(maps, largest)


def check_sizes(maps: Sequence[Request], batch: int) -> None:
    """Raise InputError if maps of different sizes would share a batch."""
    if batch > 1 and len({request.size for request in maps}) > 1:
        raise InputError("the maps differ in size and cannot share a batch; send --batches 1")


def close_all(connections: Mapping[TransportName, Connection]) -> None:
    """Close all connections."""
    for connection in connections.values():
        connection.close()
