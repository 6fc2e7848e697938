"""What several tests build: small random generators, published files, server settings."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from sceneloom_serving.embedded import ServerSettings
    from sceneloom_training.networks import Generator, GeneratorArchitecture

CHECKOUT = Path(__file__).resolve().parents[1]
COMMAND = (sys.executable, "-m", "sceneloom.cli")
Made = TypeVar("Made")


def make_once(folder: Path, make: Callable[[Path], Made]) -> Made:
    """What `make` returns for a folder: the first of a run's workers calls it, the others wait and
    only read what is in the folder.
    """
    result = folder.with_suffix(".pickle")
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.is_file():
            folder.mkdir(exist_ok=True)
            made = make(folder)
            result.write_bytes(pickle.dumps(made))
        found: Made = pickle.loads(result.read_bytes())
        return found


def copy_export(repository: Path, folder: Path) -> None:
    """Copy an export bundle that servers run, without what Python writes beside model.py then."""
    shutil.copytree(repository, folder, ignore=shutil.ignore_patterns("__pycache__"))


def write_older(repository: Path, folder: Path) -> Path:
    """A copy of an export as older versions made it: with a graph and a variant that are gone, and
    with the three models of the former encoded path.
    """
    from sceneloom.files import file_hash

    copy_export(repository, folder)
    version, configs = folder / "synthesis" / "1", folder / "synthesis" / "configs"
    shutil.copy(version / "model.onnx", version / "group_norms.onnx")
    shutil.copy(configs / "onnxruntime.pbtxt", configs / "onnxruntime-tensorrt.pbtxt")
    added = [version / "group_norms.onnx", configs / "onnxruntime-tensorrt.pbtxt"]
    for step in ("decode", "encode", "encoded"):
        for name in ("config.pbtxt", "1/model.py", "configs/tensorrt.pbtxt"):
            path = folder / f"synthesis_{step}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("from sceneloom_serving.encoded_models import DecodeModel\n")
            added.append(path)
    report = json.loads((folder / "report.json").read_text())
    hashes = {path.relative_to(folder).as_posix(): file_hash(path) for path in added}
    report["sha256"].update(hashes)
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def wide_generator(architecture: GeneratorArchitecture, seed: int) -> Generator:
    """A random generator whose pictures have contrast: weights wider than the initialisation's."""
    import torch

    from sceneloom_training.networks import build_generator

    generator = build_generator(architecture, seed=seed).eval().requires_grad_(False)
    noise = torch.Generator().manual_seed(seed)
    for tensor in generator.parameters():
        tensor.copy_(
            torch.randn(tensor.shape, generator=noise) * (0.05 if tensor.ndim > 1 else 0.1)
        )
    return generator


def save_published(generator: Generator, path: Path) -> None:
    """Write a generator as pix2pixHD does."""
    import torch

    from sceneloom_training.published import published_names

    state = generator.state_dict()
    torch.save(
        {theirs: state[ours] for ours, theirs in published_names(generator.architecture)}, path
    )


def free_ports(**settings: Any) -> ServerSettings:
    """Settings of an embedded server that takes free ports, so that tests can run side by side, and
    that ends at once: Triton takes two seconds for an end in order.
    """
    from sceneloom_serving.embedded import ServerSettings

    return ServerSettings(
        **{"http_port": 0, "grpc_port": 0, "metrics_port": 0, "stop_timeout": 0, **settings}
    )


def blocky_maps(
    height: int, width: int, seed: int, labels: int = 35
) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], np.ndarray[Any, np.dtype[np.int32]]]:
    """A label map and an instance map of random 8x8 blocks."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, labels, (-(-height // 8), -(-width // 8)))
    label_map = np.kron(blocks, np.ones((8, 8), int))[:height, :width].astype(np.uint8)
    instances = blocks * 1000 + rng.integers(0, 3, blocks.shape)
    instance_map = np.kron(instances, np.ones((8, 8), int))[:height, :width].astype(np.int32)
    return label_map, instance_map


def run_command(
    *arguments: str | Path, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `sceneloom` in a process of its own, as a user does."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
        cwd=cwd,
    )


def run_here(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `sceneloom` in this process, where what it imports is loaded already."""
    from sceneloom.cli import main

    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = main([*map(str, arguments)])
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), errors.getvalue())


class ServeCommand:
    """`sceneloom serve` in a process of its own, on free ports; ready once it is made. Without a
    `stop_timeout` its server is killed when it ends.
    """

    def __init__(self, repository: Path, *flags: str, stop_timeout: int = 0) -> None:
        ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
        flags = (*flags, "--stop-timeout", str(stop_timeout))
        self.process = subprocess.Popen(
            [*COMMAND, "serve", str(repository), *ports, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.ready = self.wait_until_ready()
        match = re.fullmatch(
            r"ready grpc=(127\.0\.0\.1:\d+) http=(127\.0\.0\.1:\d+) metrics=(127\.0\.0\.1:\d+) "
            r'engine=(\S+) precision=(\S+) difference="([^"]+)" fast="([^"]+)"\n',
            self.ready,
        )
        assert match, self.ready + self.process.communicate()[1]
        self.grpc, self.http = match[1], match[2]

    def wait_until_ready(self) -> str:
        """The next line on standard output: one at the start, one after each restart."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def errors_until(self, pattern: str) -> str:
        """Lines on standard error, up to the first in which the pattern is."""
        assert self.process.stderr is not None
        lines = ""
        for line in self.process.stderr:
            lines += line
            if re.search(pattern, line):
                return lines
        raise AssertionError(f"{pattern} is not in {lines}")

    def end(self, number: int) -> tuple[int, str]:
        """Send a signal; the exit code and what was written to standard error."""
        os.kill(self.process.pid, number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors

    def __enter__(self) -> ServeCommand:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.communicate(timeout=60)
