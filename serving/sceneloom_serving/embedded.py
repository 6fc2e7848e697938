"""The embedded server: the bundled tritonserver as a child process, proven by a real inference.

For development, demonstrations and machines without a GPU. The bundled server lacks security fixes,
so it listens on 127.0.0.1 only and is not for production (docs/serving.md).

    sceneloom serve build/demo/repository
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import dataclasses
import math
import os
import re
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from annotated_types import Interval
from typing_extensions import Self

from sceneloom import errors
from sceneloom.contract import DIFFERENCE_PARAMETER, ENGINE_PARAMETER, FAST_PARAMETER
from sceneloom.files import new_prefix
from sceneloom.tracing import traces_url
from sceneloom.triton.client import TritonSynthesizer
from sceneloom.triton.grpc_transport import GrpcTransport
from sceneloom.triton.transport import MAX_SECONDS, Seconds, Timeouts
from sceneloom.validation import checked
from sceneloom_serving import bundled_server
from sceneloom_serving.bundle import Golden, bundle_hash, check_files, lay_out, load_golden
from sceneloom_serving.bundled_server import BundledServer, LogLine
from sceneloom_serving.choice import what_is_known
from sceneloom_serving.parity import check_golden

_PORTS = ("http", "grpc", "metrics")
_PLAIN_PATH = re.compile(r"[\w./-]+", re.ASCII)
_STACK = 128 << 20
_PR_SET_PDEATHSIG = 1
_METRICS_MS = 200  # Triton's end waits for the next reading of its metrics, by default for 2 s
_GRACE = 1.5  # seconds for Triton to answer the request that ended its model's process
Port = Annotated[int, Interval(ge=0, le=65535)]


@checked(errors.InputError)
@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Ports and timeouts of the embedded server."""

    http_port: Port = 8000
    """Port for HTTP; 0 takes a free one."""
    grpc_port: Port = 8001
    """Port for gRPC; 0 takes a free one."""
    metrics_port: Port = 8002
    """Port for Prometheus metrics; 0 takes a free one."""
    start_timeout: Seconds = 300.0
    """Seconds from the start to the model's answer to the golden probe."""
    stop_timeout: Annotated[float, Interval(ge=0, le=MAX_SECONDS)] = 30.0
    """Seconds for requests in flight to finish when the server stops; 0 ends it at once."""
    probe_every: Seconds = 30.0
    """Seconds between golden probes of the running server, and for the answer to one."""

    def __post_init__(self) -> None:
        ports = [p for p in (self.http_port, self.grpc_port, self.metrics_port) if p]
        if len(set(ports)) != len(ports):
            raise errors.InputError(f"ports are three different numbers, or 0, not {ports}")


