"""The gateway beside direct gRPC, before a model without a network.

Clients send maps of 2048x1024 in a closed loop, and all ways take turns: arrays over gRPC; gRPC by
a client that decodes and encodes files itself; files through `sceneloom gateway` with one worker
process and with two. The gateway's own cost is the processor time of its processes per picture.

    python benchmarks/experiments/gateway_cost.py --out docs/results
    make gateway-cost
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import cv2
import httpx
import numpy as np
import psutil
import tyro

from noop_server import NoopServer, write_noop_repository
from render_limits import publish
from sceneloom.errors import SceneLoomError
from sceneloom.maps import read_instance_map, read_label_map
from sceneloom.pictures import encode_picture
from sceneloom.schema import load_schema
from sceneloom.triton.client import TritonSynthesizer
from sceneloom_bench.turns import rounds_in_turn
from sceneloom_serving.engines import describe_machine
from sceneloom_streets import draw_street

Ask = Callable[[int], object]
"""Get the picture of a map, by its number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Maps, clients and rounds."""

    in_flight: tuple[int, ...] = (1, 4)
    """Clients at the same time."""
    pictures: int = 48
    """Pictures of each turn."""
    rounds: int = 5
    """Rounds of turns, after one that warms up."""
    maps: int = 8
    """Different maps."""
    height: int = 1024
    """Height of the maps in pixels."""
    width: int = 2048
    """Width of the maps in pixels."""


@dataclasses.dataclass
class Way:
    """One way of a map to its picture."""

    ask: Ask
    processes: list[psutil.Process] = dataclasses.field(default_factory=list)
    """Processes of the gateway."""

    def cpu_seconds(self) -> float:
        """Processor time of the gateway so far."""
        times = [process.cpu_times() for process in self.processes]
        return float(sum(one.user + one.system for one in times))


def main(
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    settings: Annotated[Settings, tyro.conf.OmitArgPrefixes] = Settings(),
) -> int:
    """Measure, and write the results.

    Args:
        out: folder of the results.
        settings: maps, clients and rounds.
    """
    with tempfile.TemporaryDirectory(prefix="sceneloom-gateway-") as folder:
        found = measure(Path(folder), settings)
    return publish(found, describe(found), out, "gateway-cost")


def measure(folder: Path, settings: Settings) -> dict[str, Any]:
    """Measure all ways in turn, as the JSON document."""
    machine = describe_machine()
    schema = load_schema("cityscapes")
    streets = [draw_street(seed, settings.height, settings.width) for seed in range(settings.maps)]
    files = [
        (png(street.label_map), png(street.instance_map.astype(np.uint16))) for street in streets
    ]
    arrays = [(read_label_map(a, schema), read_instance_map(b)) for a, b in files]
    repository = write_noop_repository(folder / "repository")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(NoopServer(repository))
        client = stack.enter_context(TritonSynthesizer(server.grpc))

        def over_grpc(number: int) -> object:
            return client.synthesize(*arrays[number % settings.maps])

        def files_over_grpc(number: int) -> object:
            label, instances = files[number % settings.maps]
            label_map, instance_map = read_label_map(label, schema), read_instance_map(instances)
            return encode_picture(client.synthesize(label_map, instance_map), "jpg", quality=95)

        ways = {
            "gRPC, arrays": Way(over_grpc),
            "gRPC, files decoded and encoded by the client": Way(files_over_grpc),
        }
        for workers in (1, 2):
            way = stack.enter_context(gateway(server.grpc, workers, files))
            ways[f"gateway, {workers} worker{'s' * (workers > 1)}"] = way
        loads = {count: take_turns(ways, count, settings) for count in settings.in_flight}
    return {
        "machine": machine,
        "settings": dataclasses.asdict(settings),
        "loads": {str(count): found for count, found in loads.items()},
    }


def png(values: np.ndarray[Any, Any]) -> bytes:
    """A PNG file of ids."""
    return cv2.imencode(".png", values)[1].tobytes()


@contextlib.contextmanager
def gateway(triton: str, workers: int, files: list[tuple[bytes, bytes]]) -> Iterator[Way]:
    """A running gateway."""
    flags = ["--triton", triton, "--listen", "127.0.0.1:0", "--workers", str(workers)]
    command = [sys.executable, "-m", "sceneloom.cli", "gateway", *flags]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[1] + "/v1/synthesize"
        with httpx.Client(timeout=60, trust_env=False) as client:

            def ask(number: int) -> object:
                label, instances = files[number % len(files)]
                answer = client.post(url, files={"label": label, "instances": instances})
                assert answer.status_code == 200, answer.text
                return answer.content

            parent = psutil.Process(process.pid)
            yield Way(ask, [parent, *parent.children()])
    finally:
        process.terminate()
        process.communicate(timeout=60)


def take_turns(ways: dict[str, Way], clients: int, settings: Settings) -> dict[str, Any]:
    """Rates, latencies and the gateway's processor time of each way, medians of the rounds."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    latencies: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for number, names in rounds_in_turn(ways, settings.rounds + 1):
        for name in names:
            before = ways[name].cpu_seconds()
            seconds, each = closed_loop(ways[name].ask, clients, settings.pictures)
            if not number:
                continue
            rates[name].append(settings.pictures / seconds)
            latencies[name].append(statistics.median(each))
            cpu[name].append((ways[name].cpu_seconds() - before) / settings.pictures)
    base = rates["gRPC, arrays"]
    return {
        name: {
            "pictures_per_second": round(statistics.median(rates[name]), 2),
            "of_grpc": round(
                statistics.median(a / b for a, b in zip(rates[name], base, strict=True)), 3
            ),
            "latency_ms": round(1000 * statistics.median(latencies[name]), 1),
            "gateway_cpu_ms": round(1000 * statistics.median(cpu[name]), 1),
        }
        for name in ways
    }


def closed_loop(ask: Ask, clients: int, pictures: int) -> tuple[float, list[float]]:
    """Seconds of all pictures, and of each."""
    numbers, each, lock = itertools.count(), list[float](), threading.Lock()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            while True:
                with lock:
                    number = next(numbers)
                if number >= pictures:
                    return
                began = time.perf_counter()
                ask(number)
                with lock:
                    each.append(time.perf_counter() - began)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return time.perf_counter() - began, each


def describe(found: dict[str, Any]) -> str:
    """The results in Markdown."""
    machine, settings = found["machine"], found["settings"]
    lines = [
        f"# The gateway beside gRPC at {settings['width']}x{settings['height']}",
        "",
        f"{machine['cores']} cores of {machine['cpu']}, on which clients, gateway and server run; "
        f"load average before: {machine['load_average']}. Model: one that draws nothing, behind "
        f"the real tritonserver. Medians of {settings['rounds']} rounds of {settings['pictures']} "
        "pictures, in turn, after a warm-up. JPEG of quality 95. Times are of this machine; ratios "
        "are what counts. Again: `make gateway-cost`.",
    ]
    for count, ways in found["loads"].items():
        lines += [
            "",
            f"| {count} in flight | pictures/s | of gRPC, arrays | latency, ms "
            "| processor time of the gateway, ms per picture |",
            "|---|---|---|---|---|",
            *(
                f"| {name} | {one['pictures_per_second']} | {one['of_grpc']} | {one['latency_ms']} "
                f"| {one['gateway_cpu_ms'] or '-'} |"
                for name, one in ways.items()
            ),
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main))
    except SceneLoomError as error:
        sys.exit(f"gateway: {error}")
