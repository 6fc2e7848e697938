"""`sceneloom serve` in front of requests that end its server, of killed and of hanging processes:
it starts the server again, on the same ports, and no picture is lost.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
from support import ServeCommand, blocky_maps, free_ports, run_command
from tritonclient.grpc import InferenceServerClient, InferInput

from sceneloom import TritonSynthesizer
from sceneloom.errors import ModelFailedError, ServerStartError, ServerUnavailableError
from sceneloom_export.bundle import Exported
from sceneloom_serving.embedded import EmbeddedServer, HeldPorts, keep_up

ENGINE = ("--engine", "openvino-fp32")
NEGATIVE = (1, -64, -64)


@pytest.fixture
def serve(exported: Exported) -> Iterator[ServeCommand]:
    with ServeCommand(exported.repository, *ENGINE) as running:
        yield running


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def picture(url: str) -> Any:
    with TritonSynthesizer(url) as client:
        return client.synthesize(*blocky_maps(64, 64, seed=0))


def send_negative_sizes(url: str) -> str:
    """The bytes of a map of 64x64, and sizes whose product is the same; what the server answers."""
    arrays = blocky_maps(64, 64, seed=0)
    with InferenceServerClient(url) as client:
        tensors = []
        for name, dtype, array in zip(
            ("label_map", "instance_map"), ("UINT8", "INT32"), arrays, strict=True
        ):
            tensor = InferInput(name, [1, 64, 64], dtype)
            tensor.set_data_from_numpy(array[None])
            tensor.set_shape(NEGATIVE)
            tensors.append(tensor)
        with pytest.raises(Exception, match=r".") as caught:
            client.infer("synthesis", tensors, client_timeout=30)
    return str(caught.value)


def send_deep_json(url: str) -> None:
    body = b'{"inputs":[{"name":"label_map","datatype":"UINT8","shape":[1,64,64],"data":'
    body += b"[" * 1_000_000 + b"]" * 1_000_000 + b"}]}"
    connection = http.client.HTTPConnection(url, timeout=30)
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("POST", "/v2/models/synthesis/infer", body)
        connection.getresponse()
    connection.close()


@pytest.mark.triton
def test_what_ends_the_server_is_named_and_the_next_request_gets_its_picture(
    serve: ServeCommand,
) -> None:
    before = picture(serve.grpc)
    assert "not healthy" in send_negative_sizes(serve.grpc)
    assert serve.wait_until_ready() == serve.ready
    assert (picture(serve.grpc) == before).all()

    send_deep_json(serve.http)
    assert serve.wait_until_ready() == serve.ready
    assert (picture(serve.grpc) == before).all()

    (server,) = children(serve.process.pid)
    (model,) = children(server)
    os.kill(model, signal.SIGKILL)
    assert serve.wait_until_ready() == serve.ready
    assert (picture(serve.grpc) == before).all()

    (server,) = children(serve.process.pid)
    os.kill(server, signal.SIGKILL)
    assert serve.wait_until_ready() == serve.ready
    code, errors = serve.end(signal.SIGTERM)
    assert code == 0
    said = [line for line in errors.splitlines() if line.startswith("sceneloom serve: ")]
    assert said == [
        "sceneloom serve: the model's process has ended (ValueError: negative dimensions are not "
        "allowed); starting it again",
        "sceneloom serve: the Triton server was ended by SIGSEGV; starting it again",
        "sceneloom serve: the model's process has ended; starting it again",
        "sceneloom serve: the Triton server was ended by SIGKILL; starting it again",
    ]


@pytest.mark.triton
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_restart_ends_serve_at_once(serve: ServeCommand, number: int) -> None:
    (server,) = children(serve.process.pid)
    os.kill(server, signal.SIGKILL)
    serve.errors_until("starting it again")
    start = time.monotonic()
    assert serve.end(number) == (0, "stopped\n")
    assert time.monotonic() - start < 10
    assert not Path(f"/proc/{server}").exists()


@pytest.mark.slow
@pytest.mark.triton
def test_a_render_over_restarts_loses_no_picture(serve: ServeCommand, tmp_path: Path) -> None:
    count = 100
    for folder, number in (("test_label", 0), ("test_inst", 1)):
        (tmp_path / "maps" / folder).mkdir(parents=True)
        for i in range(count):
            array = blocky_maps(128, 128, seed=i)[number].astype(np.uint16)
            path = tmp_path / "maps" / folder / f"{i:03d}.png"
            cv2.imwrite(str(path), array if number else array.astype(np.uint8))
    ended = []

    def attack() -> None:
        while len(list((tmp_path / "out").glob("*.png"))) < 10:
            time.sleep(0.02)
        send_negative_sizes(serve.grpc)
        serve.wait_until_ready()
        ended.append(len(list((tmp_path / "out").glob("*.png"))))

    thread = threading.Thread(target=attack, daemon=True)
    thread.start()
    done = run_command("render", tmp_path / "maps", tmp_path / "out", "--url", serve.grpc)
    assert done.returncode == 0, done.stderr
    assert f"rendered {count} of {count} maps" in done.stdout
    thread.join(30)
    assert ended[0] < count  # or nothing was tested


@pytest.mark.slow
@pytest.mark.triton
def test_a_model_that_hangs_is_noticed(exported: Exported) -> None:
    settings = free_ports(probe_every=0.5, stop_timeout=1)
    with EmbeddedServer(exported.repository, settings, engine="openvino-fp32") as server:
        before = picture(server.grpc)
        os.kill(server.model_processes[0], signal.SIGSTOP)
        assert "no longer gives the golden picture" in server.watch()
        server.restart()
        assert (picture(server.grpc) == before).all()


class Dying:
    """A server whose every life is short, or that does not start again."""

    def __init__(self, *, restarts: bool = True) -> None:
        self.starts, self._restarts = 1, restarts

    def watch(self) -> str:
        return "it ended"

    def restart(self) -> None:
        self.starts += 1
        if not self._restarts:
            raise ServerStartError("it does not start")


@pytest.mark.parametrize(("restarts", "reason"), [(True, "it ended"), (False, "it does not start")])
def test_a_server_that_ends_early_again_and_again_is_given_up(restarts: bool, reason: str) -> None:
    server, said, ready = Dying(restarts=restarts), list[str](), list[int]()
    checks: list[int] = []
    given_up = keep_up(
        cast(EmbeddedServer, server),
        check=lambda: checks.append(server.starts),
        on_ready=lambda: ready.append(server.starts),
        say=said.append,
        waits=(0, 0.01),
    )
    assert given_up.startswith(f"{reason}; this was early end 3 in a row")
    assert said == [
        "it ended; starting it again",
        f"{reason}; starting it again in 0.01 s",
    ]
    assert server.starts == 3
    assert len(checks) == 2
    assert ready == ([1, 2, 3] if restarts else [1])


@pytest.mark.triton
def test_a_killed_model_answers_with_an_error_until_the_restart(exported: Exported) -> None:
    with EmbeddedServer(exported.repository, free_ports(), engine="openvino-fp32") as server:
        address = server.grpc
        os.kill(server.model_processes[0], signal.SIGKILL)
        with pytest.raises((ModelFailedError, ServerUnavailableError)):
            picture(address)
        assert "the model's process has ended" in server.watch()
        server.restart()
        assert server.grpc == address
        assert picture(address).std() > 0


@pytest.mark.triton
def test_a_server_of_this_machine_is_reached_without_the_proxy_of_the_shell(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.delenv("no_proxy", raising=False)
    settings = free_ports(start_timeout=60)
    with EmbeddedServer(exported.repository, settings, engine="openvino-fp32") as server:
        assert picture(server.grpc).std() > 0


def test_a_held_port_is_refused_to_others() -> None:
    held = HeldPorts({"http": 0})
    port = int(held.addresses["http"].split(":")[1])
    with pytest.raises(ServerStartError, match=rf"port {port} for grpc cannot be used"):
        HeldPorts({"grpc": port})
    held.release()
    HeldPorts({"grpc": port}).release()


def test_named_ports_come_first_and_no_two_are_one() -> None:
    taken = HeldPorts({"one": 0})
    port = int(taken.addresses["one"].split(":")[1])
    taken.release()
    for _ in range(50):
        ports = HeldPorts({"http": 0, "grpc": port, "metrics": 0})
        assert ports.addresses["grpc"] == f"127.0.0.1:{port}"
        assert len(set(ports.addresses.values())) == 3
        ports.release()
        ports.release()  # twice is fine
