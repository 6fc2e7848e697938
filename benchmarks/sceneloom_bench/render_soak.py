"""Rendering while everything is killed: nothing is lost, nothing is done twice, nothing is left
behind; and a long run whose memory stays where it is.

The client is `sceneloom render` in a process of its own, the server the bundled tritonserver with a
model that draws nothing (`noop_server.py`), both killed with SIGKILL at moments spread over the
run. Then every picture is compared with the one that its map must give.

    python -m sceneloom_bench.render_soak --out docs/results
    make soak
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import psutil
import tyro

from sceneloom.errors import InputError, SceneLoomError
from sceneloom.rendering.manifest import FILE_NAME, Manifest
from sceneloom.rendering.writing.formats import decode_picture
from sceneloom.rendering.writing.sinks import Container, open_sink
from sceneloom_bench.noop_server import NoopServer, noop_picture, write_noop_repository
from sceneloom_serving.engines import describe_machine

SIZES = ((64, 128), (64, 64), (128, 128))
_POLL = 0.02
_SHARED_MEMORY = Path("/dev/shm")
_WARM = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoakSettings:
    """How much is rendered, and how often something is killed."""

    maps: int = 2000
    """Maps that are rendered while client and server are killed."""
    client_kills: int = 20
    """SIGKILLs of the client."""
    server_kills: int = 10
    """SIGKILLs of the server."""
    steady_maps: int = 10_000
    """Maps of the run whose memory is watched; 0 leaves it out."""
    picture_seconds: float = 0.01
    """What the model takes for a picture."""
    container: Container = "folder"
    """What the pictures are written to."""
    seed: int = 0
    """Of the moments."""


def main(
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    settings: Annotated[SoakSettings, tyro.conf.OmitArgPrefixes] = SoakSettings(),
) -> int:
    """Render, kill, compare, and write down what was found.

    Args:
        out: folder of the results.
        settings: how much, and how often.
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
    name = f"render-soak-{time.strftime('%Y-%m-%d')}"
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (out / f"{name}.md").write_text(describe(found), "utf-8")
    print(json.dumps(found))
    return 0


def render_and_kill(folder: Path, settings: SoakSettings) -> dict[str, Any]:
    """Render a data set while client and server are killed, and compare every picture.

    Args:
        folder: for maps, server and pictures.
        settings: how much, and how often.

    Returns:
        what happened; every number was counted.

    Raises:
        SceneLoomError: a picture is missing, wrong or there twice, or something half-written is
            left.
    """
    maps, pictures = folder / "maps", folder / "pictures"
    write_maps(maps, settings.maps)
    moments = _moments(settings)
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


def _moments(settings: SoakSettings) -> list[tuple[int, str]]:
    """(pictures that are done, what is killed), spread over the run, at random places of its
    parts.
    """
    rng = random.Random(settings.seed)
    what = ["client"] * settings.client_kills + ["server"] * settings.server_kills
    rng.shuffle(what)
    part = settings.maps * 0.95 / max(1, len(what))
    return [(int(part * (n + rng.random())), one) for n, one in enumerate(what)]


class Client:
    """`sceneloom render` in a process of its own."""

    def __init__(self, maps: Path, pictures: Path, url: str, container: Container) -> None:
        """Start it."""
        self._log = pictures.with_name("client.log")
        self._manifest = pictures / FILE_NAME
        command = [sys.executable, "-m", "sceneloom.cli", "render", str(maps), str(pictures)]
        command += ["--url", url, "--labels", ".", "--instances", ".", "--log", "none"]
        command += ["--container", container, "--shards.pictures", "16", "--look-ahead", "32"]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def wait_until(self, done: int) -> bool:
        """Wait until so many pictures are done; False if it ended before."""
        while self.process.poll() is None:
            if rows(self._manifest) >= done:
                return True
            time.sleep(_POLL)
        return False

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def wait(self) -> int:
        """Wait for its end; returns its code."""
        return self.process.wait(600)

    def said(self) -> str:
        """The end of what it wrote."""
        return self._log.read_text("utf-8", "replace")[-2000:]


def rows(manifest: Path) -> int:
    """Rows of a manifest that another process is writing; 0 while there is none."""
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
    """Compare every picture and its row with what they must be.

    Raises:
        SceneLoomError: one is missing, wrong or there twice, or something half-written is left.
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
    """How many pictures lie there, whatever the manifest says."""
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
    """Render many maps in one go, and watch the client's memory.

    Returns:
        its growth after a thousand pictures, in MiB, and the rate.
    """
    maps, pictures = folder / "many", folder / "many-pictures"
    write_maps(maps, settings.steady_maps)
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


def write_maps(folder: Path, count: int) -> None:
    """Write small maps of three sizes, each unlike the others."""
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
    """What processes of these numbers have left in shared memory."""
    names = [path.name for path in _SHARED_MEMORY.glob("sceneloom-*")]
    return sorted(name for name in names if name.split("-")[1] in map(str, pids))


def describe(found: dict[str, Any]) -> str:
    """The results for people."""
    machine, killed, steady = found["machine"], found["killed"], found["steady"]
    lines = [
        "# Rendering while client and server are killed",
        "",
        f"{machine['cores']} cores of {machine['cpu']}; `make soak` does it again. Model: one that "
        "draws nothing, behind the real tritonserver.",
        "",
        "| what | figure |",
        "|---|---|",
        *_table(killed, "killed"),
        *_table(steady, "one long run"),
        "",
        "Every picture was compared with the one its map must give, every row's hash with its "
        "file's; the run fails otherwise.",
    ]
    return "\n".join(lines) + "\n"


def _table(figures: dict[str, Any], where: str) -> Sequence[str]:
    return [f"| {where}: {name.replace('_', ' ')} | {value} |" for name, value in figures.items()]


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main))
    except SceneLoomError as error:
        sys.exit(f"render soak: {error}")
