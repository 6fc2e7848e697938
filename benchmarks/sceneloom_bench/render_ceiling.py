"""What the client can do: pictures per second at 2048x1024 against a model that draws nothing.

Whole runs of `RenderRun` take turns with a bare loop (a pool of N threads, each of which reads,
decodes, asks, encodes and writes one map after the other, without manifest, retries or order) for
several N, so that a machine that drifts does not decide. Beside that: each step alone, and each
transport alone.

    python -m sceneloom_bench.render_ceiling --out docs/results
    make render-ceiling
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from sceneloom.connect import TransportChoice
from sceneloom.errors import SceneLoomError
from sceneloom.maps import read_instance_map, read_label_map
from sceneloom.png_maps import instance_map_png, label_map_png
from sceneloom.rendering.dataset import Maps, Pictures, TritonServers, make_plan
from sceneloom.rendering.results import Rendered
from sceneloom.rendering.run import RenderRun
from sceneloom.rendering.settings import RenderSettings
from sceneloom.rendering.triton import Way
from sceneloom.rendering.writing.formats import Format, encode_picture
from sceneloom.synthesizer import prepare
from sceneloom.triton_client import TritonSynthesizer
from sceneloom_bench.noop_server import NOOP_CONTRACT, NoopServer, write_noop_repository
from sceneloom_serving.engines import describe_machine
from sceneloom_streets import draw_street

HEIGHT, WIDTH = 1024, 2048
TRANSPORTS: tuple[TransportChoice, ...] = ("grpc-shm", "grpc", "http")
FORMATS: tuple[Format, ...] = ("jpg", "png")
_STEP_REPEATS = 9


@dataclasses.dataclass(frozen=True, kw_only=True)
class CeilingSettings:
    """How much is measured."""

    maps: int = 144
    """Maps of each run; of few, the start of a run is a tenth."""
    rounds: int = 3
    """Rounds in which everything takes its turn."""
    windows: tuple[int, ...] = (2, 4)
    """Threads of the bare loop."""
    server_seconds: float = 0.05
    """What a picture takes the slow server, which stands for a real one."""
    height: int = HEIGHT
    """Of the maps."""
    width: int = WIDTH
    """Of the maps."""


def main(
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    settings: Annotated[CeilingSettings, tyro.conf.OmitArgPrefixes] = CeilingSettings(),
) -> int:
    """Measure, and write the results.

    Args:
        out: folder of the results.
        settings: how much.
    """
    with tempfile.TemporaryDirectory(prefix="sceneloom-ceiling-") as folder:
        found = measure(Path(folder), settings)
    out.mkdir(parents=True, exist_ok=True)
    name = f"render-ceiling-{time.strftime('%Y-%m-%d')}"
    (out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (out / f"{name}.md").write_text(describe(found), "utf-8")
    print(json.dumps(found))
    return 0


def measure(folder: Path, settings: CeilingSettings) -> dict[str, Any]:
    """Everything that is measured, as the JSON document."""
    maps = folder / "maps"
    write_maps(maps, settings)
    quick = write_noop_repository(folder / "quick", dynamic_batching=True)
    slow = write_noop_repository(
        folder / "slow", dynamic_batching=True, delay_per_picture=settings.server_seconds
    )
    found: dict[str, Any] = {
        "machine": describe_machine(),
        "settings": dataclasses.asdict(settings),
        "steps": measure_steps(maps, folder),
    }
    with NoopServer(quick) as server:
        found["transports"] = measure_transports(server.grpc, server.http, maps)
        for format in FORMATS:
            found[f"quick_{format}"] = take_turns(server.grpc, maps, folder, format, settings)
    with NoopServer(slow) as server:
        found["slow_jpg"] = take_turns(server.grpc, maps, folder, "jpg", settings)
    return found


def write_maps(folder: Path, settings: CeilingSettings) -> None:
    """A street's maps, shifted, so that no two are alike."""
    (folder / "test_label").mkdir(parents=True)
    (folder / "test_inst").mkdir()
    street = draw_street(7, settings.height, settings.width)
    for number in range(settings.maps):
        labels, instances = (
            np.roll(a, 16 * number, 1) for a in (street.label_map, street.instance_map)
        )
        name = f"{number:04d}.png"
        label_file = label_map_png(NOOP_CONTRACT, labels)
        (folder / "test_label" / name).write_bytes(label_file)
        instance_file = instance_map_png(NOOP_CONTRACT, labels, instances)
        (folder / "test_inst" / name).write_bytes(instance_file)


