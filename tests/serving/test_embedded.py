"""The real tritonserver: proven before it is announced, killed, stopped, overloaded."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import blocky_maps, copy_export, free_ports
from tritonclient.grpc import InferenceServerClient

from sceneloom import TritonSynthesizer
from sceneloom.errors import (
    DeadlineExceededError,
    InputError,
    ModelFailedError,
    ModelNotFoundError,
    QueueFullError,
    QueueTimeoutError,
    RequestRejectedError,
    ServerStartError,
    ServerUnavailableError,
)
from sceneloom.files import SHARED_MEMORY
from sceneloom.triton.transport import Timeouts
from sceneloom_export.bundle import Exported
from sceneloom_serving.bundle import CPU_FILE
from sceneloom_serving.embedded import EmbeddedServer, ServerSettings
from sceneloom_serving.onnx_runtime import OnnxRuntimeSynthesizer
from sceneloom_serving.parity import compare
from sceneloom_training.checkpoint import load_checkpoint
from sceneloom_training.torch_synthesizer import TorchSynthesizer

pytestmark = pytest.mark.triton

SLOW = (1024, 2048)
"""A size at which one picture of the small model takes about a second."""


@pytest.fixture
def copy(tmp_path: Path, exported: Exported) -> Path:
    """The exported repository, to be spoilt."""
    folder = tmp_path / "repository"
    copy_export(exported.repository, folder)
    return folder


def edit_config(repository: Path, pattern: str, replacement: str) -> None:
    path = repository / "synthesis" / "config.pbtxt"
    text, count = re.subn(pattern, replacement, path.read_text())
    assert count == 1
    path.write_text(text)


def regions() -> set[str]:
    """Shared memory of this process's servers, the one that other tests share included."""
    return {path.name for path in SHARED_MEMORY.glob(f"sceneloom-{os.getpid()}-*")}


@pytest.fixture
def before() -> set[str]:
    return regions()


def test_pictures_are_those_of_pytorch_and_onnx_runtime(
    server: EmbeddedServer, checkpoint: Path, exported: Exported
) -> None:
    loaded = load_checkpoint(checkpoint)
    reference = TorchSynthesizer(loaded.generator, loaded.contract)
    engine = OnnxRuntimeSynthesizer(exported.repository / "synthesis" / "1" / CPU_FILE)
    maps = [blocky_maps(*size, seed=i) for i, size in enumerate([(64, 96), (32, 40), (61, 97)])]
    with TritonSynthesizer(server.grpc) as client:
        assert client.contract == exported.contract
        assert client.max_batch_size == 4
        pictures = [client.synthesize(*pair) for pair in maps]
    for pair, picture in zip(maps, pictures, strict=True):
        assert picture.shape == (*pair[0].shape, 3)
        assert compare([reference.synthesize(*pair)], [picture]).max <= 1
        assert compare([engine.synthesize(*pair)], [picture]).max <= 1
        assert picture.std() >= 20
    different = compare([pictures[0][:32, :40]], [pictures[1]])
    assert different.mean > 5


def test_ten_maps_of_three_sizes_equal_ten_single_calls(server: EmbeddedServer) -> None:
    sizes = [(32, 48), (64, 32), (40, 40)]
    maps = [blocky_maps(*sizes[i % 3], seed=i) for i in range(10)]
    with TritonSynthesizer(server.grpc) as client:
        single = [client.synthesize(*pair) for pair in maps]
        together = client.synthesize_batch(*zip(*maps, strict=True))
    assert [image.shape[:2] for image in together] == [pair[0].shape for pair in maps]
    assert compare(single, together).max <= 1
    assert len({image.tobytes() for image in together}) == 10


def test_many_threads_share_one_client(server: EmbeddedServer) -> None:
    maps = [blocky_maps(32, 48, seed=i) for i in range(8)]
    with TritonSynthesizer(server.grpc) as client:
        expected = [client.synthesize(*pair) for pair in maps]
        with ThreadPoolExecutor(4) as pool:
            got = list(pool.map(lambda pair: client.synthesize(*pair), maps))
    assert compare(expected, got).max <= 1


