"""The gateway beside the encoded path inside Triton: bytes, latency and throughput.

Both answer the same PNG files of maps with the same format of picture, from one Triton server with
a model that draws nothing, and take turns: one request each, then one load each, round by round.
The client decodes nothing. Prints a table and, as its last line, one JSON document.

    python benchmarks/experiments/encoded_path.py --size 2048x1024 --format jpg
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import tyro

from noop_server import NOOP_CONTRACT, NoopServer, write_noop_repository
from sceneloom.maps import instance_map_png, label_map_png, parse_size
from sceneloom.pictures import EncodedFormat
from sceneloom.triton.encoded import EncodedClient
from sceneloom.triton.gateway_transport import GatewayTransport
from sceneloom.triton.grpc_transport import GrpcTransport
from sceneloom_bench.harness import bench_maps
from sceneloom_bench.reports.environment import Environment
from sceneloom_export.repository import write_encoded_models
from sceneloom_export.settings import TritonSettings

Send = Callable[[int], bytes]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """One comparison."""

    size: str = "2048x1024"
    """WIDTHxHEIGHT of the maps, drawn streets."""
    format: EncodedFormat = "jpg"
    """Format of the pictures."""
    latency_rounds: int = 30
    """Single requests of each."""
    clients: tuple[int, ...] = (1, 8)
    """Clients at once, of the loads."""
    load_rounds: int = 4
    """Loads of each, for each number of clients."""
    requests: int = 24
    """Requests of a load."""
    warm_up: int = 6
    """Uncounted requests of each."""


def measure(settings: Settings, folder: Path) -> dict[str, object]:
    """Measure both; the figures by name."""
    size = parse_size(settings.size)
    repository = write_noop_repository(folder / "repository")
    write_encoded_models(repository, TritonSettings())
    maps = bench_maps(NOOP_CONTRACT, size, 8)
    files = []
    for one in maps:
        assert one.instance_map is not None
        instance = instance_map_png(NOOP_CONTRACT, one.label_map, one.instance_map)
        files.append((label_map_png(NOOP_CONTRACT, one.label_map), instance))
    with ExitStack() as stack, Environment() as environment:
        server = stack.enter_context(NoopServer(repository))
        grpc = GrpcTransport(server.grpc)
        stack.callback(grpc.close)
        ensemble = EncodedClient(grpc)
        gateway = GatewayTransport(_start_gateway(stack, server.grpc))
        stack.callback(gateway.close)
        format = settings.format
        senders: dict[str, Send] = {
            "ensemble": lambda n: ensemble.synthesize(*files[n % len(files)], format=format),
            "gateway": lambda n: (
                gateway.draw(*files[n % len(files)], size=size, timeout=60, format=format).file
            ),
        }
        received = {
            name: [len(send(n)) for n in range(len(files))] for name, send in senders.items()
        }
        equal = all(
            ensemble_bytes == gateway_bytes
            for ensemble_bytes, gateway_bytes in zip(
                *(list(map(send, range(len(files)))) for send in senders.values()), strict=True
            )
        )
        for send in senders.values():
            for number in range(settings.warm_up):
                send(number)
        latency: dict[str, list[float]] = {name: [] for name in senders}
        for number in range(settings.latency_rounds):
            for name in sorted(senders, reverse=bool(number % 2)):
                start = time.perf_counter()
                senders[name](number)
                latency[name].append(1000 * (time.perf_counter() - start))
        rates: dict[str, dict[str, list[float]]] = {}
        for clients in settings.clients:
            with ThreadPoolExecutor(clients) as pool:
                found: dict[str, list[float]] = {name: [] for name in senders}
                for number in range(settings.load_rounds):
                    for name in sorted(senders, reverse=bool(number % 2)):
                        start = time.perf_counter()
                        list(pool.map(senders[name], range(settings.requests)))
                        found[name].append(settings.requests / (time.perf_counter() - start))
                rates[str(clients)] = found
    sent = [len(label) + len(instance) for label, instance in files]
    return {
        "settings": dataclasses.asdict(settings),
        "environment": environment.to_json(),
        "sent_bytes": statistics.mean(sent),
        "received_bytes": {name: statistics.mean(counts) for name, counts in received.items()},
        "equal_pictures": equal,
        "latency_ms": latency,
        "rates": rates,
    }


def _start_gateway(stack: ExitStack, triton: str) -> str:
    """Start a gateway, and return its address."""
    command = [sys.executable, "-m", "sceneloom.cli", "gateway", "--triton", triton]
    process = subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    stack.callback(process.wait, timeout=60)
    stack.callback(process.terminate)
    assert process.stdout is not None
    return process.stdout.readline().split()[1]


def main(settings: Settings) -> None:
    """Compare, and print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(settings, Path(folder))
    latency, rates, received = found["latency_ms"], found["rates"], found["received_bytes"]
    assert isinstance(latency, dict)
    assert isinstance(rates, dict)
    assert isinstance(received, dict)
    print(f"pictures equal: {found['equal_pictures']}; bytes sent {found['sent_bytes']:,.0f}")
    print("| | ensemble | gateway |\n|---|---|---|")
    print(f"| bytes back | {received['ensemble']:,.0f} | {received['gateway']:,.0f} |")
    for name, pick in (("median", statistics.median), ("worst", max)):
        cells = " | ".join(f"{pick(latency[one]):.1f}" for one in ("ensemble", "gateway"))
        print(f"| {name} latency, ms | {cells} |")
    for clients, by in rates.items():
        cells = " | ".join(f"{statistics.median(by[one]):.2f}" for one in ("ensemble", "gateway"))
        print(f"| pictures/s, {clients} clients | {cells} |")
    print(json.dumps(found))


if __name__ == "__main__":
    main(tyro.cli(Settings))
