"""The tritonserver of the `nvidia-pytriton` wheel: its files, its log and its leftovers.

The wheel holds a real tritonserver (2.51.0) with the Python backend. It needs a backend directory
with the backend's files and the stub for this Python, the wheel's libraries and this Python's
libpython on LD_LIBRARY_PATH, and this environment's `bin` first on PATH, for the stub's packages.

Leftovers are shared memory, a folder of backend files, and stubs, named after their owner's process
(`sceneloom.files`). The server removes them, or the next one does if the owner was killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import signal
import sys
import sysconfig
import tempfile
from pathlib import Path

from sceneloom.errors import MissingDependencyError, ServerStartError
from sceneloom.files import OWNED_NAME, SHARED_MEMORY, is_ownerless

_STUB = "triton_python_backend_stub"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BundledServer:
    """Paths of the server and its parts."""

    executable: Path
    backend: Path
    stub: Path
    library_path: str

    def write_backend_directory(self, folder: Path) -> None:
        """Write `folder/python` with the backend's files and the stub, for `--backend-directory`.

        Links, not copies: a file just written cannot be run while another process has it open
        ("Text file busy"), and a folder for temporary files may be mounted noexec.
        """
        (folder / "python").mkdir(parents=True)
        for file in (*self.backend.iterdir(), self.stub):
            if file.is_file():  # not the __pycache__ of an installation that compiles
                (folder / "python" / file.name).symlink_to(file)

    def environment(self) -> dict[str, str]:
        """This process's environment with the stub's library path and PATH."""
        # sys.prefix, not the executable's folder: a test runner may resolve the link out of the
        # virtual environment.
        bin_folder = str(Path(sys.prefix) / "bin")
        existing = os.environ.get("LD_LIBRARY_PATH")
        return {
            **os.environ,
            "PATH": os.pathsep.join([bin_folder, os.environ.get("PATH", os.defpath)]),
            "LD_LIBRARY_PATH": self.library_path + (os.pathsep + existing if existing else ""),
            "PYTHONUNBUFFERED": "1",
        }


def find_bundled_server() -> BundledServer:
    """Find the server; raises MissingDependencyError, or ServerStartError if it cannot run here."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise ServerStartError(
            f"the bundled Triton server does not run on {platform.system()}, {platform.machine()}; "
            "it is for Linux on x86-64 only. Run the server in a container or on another machine "
            "and name it with --url"
        )
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if (sys.version_info.major, sys.version_info.minor) >= (3, 13):
        raise ServerStartError(
            f"the bundled Triton server needs numpy below 2, which Python {version} does not have; "
            "use Python 3.10, 3.11 or 3.12, or run the server elsewhere and name it with --url"
        )
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise MissingDependencyError(
            "the bundled Triton server is in nvidia-pytriton, which is not installed: pip install "
            "'sceneloom[serve,embedded]'"
        )
    package = Path(spec.origin).parent
    root = package / "tritonserver"
    stub = root / "python_backend_stubs" / version / _STUB
    if not stub.is_file():
        built = sorted((p.name for p in stub.parents[1].glob("3.*")), key=lambda v: int(v[2:]))
        raise ServerStartError(
            f"the bundled Triton server has no stub for Python {version}; it has {', '.join(built)}"
        )
    check_numpy(importlib.metadata.version("numpy"))
    libraries = [package.parent / "nvidia_pytriton.libs", find_libpython().parent]
    return BundledServer(
        executable=root / "bin" / "tritonserver",
        backend=root / "backends" / "python",
        stub=stub,
        library_path=os.pathsep.join(map(str, libraries)),
    )


def check_numpy(version: str) -> None:
    """Refuse numpy 2 with a ServerStartError: beside it the bundled stub returns empty tensors."""
    if int(version.split(".")[0]) >= 2:
        raise ServerStartError(
            f"numpy {version} is installed, and beside numpy 2 the bundled Triton server returns "
            "empty tensors: pip install 'sceneloom[serve,embedded]' brings numpy below 2"
        )


