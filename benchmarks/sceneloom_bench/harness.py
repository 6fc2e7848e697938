"""Shared by all benchmarks: limits of flags, the maps, the server, and where the report goes.

Flags are checked before anything is served, drawn or sent, so that no run ends after an hour
because of a number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

from sceneloom.contract import MODEL_NAME, Contract
from sceneloom.errors import InputError, SizeError
from sceneloom.maps import DEFAULT_MAX_PIXELS
from sceneloom.png_maps import instance_map_png, label_map_png
from sceneloom.synthesizer import Request
from sceneloom_bench.reports.report import Report, flags_of, say, write_report
from sceneloom_bench.reports.tables import describe
from sceneloom_export.proof import draw_map, read_own_maps
from sceneloom_serving.bundle import bundle_hash
from sceneloom_serving.choice import choose_engine
from sceneloom_serving.embedded import EmbeddedServer, ServerSettings

CHECKOUT = Path(__file__).resolve().parents[2]
"""The checkout: it holds the demo's weights, the committed limits and the results."""
DEMO = CHECKOUT / "examples" / "street_demo" / "generator"

MOST_THREADS = 1024
"""Requests at once: each has a thread of its own."""
MOST_REQUESTS = 10_000_000
"""Of one load: their moments are kept in memory."""
MOST_MAPS = 100_000
"""They are kept in memory."""
MOST_BATCH = 1024
"""Maps of a request, the most that an export takes."""
MOST_ROUNDS = 100_000
ABOVE_0 = math.ulp(0.0)
"""The least number above 0."""
_BYTES_PER_PIXEL = 5
"""Of a label map and an instance map."""
_SEED = 10_000
"""Added to a map's number: apart from the maps that exports are proven on."""
_T = TypeVar("_T")


