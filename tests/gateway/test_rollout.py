"""SIGHUP: requests move to other Triton servers, of any bundle, without a failed one."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
from gateways import Gateway, StartGateway, contract, png, serve_fake
from map_sets import write_folder
from support import blocky_maps, free_ports, run_command

from sceneloom.maps import Array
from sceneloom.pictures import decode_picture
from sceneloom.rendering.manifest import FILE_NAME, Manifest
from sceneloom.testing import FakeTransport
from sceneloom.triton.client import TritonSynthesizer

if TYPE_CHECKING:
    from sceneloom_serving.embedded import EmbeddedServer

ROUTE = "/v1/synthesize"
PNG = {"Accept": "image/png"}


def wait_for(gateway: Gateway, words: str) -> str:
    """The line of the gateway's standard error with these words."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for line in gateway.log_path.read_text("utf-8").splitlines():
            if words in line:
                return line
        time.sleep(0.05)
    raise AssertionError(gateway.log_path.read_text("utf-8"))


@pytest.fixture(scope="module")
def other_server(
    tmp_path_factory: pytest.TempPathFactory, least_checkpoint: Path
) -> Iterator[EmbeddedServer]:
    """A real tritonserver with another model than `server` has."""
    from sceneloom_export.bundle import export_bundle
    from sceneloom_export.settings import ExportSettings
    from sceneloom_serving.embedded import EmbeddedServer

    folder = tmp_path_factory.mktemp("other")
    fp32 = ExportSettings(precision=("fp32",))
    found = export_bundle(least_checkpoint, folder / "repository", largest=(64, 96), export=fp32)
    with EmbeddedServer(found.repository, free_ports(), engine="openvino-fp32") as running:
        yield running


class Load:
    """Clients that ask for one picture after the other, until the end of the block."""

    def __init__(self, gateway: Gateway, files: dict[str, bytes], clients: int) -> None:
        self._gateway, self._files = gateway, files
        self.answers: list[tuple[int, str, Array | None]] = []
        """Status, bundle and picture of each answer."""
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        with httpx.Client(base_url=self._gateway.url, timeout=60, trust_env=False) as client:
            while not self._end.is_set():
                answer = client.post(ROUTE, files=self._files, headers=PNG)
                picture = decode_picture(answer.content) if answer.status_code == 200 else None
                bundle = answer.headers.get("sceneloom-bundle", "")
                self.answers.append((answer.status_code, bundle, picture))

    def more(self, count: int = 12) -> None:
        """Wait for further answers."""
        wanted, deadline = len(self.answers) + count, time.monotonic() + 60
        while len(self.answers) < wanted and time.monotonic() < deadline:
            time.sleep(0.02)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60)


@pytest.mark.triton
def test_a_new_model_is_rolled_out_under_load(
    server: EmbeddedServer,
    other_server: EmbeddedServer,
    start_gateway: StartGateway,
    tmp_path: Path,
) -> None:
    label_map, instance_map = blocky_maps(64, 96, seed=2, labels=34)
    files = {"label": png(label_map), "instances": png(instance_map.astype(np.uint16))}
    wanted = {}
    for one in (server, other_server):
        with TritonSynthesizer(one.grpc) as synthesizer:
            bundle = synthesizer.contract.bundle_hash
            wanted[bundle] = synthesizer.synthesize(label_map, instance_map)
    before, after = wanted
    assert np.abs(wanted[before].astype(int) - wanted[after]).mean() > 10
    file = tmp_path / "servers.txt"
    file.write_text(f"{server.grpc}  # the first model\n")
    gateway = start_gateway("--triton-file", file, url="-")
    maps, pictures = tmp_path / "maps", tmp_path / "pictures"
    write_folder(maps, {f"{n:03d}": (files["label"], files["instances"]) for n in range(150)})
    run = ["render", str(maps), str(pictures), "--url", gateway.url, "--in-flight", "1"]
    with (
        httpx.Client(base_url=gateway.url, timeout=60, trust_env=False) as client,
        Load(gateway, files, clients=4) as load,
        subprocess.Popen([sys.executable, "-m", "sceneloom.cli", *run]) as rendering,
    ):
        while len(list(pictures.rglob("*.png"))) < 10:
            assert rendering.poll() is None
            time.sleep(0.05)
        load.more()
        assert client.get("/v1/model").json()["bundle_hash"] == before
        file.write_text(f"{other_server.grpc}\n")
        gateway.process.send_signal(signal.SIGHUP)
        wait_for(gateway, f"{server.grpc} may be stopped")
        assert client.get("/v1/model").json()["bundle_hash"] == after
        load.more()
        assert client.get("/readyz").text == "ready\n"
        file.write_text(f"{server.grpc}\n")  # and back
        gateway.process.send_signal(signal.SIGHUP)
        wait_for(gateway, f"{other_server.grpc} may be stopped")
        load.more()
        assert rendering.wait(120) == 0
    assert {status for status, _, _ in load.answers} == {200}
    bundles = Counter(bundle for _, bundle, _ in load.answers)
    assert min(bundles[before], bundles[after]) >= 12
    for _, bundle, picture in load.answers:
        np.testing.assert_array_equal(picture, wanted[bundle])
    with Manifest(pictures / FILE_NAME) as manifest:
        rows = list(manifest.rows())
    assert len(rows) == 150
    assert {row.origin.bundle_hash for row in rows} == {before, after}
    for row in rows:
        picture = decode_picture((pictures / row.output).read_bytes())
        np.testing.assert_array_equal(picture, wanted[row.origin.bundle_hash])
    rendered = Counter(row.origin.bundle_hash for row in rows)
    logged = Counter(entry["bundle"] for entry in gateway.log() if entry["path"] == ROUTE)
    assert logged == bundles + rendered


