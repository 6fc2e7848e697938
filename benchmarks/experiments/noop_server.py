"""A model without a network, behind the real tritonserver, for tests and benchmarks of clients.

The model `synthesis` has the served model's signature and contract: ``label_map`` UINT8 [N, H, W]
and ``instance_map`` INT32 [N, H, W] in, ``image`` UINT8 [N, H, W, 3] out. Channels of the picture
are the label map, and the low and the second byte of the instance map (`noop_picture`). Sizes
outside the contract are refused.

    repository = write_noop_repository(tmp_path / "repository", delay_seconds=0.1, queue_size=4)
    with NoopServer(repository) as server, TritonSynthesizer(server.grpc) as client:
        ...
        server.kill()      # SIGKILL
        server.start()     # again, on the same ports
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from typing_extensions import Self

from sceneloom.contract import (
    INPUT_INSTANCES,
    INPUT_LABELS,
    MODEL_NAME,
    OUTPUT_IMAGE,
    PARAMETER,
    Contract,
)
from sceneloom.schema import load_schema

HOST = "127.0.0.1"
_WITHOUT_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
NOOP_CONTRACT = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)
_MODEL = '''"""Stacks label map, low and second byte of the instance map."""

import time

import cv2
import numpy as np
import triton_python_backend_utils as pb_utils

cv2.setNumThreads(1)
DELAY_SECONDS = {delay_seconds!r}
DELAY_PER_PICTURE = {delay_per_picture!r}
MULTIPLE = {multiple!r}
SMALLEST = {smallest!r}


def array(request, name):
    return np.ascontiguousarray(pb_utils.get_input_tensor_by_name(request, name).as_numpy())


def answer(request):
    label_maps, instance_maps = array(request, "label_map"), array(request, "instance_map")
    n, height, width = label_maps.shape
    if height % MULTIPLE or width % MULTIPLE or min(height, width) < SMALLEST:
        return refusal(f"{{width}}x{{height}} is not a multiple of {{MULTIPLE}} on both sides")
    if instance_maps.shape != label_maps.shape:
        return refusal("label_map and instance_map must be equal in size")
    images = np.empty((n, height, width, 3), np.uint8)
    parts = [
        label_maps.reshape(n * height, width, 1),
        instance_maps.view(np.uint8).reshape(n * height, width, 4),
    ]
    cv2.mixChannels(parts, [images.reshape(n * height, width, 3)], [0, 0, 1, 1, 2, 2])
    return pb_utils.InferenceResponse([pb_utils.Tensor("image", images)])


def refusal(text):
    return pb_utils.InferenceResponse(
        error=pb_utils.TritonError(text, pb_utils.TritonError.INVALID_ARG)
    )


class TritonPythonModel:
    def execute(self, requests):
        responses = [answer(request) for request in requests]
        delay = DELAY_SECONDS + DELAY_PER_PICTURE * sum(
            len(array(request, "label_map")) for request in requests
        )
        if delay:
            time.sleep(delay)
        return responses
'''


def write_noop_repository(
    folder: Path,
    *,
    contract: Contract = NOOP_CONTRACT,
    max_batch_size: int = 8,
    dynamic_batching: bool = False,
    queue_size: int = 0,
    queue_timeout_seconds: float = 0,
    delay_seconds: float = 0,
    delay_per_picture: float = 0,
    response_cache: bool = False,
) -> Path:
    """Write a model repository with this model into a new folder, and return the folder.

    An execution takes `delay_seconds` and `delay_per_picture`, in seconds. `queue_size` and
    `queue_timeout_seconds` limit the waiting requests (0: no limit); they imply dynamic batching,
    since the queue is the batcher's. The contract has boundaries and no style.
    """
    assert contract.boundaries
    assert not contract.style_channels
    config = model_config_pb2.ModelConfig(
        name=MODEL_NAME, backend="python", max_batch_size=max_batch_size
    )
    uint8, int32 = model_config_pb2.TYPE_UINT8, model_config_pb2.TYPE_INT32
    config.input.add(name=INPUT_LABELS, data_type=uint8, dims=[-1, -1])
    config.input.add(name=INPUT_INSTANCES, data_type=int32, dims=[-1, -1])
    config.output.add(name=OUTPUT_IMAGE, data_type=uint8, dims=[-1, -1, 3])
    config.parameters[PARAMETER].string_value = contract.dumps()
    config.instance_group.add(count=1, kind=model_config_pb2.ModelInstanceGroup.KIND_CPU)
    if dynamic_batching or queue_size or queue_timeout_seconds:
        policy = config.dynamic_batching.default_queue_policy
        policy.max_queue_size = queue_size
        policy.default_timeout_microseconds = round(queue_timeout_seconds * 1e6)
        config.dynamic_batching.preserve_ordering = False
    config.response_cache.enable = response_cache
    code = _MODEL.format(
        delay_seconds=delay_seconds,
        delay_per_picture=delay_per_picture,
        multiple=contract.size_multiple,
        smallest=contract.smallest_side,
    )
    write_model(folder, config, code)
    return folder


def write_model(folder: Path, config: Any, code: str) -> None:
    """Add a model of the Python backend to a repository."""
    (folder / config.name / "1").mkdir(parents=True)
    (folder / config.name / "config.pbtxt").write_text(text_format.MessageToString(config), "utf-8")
    (folder / config.name / "1" / "model.py").write_text(code, "utf-8")


def noop_picture(label_map: npt.NDArray[Any], instance_map: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The model's picture of these maps, single or in a batch."""
    channels = [label_map, instance_map & 255, (instance_map >> 8) & 255]
    picture: npt.NDArray[Any] = np.stack(channels, -1).astype(np.uint8)
    return picture


