"""Several gateway processes at one socket (`--workers N`); a lost one is replaced.

The kernel hands each connection to one of them. They share the metrics (prometheus-client's
multiprocess mode) and nothing else.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from prometheus_client.multiprocess import mark_process_dead

from sceneloom.errors import SceneLoomError
from sceneloom.text import printable

Work = Callable[[socket.socket, Callable[[], None]], None]
"""Serves at a socket until SIGTERM, and calls the function once it answers; can be pickled."""


def run_workers(
    count: int, work: Work, listening: socket.socket, ready: Callable[[], None]
) -> bool:
    """Run `count` processes until SIGTERM or SIGINT, and call `ready` once all answer. Returns
    False if one could not start; it has printed the reason then.
    """
    with tempfile.TemporaryDirectory(prefix="sceneloom-gateway-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        return _Supervisor(count, work, listening, ready).run()


class _Supervisor:
    def __init__(
        self, count: int, work: Work, listening: socket.socket, ready: Callable[[], None]
    ) -> None:
        self._count, self._work, self._listening, self._ready = count, work, listening, ready
        self._spawn = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
        self._starting: dict[Any, SpawnProcess] = {}  # a worker's pipe -> the worker
        self._serving: dict[Any, SpawnProcess] = {}
        self._ending, self._announced, self._failed = False, False, False

    def run(self) -> bool:
        wakes, wake = self._spawn.Pipe(duplex=False)

        def on_signal(number: int, _: object) -> None:
            wake.send(number)

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, on_signal)
        for _ in range(self._count):
            self._start()
        while self._starting or self._serving:
            for pipe in wait([wakes, *self._starting, *self._serving]):
                if pipe is wakes:
                    self._pass_on(wakes.recv())
                else:
                    self._hear(pipe)
        return not self._failed

    def _start(self) -> None:
        ours, theirs = self._spawn.Pipe()
        process = self._spawn.Process(target=_serve, args=(self._work, self._listening, theirs))
        process.start()
        theirs.close()
        self._starting[ours] = process

    def _hear(self, pipe: Any) -> None:
        """A worker says that it serves, or has ended."""
        with contextlib.suppress(EOFError, OSError):
            pipe.recv()
            self._serving[pipe] = self._starting.pop(pipe)
            if not self._announced and len(self._serving) == self._count:
                self._announced = True
                self._ready()
            return
        started = pipe in self._serving
        process = (self._serving if started else self._starting).pop(pipe)
        pipe.close()
        process.join()
        mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
        if self._ending:
            return
        if not self._announced:  # the others would not start either
            self._failed = True
            self._pass_on(signal.SIGTERM)
            return
        print(
            f"sceneloom gateway: worker {process.pid} ended ({process.exitcode}); another starts",
            file=sys.stderr,
            flush=True,
        )
        self._start()

    def _pass_on(self, number: int) -> None:
        reached = [*self._serving.values()]
        if number != signal.SIGHUP:
            self._ending = True
            reached += self._starting.values()
        for process in reached:
            with contextlib.suppress(ProcessLookupError):
                os.kill(
                    process.pid or 0, signal.SIGHUP if number == signal.SIGHUP else signal.SIGTERM
                )


def _serve(work: Work, listening: socket.socket, pipe: Connection) -> None:
    """One worker: serve until SIGTERM, or until its parent is gone."""

    def watch_parent() -> None:
        with contextlib.suppress(EOFError, OSError):
            pipe.recv()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch_parent, daemon=True).start()
    try:
        work(listening, lambda: pipe.send("ready"))
    except SceneLoomError as error:
        print(f"sceneloom gateway: {printable(error)}", file=sys.stderr, flush=True)
        sys.exit(1)
