"""Every transport against the real tritonserver: equal bytes, threads, overload, restarts, kills,
and /dev/shm as it was.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tritonclient.grpc import InferenceServerClient, model_config_pb2

from noop_server import NoopServer, noop_picture, write_model, write_noop_repository
from sceneloom.errors import (
    DeadlineExceededError,
    ModelNotFoundError,
    QueueFullError,
    RequestRejectedError,
    ServerUnavailableError,
    ServingError,
)
from sceneloom.files import SHARED_MEMORY
from sceneloom.triton.client import TritonSynthesizer, connect
from sceneloom.triton.transport import Transport

pytestmark = pytest.mark.triton

KINDS = ("grpc", "grpc-shm", "http")
Inputs = dict[str, npt.NDArray[Any]]

_REVERSE = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("reversed", np.array(
                [[item[::-1] for item in row]
                 for row in pb_utils.get_input_tensor_by_name(request, "files").as_numpy()],
                np.object_,
            ))])
            for request in requests
        ]
"""

_REPEAT = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        counts = [
            pb_utils.get_input_tensor_by_name(request, "count").as_numpy()[0, 0]
            for request in requests
        ]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("out", np.full((1, n), n % 251, np.uint8))])
            for n in counts
        ]
"""


def write_repeat_model(repository: Path) -> None:
    """A model whose output's size does not follow from its input's: ``count`` INT32 [1, 1]."""
    config = model_config_pb2.ModelConfig(name="repeat", backend="python", max_batch_size=8)
    config.input.add(name="count", data_type=model_config_pb2.TYPE_INT32, dims=[1])
    config.output.add(name="out", data_type=model_config_pb2.TYPE_UINT8, dims=[-1])
    write_model(repository, config, _REPEAT)


def write_reverse_model(repository: Path) -> None:
    """A model of BYTES [N, -1]: each item comes back reversed."""
    config = model_config_pb2.ModelConfig(name="reverse", backend="python", max_batch_size=8)
    config.input.add(name="files", data_type=model_config_pb2.TYPE_STRING, dims=[-1])
    config.output.add(name="reversed", data_type=model_config_pb2.TYPE_STRING, dims=[-1])
    write_model(repository, config, _REVERSE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NoopServer]:
    repository = tmp_path_factory.mktemp("noop") / "repository"
    write_noop_repository(repository, dynamic_batching=True)
    write_reverse_model(repository)
    write_repeat_model(repository)
    with NoopServer(repository) as running:
        yield running


@pytest.fixture(scope="module")
def slow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NoopServer]:
    """A server that takes 0.25 s for each execution and lets three requests wait."""
    folder = tmp_path_factory.mktemp("slow") / "repository"
    with NoopServer(write_noop_repository(folder, delay_seconds=0.25, queue_size=3)) as running:
        yield running


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """Whatever happens in a test, its clients' regions are gone afterwards."""
    yield
    assert client_regions() == []


def client_regions(pid: int | None = None) -> list[str]:
    names = SHARED_MEMORY.glob(f"sceneloom-{pid or os.getpid()}-*-client-*")
    return sorted(path.name for path in names)


def registered(server: NoopServer) -> list[str]:
    """Regions that the server has open."""
    client = InferenceServerClient(server.grpc)
    names = sorted(client.get_system_shared_memory_status().regions)
    client.close()
    return names


def open_transport(server: NoopServer, kind: str) -> Transport:
    if kind == "http":
        return connect(f"http://{server.http}")
    transport = connect(server.grpc, transport=kind)  # type: ignore[arg-type]
    assert transport.kind == kind, transport.why
    return transport


def maps(height: int, width: int, batch: int = 1, seed: int = 0) -> Inputs:
    rng = np.random.default_rng(seed)
    return {
        "label_map": rng.integers(0, 35, (batch, height, width), np.uint8),
        "instance_map": rng.integers(0, 35000, (batch, height, width), np.int32),
    }


def picture_of(inputs: Inputs) -> npt.NDArray[Any]:
    return noop_picture(inputs["label_map"], inputs["instance_map"])


def ask(transport: Transport, inputs: Inputs, timeout: float = 20) -> npt.NDArray[Any]:
    return transport.infer("synthesis", inputs, "image", timeout=timeout)


def test_auto_takes_shared_memory(server: NoopServer) -> None:
    with TritonSynthesizer(server.grpc, transport="auto") as synthesizer:
        assert synthesizer.transport.kind == "grpc-shm"
        assert synthesizer.version == "1"
    with TritonSynthesizer(server.grpc) as synthesizer:
        assert synthesizer.transport.kind == "grpc"
    with TritonSynthesizer(f"http://{server.http}") as synthesizer:
        assert synthesizer.transport.kind == "http"
        label_map, instance_map = (array[0] for array in maps(61, 97).values())
        image = synthesizer.synthesize(label_map, instance_map)
        assert (image == noop_picture(label_map, instance_map)).all()