def test_servers_are_added_and_drained(
    start_gateway: StartGateway, tmp_path: Path, maps: dict[str, bytes]
) -> None:
    with ExitStack() as stack:
        one, other = (serve_fake(stack, FakeTransport(contract())) for _ in range(2))
        file = tmp_path / "servers.txt"
        file.write_text(f"{one.url}\n")
        gateway = start_gateway("--triton-file", file, url="-")
        with Load(gateway, maps, clients=2) as load:
            load.more()
            file.write_text(f"# both\n{one.url}\n{other.url}\n")
            gateway.process.send_signal(signal.SIGHUP)
            wait_for(gateway, f"served by {one.url}, {other.url}")
            load.more()
            file.write_text(other.url)
            gateway.process.send_signal(signal.SIGHUP)
            wait_for(gateway, f"{one.url} may be stopped")
            one.stop()
            load.more()
        assert {status for status, _, _ in load.answers} == {200}
        for url in (one.url, other.url):
            gateway.logged(server=url)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no server"),
        ("localhost\n", "names no port"),
        ("{one}\n{one}\n", "twice"),
        ("127.0.0.1:1\n", "not reachable"),
        ("{one}\n{other}\n", "serves another model"),
    ],
)
def test_a_wrong_file_leaves_the_servers_as_they_are(
    start_gateway: StartGateway, tmp_path: Path, maps: dict[str, bytes], text: str, words: str
) -> None:
    with ExitStack() as stack:
        one = serve_fake(stack, FakeTransport(contract()))
        other = serve_fake(stack, FakeTransport(contract(bundle_hash="b" * 64)))
        file = tmp_path / "servers.txt"
        file.write_text(one.url)
        gateway = start_gateway("--triton-file", file, "--timeouts.connect", "2", url="-")
        file.write_text(text.format(one=one.url, other=other.url))
        gateway.process.send_signal(signal.SIGHUP)
        assert words in wait_for(gateway, "the earlier servers stay")
        answer = httpx.post(gateway.url + ROUTE, files=maps, trust_env=False, timeout=30)
        assert (answer.status_code, answer.headers["sceneloom-bundle"]) == (200, "a" * 64)


def test_wrong_servers_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "servers.txt"
    for flags, words in (
        (("--triton-file", file), "cannot be read"),
        (("--triton-file", file, "--triton", "127.0.0.1:1"), "not with both"),
    ):
        done = run_command("gateway", "--listen", "127.0.0.1:0", *flags)
        assert (done.returncode, words in done.stderr) == (1, True), done.stderr


def test_another_bundle_at_the_same_address_answers_after_sighup_only(
    start_gateway: StartGateway, maps: dict[str, bytes]
) -> None:
    with ExitStack() as stack:
        first = serve_fake(stack, FakeTransport(contract()))
        gateway = start_gateway("--timeouts.infer", "3", url=first.url)
        with httpx.Client(base_url=gateway.url, timeout=30, trust_env=False) as client:
            assert client.post(ROUTE, files=maps).headers["sceneloom-bundle"] == "a" * 64
            first.stop()  # no request notices
            port = int(first.url.rpartition(":")[2])
            second = FakeTransport(contract(bundle_hash="b" * 64))
            serve_fake(stack, second, port=port)
            time.sleep(1)  # gRPC itself has connected again by now
            answer = client.post(ROUTE, files=maps)
            assert (answer.status_code, second.requests) == (503, [])
            assert "serves another bundle now (bbbbbbbbbbbb); SIGHUP" in answer.json()["detail"]
            gateway.process.send_signal(signal.SIGHUP)
            wait_for(gateway, "bundle bbbbbbbbbbbb is served by")
            answer = client.post(ROUTE, files=maps)
            assert (answer.status_code, answer.headers["sceneloom-bundle"]) == (200, "b" * 64)