class EmbeddedServer:
    """A running tritonserver; use it as a context manager.

    with EmbeddedServer(Path("build/demo/repository")) as server:
        with TritonSynthesizer(server.grpc) as synthesizer:
            ...
    """

    def __init__(
        self,
        repository: Path,
        settings: ServerSettings | None = None,
        *,
        engine: str | None = None,
        on_log: Callable[[LogLine], None] = lambda line: None,
    ) -> None:
        """Prepare a server of an export bundle, for `start`. `engine` is a name in
        `sceneloom_serving.engines.ENGINES`, or None for the bundle's. A thread calls
        `on_log` with every line of the log.
        """
        self._repository, self._settings = repository, settings or ServerSettings()
        self._on_log, self._engine = on_log, engine
        self._lines: collections.deque[LogLine] = collections.deque(maxlen=2000)
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._prefix = ""
        self._ports: HeldPorts | None = None
        # Once started:
        self.http = self.grpc = self.metrics = ""
        """``HOST:PORT`` for each protocol."""
        self.model_processes: list[int] = []
        """Process ids of the stubs that run the model."""
        self.golden_difference = float("nan")
        """Largest difference of the golden probe's block means, in grey levels."""
        self.engine = self.difference = self.fast = ""
        """Name, difference from PyTorch, and gain of `--precision fast`, in words."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start the server and prove it with the golden probe. Returns itself.

        Raises ServerStartError, MissingDependencyError if it is not installed, ModelFailedError for
        a wrong picture, ModelNotFoundError for a foreign configuration.
        """
        assert self._process is None, "already started"
        try:
            self._bring_up()
        except BaseException:
            self.stop()
            raise
        return self

    def restart(self) -> None:
        """End the server at once and start it on the same ports. May be called after an error."""
        self._end_processes(at_once=True)
        self._bring_up()

    def _bring_up(self) -> None:
        self._golden = load_golden(self._repository)
        check_files(self._repository)
        server = bundled_server.find_bundled_server()
        bundled_server.sweep()
        if self._ports is None:
            ports = {name: getattr(self._settings, f"{name}_port") for name in _PORTS}
            self._ports = HeldPorts(ports)
            self.http, self.grpc, self.metrics = (self._ports.addresses[name] for name in _PORTS)
        self._launch(server)
        self._prove()

    @property
    def pid(self) -> int:
        """Process id of the tritonserver."""
        assert self._process is not None, "not started"
        return self._process.pid

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for the server to end by itself. Returns its exit code, or None after `seconds`."""
        assert self._process is not None, "not started"
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def watch(self) -> str:
        """Wait until the server ends or breaks. Returns one sentence with the reason.

        A dead model process counts as an end: the server still reports that it is ready, and fails.
        """
        with Heartbeat(self.grpc, self._golden, every=self._settings.probe_every) as heartbeat:
            while (code := self.wait(0.1)) is None:
                gone = [pid for pid in self.model_processes if not _running(pid)]
                if gone:
                    self.wait(_GRACE)
                    words = bundled_server.last_words(list(self._lines))
                    return f"the model's process has ended{words}"
                if heartbeat.failure is not None:
                    return f"the server no longer gives the golden picture: {heartbeat.failure}"
        return self._how_it_ended(code)

    def _how_it_ended(self, code: int) -> str:
        assert self._reader is not None
        self._reader.join(5)
        return bundled_server.explain_end(code, list(self._lines))

    def stop(self) -> None:
        """Stop the server after its requests in flight, and clean up. May be called again."""
        self._end_processes(at_once=False)
        if self._ports is not None:
            self._ports.release()
            self._ports = None

    def _end_processes(self, *, at_once: bool) -> None:
        process = self._process
        if process is not None:
            # Before its proof the server has no users, and without its model's process Triton would
            # wait for requests without an answer.
            whole = self.model_processes and all(map(_running, self.model_processes))
            in_order = whole and not at_once and self._settings.stop_timeout > 0
            process.send_signal(signal.SIGTERM if in_order else signal.SIGKILL)
            try:
                process.wait(self._settings.stop_timeout + 5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            # A server that was killed leaves its model's processes behind, in its process group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            self._process, self.model_processes = None, []
        if self._reader is not None:
            self._reader.join(5)
        if self._prefix:
            bundled_server.remove(self._prefix)

    def _launch(self, server: BundledServer) -> None:
        self._prefix = new_prefix()
        backends = bundled_server.new_folder(self._prefix)
        if not _PLAIN_PATH.fullmatch(str(backends)):
            raise errors.ServerStartError(
                f"{backends}: Triton's Python backend hands this path to a shell; point TMPDIR to "
                "one of letters, digits, '.', '_' and '-'"
            )
        server.write_backend_directory(backends)
        parameters: dict[str, str] = {}
        if self._engine is not None:
            repository = self._repository
            known = what_is_known(repository, bundle_hash(repository), self._engine)
            parameters = {DIFFERENCE_PARAMETER: known.difference, FAST_PARAMETER: known.fast}
            parameters[ENGINE_PARAMETER] = self._engine
        folder = backends / "repository"
        lay_out(self._repository, folder, parameters=parameters)
        self._lines.clear()
        command = [
            str(server.executable),
            f"--model-repository={folder}",
            f"--backend-directory={backends}",
            f"--backend-config=python,shm-region-prefix-name={self._prefix}",
            "--model-control-mode=none",  # clients can neither load nor unload
            "--exit-on-error=true",
            f"--exit-timeout-secs={math.ceil(self._settings.stop_timeout)}",
            "--disable-auto-complete-config",
            "--allow-gpu-metrics=false",
            f"--metrics-interval-ms={_METRICS_MS}",
        ]
        for name, address in (("http", self.http), ("grpc", self.grpc), ("metrics", self.metrics)):
            command += [f"--{name}-address={HOST}", f"--{name}-port={address.split(':')[1]}"]
        if url := traces_url():
            command += [
                "--trace-config=mode=opentelemetry",
                f"--trace-config=opentelemetry,url={url}",
                "--trace-config=level=TIMESTAMPS",
                "--trace-config=rate=1",
            ]
        self._process = subprocess.Popen(
            command,
            env=server.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches only us; we stop the server in order
            preexec_fn=_prepare_child,
        )
        self._reader = threading.Thread(target=self._read_log, args=(self._process,), daemon=True)
        self._reader.start()

    def _read_log(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            for text in stream:
                if text.startswith(bundled_server.USAGE):
                    collections.deque(stream, maxlen=0)  # its flags are ours, not the user's
                    return
                line = bundled_server.parse_line(text)
                self._lines.append(line)
                # A log without a reader must not stop the server.
                with contextlib.suppress(OSError, ValueError):
                    self._on_log(line)

    def _prove(self) -> None:
        import psutil

        limit = self._settings.start_timeout
        deadline = time.monotonic() + limit
        while True:
            code = self.wait(0.1)
            if code is not None:
                raise errors.ServerStartError(self._how_it_ended(code))
            lines = list(self._lines)
            refused = next(filter(None, map(bundled_server.stub_refusal, lines)), None)
            if refused is not None:  # Triton would wait for it
                raise errors.ServerStartError(f"the model's process cannot be started: {refused}")
            left = deadline - time.monotonic()
            if left <= 0:
                raise errors.ServerStartError(f"the model was not ready within {limit:g} s")
            try:
                timeouts = Timeouts(connect=min(left, 5.0), infer=left)
                with TritonSynthesizer(self.grpc, timeouts=timeouts) as synthesizer:
                    self.golden_difference = check_golden(synthesizer, self._golden)
                    self.engine = synthesizer.engine
                    self.difference, self.fast = synthesizer.difference, synthesizer.fast
                for address in (self.http, self.metrics):  # Triton opens them after gRPC's
                    host, _, port = address.rpartition(":")
                    socket.create_connection((host, int(port)), timeout=5).close()
                # Its children are the stubs that run the model.
                self.model_processes = [p.pid for p in psutil.Process(self.pid).children()]
                return
            except (
                errors.ServerUnavailableError,
                errors.DeadlineExceededError,
                ConnectionRefusedError,
            ):
                continue


def _running(pid: int) -> bool:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def _prepare_child() -> None:
    """In the child: end with a parent that dies without stopping it (kill -9), and let Triton parse
    a large HTTP form on the stack of its threads: 4 MiB would end it at 8 MiB of stack.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if soft != resource.RLIM_INFINITY:
        wanted = _STACK if hard == resource.RLIM_INFINITY else min(_STACK, hard)
        resource.setrlimit(resource.RLIMIT_STACK, (max(soft, wanted), hard))


