"""Two versions of a model behind one real tritonserver: each request gets the one it names."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper
from support import blocky_maps, run_here

from noop_server import NoopServer
from sceneloom import TritonSynthesizer
from sceneloom.contract import ENGINE_PARAMETER, Contract
from sceneloom.errors import InputError, ModelNotFoundError
from sceneloom.maps import instance_map_png, label_map_png
from sceneloom.pictures import decode_picture
from sceneloom.rendering.manifest import Manifest
from sceneloom.schema import load_schema
from sceneloom_bench.harness import Served
from sceneloom_bench.load_requests import close_all, open_connections
from sceneloom_export.bundle import Exported
from sceneloom_serving.bundle import CPU_FILE, WEIGHTS, read_config, write_config
from sceneloom_serving.openvino_runtime import OpenVinoSynthesizer
from sceneloom_serving.parity import compare

pytestmark = pytest.mark.triton

MAPS = blocky_maps(64, 96, seed=1)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, exported: Exported) -> Path:
    """Version 2 has other weights."""
    folder = tmp_path_factory.mktemp("versions") / "repository"
    served = folder / "synthesis"
    shutil.copytree(exported.repository / "synthesis", served)
    shutil.copytree(served / "1", served / "2")
    graph = onnx.load(served / "2" / CPU_FILE)
    for weights in graph.graph.initializer:
        values = numpy_helper.to_array(weights)
        if values.ndim == 4:
            weights.CopyFrom(numpy_helper.from_array(values[::-1].copy(), weights.name))
    (served / "2" / WEIGHTS[CPU_FILE]).unlink()
    external = {"save_as_external_data": True, "location": WEIGHTS[CPU_FILE]}
    onnx.save_model(graph, served / "2" / CPU_FILE, **external)
    config = read_config(served / "config.pbtxt")
    config.version_policy.all.SetInParent()
    config.parameters[ENGINE_PARAMETER].string_value = "openvino-fp32"
    write_config(config, served / "config.pbtxt")
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[NoopServer]:
    with NoopServer(repository) as running:
        yield running


@pytest.fixture(scope="module")
def expected(repository: Path) -> dict[str, Any]:
    """The picture of each version, by an engine in this process."""
    pictures = {}
    for version in ("1", "2"):
        with OpenVinoSynthesizer(repository / "synthesis" / version / CPU_FILE) as engine:
            pictures[version] = engine.synthesize(*MAPS)
    assert compare([pictures["1"]], [pictures["2"]]).mean > 5
    return pictures


def same(picture: Any, expected: Any) -> bool:
    return bool(compare([picture], [expected]).max <= 1)


@pytest.mark.parametrize("transport", ["grpc", "grpc-shm", "http"])
def test_each_transport_asks_for_the_version(
    server: NoopServer, expected: dict[str, Any], transport: Any
) -> None:
    url = f"http://{server.http}" if transport == "http" else server.grpc
    for version, answered in {"1": "1", "2": "2", "": "2"}.items():
        with TritonSynthesizer(url, version=version, transport=transport) as client:
            assert client.transport.kind == transport
            assert client.version == answered
            assert same(client.synthesize(*MAPS), expected[answered])
    with pytest.raises(ModelNotFoundError, match="has no version '7'; the server serves 1, 2"):
        TritonSynthesizer(url, version="7", transport="grpc" if transport != "http" else "http")


def test_render_makes_the_pictures_of_the_version_and_says_so(
    tmp_path: Path, server: NoopServer, expected: dict[str, Any]
) -> None:
    contract = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)
    for folder, data in {
        "test_label": label_map_png(contract, MAPS[0]),
        "test_inst": instance_map_png(contract, *MAPS),
    }.items():
        (tmp_path / "maps" / folder).mkdir(parents=True)
        (tmp_path / "maps" / folder / "a.png").write_bytes(data)
    pictures = tmp_path / "pictures"
    command = ["render", tmp_path / "maps", pictures, "--url", server.grpc]
    for version in ("1", "2"):
        done = run_here(*command, "--model-version", version)
        assert done.returncode == 0, done.stderr
        assert same(decode_picture((pictures / "a.png").read_bytes()), expected[version])
        with Manifest(pictures / "manifest.sqlite") as manifest:
            [row] = manifest.rows()
        assert (row.origin.model, row.origin.model_version) == ("synthesis", version)
    done = run_here(*command, "--model-version", "3")
    assert done.returncode == 1
    assert "model 'synthesis': has no version '3'; the server serves 1, 2" in done.stderr


def test_the_probe_asks_the_version(server: NoopServer, exported: Exported) -> None:
    right = run_here("probe", exported.repository, "--url", server.grpc, "--model-version", "1")
    assert right.returncode == 0, right.stderr
    wrong = run_here("probe", exported.repository, "--url", server.grpc)
    assert wrong.returncode == 1
    assert "its picture differs by" in wrong.stderr


def test_a_benchmark_sends_to_the_version(server: NoopServer, expected: dict[str, Any]) -> None:
    served = Served(grpc=server.grpc, http=server.http, embedded=None)
    names = ("grpc", "grpc-shm", "http")
    for version in ("1", "2"):
        opened, left_out = open_connections(served, "synthesis", names, version=version)
        try:
            assert (tuple(opened), left_out) == (names, [])
            for name in names:
                client = opened[name].client  # type: ignore[union-attr]
                assert same(client.synthesize(*MAPS), expected[version]), name
        finally:
            close_all(opened)
    with pytest.raises(InputError, match="has no version '5'"):
        open_connections(served, "synthesis", ("grpc",), version="5")