def find_libpython() -> Path:
    """Path of this Python's shared library, which the stub loads; raises ServerStartError."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = f"libpython{version}.so.1.0"
    folders = [*map(sysconfig.get_config_var, ("LIBDIR", "LIBPL")), f"{sys.base_prefix}/lib"]
    if multiarch := sysconfig.get_config_var("MULTIARCH"):
        folders += [f"/usr/lib/{multiarch}", f"/lib/{multiarch}"]
    for path in (Path(folder) / name for folder in filter(None, folders)):
        if path.is_file():
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(path))
                return path
    raise ServerStartError(
        f"{name} is missing, which the bundled Triton server's Python stub loads: on Debian and "
        f"Ubuntu apt-get install libpython{version}; a Python you build yourself needs "
        "--enable-shared"
    )


_LINE = re.compile(r"([IWEFV])\d{4} [\d:.]+ \d+ [\w.]+:\d+\] ?(.*)", re.DOTALL)
_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "error", "V": "verbose"}
# Tables, the frames below an exception, and the answer to our own signal.
_NOISE = re.compile(r"[+|]|At:|\S.*\(\d+\): \S+$|Signal \(\d+\) received")
# Notes of a CPU-only server about the GPU and metrics it does not have.
_EXPECTED = ("cuda", "gpu", "dcgm", "pinned memory", "cache manager", "nvml", "numa")
USAGE = "Usage: tritonserver"  # starts the text that Triton prints last after a wrong flag
_LAST_WORDS = re.compile(r"Signal \((\d+)\) received|what\(\): *(.+)")
_STUB_REFUSED = re.compile(r"sh: .*triton_python_backend_stub: (.+)")
_EXPECTED_ERRORS = ("CudaDriverHelper", "unable to create stream")


@dataclasses.dataclass(frozen=True)
class LogLine:
    """One line of Triton's log."""

    level: str
    """``error``, ``warning``, ``info``, ``verbose``, or ``output`` of the processes."""
    text: str

    @property
    def summary(self) -> str | None:
        """The first line of an error, unexpected warning or the model's output, or None."""
        text = self.text.split("\n")[0].strip()
        if self.level == "error" and not any(words in text for words in _EXPECTED_ERRORS):
            return text
        if self.level == "warning" and not any(word in text.lower() for word in _EXPECTED):
            return text
        if self.level == "output" and text and not _NOISE.match(text):
            return text
        return None


def parse_line(line: str) -> LogLine:
    """Parse one line of the server's standard error."""
    match = _LINE.fullmatch(line.rstrip())
    if match is None:
        return LogLine("output", line.strip())
    text = match[2]
    if len(text) > 1 and text.startswith('"') and text.endswith('"'):
        text = re.sub(
            r"\\(.)", lambda escape: {"n": "\n", "t": "\t"}.get(escape[1], escape[1]), text[1:-1]
        )
    return LogLine(_LEVELS[match[1]], text)


def explain_end(code: int, lines: list[LogLine]) -> str:
    """One sentence on the server's end from its exit code, negative for a signal, and its log."""
    if code < 0:
        return f"the Triton server was ended by {_signal(-code)}"
    return f"the Triton server ended with code {code}: {explain_failure(lines)}"


def last_words(lines: list[LogLine]) -> str:
    """The last message of the model's process in the server's log, in brackets, or empty."""
    for line in reversed(lines):
        if line.level == "output" and (match := _LAST_WORDS.match(line.text)):
            return f" ({_signal(int(match[1])) if match[1] else match[2]})"
    return ""


def stub_refusal(line: LogLine) -> str | None:
    """The shell's reason for not starting the model's process in a line of the log, or None."""
    match = _STUB_REFUSED.search(line.text) if line.level == "output" else None
    return match[1] if match else None


def explain_failure(lines: list[LogLine]) -> str:
    """One sentence with the reason of the server's end, from the end of its log."""
    errors = [
        line.text
        for line in lines
        if line.level == "error" and not any(words in line.text for words in _EXPECTED_ERRORS)
    ]
    if any("Unable to initialize shared memory" in text for text in errors):
        return "the model's process needs shared memory, and /dev/shm is full, small or read-only"
    for text in errors:
        match = re.search(r"failed to load '([^']+)' version \d+: \w[\w ]*: (.*)", text, re.DOTALL)
        if match:
            # A Python traceback ends in the exception; the backend adds the frames below it.
            said = [line.strip() for line in match[2].splitlines() if line.strip()]
            kept = [line for line in said if not re.match(r"At:|\S+\(\d+\):", line)]
            why = (kept or said or [match[2]])[0].rstrip(";")
            return f"model {match[1]!r} was refused: {why}"
    for text in errors:
        if "Address already in use" in text or "failed to start" in text.lower():
            return text
    if errors:
        return errors[-1]
    said = [line.text for line in lines if line.level == "output" and line.text]
    return said[-1] if said else "no output"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def new_folder(prefix: str) -> Path:
    """Make a temporary folder with this prefix."""
    return Path(tempfile.mkdtemp(prefix=prefix))


def remove(prefix: str, *, ownerless: bool = False) -> list[str]:
    """Remove a prefix's leftovers, or only those without a living owner. Returns their names."""
    removed = []
    for folder in {SHARED_MEMORY, Path(tempfile.gettempdir())}:
        for path in folder.glob(prefix + "*"):
            if ownerless and not is_ownerless(path.name):
                continue
            removed.append(path.name)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    path.unlink()
    return removed


def sweep() -> list[str]:
    """Remove the leftovers of killed servers. Returns their names."""
    import psutil

    removed = []
    # A stub of Triton's Python backend waits for ever in the shared memory of a killed server.
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or [""]
        name = next(filter(OWNED_NAME.fullmatch, arguments), None)
        if arguments[0].endswith(_STUB) and name is not None and is_ownerless(name):
            with contextlib.suppress(psutil.Error):
                process.kill()
                removed.append(name)
    return removed + remove("sceneloom-", ownerless=True)