class NoopServer:
    """The bundled tritonserver on a repository, with equal ports at each start."""

    def __init__(
        self, repository: Path, *, start_timeout: float = 60, cache_bytes: int = 0
    ) -> None:
        """Choose free ports; `start` starts the server."""
        self._repository = repository
        self._cache_bytes = cache_bytes
        self._start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._prefix = ""
        sockets = [socket.create_server((HOST, 0)) for _ in range(3)]
        self.grpc, self.http, self.metrics = (f"{HOST}:{s.getsockname()[1]}" for s in sockets)
        """``HOST:PORT`` of each protocol."""
        for each in sockets:
            each.close()

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self) -> Self:
        """Start the server and wait until it is ready."""
        from sceneloom.files import new_prefix
        from sceneloom_serving.bundled_server import find_bundled_server, new_folder

        assert self._process is None, "already started"
        server = find_bundled_server()
        self._prefix = new_prefix()
        backends = new_folder(self._prefix)
        server.write_backend_directory(backends)
        command = [
            str(server.executable),
            f"--model-repository={self._repository}",
            f"--backend-directory={backends}",
            f"--backend-config=python,shm-region-prefix-name={self._prefix}",
            "--disable-auto-complete-config",
            "--allow-gpu-metrics=false",
            "--exit-timeout-secs=10",
        ]
        for name in ("grpc", "http", "metrics"):
            port = getattr(self, name).split(":")[1]
            command += [f"--{name}-address={HOST}", f"--{name}-port={port}"]
        if self._cache_bytes:
            command += [
                f"--cache-directory={server.executable.parents[1] / 'caches'}",
                f"--cache-config=local,size={self._cache_bytes}",
            ]
        self._log = backends / "log.txt"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, env=server.environment(), stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + self._start_timeout
        while True:
            with contextlib.suppress(OSError, urllib.error.URLError):
                url = f"http://{self.http}/v2/health/ready"
                with _WITHOUT_PROXY.open(url, timeout=5) as answer:
                    if answer.status == 200:
                        return self
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                text = self._log.read_text(errors="replace")
                self.kill()
                raise AssertionError(f"the server {'ended' if ended else 'is not ready'}:\n{text}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server after the requests in flight, if it runs."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the server and its models' processes, if it runs."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        from sceneloom_serving.bundled_server import remove

        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(20)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            remove(self._prefix)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()  # an ordered stop takes two seconds
