"""Finding the tritonserver that the `nvidia-pytriton` wheel carries, and what it needs around it.

The wheel holds a real tritonserver (2.51.0) with the Python backend. To serve a repository written
by hand it needs a backend directory that joins the backend's files with the stub built for this
Python, the wheel's libraries and this Python's libpython on LD_LIBRARY_PATH, and this environment's
`bin` first on PATH, which is how the stub finds packages.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import sys
import sysconfig
from pathlib import Path

from sceneloom.errors import MissingDependencyError, ServerStartError

_STUB = "triton_python_backend_stub"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BundledServer:
    """Paths of the server and its parts."""

    executable: Path
    """The tritonserver binary."""
    backend: Path
    """The Python backend's files."""
    stub: Path
    """The backend's stub process, built for this Python's minor version."""
    library_path: str
    """LD_LIBRARY_PATH for the server and its stub."""

    def write_backend_directory(self, folder: Path) -> None:
        """Write what `--backend-directory` wants: `folder/python` with the backend's files and the
        stub.

        Links, not copies: a file that was just written cannot be run while another process has it
        open ("Text file busy"), and a folder for temporary files may be mounted noexec.
        """
        (folder / "python").mkdir(parents=True)
        for file in (*self.backend.iterdir(), self.stub):
            (folder / "python" / file.name).symlink_to(file)

    def environment(self) -> dict[str, str]:
        """Environment for the server: this process's, with library path and PATH as the stub needs
        them.
        """
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
    """Find the server and check that it can run here.

    Raises:
        ServerStartError: there is no bundled server for this platform or Python, libpython is
            missing, or numpy is too new for the stub.
        MissingDependencyError: nvidia-pytriton is not installed.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise ServerStartError(
            f"there is no bundled Triton server for {platform.system()} on {platform.machine()}; "
            "it is for Linux on "
            "x86-64 only. Run the server in a container or on another machine and name it with "
            "--url"
        )
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if (sys.version_info.major, sys.version_info.minor) >= (3, 13):
        raise ServerStartError(
            "the bundled Triton server needs numpy below 2, which there is not for Python "
            f"{version}; "
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
        built = sorted(
            (p.name for p in stub.parents[1].glob("3.*")), key=lambda v: int(v.split(".")[1])
        )
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
    """Refuse numpy 2: beside it the bundled stub loads and then returns empty tensors.

    Raises:
        ServerStartError: the version is 2 or later.
    """
    if int(version.split(".")[0]) >= 2:
        raise ServerStartError(
            f"numpy {version} is installed, and beside numpy 2 the bundled Triton server returns "
            "empty tensors: "
            "pip install 'sceneloom[serve,embedded]' brings numpy below 2"
        )


def find_libpython() -> Path:
    """Path of this Python's shared library, which the stub loads.

    Raises:
        ServerStartError: there is none; the text names Debian's package.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = f"libpython{version}.so.1.0"
    folders = [
        sysconfig.get_config_var("LIBDIR"),
        sysconfig.get_config_var("LIBPL"),
        str(Path(sys.base_prefix) / "lib"),
    ]
    multiarch = sysconfig.get_config_var("MULTIARCH")
    folders += [f"/usr/lib/{multiarch}", f"/lib/{multiarch}"] if multiarch else []
    for folder in filter(None, folders):
        path = Path(folder) / name
        if path.is_file():
            try:
                ctypes.CDLL(str(path))
            except OSError:
                continue
            return path
    raise ServerStartError(
        f"{name} is missing, which the bundled Triton server's Python stub loads: on Debian and "
        "Ubuntu "
        f"apt-get install libpython{version}; a Python you build yourself needs --enable-shared"
    )
