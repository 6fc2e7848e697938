"""Shared by all benchmarks: ranges of flags, maps, the server, the report.

Flags are checked before anything is served, drawn or sent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import psutil
import tyro
from annotated_types import Interval

from sceneloom import progress
from sceneloom.contract import MODEL_NAME, Contract
from sceneloom.errors import InputError, SizeError
from sceneloom.maps import DEFAULT_MAX_PIXELS, instance_map_png, label_map_png
from sceneloom.pictures import encode_picture
from sceneloom.request import Request
from sceneloom.triton.transport import MAX_SECONDS
from sceneloom_bench.reports.headline import headline
from sceneloom_bench.reports.report import Report, flags_of, write_report
from sceneloom_bench.reports.tables import describe
from sceneloom_serving.bundle import bundle_hash
from sceneloom_serving.choice import choose_engine
from sceneloom_serving.embedded import EmbeddedServer, ServerSettings

CHECKOUT = Path(__file__).resolve().parents[2]
"""The checkout: it holds the demo's weights, the committed limits and the results."""
DEMO = CHECKOUT / "examples" / "street_demo" / "generator"

Batch = Annotated[int, Interval(ge=1, le=1024)]
"""Maps of a request; an export takes no more."""
Maps = Annotated[int, Interval(ge=2, le=100_000)]
"""Different maps, all in memory: a cache on the way answers requests of a single one."""
Milliseconds = Annotated[float, Interval(gt=0, le=1000 * MAX_SECONDS)]
Requests = Annotated[int, Interval(ge=1, le=10_000_000)]
"""Requests of a load, whose moments are all in memory."""
Rate = Annotated[float, Interval(ge=0.001, le=100_000)]
"""Requests per second."""
Rounds = Annotated[int, Interval(ge=1, le=100_000)]
Seconds = Annotated[float, Interval(ge=0, le=MAX_SECONDS)]
Share = Annotated[float, Interval(gt=0, le=10)]
Threads = Annotated[int, Interval(ge=1, le=1024)]
"""Requests at once: each has its own thread."""
_BYTES_PER_PIXEL = 5
"""Bytes of a label map and an instance map together."""
_SEED = 10_000
"""Added to a map's number: other maps than those that exports are proven on."""
_T = TypeVar("_T")
OutFolder = Annotated[Path, tyro.conf.arg(metavar="DIR")]
Flags = Annotated[_T, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="measurement")]
"""A command's settings: flags without a prefix, in a group of their own in its help."""


def check_different(settings: Any, *fields: str) -> None:
    """Raise InputError if a field is empty or has a value twice: equal loads have one report."""
    for field in fields:
        values = getattr(settings, field)
        if not values or len(set(values)) != len(values):
            raise InputError(f"{field} is {values}; it is one or several different values")


def check_name(name: str | None) -> None:
    """Raise InputError if a name cannot be part of a file name."""
    if name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(f"name {name!r}: write letters, digits, dots, hyphens and underscores")


def check_out(folder: Path, stem: str) -> None:
    """Raise InputError if FOLDER/STEM.json cannot be written; the folder may be missing."""
    candidates = (folder.absolute(), *folder.absolute().parents)
    existing = next(path for path in candidates if os.path.lexists(path))
    if not existing.is_dir():
        raise InputError(f"{existing}: not a folder, so no report can be written into {folder}")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{existing}: not writable, so no report can be written")
    report = folder / f"{stem}.json"
    if report.is_dir():
        raise InputError(f"{report}: is a folder, in the place of the report")


def stem_of(*parts: str | None) -> str:
    """File name of a report without its ending: the parts that are not empty."""
    return "-".join(filter(None, parts))


def publish(report: Report, out: Path, stem: str) -> int:
    """Write OUT/STEM.json, print tables, the result in one sentence, and the path; returns 0."""
    path = write_report(report, out, stem)
    print(describe(report))
    print(headline(report))
    print(f"report: {path}", flush=True)
    return 0


def run_benchmark(
    kind: str, measure: Callable[[_T], Report], settings: _T, name: str | None, out: Path
) -> int:
    """Check that OUT/KIND-NAME.json can be written, measure, and publish the report."""
    stem = stem_of(kind, name)
    check_out(out, stem)
    return publish(measure(settings), out, stem)


def bench_maps(
    contract: Contract, size: tuple[int, int], count: int, folder: Path | None = None
) -> list[Request]:
    """Different prepared maps, equal in every run: drawn at (height, width), or a folder's first.

    Raises SizeError if the model would pad the size or the memory is too small, InputError if the
    folder has no map or a broken one.
    """
    from sceneloom_export.proof import draw_map, read_own_maps

    if folder is not None:
        with progress.stage(f"read {count} maps of {folder}"):
            return read_own_maps(contract, folder, count).requests
    text = f"{size[1]}x{size[0]}"
    if contract.network_size(*size) != size:
        height, width = contract.network_size(*size)
        raise SizeError(
            f"the model does not take {text} without padding; the next is {width}x{height}"
        )
    pixels = size[0] * size[1]
    if pixels > DEFAULT_MAX_PIXELS:
        raise SizeError(f"{text} is {pixels:,} pixels; a map has at most {DEFAULT_MAX_PIXELS:,}")
    needed, free = count * pixels * _BYTES_PER_PIXEL, psutil.virtual_memory().available
    if needed > free:
        raise SizeError(
            f"{count} maps of {text} take {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB "
            "are free"
        )
    with progress.stage(f"draw {count} maps of {text}"):
        return [draw_map(contract, size, _SEED + number) for number in range(count)]