def test_every_transport_reads_the_same_configuration(server: NoopServer) -> None:
    transports = [open_transport(server, kind) for kind in KINDS]
    configs = [t.model_config("synthesis", timeout=5) for t in transports]
    assert configs[0] == configs[1] == configs[2]
    assert (configs[0].version, configs[0].dynamic_batching) == ("1", True)
    for transport in transports:
        config = transport.model_config("reverse", timeout=5)
        assert config.inputs["files"].dtype == "BYTES"
        assert not config.dynamic_batching
        with pytest.raises(ModelNotFoundError):
            transport.model_config("nothing", timeout=5)
        transport.close()


def test_pictures_are_equal_to_the_byte(server: NoopServer, kind: str) -> None:
    transport = open_transport(server, kind)
    sizes = [(64, 96, 1), (16, 16, 8), (64, 96, 1), (256, 512, 4), (64, 96, 2)]
    requests = [maps(*size, seed=i) for i, size in enumerate([*sizes, *sizes, (1024, 2048, 1)])]
    answers = [ask(transport, request) for request in requests]
    for request, answer in zip(requests, answers, strict=True):  # the first ones are as they were
        assert answer.dtype == np.uint8
        assert (answer == picture_of(request)).all()
    transport.close()


def test_inputs_of_any_memory_order(server: NoopServer, kind: str) -> None:
    transport = open_transport(server, kind)
    turned = {name: array[:, ::-2, 16:].swapaxes(1, 2) for name, array in maps(64, 80).items()}
    for _ in range(2):
        assert (ask(transport, turned) == picture_of(turned)).all()
    transport.close()


def test_eight_threads_share_a_connection(server: NoopServer, kind: str) -> None:
    transport = open_transport(server, kind)
    sizes = [(64, 96), (128, 64), (64, 64)]
    requests = [maps(*sizes[i % 3], batch=1 + i % 2, seed=i) for i in range(96)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda request: ask(transport, request), requests))
    assert all(
        (answer == picture_of(request)).all()
        for request, answer in zip(requests, answers, strict=True)
    )
    assert len(client_regions()) <= (8 if kind == "grpc-shm" else 0)
    transport.close()
    assert registered(server) == []


def test_bytes_and_several_models_over_one_connection(server: NoopServer, kind: str) -> None:
    transport = open_transport(server, kind)
    files = np.array([[b"PNG\x00\xff", b""], [bytes(3_000_000), b"ab"]], np.object_)
    for _ in range(2):
        answer = transport.infer("reverse", {"files": files}, "reversed", timeout=20)
        assert answer.dtype == np.object_
        assert answer.tolist() == [[item[::-1] for item in row] for row in files.tolist()]
        assert (ask(transport, maps(32, 32)) == picture_of(maps(32, 32))).all()
        # Only the models that answered before are thought to be there.
        with pytest.raises(ModelNotFoundError):
            transport.infer("nothing", {"files": files}, "reversed", timeout=20)
    transport.close()


def test_outputs_whose_size_does_not_follow_from_the_inputs(server: NoopServer, kind: str) -> None:
    transport = open_transport(server, kind)
    for count in (10, 10, 3_000_000, 10, 3_000_000, 1, 4_000_000):
        counts = np.array([[count]], np.int32)
        answer = transport.infer("repeat", {"count": counts}, "out", timeout=20)
        assert answer.shape == (1, count)
        assert (answer == count % 251).all()
    transport.close()


def test_requests_that_are_wrong(server: NoopServer, kind: str) -> None:
    transport = open_transport(server, kind)
    right = maps(64, 64)
    wrong = [
        maps(60, 64),
        maps(64, 64, batch=9),
        {"label_map": right["label_map"]},
        {**right, "instance_map": right["instance_map"].astype(np.float32)},
        {**right, "instance_map": right["instance_map"][:, :32]},
    ]
    for request in wrong * 2:
        with pytest.raises(RequestRejectedError):
            ask(transport, request)
    with pytest.raises(RequestRejectedError):
        transport.infer("synthesis", right, "nothing", timeout=5)
    assert (ask(transport, right) == picture_of(right)).all()
    transport.close()
    assert registered(server) == []


def test_full_queue(slow_server: NoopServer, kind: str) -> None:
    transport = open_transport(slow_server, kind)
    results: list[Any] = []

    def send() -> None:
        try:
            results.append((ask(transport, maps(64, 64)) == picture_of(maps(64, 64))).all())
        except ServingError as error:
            results.append(type(error))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(results) == {True, QueueFullError}
    transport.close()