def test_server_refuses_sizes_and_shapes_it_does_not_take(server: EmbeddedServer) -> None:
    labels, instances = blocky_maps(64, 64, seed=0)
    with TritonSynthesizer(server.grpc) as client:
        for crop in (60, 8):
            with pytest.raises(RequestRejectedError, match=r"multiple of 8|too small"):
                client.run_batch(labels[None, :, :crop], instances[None, :, :crop], None)
        with pytest.raises(RequestRejectedError):
            client.run_batch(labels[None], instances[None, :32], None)
        with pytest.raises(RequestRejectedError):
            client.run_batch(labels[None], None, None)
        with pytest.raises(RequestRejectedError):  # a batch above max_batch_size
            client.run_batch(np.repeat(labels[None], 5, 0), np.repeat(instances[None], 5, 0), None)
        assert client.synthesize(labels, instances).shape == (64, 64, 3)  # the server still answers


def test_pictures_above_the_servers_limit_are_refused(copy: Path) -> None:
    edit_config(copy, r'"8388608"', '"8192"')
    with EmbeddedServer(copy, free_ports()) as server, TritonSynthesizer(server.grpc) as client:
        assert client.synthesize(*blocky_maps(64, 64, seed=0)).shape == (64, 64, 3)
        with pytest.raises(RequestRejectedError, match=r"9,216 pixels.*at most 8,192"):
            client.synthesize(*blocky_maps(96, 96, seed=0))


@pytest.mark.parametrize("name", ["with space", "x$(touch PWNED)", 'it\'s; "quoted" & ünï'])
def test_repository_of_any_name_is_served_and_never_run(
    copy: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = copy.with_name(name)
    copy.rename(place)
    (place / "notes").mkdir()  # a folder that is no model
    monkeypatch.chdir(place.parent)
    # Python in Triton takes names for ASCII, which stops ONNX Runtime and not OpenVINO.
    server = EmbeddedServer(place, free_ports(), engine="onnxruntime-fp32")
    with server, TritonSynthesizer(server.grpc) as client:
        assert client.synthesize(*blocky_maps(32, 32, seed=0)).std() > 0
    assert sorted(p.name for p in place.parent.iterdir()) == [name]


def test_a_place_that_is_not_utf8_is_served_or_named(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Path(os.fsdecode(os.fsencode(copy.parent) + b"/na\xefve"))
    copy.rename(place)
    server = EmbeddedServer(place, free_ports(), engine="onnxruntime-fp32")
    with pytest.raises(ServerStartError, match=r"na\\xefve.*ONNX Runtime cannot load it"):
        server.start()


def test_configuration_of_another_model_fails_at_once(copy: Path) -> None:
    edit_config(copy, r'\\"boundaries\\":true', r'\\"boundaries\\":false')
    start = time.monotonic()
    with pytest.raises(ModelNotFoundError, match="its tensors are"):
        EmbeddedServer(copy, free_ports()).start()
    assert time.monotonic() - start < 20


def test_bad_input_is_refused_before_it_is_sent(server: EmbeddedServer) -> None:
    labels, instances = blocky_maps(64, 64, seed=0)
    with TritonSynthesizer(server.grpc) as client:
        before = statistics(server)["success"]["count"]
        for bad in ((labels, None), (labels, instances[:32]), (labels + np.uint8(200), instances)):
            with pytest.raises(InputError):
                client.synthesize(*bad)
        assert statistics(server)["success"]["count"] == before


def statistics(server: EmbeddedServer) -> dict[str, dict[str, int]]:
    url = f"http://{server.http}/v2/models/synthesis/stats"
    with urllib.request.urlopen(url, timeout=10) as answer:
        stats = json.load(answer)["model_stats"][0]["inference_stats"]
    return dict(stats)


def test_all_three_ports_answer(server: EmbeddedServer) -> None:
    with urllib.request.urlopen(f"http://{server.http}/v2/health/ready", timeout=10) as answer:
        assert answer.status == 200
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=10) as answer:
        assert b'nv_inference_count{model="synthesis"' in answer.read()
    assert {address.split(":")[0] for address in (server.http, server.grpc, server.metrics)} == {
        "127.0.0.1"
    }


def test_unknown_model_and_unload_are_refused(server: EmbeddedServer) -> None:
    with pytest.raises(ModelNotFoundError):
        TritonSynthesizer(server.grpc, model="nothing")
    request = urllib.request.Request(
        f"http://{server.http}/v2/repository/models/synthesis/unload", data=b"{}", method="POST"
    )
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=10)
    with TritonSynthesizer(server.grpc) as client:
        assert client.synthesize(*blocky_maps(32, 32, seed=0)).std() > 0