def batches(maps: Sequence[_T], batch: int) -> Iterator[list[_T]]:
    """Batches of maps, or of their numbers, in turn, without end."""
    turning = itertools.cycle(maps)
    while True:
        yield list(itertools.islice(turning, batch))


def write_maps(contract: Contract, maps: Iterable[Request], folder: Path) -> None:
    """Write maps into FOLDER/test_label (pictures: FOLDER/test_A) and FOLDER/test_inst."""
    main = folder / ("test_label" if contract.kind == "labels" else "test_A")
    main.mkdir(parents=True)
    (folder / "test_inst").mkdir()
    for number, request in enumerate(maps):
        name, labels = f"{number:04d}.png", request.label_map
        is_picture = contract.kind == "picture"
        encoded = encode_picture(labels, "png") if is_picture else label_map_png(contract, labels)
        (main / name).write_bytes(encoded)
        if request.instance_map is not None:
            instances = instance_map_png(contract, labels, request.instance_map)
            (folder / "test_inst" / name).write_bytes(instances)


def inputs_hash(maps: Sequence[Request]) -> str:
    """SHA-256 of all tensors: equal hashes, equal inputs."""
    digest = hashlib.sha256()
    for request in maps:
        for array in (request.label_map, request.instance_map, request.style):
            if array is not None:
                digest.update(f"{array.dtype}{array.shape}".encode())
                digest.update(array.tobytes())
    return digest.hexdigest()


def subject_of(maps: Sequence[Request], engine: str, bundle_hash: str | None) -> dict[str, Any]:
    """`Report.subject` of a server: size and hash of the maps, engine, bundle."""
    height, width = maps[0].size
    return {
        "height": height,
        "width": width,
        "engine": engine,
        "bundle_sha256": bundle_hash,
        "inputs_sha256": inputs_hash(maps),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServedSettings:
    """A running server, or an export bundle to serve."""

    url: str | None = None
    """``HOST:PORT`` of a running server's gRPC port, or ``https://HOST:PORT`` of a gateway."""
    http: str | None = None
    """``HOST:PORT`` of its HTTP port, to measure HTTP too."""
    repository: Path | None = None
    """Export bundle to serve with the bundled Triton during the benchmark."""
    engine: str | None = None
    """Engine of the repository; by default the fastest exact one."""
    model: str = MODEL_NAME
    """Name of the model."""
    model_version: Annotated[str, tyro.conf.arg(metavar="N")] = ""
    """Triton's number of its version; the latest without it."""

    def __post_init__(self) -> None:
        if (self.url is None) == (self.repository is None):
            raise InputError("name a server with --url or an export bundle with --repository")


Server = Annotated[ServedSettings, tyro.conf.OmitArgPrefixes, tyro.conf.arg(prefix_name=False)]
"""`ServedSettings` as a field of a command's settings: flags without a prefix."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
    """A server that is ready."""

    grpc: str
    """``HOST:PORT``."""
    http: str | None
    """``HOST:PORT``, if known."""
    embedded: EmbeddedServer | None
    """The server, if this process started it."""


@contextlib.contextmanager
def served(settings: ServedSettings) -> Iterator[Served]:
    """Yield the server, started for a repository; raises ServerStartError if that fails."""
    if settings.url is not None:
        yield Served(grpc=settings.url, http=settings.http, embedded=None)
        return
    repository = settings.repository
    assert repository is not None
    # The configuration names the fastest engine of the machine that exported.
    engine = settings.engine or choose_engine(repository, bundle_hash(repository), say=progress.say)
    # All answers have come by then, so nothing is cut short.
    ports = ServerSettings(
        http_port=0, grpc_port=0, metrics_port=0, start_timeout=900, stop_timeout=0
    )
    server = EmbeddedServer(repository, ports, engine=engine)
    with contextlib.ExitStack() as stack:
        with progress.stage(f"start Triton with {engine}"):
            stack.enter_context(server)
        yield Served(grpc=server.grpc, http=server.http, embedded=server)


def served_flags(settings: Any) -> dict[str, Any]:
    """`Report.settings` of settings with a field ``server``: flat, without addresses."""
    flags = flags_of(settings)
    named = {**flags.pop("server"), **flags}
    return named | {name: "HOST:PORT" for name in ("url", "http") if named[name] is not None}


def elsewhere(settings: ServedSettings) -> list[str]:
    """A mark if the server runs on another machine, whose environment is unknown."""
    host = "localhost" if settings.url is None else settings.url.split("://")[-1].rpartition(":")[0]
    if host in ("127.0.0.1", "localhost", "[::1]"):
        return []
    return ["the server ran elsewhere: versions, hardware and clocks are the client's"]