def test_after_a_deadline_nobody_writes_where_another_reads(
    slow_server: NoopServer, kind: str
) -> None:
    transport = open_transport(slow_server, kind)
    first, second = maps(64, 64, seed=1), maps(64, 64, seed=2)
    assert (ask(transport, first) == picture_of(first)).all()
    used = client_regions()
    with pytest.raises(DeadlineExceededError):
        ask(transport, first, timeout=0.1)
    assert (ask(transport, second) == picture_of(second)).all()
    assert not set(used) & set(client_regions())
    third = maps(512, 512, seed=3)
    assert (ask(transport, third) == picture_of(third)).all()
    transport.close()
    assert registered(slow_server) == []


def test_server_killed_in_mid_request_and_started_again(slow_server: NoopServer) -> None:
    transports = [open_transport(slow_server, kind) for kind in KINDS]
    request = maps(64, 64)
    with ThreadPoolExecutor(len(KINDS)) as pool:
        running = [pool.submit(ask, transport, request) for transport in transports]
        time.sleep(0.1)
        slow_server.kill()
        for each in running:
            with pytest.raises(ServerUnavailableError):
                each.result(timeout=10)
    for transport in transports:
        with pytest.raises(ServerUnavailableError):
            ask(transport, request)
    slow_server.start()
    for transport in transports:
        deadline = time.monotonic() + 5  # gRPC may wait a little before it connects again
        while True:
            try:
                assert (ask(transport, request) == picture_of(request)).all()
                break
            except ServerUnavailableError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
    assert [transport.kind for transport in transports] == list(KINDS)
    for transport in transports:
        transport.close()


def test_a_server_that_was_started_again_gets_the_regions_again(slow_server: NoopServer) -> None:
    transport = open_transport(slow_server, "grpc-shm")
    requests = [maps(64, 64, seed=i) for i in range(3)]

    def all_at_once() -> None:
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda request: ask(transport, request), requests))
        for request, answer in zip(requests, answers, strict=True):
            assert (answer == picture_of(request)).all()

    all_at_once()
    all_at_once()
    before = client_regions()
    slow_server.kill()
    slow_server.start()
    assert registered(slow_server) == []
    time.sleep(0.5)
    all_at_once()
    assert client_regions() == before
    assert set(registered(slow_server)) <= set(before)
    transport.close()
    assert registered(slow_server) == []


CLIENT = """
import sys, time
import numpy as np
from sceneloom.triton.client import connect
transport = connect(sys.argv[1])
inputs = {"label_map": np.zeros((1, 64, 64), np.uint8),
          "instance_map": np.zeros((1, 64, 64), np.int32)}
for _ in range(2):
    transport.infer("synthesis", inputs, "image", timeout=20)
print(transport.kind, transport.why, flush=True)
"""


def start_client(server: NoopServer, code: str, *before: str) -> tuple[Any, str]:
    command = [*before, sys.executable, "-c", CLIENT + code, server.grpc]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline()


def test_a_killed_client_is_swept_from_memory_and_server(server: NoopServer) -> None:
    process, line = start_client(server, "time.sleep(60)")
    assert line.startswith("grpc-shm ")
    left = client_regions(process.pid)
    assert left
    assert left == registered(server)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert client_regions(process.pid) == left
    transport = open_transport(server, "grpc-shm")
    assert client_regions(process.pid) == []
    assert not set(registered(server)) & set(left)
    transport.close()
    assert registered(server) == []


def test_a_client_that_never_closed_leaves_no_file(server: NoopServer) -> None:
    process, line = start_client(server, "")
    assert line.startswith("grpc-shm ")
    process.communicate(timeout=30)
    assert client_regions(process.pid) == []
    open_transport(server, "grpc-shm").close()  # sweeps what the server still has open
    assert registered(server) == []


def test_a_client_with_memory_of_its_own(server: NoopServer) -> None:
    """As in a container, or at the other end of a tunnel."""
    own = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/shm && exec "$@"', "sh")
    if subprocess.run([*own, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a /dev/shm of his own")
    process, line = start_client(server, "", *own)
    process.communicate(timeout=30)
    assert line.startswith("grpc the server cannot open shared memory of this machine")


def test_a_client_with_too_little_memory(server: NoopServer) -> None:
    """A full /dev/shm is an error of one request, which then goes in a message, never a SIGBUS."""
    mount = 'mount -t tmpfs -o size=64k none /dev/shm && exec "$@"'
    own = ("unshare", "--mount", "sh", "-c", mount, "sh")
    if subprocess.run([*own, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a /dev/shm of his own")
    process, line = start_client(server, "", *own)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert line == "grpc no shared memory is free (No space left on device)\n"


def test_memory_that_runs_out_on_the_way(server: NoopServer) -> None:
    transport = open_transport(server, "grpc-shm")
    large, small = maps(1024, 1024), maps(64, 64)
    assert (ask(transport, small) == picture_of(small)).all()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, limits[1]))
    try:
        assert (ask(transport, large) == picture_of(large)).all()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert transport.kind == "grpc-shm"
    assert "some requests found no shared memory free" in transport.why
    assert (ask(transport, small) == picture_of(small)).all()
    transport.close()
