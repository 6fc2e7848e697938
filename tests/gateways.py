"""A gateway in a process of its own, before fake servers that speak Triton's protocol."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import grpc
import numpy as np
from fake_triton import FakeTriton
from support import COMMAND
from tritonclient.grpc import service_pb2_grpc

from sceneloom.contract import Contract
from sceneloom.schema import load_schema
from sceneloom.testing import FakeTransport


@dataclasses.dataclass
class Gateway:
    """`sceneloom gateway`, ready."""

    process: subprocess.Popen[str]
    url: str
    log_path: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def log(self, least: int = 0) -> list[dict[str, Any]]:
        """Lines of the access log so far; waits for at least so many, as a line follows its
        answer.
        """
        deadline = time.monotonic() + 10
        while True:
            lines = self.log_path.read_text("utf-8").splitlines()
            found = [json.loads(line) for line in lines if line.startswith("{")]
            if len(found) >= least or time.monotonic() > deadline:
                return found
            time.sleep(0.02)

    def logged(self, **values: Any) -> dict[str, Any]:
        """The first line of the access log with these values; it is written after the answer."""
        deadline = time.monotonic() + 10
        while True:
            for line in self.log():
                if values.items() <= line.items():
                    return line
            assert time.monotonic() < deadline, f"no line with {values}: {self.log()}"
            time.sleep(0.02)

    def end(self) -> int:
        """Send SIGTERM, and wait for the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


StartGateway = Callable[..., Gateway]


def start(
    stack: ExitStack, folder: Path, *flags: str | Path, listen: str = "127.0.0.1:0"
) -> Gateway:
    log_path = folder / f"gateway-{len(list(folder.glob('gateway-*')))}.log"
    command = [*COMMAND, "gateway", "--listen", listen, *map(str, flags)]
    log = stack.enter_context(log_path.open("w"))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    stack.callback(process.communicate, timeout=60)
    stack.callback(process.terminate)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("ready "), log_path.read_text()
    return Gateway(process, line.split()[1], log_path)


@dataclasses.dataclass
class Triton:
    """A fake Triton server."""

    url: str
    transport: FakeTransport
    stop: Callable[[], object]
    metadata: list[dict[str, str]]


def serve_fake(stack: ExitStack, transport: FakeTransport, port: int = 0) -> Triton:
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    answering = FakeTriton(transport)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(answering, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    stack.callback(lambda: server.stop(0).wait())
    return Triton(f"127.0.0.1:{port}", transport, lambda: server.stop(0).wait(), answering.metadata)


def contract(**values: Any) -> Contract:
    fields: dict[str, Any] = {"boundaries": True, "size_multiple": 8, "bundle_hash": "a" * 64}
    return Contract(schema=load_schema("cityscapes"), **{**fields, **values})


def png(values: np.ndarray[Any, Any]) -> bytes:
    return cv2.imencode(".png", values)[1].tobytes()
