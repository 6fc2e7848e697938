"""Gets Triton's perf_analyzer and the two libraries that it needs, without installing anything.

The program is inside the wheel of tritonclient 2.51.0, the last whose perf_analyzer runs with glibc
2.36; it needs libcudart.so.12, on a machine without a GPU, too, and Debian's libb64.

    python -m sceneloom_bench.perf_analyzer.fetch --out build/perf_analyzer
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from sceneloom.errors import MissingDependencyError, SceneLoomError

WHEELS = ("tritonclient==2.51.0", "nvidia-cuda-runtime-cu12==12.9.79")
DEBIAN_PACKAGE = "libb64-0d"
_WANTED = ("wheels/**/bin/perf_analyzer", "wheels/**/libcudart.so.*", "debian/**/libb64.so.*")
_TIMEOUT = 600


def fetch(out: Path) -> Path:
    """Download and unpack ``bin/perf_analyzer`` and ``lib/*.so*``; nothing if they are there.

    Args:
        out: folder to make.

    Returns:
        the program.

    Raises:
        MissingDependencyError: pip, apt-get or dpkg-deb failed; the text is the last that it said.
    """
    program = out / "bin" / "perf_analyzer"
    if program.is_file():
        return program
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".perf-analyzer-") as name:
        folder = Path(name)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        _run([*pip, "--only-binary=:all:", "--dest", ".", *WHEELS], folder)
        _run(["apt-get", "download", DEBIAN_PACKAGE], folder)
        for package in folder.glob("*.deb"):
            _run(["dpkg-deb", "--extract", package.name, "debian"], folder)
        for wheel in folder.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder / "wheels")
        made = folder / "made"
        for pattern in _WANTED:
            for found in folder.glob(pattern):
                kind = "bin" if found.name == "perf_analyzer" else "lib"
                (made / kind).mkdir(parents=True, exist_ok=True)
                shutil.copy(found, made / kind / found.name)
        (made / "bin" / "perf_analyzer").chmod(0o755)
        made.replace(out)
    return program


def _run(command: Sequence[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingDependencyError(f"perf_analyzer was not fetched: {error}") from None
    if done.returncode:
        said = done.stdout.strip().splitlines() or ["it said nothing"]
        hint = " (apt-get update first?)" if command[0] == "apt-get" else ""
        raise MissingDependencyError(
            f"perf_analyzer was not fetched: {' '.join(command[:4])} ... failed: {said[-1]}{hint}"
        )


def main(*, out: Annotated[Path, tyro.conf.arg(metavar="DIR")]) -> int:
    """Get perf_analyzer and its libraries.

    Args:
        out: folder to make.
    """
    print(fetch(out))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main))
    except SceneLoomError as error:
        sys.exit(f"fetch: {error}")
