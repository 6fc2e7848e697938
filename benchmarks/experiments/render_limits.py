"""Ceiling and soak of rendering, against a model without a network.

Ceiling: pictures per second at 2048x1024. Runs of `RenderRun` take turns with a bare loop of N
threads (read, decode, request, encode and write, without manifest, retries or order), for several
N. Each step and each transport is also measured alone.

Soak: `sceneloom render` and the bundled tritonserver are killed with SIGKILL at moments spread over
the run. No picture may be lost, rendered twice, wrong or half-written. A long run shows that memory
stays constant.

    python benchmarks/experiments/render_limits.py ceiling --out docs/results
    python benchmarks/experiments/render_limits.py soak --out docs/results
    make render-ceiling soak
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import psutil
import tyro

from noop_server import (
    NOOP_CONTRACT,
    NoopServer,
    noop_picture,
    write_noop_repository,
)
from sceneloom.errors import InputError, SceneLoomError
from sceneloom.files import write_whole
from sceneloom.maps import read_instance_map, read_label_map
from sceneloom.pictures import Format, decode_picture, encode_picture
from sceneloom.rendering.datasets import open_sink
from sceneloom.rendering.items import Rendered
from sceneloom.rendering.manifest import FILE_NAME, Manifest
from sceneloom.rendering.plan import Maps, Pictures, TritonServers, make_plan
from sceneloom.rendering.run import RenderRun
from sceneloom.rendering.settings import Container, RenderSettings
from sceneloom.request import prepare
from sceneloom.triton.client import TransportChoice, TritonSynthesizer
from sceneloom_bench.harness import write_maps
from sceneloom_bench.turns import rounds_in_turn
from sceneloom_serving.engines import describe_machine
from sceneloom_streets import draw_street

HEIGHT, WIDTH = 1024, 2048
TRANSPORTS: tuple[TransportChoice, ...] = ("grpc-shm", "grpc", "http")
FORMATS: tuple[Format, ...] = ("jpg", "png")
SIZES = ((64, 128), (64, 64), (128, 128))
"""(height, width) of the soak's maps."""
_STEP_REPEATS = 9
_POLL = 0.02
_SHARED_MEMORY = Path("/dev/shm")
_WARM = 1000
"""Pictures after which the client's memory should not grow."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CeilingSettings:
    """Maps, rounds and clients of the ceiling."""

    maps: int = 144
    """Maps of each run; with few, the start is a tenth of it."""
    rounds: int = 3
    """Rounds of turns."""
    windows: tuple[int, ...] = (2, 4)
    """Threads of the bare loop."""
    server_seconds: float = 0.05
    """Seconds of a picture on the slow server."""
    height: int = HEIGHT
    """Height of the maps in pixels."""
    width: int = WIDTH
    """Width of the maps in pixels."""


def ceiling(
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    settings: Annotated[CeilingSettings, tyro.conf.OmitArgPrefixes] = CeilingSettings(),
) -> int:
    """Measure, and write the results.

    Args:
        out: folder of the results.
        settings: maps, rounds and clients.
    """
    with tempfile.TemporaryDirectory(prefix="sceneloom-ceiling-") as folder:
        found = measure_ceiling(Path(folder), settings)
    return publish(found, describe_ceiling(found), out, "render-ceiling")


def measure_ceiling(folder: Path, settings: CeilingSettings) -> dict[str, Any]:
    """Measure everything, as the JSON document."""
    maps = folder / "maps"
    street = draw_street(7, settings.height, settings.width)
    shifted = (  # so that no two are alike
        prepare(
            NOOP_CONTRACT,
            np.roll(street.label_map, 16 * number, 1),
            np.roll(street.instance_map, 16 * number, 1),
        )
        for number in range(settings.maps)
    )
    write_maps(NOOP_CONTRACT, shifted, maps)
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


def measure_steps(maps: Path, folder: Path) -> dict[str, float]:
    """Milliseconds of each step of one picture in one thread, medians."""
    label_file = (maps / "test_label" / "0000.png").read_bytes()
    instance_file = (maps / "test_inst" / "0000.png").read_bytes()
    schema = NOOP_CONTRACT.schema
    assert schema is not None
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
    return {name: round(1000 * median_seconds(step), 2) for name, step in steps.items()}


def measure_transports(grpc: str, http: str, maps: Path) -> dict[str, dict[str, float]]:
    """Milliseconds of a request alone, singles and a batch of 4 per picture, taking turns."""
    schema = NOOP_CONTRACT.schema
    assert schema is not None
    labels = read_label_map(maps / "test_label" / "0000.png", schema)
    instances = read_instance_map(maps / "test_inst" / "0000.png")
    one = [prepare(NOOP_CONTRACT, labels, instances)]
    clients: dict[str, TritonSynthesizer] = {
        kind: TritonSynthesizer(f"http://{http}" if kind == "http" else grpc, transport=kind)
        for kind in TRANSPORTS
    }
    times: dict[str, dict[str, list[float]]] = {
        k: {"single": [], "batch of 4": []} for k in clients
    }
    for _, kinds in rounds_in_turn(clients, _STEP_REPEATS):
        for kind in kinds:
            client = clients[kind]
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
    """Medians of the pictures per second of the pipeline and of bare loops, in turn, and the
    pipeline's part of the best bare loop, round by round.
    """
    rates: dict[str, list[float]] = {"pipeline": []}
    rates |= {f"bare loop, {n} in flight": [] for n in settings.windows}
    attempts = []
    for _, names in rounds_in_turn(rates, settings.rounds):
        for name in names:
            target = folder / "pictures"
            shutil.rmtree(target, ignore_errors=True)
            if name == "pipeline":
                done, tried = _pipeline(url, maps, target, format)
                attempts.append(tried / settings.maps)
            else:
                done = _bare_loop(url, maps, target, format, int(name.split()[2]))
            rates[name].append(settings.maps / done)
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
    addresses = TritonServers(urls=[url]).addresses(settings)
    start = time.perf_counter()
    plan = make_plan(Maps(location=maps), Pictures(location=str(target)), addresses, settings)
    with RenderRun(plan) as run:
        results = list(run)
    seconds = time.perf_counter() - start
    rendered = [result for result in results if isinstance(result, Rendered)]
    if len(rendered) != len(results):
        raise SceneLoomError(f"{len(results) - len(rendered)} maps were not rendered")
    return seconds, sum(result.attempts for result in rendered)


def _bare_loop(url: str, maps: Path, target: Path, format: Format, threads: int) -> float:
    """Seconds of the bare loop."""
    target.mkdir()
    start = time.perf_counter()
    with TritonSynthesizer(url, transport="auto") as client, ThreadPoolExecutor(threads) as pool:
        schema = client.contract.schema
        assert schema is not None

        def render(label: Path) -> None:
            labels = read_label_map(label, schema)
            instances = read_instance_map(maps / "test_inst" / label.name)
            data = encode_picture(client.synthesize(labels, instances), format)
            write_whole(target / f"{label.stem}.{format}", data)

        list(pool.map(render, sorted((maps / "test_label").iterdir())))
    return time.perf_counter() - start


def median_seconds(step: Callable[[], object]) -> float:
    """Median seconds of some repeats, after a warm-up."""
    step()
    times = []
    for _ in range(_STEP_REPEATS):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def describe_ceiling(found: dict[str, Any]) -> str:
    """The results in Markdown."""
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
        one = found[key]
        parts = one["pipeline_parts"]
        lines += [
            "",
            f"| {title} | maps/s | per core |",
            "|---|---|---|",
            *(f"| {n} | {r} | {r / cores:.2f} |" for n, r in one["maps_per_second"].items()),
            "",
            f"The pipeline reaches {one['pipeline_part_of_best']} of the best bare loop "
            f"({one['best_bare_loop']}; rounds: {min(parts)} to {max(parts)}), with "
            f"{one['attempts_per_picture']} requests per picture.",
        ]
    return "\n".join(lines) + "\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoakSettings:
    """Maps and kills of the soak."""

    maps: int = 2000
    """Maps rendered during the kills."""
    client_kills: int = 20
    """SIGKILLs of the client."""
    server_kills: int = 10
    """SIGKILLs of the server."""
    steady_maps: int = 10_000
    """Maps of the run for memory; 0 for none."""
    picture_seconds: float = 0.01
    """Seconds of a picture in the model."""
    container: Container = "folder"
    """Format of the pictures' data set."""
    seed: int = 0
    """Seed of the moments."""


