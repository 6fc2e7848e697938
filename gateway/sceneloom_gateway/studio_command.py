"""`sceneloom studio`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from sceneloom.errors import InputError, SceneLoomError, require
from sceneloom.files import file_hash
from sceneloom.triton.transport import Timeouts

require(("fastapi", "uvicorn", "python_multipart", "argon2"), extra="gateway", purpose="the studio")

from sceneloom_gateway.app import RequestLimits  # noqa: E402
from sceneloom_gateway.gateway_command import serve_gateway  # noqa: E402
from sceneloom_gateway.jobs import JobSettings  # noqa: E402
from sceneloom_gateway.server import ServerSettings, listen_address, open_socket  # noqa: E402

_HERE = Path(__file__).resolve().parent
WEIGHTS = (_HERE / "demo_weights", _HERE.parents[1] / "examples" / "street_demo" / "generator")
"""Where the demo's weights are: in the wheel, or in a checkout."""
_PR_SET_PDEATHSIG = 1


class TritonEnded(SceneLoomError):
    """The Triton server of the studio could not start, or has ended."""


def main(
    repository: Annotated[Path | None, Positional, arg(metavar="REPOSITORY")] = None,
    *,
    listen: Annotated[str, arg(metavar="HOST:PORT")] = "127.0.0.1:8090",
    open_browser: Annotated[bool, arg(name="open")] = False,
) -> int:
    """Paint a label map in the browser, and see the photograph.

    Starts the bundled Triton server and the gateway on this machine, and prints the page's address
    in a line that begins with "ready ". SIGTERM and SIGINT end both.

    Args:
        repository: folder of an export; by default the demo's weights, exported at the first start.
        listen: address of the page; port 0 takes a free one. Loopback, since nobody needs a key.
        open_browser: open the page in the browser.
    """
    host, port = listen_address(listen)
    if host not in ("127.0.0.1", "::1", "localhost"):
        raise InputError(
            f"--listen is {listen!r}; the studio is for this machine, such as 127.0.0.1:8090. For "
            "others, put sceneloom gateway --studio with --keys in front of a Triton server"
        )
    folder = repository or _demo_repository()
    with (
        tempfile.TemporaryDirectory(prefix="sceneloom-studio-") as jobs,
        open_socket(host, port) as listening,
        _triton(folder) as grpc,
    ):
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listening.getsockname()[1]}/studio/"

        def ready() -> None:
            print(f"ready {url}", flush=True)
            if open_browser:
                threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

        serve_gateway(
            listening,
            ready,
            triton=(grpc,),
            settings=ServerSettings(drain_seconds=5),
            limits=RequestLimits(),
            jobs=JobSettings(folder=Path(jobs)),
            timeouts=Timeouts(),
            studio=True,
            logs=False,
        )
    print("stopped", file=sys.stderr)
    return 0


def _demo_repository() -> Path:
    """The demo's weights as an export in the cache folder, made once for each of their versions."""
    weights = next((path for path in WEIGHTS if (path / "model.json").is_file()), None)
    if weights is None:
        raise InputError("the demo's weights are not installed; name the folder of an export")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sceneloom"
    name = file_hash(weights / "model.safetensors")[:16]
    folder = cache / "studio" / name
    if folder.is_dir():
        return folder
    print("sceneloom studio: export the demo's weights, once ...", file=sys.stderr, flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder.with_name(f"{name}.{os.getpid()}")
    try:
        command = [sys.executable, "-m", "sceneloom.cli", "export", str(weights)]
        done = subprocess.run(
            [*command, "--repository", str(made), "--precision", "fp32"], stdout=subprocess.DEVNULL
        )
        if done.returncode:
            raise TritonEnded(f"{weights}: the export failed, for the reason above")
        with contextlib.suppress(OSError):  # another process was first
            made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


@contextlib.contextmanager
def _triton(repository: Path) -> Iterator[str]:
    """Serve an export by `sceneloom serve`, which starts Triton again when it ends; the gRPC
    address.
    """
    ports = [x for name in ("http", "grpc", "metrics") for x in (f"--{name}-port", "0")]
    command = [sys.executable, "-m", "sceneloom.cli", "serve", str(repository), *ports]
    libc = ctypes.CDLL(None)

    def die_with_us() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    # A group of its own: Ctrl-C is for the gateway, which ends this one after its last request.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=die_with_us,  # no thread runs yet
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("ready "):
            raise TritonEnded(f"{repository}: Triton does not serve it, for the reason above")
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield dict(word.split("=", 1) for word in line.split()[1:3])["grpc"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
