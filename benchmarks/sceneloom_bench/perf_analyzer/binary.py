"""Finding perf_analyzer, and running it once against a server.

One run is one load of a number of requests. Its own CSV has the percentiles and what the server
counted; its profile export has when each request was sent and answered. Over gRPC and HTTP the
export holds every tensor as text, too, some 14 bytes for each pixel, so it is asked for only where
it stays small.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from sceneloom.errors import MissingDependencyError, ServingError
from sceneloom_bench.commands import CHECKOUT
from sceneloom_bench.perf_analyzer.output import Opinion, read_opinion

Way = Literal["grpc", "grpc-shm", "http"]
FOLDER = Path("build/perf_analyzer")
HOW = f"python -m sceneloom_bench.perf_analyzer.fetch --out {FOLDER}"
_EXPORT_BYTES_PER_PIXEL = 14
_MOST_EXPORT_BYTES = 128 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """A perf_analyzer that starts."""

    path: Path
    """The executable."""
    libraries: Path | None
    """Folder of libraries that it needs; None where the system has them."""
    version: str
    """What it calls itself."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """What it asks."""

    address: str
    """``HOST:PORT`` of the protocol, without a scheme."""
    model: str
    """Name of the served model."""
    way: Way
    """How tensors travel."""
    inputs: Path
    """From `inputs.write_inputs`."""
    largest_pixels: int
    """Of the inputs."""
    timeout: float
    """Seconds that a run may take."""
    warm_up: int = 0
    """Requests in front of a load, not counted; one for each thread at least."""


def find_perf_analyzer(named: Path | None = None) -> Path | None:
    """The executable: as named, in build/perf_analyzer, or on PATH; None if it is nowhere.

    Args:
        named: the executable, or the folder that `fetch` made.
    """
    if named is not None:
        places = [named]
    else:
        on_path = shutil.which("perf_analyzer")
        folders = [folder / FOLDER for folder in (Path.cwd(), CHECKOUT)]
        places = [*folders, *([Path(on_path)] if on_path else [])]
    programs = [place / "bin" / "perf_analyzer" if place.is_dir() else place for place in places]
    return next((program for program in programs if program.is_file()), None)


def find_program(named: Path | None = None) -> Program:
    """The program, started once to see that it does.

    Args:
        named: the executable, or the folder that `fetch` made.

    Raises:
        MissingDependencyError: there is none, or it does not start; the text says how to get one.
    """
    found = find_perf_analyzer(named)
    if found is None:
        where = "here" if named is None else f"at {named}"
        raise MissingDependencyError(f"perf_analyzer is not {where}; this gets it: {HOW}")
    beside = found.resolve().parent.parent / "lib"
    libraries = beside if any(beside.glob("libb64.so*")) else None
    return Program(path=found, libraries=libraries, version=_version(found, libraries))


def _version(path: Path, libraries: Path | None) -> str:
    try:
        done = _start([str(path), "--version"], libraries, 60)
    except OSError as error:
        raise MissingDependencyError(
            f"{path} does not start: {error.strerror}; this gets one that may: {HOW}"
        ) from None
    said = done.stdout.strip().splitlines() or [""]
    if done.returncode or "Version" not in said[-1]:
        raise MissingDependencyError(
            f"{path} does not start: {said[-1]}; this gets one that may: {HOW}"
        )
    return said[-1].partition("Version ")[2].split()[0]


def run_closed(program: Program, target: Target, *, in_flight: int, requests: int) -> Opinion:
    """A closed loop, by its synchronous API: a thread for each request in flight.

    Raises:
        ServingError: it failed; the text is what it said.
    """
    load = ["--concurrency-range", str(in_flight), "--max-threads", str(max(in_flight, 16))]
    return _run(program, target, load, requests, in_flight)


def run_open(
    program: Program,
    target: Target,
    *,
    rate: float,
    arrivals: Literal["constant", "poisson"],
    requests: int,
    threads: int,
) -> Opinion:
    """Requests at a rate, by its synchronous API: where all threads wait for answers, requests are
    sent late, and their latency counts from then.

    Args:
        program: which.
        target: what is asked.
        rate: requests per second.
        arrivals: how they are spread.
        requests: how many.
        threads: ``--max-threads``, 4 by its own default.

    Raises:
        ServingError: it failed; the text is what it said.
    """
    load = ["--request-rate-range", f"{rate:g}", "--request-distribution", arrivals]
    return _run(program, target, [*load, "--max-threads", str(threads)], requests, threads)


def _run(
    program: Program, target: Target, load: Sequence[str], requests: int, threads: int
) -> Opinion:
    pixels = target.largest_pixels
    with tempfile.TemporaryDirectory(prefix="sceneloom-perf-analyzer-") as name:
        table, export = Path(name) / "figures.csv", Path(name) / "export.json"
        flags = ["-m", target.model, "-u", target.address, "--input-data", str(target.inputs)]
        flags += ["-i", "http" if target.way == "http" else "grpc", *load]
        flags += ["--request-count", str(requests), "-f", str(table), "--verbose-csv"]
        if target.warm_up and "--request-rate-range" not in load:
            # They are divided among its threads, and each needs one. In an open loop the program
            # was seen to wait for ever after them.
            flags += ["--warmup-request-count", str(max(target.warm_up, threads))]
        small = requests * pixels * _EXPORT_BYTES_PER_PIXEL <= _MOST_EXPORT_BYTES
        if target.way == "grpc-shm":
            flags += ["--shared-memory", "system", "--output-shared-memory-size", str(3 * pixels)]
        if small or target.way == "grpc-shm":
            flags += ["--profile-export-file", str(export)]
        try:
            done = _start([str(program.path), *flags], program.libraries, target.timeout)
        except subprocess.TimeoutExpired:
            raise ServingError(f"perf_analyzer did not end within {target.timeout:g} s") from None
        if done.returncode or not table.is_file():
            said = done.stdout.replace(target.address, "the server").strip().splitlines()
            errors = [line for line in said if "error" in line.lower()] or said or ["nothing"]
            raise ServingError(f"perf_analyzer ended with {done.returncode}: {errors[0].strip()}")
        return read_opinion(done.stdout, table, export if export.is_file() else None)


def _start(
    command: Sequence[str], libraries: Path | None, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run it with its libraries on its path, and on nobody else's; no proxy on the way to this
    machine.
    """
    environment = dict(os.environ)
    for name in ("no_proxy", "no_grpc_proxy"):
        reached = environment.get(name) or environment.get("NO_PROXY")
        environment[name] = ",".join(filter(None, (reached, "127.0.0.1", "localhost", "::1")))
    if libraries is not None:
        before = os.environ.get("LD_LIBRARY_PATH")
        joined = os.pathsep.join(filter(None, (str(libraries), before)))
        environment["LD_LIBRARY_PATH"] = joined
    return subprocess.run(
        command,
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        check=False,
    )