_TRIES = 3  # failed probes in a row by which a server counts as broken
_PAUSE = 1.0  # seconds from a failed probe to the next


class Heartbeat:
    """Repeats the golden probe from a thread while it is entered, with `every` seconds between
    probes and for an answer. A server that answers other requests in time has a long queue, and is
    well.
    """

    def __init__(self, url: str, golden: Golden, *, every: float) -> None:
        self._url, self._golden, self._every = url, golden, every
        self._done = threading.Event()
        self.failure: str | None = None
        """Reason why the server counts as broken, or None."""

    def __enter__(self) -> Self:
        threading.Thread(target=self._beat, name="sceneloom-heartbeat", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()  # without waiting for a probe in flight

    def _beat(self) -> None:
        failed, timeouts = 0, Timeouts(infer=self._every)
        while not self._done.wait(min(_PAUSE, self._every) if failed else self._every):
            try:
                transport = GrpcTransport(self._url)
                with TritonSynthesizer(self._url, timeouts=timeouts, transport=transport) as served:
                    answers = transport.answered(served.model, timeout=timeouts.connect)
                    try:
                        check_golden(served, self._golden)
                    except errors.DeadlineExceededError:
                        if transport.answered(served.model, timeout=timeouts.connect) == answers:
                            raise
                failed = 0
            except errors.SceneLoomError as error:
                failed += 1
                if failed == _TRIES:
                    self.failure = str(error)
                    return


HOST = "127.0.0.1"


class HeldPorts:
    """Ports of 127.0.0.1, chosen together and reserved until `release`, restarts included. A bound
    socket with a reusable address that does not listen keeps the port from other servers and from
    clients' connections, while the server that names the port can still listen on it.
    """

    def __init__(self, ports: Mapping[str, int]) -> None:
        """Reserve purpose -> port, or 0 for a free one. Raises ServerStartError."""
        self.addresses: dict[str, str] = {}
        with contextlib.ExitStack() as sockets:
            for purpose in sorted(ports, key=lambda name: ports[name] == 0):
                held = sockets.enter_context(socket.socket())
                # Without SO_REUSEADDR a port is refused for a minute after a server on it has
                # stopped, and no server could listen on a held one.
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                # It is free for such sockets, though: a lock on its number keeps it from other
                # servers of ours while neither listens.
                lock = sockets.enter_context(socket.socket(socket.AF_UNIX))
                try:
                    held.bind((HOST, ports[purpose]))
                    lock.bind(f"\0sceneloom-port-{held.getsockname()[1]}")
                except OSError as error:
                    raise errors.ServerStartError(
                        f"port {ports[purpose]} for {purpose} cannot be used ({error.strerror}); "
                        f"choose another with --{purpose}-port"
                    ) from None
                self.addresses[purpose] = f"{HOST}:{held.getsockname()[1]}"
            self._sockets = sockets.pop_all()

    def release(self) -> None:
        """Release the ports. May be called again."""
        self._sockets.close()


_SHORT = 60.0  # seconds from its start within which a server ends early
WAITS = (0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds until the next start, by the count of early ends in a row."""


def keep_up(
    server: EmbeddedServer,
    *,
    check: Callable[[], object],
    on_ready: Callable[[], None],
    say: Callable[[str], None],
    waits: Sequence[float] = WAITS,
) -> str:
    """Restart a started server that ends or breaks, until it has ended early too often. Returns one
    sentence with the reason. `check` runs before each start, `on_ready` now and after each proof.
    `waits` are seconds before each start after an early end.
    """
    on_ready()
    early, started, reason = 0, time.monotonic(), server.watch()
    while True:
        early = 1 if time.monotonic() - started >= _SHORT else early + 1
        while True:
            if early > len(waits):
                return f"{reason}; this was early end {early} in a row, so it is not started again"
            wait = waits[early - 1]
            say(f"{reason}; starting it again" + (f" in {wait:g} s" if wait else ""))
            time.sleep(wait)
            try:
                check()
                server.restart()
                break
            except (errors.SceneLoomError, OSError) as error:
                early, reason = early + 1, str(error)
        on_ready()
        started, reason = time.monotonic(), server.watch()