def measure_steps(maps: Path, folder: Path) -> dict[str, float]:
    """Milliseconds of each step of one picture in one thread, medians."""
    label_file = (maps / "test_label" / "0000.png").read_bytes()
    instance_file = (maps / "test_inst" / "0000.png").read_bytes()
    schema = NOOP_CONTRACT.schema
    labels, instances = read_label_map(label_file, schema), read_instance_map(instance_file)
    image = np.random.default_rng(0).integers(0, 255, (*labels.shape, 3)).astype(np.uint8)
    image = np.repeat(np.repeat(image[::8, ::8], 8, 0), 8, 1)[: labels.shape[0], : labels.shape[1]]
    steps: dict[str, Callable[[], object]] = {
        "decode the label map": lambda: read_label_map(label_file, schema),
        "decode the instance map": lambda: read_instance_map(instance_file),
        "check and prepare": lambda: prepare(NOOP_CONTRACT, labels, instances),
        **{
            f"encode {format}": lambda format=format: encode_picture(image, format)  # type: ignore[misc]
            for format in FORMATS
        },
        "write": lambda: (folder / "picture").write_bytes(label_file),
    }
    return {name: round(1000 * _median(step), 2) for name, step in steps.items()}


def measure_transports(grpc: str, http: str, maps: Path) -> dict[str, dict[str, float]]:
    """Milliseconds of a request alone, singles and a batch of 4 per picture, taking turns."""
    schema = NOOP_CONTRACT.schema
    labels = read_label_map(maps / "test_label" / "0000.png", schema)
    instances = read_instance_map(maps / "test_inst" / "0000.png")
    one = [prepare(NOOP_CONTRACT, labels, instances)]
    clients = {
        kind: TritonSynthesizer(f"http://{http}" if kind == "http" else grpc, transport=kind)
        for kind in TRANSPORTS
    }
    times: dict[str, dict[str, list[float]]] = {
        k: {"single": [], "batch of 4": []} for k in clients
    }
    for _ in range(_STEP_REPEATS):
        for kind, client in clients.items():
            for name, count in (("single", 1), ("batch of 4", 4)):
                start = time.perf_counter()
                client.run_requests(one * count)
                times[kind][name].append((time.perf_counter() - start) / count)
    for client in clients.values():
        client.close()
    return {
        kind: {name: round(1000 * statistics.median(all_), 2) for name, all_ in found.items()}
        for kind, found in times.items()
    }


def take_turns(
    url: str, maps: Path, folder: Path, format: Format, settings: CeilingSettings
) -> dict[str, Any]:
    """Pictures per second of the pipeline and of bare loops, in turn; their medians, and the
    pipeline's part of the best bare loop, round by round.
    """
    rates: dict[str, list[float]] = {"pipeline": []}
    rates |= {f"bare loop, {n} in flight": [] for n in settings.windows}
    attempts = []
    for _ in range(settings.rounds):
        for name, rate in rates.items():
            target = folder / "pictures"
            shutil.rmtree(target, ignore_errors=True)
            if name == "pipeline":
                done, tried = _pipeline(url, maps, target, format)
                attempts.append(tried / settings.maps)
            else:
                done = _bare_loop(url, maps, target, format, int(name.split()[2]))
            rate.append(settings.maps / done)
    bare = {name: rate for name, rate in rates.items() if name != "pipeline"}
    best = max(bare, key=lambda name: statistics.median(bare[name]))
    parts = [ours / theirs for ours, theirs in zip(rates["pipeline"], bare[best], strict=True)]
    return {
        "maps_per_second": {n: round(statistics.median(r), 2) for n, r in rates.items()},
        "best_bare_loop": best,
        "pipeline_part_of_best": round(statistics.median(parts), 3),
        "pipeline_parts": [round(part, 3) for part in parts],
        "attempts_per_picture": round(statistics.mean(attempts), 3),
    }