def check_ranges(settings: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Refuse numbers of a settings dataclass below the least or above the most; None passes.

    Raises:
        InputError: names the field, its value and its limit.
    """
    for field, (least, most) in ranges.items():
        value = getattr(settings, field)
        for number in value if isinstance(value, tuple) else (value,):
            if number is None or least <= number <= most:
                continue
            if number > most:
                limit = f"at most {most:,g}" if most >= 1e6 else f"at most {most:g}"
            else:
                limit = "above 0" if least == ABOVE_0 else f"at least {least:g}"
            raise InputError(f"{field} is {number}; it is {limit}")


def check_different(settings: Any, *fields: str) -> None:
    """Refuse lists that are empty or hold a value twice: a report has no place for two equal loads.

    Raises:
        InputError: names the field.
    """
    for field in fields:
        values = getattr(settings, field)
        if not values or len(set(values)) != len(values):
            raise InputError(f"{field} are one or several different values, not {values}")


def check_name(name: str | None) -> None:
    """Refuse a name that cannot be a part of a file name.

    Raises:
        InputError: it holds more than letters, digits, dots, hyphens and underscores.
    """
    if name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(f"name {name!r}: write letters, digits, dots, hyphens and underscores")


def check_out(folder: Path, stem: str) -> None:
    """Refuse a folder into which FOLDER/STEM.json cannot be written; it may be missing.

    Raises:
        InputError: a file is in its place, or it is not writable.
    """
    places = (folder.absolute(), *folder.absolute().parents)
    there = next(place for place in places if os.path.lexists(place))
    if not there.is_dir():
        raise InputError(f"{there}: not a folder, so that no report can be written into {folder}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{there}: may not be written to, so that no report can be")
    report = folder / f"{stem}.json"
    if report.is_dir():
        raise InputError(f"{report}: is a folder, where the report is to be written")


def stem_of(*parts: str | None) -> str:
    """Name of a report's file without its ending: the parts that are not empty."""
    return "-".join(filter(None, parts))


def publish(report: Report, out: Path, stem: str) -> int:
    """Write OUT/STEM.json and print the report: as tables, and as a last line of JSON; 0."""
    write_report(report, out, stem)
    print(describe(report))
    print(json.dumps(report.to_json(), allow_nan=False))
    return 0


def bench_maps(
    contract: Contract, size: tuple[int, int], count: int, folder: Path | None = None
) -> list[Request]:
    """Different maps, equal in every run, checked and prepared: drawn at (height, width), streets
    for Cityscapes' schema, or the first of a folder, as `sceneloom render` takes it.

    Raises:
        SizeError: the model does not take the size without padding, or the memory is too small.
        InputError: the folder has no map, or a broken one.
    """
    if folder is not None:
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
    return [draw_map(contract, size, _SEED + number) for number in range(count)]


def batches(maps: Sequence[_T], batch: int) -> Iterator[list[_T]]:
    """Batches of the maps, or of their numbers, in turn, without end."""
    turning = itertools.cycle(maps)
    while True:
        yield list(itertools.islice(turning, batch))


def write_maps(contract: Contract, maps: Iterable[Request], folder: Path) -> None:
    """Write maps as a data set, `test_label` and `test_inst`."""
    (folder / "test_label").mkdir(parents=True)
    (folder / "test_inst").mkdir()
    for number, request in enumerate(maps):
        name, labels = f"{number:04d}.png", request.label_map
        (folder / "test_label" / name).write_bytes(label_map_png(contract, labels))
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
    """`Report.subject` of a server: the size of its maps, their hash, and its model."""
    height, width = maps[0].label_map.shape
    return {
        "height": height,
        "width": width,
        "engine": engine,
        "bundle_sha256": bundle_hash,
        "inputs_sha256": inputs_hash(maps),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServedSettings:
    """Which server is measured: `url`, or `repository`."""

    url: str | None = None
    """``HOST:PORT`` of a running server's gRPC port."""
    http: str | None = None
    """``HOST:PORT`` of its HTTP port, where that is to be measured, too."""
    repository: Path | None = None
    """An export bundle to serve with the bundled Triton while the benchmark runs."""
    engine: str | None = None
    """Of the repository; the fastest exact one unless named."""
    model: str = MODEL_NAME
    """Name of the served model."""

    def __post_init__(self) -> None:
        if (self.url is None) == (self.repository is None):
            raise InputError("name a server with --url or an export bundle with --repository")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
    """A server that answers."""

    grpc: str
    """``HOST:PORT``."""
    http: str | None
    """``HOST:PORT``; None where no address is named."""
    embedded: EmbeddedServer | None
    """The server, where it was started here."""


@contextlib.contextmanager
def served(settings: ServedSettings, *, encoded: bool = False) -> Iterator[Served]:
    """The server of the settings, started if it is a repository, with the encoded path if asked
    for.

    Raises:
        ServerStartError: it did not become ready; the text says why.
    """
    if settings.url is not None:
        yield Served(grpc=settings.url, http=settings.http, embedded=None)
        return
    repository = settings.repository
    assert repository is not None
    # As `sceneloom serve` does: the configuration names the fastest where it was exported.
    engine = settings.engine or choose_engine(repository, bundle_hash(repository), say=say)
    ports = ServerSettings(http_port=0, grpc_port=0, metrics_port=0, start_timeout=900)
    with EmbeddedServer(repository, ports, engine=engine, encoded=encoded) as server:
        yield Served(grpc=server.grpc, http=server.http, embedded=server)


def served_flags(settings: Any) -> dict[str, Any]:
    """`Report.settings` of settings with a field ``server``: flat as flags are, no addresses."""
    flags = flags_of(settings)
    named = {**flags.pop("server"), **flags}
    return named | {name: "HOST:PORT" for name in ("url", "http") if named[name] is not None}


def elsewhere(settings: ServedSettings) -> list[str]:
    """A mark if the server is not on this machine, so that its environment is another."""
    host = "localhost" if settings.url is None else settings.url.split("://")[-1].rpartition(":")[0]
    if host in ("127.0.0.1", "localhost", "[::1]"):
        return []
    return ["the server ran elsewhere: versions, hardware and clocks are of the machine that asked"]
