"""`sceneloom gateway`."""

from __future__ import annotations

import functools
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, arg

from sceneloom import tracing
from sceneloom.contract import MODEL_NAME
from sceneloom.errors import InputError, require
from sceneloom.triton.grpc_transport import is_loopback
from sceneloom.triton.transport import Timeouts

require(
    ("fastapi", "uvicorn", "python_multipart", "argon2"), extra="gateway", purpose="the gateway"
)

from sceneloom_gateway.app import RequestLimits, build_app  # noqa: E402
from sceneloom_gateway.job_routes import read_options  # noqa: E402
from sceneloom_gateway.jobs import Jobs, JobSettings  # noqa: E402
from sceneloom_gateway.keys import Keys, read_keys  # noqa: E402
from sceneloom_gateway.server import ServerSettings, listen_address, open_socket, serve  # noqa: E402
from sceneloom_gateway.tritons import Tritons, read_addresses  # noqa: E402
from sceneloom_gateway.workers import run_workers  # noqa: E402


def main(
    *,
    triton: tuple[str, ...] = (),
    triton_file: Annotated[Path | None, arg(metavar="FILE")] = None,
    listen: Annotated[str, arg(metavar="HOST:PORT")] = "127.0.0.1:8080",
    model: str = MODEL_NAME,
    keys: Annotated[Path | None, arg(metavar="FILE")] = None,
    keys_on_loopback: bool = False,
    without_keys: bool = False,
    mix_precisions: bool = False,
    studio: bool = False,
    settings: Annotated[ServerSettings, arg(name="server"), OmitArgPrefixes] = ServerSettings(),  # noqa: B008 - frozen
    limits: Annotated[RequestLimits, OmitArgPrefixes] = RequestLimits(),  # noqa: B008 - frozen
    jobs: Annotated[JobSettings, arg(name="jobs")] = JobSettings(),  # noqa: B008 - frozen
    timeouts: Annotated[Timeouts, arg(name="timeouts")] = Timeouts(),  # noqa: B008 - frozen
) -> int:
    """Serve label maps to pictures over HTTP or HTTPS, in front of Triton servers.

    Prints a line that begins with "ready " once requests are answered, and one line of JSON for
    each request on standard error. SIGHUP connects to the servers anew. SIGTERM and SIGINT end it
    once the requests in work are done.

    Args:
        triton: HOST:PORT of the servers' gRPC ports; several share the work, and stand in for each
            other. By default 127.0.0.1:8001.
        triton_file: in place of --triton: file with HOST:PORT a line. SIGHUP reads it again and
            moves new requests there, without a failed one; the servers may have another bundle.
        listen: address to listen at; port 0 takes a free one.
        model: name of the served model.
        keys: file of API keys (sceneloom gateway-keys); wanted of every client that is not on this
            machine.
        keys_on_loopback: want keys of clients on this machine, too, such as a proxy.
        without_keys: listen on other addresses than this machine's own without keys.
        mix_precisions: let servers of different precision work together.
        studio: serve the studio, too: paint label maps in a browser and see the pictures.
        settings: connections.
        limits: of requests.
        jobs: many maps at once.
        timeouts: of requests to Triton.
    """
    host, port = listen_address(listen)
    everywhere = host in ("0.0.0.0", "::")  # is_loopback takes them for this machine
    if keys is None and not without_keys and (everywhere or not is_loopback(f"{host}:0")):
        raise InputError(
            f"{listen} takes requests from other machines; name a file of API keys with --keys, or "
            "take requests without one with --without-keys"
        )
    if keys is None and keys_on_loopback:
        raise InputError("--keys-on-loopback wants --keys FILE")
    if triton and triton_file is not None:
        raise InputError("name the servers with --triton or with --triton-file, not with both")
    if jobs.folder is not None and settings.workers > 1:
        raise InputError(
            f"--jobs.folder with --workers {settings.workers}: jobs are in one process; start a "
            "gateway of one for them"
        )
    if triton_file is not None:  # its errors come before the start, and those of the keys
        read_addresses(triton_file)
    if keys is not None:
        read_keys(keys)
    with open_socket(host, port) as listening:
        host, port = listening.getsockname()[:2]
        scheme = "https" if settings.tls_cert else "http"
        shown = f"[{host}]" if ":" in host else host

        def ready() -> None:
            print(f"ready {scheme}://{shown}:{port}", flush=True)

        work = functools.partial(
            serve_gateway,
            triton=triton or ("127.0.0.1:8001",),
            triton_file=triton_file,
            model=model,
            keys=keys,
            keys_on_loopback=keys_on_loopback,
            mix_precisions=mix_precisions,
            settings=settings,
            limits=limits,
            jobs=jobs,
            timeouts=timeouts,
            studio=studio,
        )
        if settings.workers == 1:
            work(listening, ready)
        elif not run_workers(settings.workers, work, listening, ready):
            return 1
    print("stopped", file=sys.stderr)
    return 0


def serve_gateway(
    listening: socket.socket,
    ready: Callable[[], None],
    *,
    triton: tuple[str, ...],
    triton_file: Path | None = None,
    model: str = MODEL_NAME,
    keys: Path | None = None,
    keys_on_loopback: bool = False,
    mix_precisions: bool = False,
    settings: ServerSettings,
    limits: RequestLimits,
    jobs: JobSettings,
    timeouts: Timeouts,
    studio: bool,
    logs: bool = True,
) -> None:
    """Serve in this process until SIGTERM; the arguments are those of the command, and of
    `build_app`.
    """
    tracing.start("sceneloom-gateway")
    tritons = Tritons(
        lambda: read_addresses(triton_file) if triton_file else triton,
        model=model,
        timeouts=timeouts,
        mix_precisions=mix_precisions,
    )
    known = None if keys is None else Keys(keys)
    taken = None if jobs.folder is None else Jobs(tritons, jobs, read_options, limits.max_pixels)
    app = build_app(
        tritons,
        limits=limits,
        keys=known,
        keys_on_loopback=keys_on_loopback,
        jobs=taken,
        studio=studio,
        logs=logs,
    )

    async def begin() -> None:
        await tritons.open()
        if taken is not None:
            await taken.open()

    serve(
        app,
        listening,
        settings,
        begin=begin,
        ready=ready,
        hangup=tritons.switch,
        closing=(lambda: None) if taken is None else taken.end_streams,
    )