def _pipeline(url: str, maps: Path, target: Path, format: Format) -> tuple[float, int]:
    """Seconds of a whole run, and the requests it sent."""
    settings = RenderSettings(format=format)
    addresses = TritonServers(urls=[url]).addresses(settings, Way())
    start = time.perf_counter()
    plan = make_plan(Maps(place=maps), Pictures(place=str(target)), addresses, settings)
    with RenderRun(plan) as run:
        results = list(run)
    seconds = time.perf_counter() - start
    rendered = [result for result in results if isinstance(result, Rendered)]
    if len(rendered) != len(results):
        raise SceneLoomError(f"{len(results) - len(rendered)} maps were not rendered")
    return seconds, sum(result.attempts for result in rendered)


def _bare_loop(url: str, maps: Path, target: Path, format: Format, threads: int) -> float:
    """Seconds of the plainest client that renders the same."""
    target.mkdir()
    start = time.perf_counter()
    with TritonSynthesizer(url, transport="auto") as client, ThreadPoolExecutor(threads) as pool:

        def render(label: Path) -> None:
            labels = read_label_map(label, client.contract.schema)
            instances = read_instance_map(maps / "test_inst" / label.name)
            data = encode_picture(client.synthesize(labels, instances), format)
            part = target / f".{label.name}.part"
            part.write_bytes(data)
            part.rename(target / f"{label.stem}.{format}")

        list(pool.map(render, sorted((maps / "test_label").iterdir())))
    return time.perf_counter() - start


def _median(step: Callable[[], object]) -> float:
    step()
    times = []
    for _ in range(_STEP_REPEATS):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def describe(found: dict[str, Any]) -> str:
    """The results for people."""
    machine, settings = found["machine"], found["settings"]
    size = f"{settings['width']}x{settings['height']}"
    cores = machine["cores"]
    lines = [
        f"# What the client can do at {size}",
        "",
        f"{cores} cores of {machine['cpu']}, on which the server runs too. Model: one that draws "
        "nothing, behind the real tritonserver. Medians; what is compared took turns. Times are of "
        "this machine; ratios are what counts. Again: `make render-ceiling`.",
        "",
        "| step, one thread | ms |",
        "|---|---|",
        *(f"| {name} | {ms} |" for name, ms in found["steps"].items()),
        "",
        "| request alone, ms per picture | single | batch of 4 |",
        "|---|---|---|",
        *(f"| {k} | {v['single']} | {v['batch of 4']} |" for k, v in found["transports"].items()),
    ]
    slow = f"a server that takes {1000 * settings['server_seconds']:g} ms a picture, JPEG"
    for key, title in (
        ("quick_jpg", "model that draws nothing, JPEG"),
        ("quick_png", "model that draws nothing, PNG"),
        ("slow_jpg", slow),
    ):
        lines += ["", *_turns(title, found[key], cores)]
    return "\n".join(lines) + "\n"


def _turns(title: str, found: dict[str, Any], cores: int) -> Sequence[str]:
    parts = found["pipeline_parts"]
    return [
        f"| {title} | maps/s | per core |",
        "|---|---|---|",
        *(f"| {n} | {r} | {r / cores:.2f} |" for n, r in found["maps_per_second"].items()),
        "",
        f"The pipeline reaches {found['pipeline_part_of_best']} of the best bare loop "
        f"({found['best_bare_loop']}; rounds: {min(parts)} to {max(parts)}), with "
        f"{found['attempts_per_picture']} requests per picture.",
    ]


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main))
    except SceneLoomError as error:
        sys.exit(f"render ceiling: {error}")