def soak(
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    settings: Annotated[SoakSettings, tyro.conf.OmitArgPrefixes] = SoakSettings(),
) -> int:
    """Render, kill, compare, and write the results.

    Args:
        out: folder of the results.
        settings: maps and kills.
    """
    with tempfile.TemporaryDirectory(prefix="sceneloom-soak-") as folder:
        killed = render_and_kill(Path(folder), settings)
        steady = watch_memory(Path(folder), settings) if settings.steady_maps else {}
    found = {
        "machine": describe_machine(),
        "settings": dataclasses.asdict(settings),
        "killed": killed,
        "steady": steady,
    }
    return publish(found, describe_soak(found), out, "render-soak")


def publish(found: dict[str, Any], text: str, out: Path, name: str) -> int:
    """Write OUT/NAME-DATE.json and .md, and print the JSON as the last line; returns 0."""
    out.mkdir(parents=True, exist_ok=True)
    stem = f"{name}-{time.strftime('%Y-%m-%d')}"
    (out / f"{stem}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (out / f"{stem}.md").write_text(text, "utf-8")
    print(json.dumps(found))
    return 0


def render_and_kill(folder: Path, settings: SoakSettings) -> dict[str, Any]:
    """Render a data set during the kills, and compare every picture; raises like `compare`."""
    maps, pictures = folder / "maps", folder / "pictures"
    write_small_maps(maps, settings.maps)
    rng = random.Random(settings.seed)
    whom = ["client"] * settings.client_kills + ["server"] * settings.server_kills
    rng.shuffle(whom)
    part = settings.maps * 0.95 / max(1, len(whom))
    # Pictures that are done -> what is killed: at random places of equal parts of the run.
    moments = [(int(part * (n + rng.random())), one) for n, one in enumerate(whom)]
    repository = write_noop_repository(
        folder / "repository", delay_per_picture=settings.picture_seconds, dynamic_batching=True
    )
    started, kills = time.perf_counter(), {"client": 0, "server": 0}
    pids = set()
    with NoopServer(repository) as server:
        client = Client(maps, pictures, server.grpc, settings.container)
        for done, what in moments:
            if not client.wait_until(done):
                break
            kills[what] += 1
            pids |= {client.process.pid, server.pid}
            if what == "client":
                client.kill()
                client = Client(maps, pictures, server.grpc, settings.container)
            else:
                server.kill()
                server.start()
        pids |= {client.process.pid, server.pid}
        code = client.wait()
    if code != 0:
        raise SceneLoomError(f"the client ended with code {code}: {client.said()}")
    return {
        "client_kills": kills["client"],
        "server_kills": kills["server"],
        "seconds": round(time.perf_counter() - started, 1),
        "left_in_shared_memory": leftovers(pids),
        **compare(maps, pictures, settings.container),
    }


class Client:
    """`sceneloom render` in a process of its own."""

    def __init__(
        self,
        maps: Path,
        pictures: Path,
        url: str,
        container: Container,
        access: Sequence[str] = (),
    ) -> None:
        self._log = pictures.with_name("client.log")
        self._manifest = pictures / FILE_NAME
        command = [sys.executable, "-m", "sceneloom.cli", "render", str(maps), str(pictures)]
        command += ["--url", url, "--labels", ".", "--instances", ".", "--log", "none"]
        command += ["--container", container, "--shards.pictures", "16", "--look-ahead", "32"]
        command += access
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def wait_until(self, done: int) -> bool:
        """Wait for a number of pictures; False if the process ended before."""
        while self.process.poll() is None:
            if rows(self._manifest) >= done:
                return True
            time.sleep(_POLL)
        return False

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.process.kill()
        self.process.wait()

    def wait(self) -> int:
        """Wait for the end; returns the exit code."""
        return self.process.wait(600)

    def said(self) -> str:
        """The end of its output."""
        return self._log.read_text("utf-8", "replace")[-2000:]


def rows(manifest: Path) -> int:
    """Rows of another process's manifest; 0 without one."""
    try:
        database = sqlite3.connect(f"file:{manifest}?mode=ro", uri=True, timeout=5)
    except sqlite3.OperationalError:
        return 0
    try:
        (count,) = database.execute("select count(*) from pictures").fetchone()
    except sqlite3.OperationalError:  # being made
        return 0
    finally:
        database.close()
    return int(count)


def compare(maps: Path, pictures: Path, container: Container) -> dict[str, Any]:
    """Check every picture and its row.

    Raises SceneLoomError if one is missing, wrong, duplicate or half-written.
    """
    sink = open_sink(str(pictures), "png", container=container)
    wrong, seen, attempts = [], 0, 0
    with Manifest(pictures / FILE_NAME) as manifest:
        for row in manifest.rows():
            seen += 1
            attempts += row.attempts
            data = sink.read(row.output)
            name = maps / row.key.replace("_labelIds", "")
            labels, instances = (
                cv2.imread(f"{name}_{kind}.png", cv2.IMREAD_UNCHANGED)
                for kind in ("labelIds", "instanceIds")
            )
            if (
                row.status != "done"
                or data is None
                or not np.array_equal(decode_picture(data), noop_picture(labels, instances))
            ):
                wrong.append(row.key)
        outputs = [row.output for row in manifest.rows()]
    expected = len(list(maps.glob("*_labelIds.png")))
    half = [p.name for p in pictures.rglob("*") if p.name.endswith(".part")]
    if wrong or seen != expected or len(set(outputs)) != expected or half:
        raise SceneLoomError(
            f"{seen} rows and {len(set(outputs))} outputs for {expected} maps; wrong: {wrong[:5]}; "
            f"half-written: {half[:5]}"
        )
    held = count_pictures(pictures, container)
    if held != expected:
        raise SceneLoomError(f"{held} pictures lie there for {expected} maps")
    return {"pictures": expected, "attempts_per_picture": round(attempts / expected, 3)}


def count_pictures(pictures: Path, container: Container) -> int:
    """Number of pictures on disk."""
    if container == "folder":
        return len(list(pictures.rglob("*.png")))
    if container == "tar":
        import tarfile

        counts = []
        for path in pictures.glob("*.tar"):
            with tarfile.open(path) as shard:
                counts.append(len(shard.getnames()))
        return sum(counts)
    import pyarrow.parquet

    return sum(pyarrow.parquet.read_metadata(p).num_rows for p in pictures.glob("*.parquet"))


def watch_memory(folder: Path, settings: SoakSettings) -> dict[str, Any]:
    """Growth of the client's memory after a thousand pictures of a run, in MiB, and the rate."""
    maps, pictures = folder / "many", folder / "many-pictures"
    write_small_maps(maps, settings.steady_maps)
    repository = write_noop_repository(folder / "quick", dynamic_batching=True)
    samples: list[tuple[int, float]] = []
    with NoopServer(repository) as server:
        start = time.perf_counter()
        client = Client(maps, pictures, server.grpc, settings.container)
        process = psutil.Process(client.process.pid)
        while client.process.poll() is None:
            samples.append((rows(pictures / FILE_NAME), process.memory_info().rss / 2**20))
            time.sleep(0.5)
        seconds = time.perf_counter() - start
    shutil.rmtree(maps)
    if client.wait() != 0:
        raise SceneLoomError(f"the client ended badly: {client.said()}")
    warm = [rss for done, rss in samples if done >= min(_WARM, settings.steady_maps // 4) and rss]
    if not warm:
        raise InputError("too few maps to see anything of the memory")
    return {
        "maps": settings.steady_maps,
        "maps_per_second": round(settings.steady_maps / seconds, 1),
        "resident_mib_when_warm": round(warm[0], 1),
        "resident_mib_at_most": round(max(warm), 1),
        "growth_mib": round(max(warm) - warm[0], 1),
        "samples": len(samples),
    }


def write_small_maps(folder: Path, count: int) -> None:
    """Write different small maps of three sizes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(count)
    for number in range(count):
        height, width = SIZES[number % len(SIZES)]
        labels = rng.integers(0, 34, (height // 8, width // 8)).repeat(8, 0).repeat(8, 1)
        instances = labels * 1000 + rng.integers(0, 60, labels.shape[1])
        name = folder / f"{number:06d}"
        cv2.imwrite(f"{name}_labelIds.png", labels.astype(np.uint8))
        cv2.imwrite(f"{name}_instanceIds.png", instances.astype(np.uint16))


def leftovers(pids: set[int]) -> list[str]:
    """Shared memory regions left by these process ids."""
    names = [path.name for path in _SHARED_MEMORY.glob("sceneloom-*")]
    return sorted(name for name in names if name.split("-")[1] in map(str, pids))


def describe_soak(found: dict[str, Any]) -> str:
    """The results in Markdown."""
    machine, killed, steady = found["machine"], found["killed"], found["steady"]
    lines = [
        "# Rendering while client and server are killed",
        "",
        f"{machine['cores']} cores of {machine['cpu']}; `make soak` does it again. Model: one that "
        "draws nothing, behind the real tritonserver.",
        "",
        "| what | figure |",
        "|---|---|",
        *(f"| killed: {name.replace('_', ' ')} | {value} |" for name, value in killed.items()),
        *(f"| one long run: {k.replace('_', ' ')} | {value} |" for k, value in steady.items()),
        "",
        "Every picture was compared with the one its map must give, every row's hash with its "
        "file's; the run fails otherwise.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        sys.exit(tyro.extras.subcommand_cli_from_dict({"ceiling": ceiling, "soak": soak}))
    except SceneLoomError as error:
        sys.exit(f"render limits: {error}")