def test_golden_probe_refuses_other_weights(copy: Path, before: set[str]) -> None:
    weights = np.fromfile(copy / "synthesis/1/weights.bin", np.float32)
    np.random.default_rng(0).permutation(weights).tofile(copy / "synthesis/1/weights.bin")
    server = EmbeddedServer(copy, free_ports())
    with pytest.raises(ModelFailedError, match="not the one that was exported"):
        server.start()
    assert regions() == before


def test_stopping_lets_requests_finish_and_cleans_up(copy: Path, before: set[str]) -> None:
    server = EmbeddedServer(copy, free_ports(stop_timeout=30)).start()
    assert server.golden_difference <= 2
    assert regions() > before
    pid = server.pid
    with TritonSynthesizer(server.grpc) as client, ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.synthesize, *blocky_maps(*SLOW, seed=0))
        wait_until_running(server)
        server.stop()
        assert running.result(timeout=30).shape == (*SLOW, 3)
        with pytest.raises(ServerUnavailableError):
            client.synthesize(*blocky_maps(32, 32, seed=0))
    assert not Path(f"/proc/{pid}").exists()
    assert regions() == before
    server.stop()  # twice is fine


def wait_until_running(server: EmbeddedServer) -> None:
    """Wait until the model's process is working on a request."""
    deadline = time.monotonic() + 10
    while cpu_share(server.model_processes[0]) < 0.3:
        assert time.monotonic() < deadline, "the request never reached the model"


def cpu_share(pid: int, seconds: float = 0.15) -> float:
    def ticks() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    time.sleep(seconds)
    return (ticks() - before) / os.sysconf("SC_CLK_TCK") / seconds


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_server_killed_in_mid_request(copy: Path, before: set[str]) -> None:
    with EmbeddedServer(copy, free_ports()) as server:
        with TritonSynthesizer(server.grpc) as client, ThreadPoolExecutor(1) as pool:
            running = pool.submit(client.synthesize, *blocky_maps(*SLOW, seed=0))
            wait_until_running(server)
            os.kill(server.pid, signal.SIGKILL)
            with pytest.raises(ServerUnavailableError):
                running.result(timeout=30)
            with pytest.raises(ServerUnavailableError):
                client.synthesize(*blocky_maps(32, 32, seed=0))
        assert server.watch() == "the Triton server was ended by SIGKILL"
        model_process = server.model_processes[0]
    assert regions() == before
    assert not is_running(model_process)  # the stub would outlive its server


def test_model_process_killed_in_mid_request(copy: Path) -> None:
    with EmbeddedServer(copy, free_ports()) as server:
        with TritonSynthesizer(server.grpc) as client, ThreadPoolExecutor(1) as pool:
            running = pool.submit(client.synthesize, *blocky_maps(*SLOW, seed=0))
            wait_until_running(server)
            os.kill(server.model_processes[0], signal.SIGKILL)
            with pytest.raises(ModelFailedError):
                running.result(timeout=60)
            with urllib.request.urlopen(f"http://{server.http}/v2/health/ready") as answer:
                assert answer.status == 200  # the server itself notices nothing
            with pytest.raises(ModelFailedError):
                client.synthesize(*blocky_maps(32, 32, seed=0))
        assert "process" in server.watch()


def test_client_deadline(server: EmbeddedServer) -> None:
    with (
        TritonSynthesizer(server.grpc, timeouts=Timeouts(infer=0.2)) as client,
        pytest.raises(DeadlineExceededError),
    ):
        client.synthesize(*blocky_maps(*SLOW, seed=0))


def inference_statistics(asked: InferenceServerClient) -> Any:
    return asked.get_inference_statistics("synthesis").model_stats[0].inference_stats


def test_nothing_waits_for_a_model_that_is_free(exported: Exported) -> None:
    """With any limit of the queue, one request in six waits for half a second."""
    with (
        EmbeddedServer(exported.repository, free_ports(), engine="openvino-fp32") as server,
        InferenceServerClient(server.grpc) as asked,
        TritonSynthesizer(server.grpc) as client,
    ):
        before = inference_statistics(asked)
        for number in range(60):
            client.synthesize(*blocky_maps(64, 64, seed=number))
        deadline = time.monotonic() + 10
        while (after := inference_statistics(asked)).queue.count < before.queue.count + 60:
            assert time.monotonic() < deadline, "Triton counts a request after it has answered"
    waited, computed = (
        getattr(after, name).ns - getattr(before, name).ns for name in ("queue", "compute_infer")
    )
    assert waited < computed


def test_full_queue_and_queue_timeout(copy: Path) -> None:
    limits = "default_queue_policy { max_queue_size: 2 default_timeout_microseconds: 200000 }"
    edit_config(copy, r"default_queue_policy \{\s*\}", limits)
    maps = blocky_maps(512, 1024, seed=0)
    results: list[object] = []

    def send(client: TritonSynthesizer) -> None:
        try:
            results.append(client.synthesize(*maps).shape)
        except Exception as error:
            results.append(type(error))

    with EmbeddedServer(copy, free_ports()) as server, TritonSynthesizer(server.grpc) as client:
        client.synthesize(*maps)
        threads = [threading.Thread(target=send, args=(client,)) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert set(results) <= {(512, 1024, 3), QueueFullError, QueueTimeoutError}
    assert {(512, 1024, 3), QueueFullError, QueueTimeoutError} == set(results)


def test_taken_port_is_named(copy: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = ServerSettings(http_port=0, grpc_port=port, metrics_port=0)
        with pytest.raises(ServerStartError, match=rf"port {port} for grpc.*--grpc-port"):
            EmbeddedServer(copy, settings).start()


def test_model_that_does_not_load_is_explained(copy: Path, before: set[str]) -> None:
    (copy / "synthesis/1" / CPU_FILE).write_bytes(b"not a model")
    with pytest.raises(ServerStartError, match=r"'synthesis' was refused.*onnxruntime\.onnx"):
        EmbeddedServer(copy, free_ports()).start()
    assert regions() == before


def test_config_that_triton_refuses_is_explained(copy: Path) -> None:
    edit_config(copy, r"max_batch_size: 4", "max_batch_size: -4")
    with pytest.raises(ServerStartError, match="max_batch_size"):
        EmbeddedServer(copy, free_ports()).start()


@pytest.mark.parametrize(
    "name", ["config.pbtxt", "1/model.py", "1/onnxruntime.onnx", "1/weights.bin"]
)
def test_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / "synthesis" / name).unlink()
    with pytest.raises(ServerStartError, match=f"{name}: missing"):
        EmbeddedServer(copy, free_ports()).start()


def test_folder_that_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(ServerStartError, match="not a folder that sceneloom export wrote"):
        EmbeddedServer(tmp_path / "nothing").start()
    with pytest.raises(ServerStartError, match="not a folder that sceneloom export wrote"):
        EmbeddedServer(tmp_path).start()


def test_start_timeout(copy: Path, before: set[str]) -> None:
    slow_start = copy / "synthesis/1/model.py"
    slow_start.write_text("import time\ntime.sleep(60)\n" + slow_start.read_text())
    start = time.monotonic()
    with pytest.raises(ServerStartError, match="not ready within 1 s"):
        EmbeddedServer(copy, free_ports(start_timeout=1, stop_timeout=1)).start()
    assert time.monotonic() - start < 30
    assert regions() == before


def test_torch_is_not_imported_in_the_model_process(server: EmbeddedServer) -> None:
    with TritonSynthesizer(server.grpc) as client:
        runtime = client.engine.split("-")[0]
    assert runtime in ("onnxruntime", "openvino")
    maps = Path(f"/proc/{server.model_processes[0]}/maps").read_text()
    assert f"lib{runtime}" in maps or f"/{runtime}/" in maps
    assert "libtorch" not in maps
