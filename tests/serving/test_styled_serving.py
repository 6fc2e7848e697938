"""Style through the whole path: checkpoint, graph, real tritonserver, client, render."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from support import blocky_maps, free_ports, wide_generator
from tritonclient.grpc import model_config_pb2

from sceneloom import TritonSynthesizer
from sceneloom.cli import main
from sceneloom.contract import Contract
from sceneloom.errors import RequestRejectedError
from sceneloom.schema import load_schema
from sceneloom.style import StyleFile, styles_by_cluster, styles_by_seed, write_styles
from sceneloom_export.bundle import Exported, export_bundle
from sceneloom_export.parity import compare
from sceneloom_serving.embedded import EmbeddedServer
from sceneloom_serving.torch_runtime import TorchSynthesizer
from sceneloom_training.checkpoint import load_checkpoint, save_checkpoint
from sceneloom_training.networks import FeatureEncoder, GeneratorArchitecture

pytestmark = pytest.mark.triton

SCHEMA = load_schema("helen")
CLUSTERS = np.random.default_rng(0).uniform(-1, 1, (10, 4, 3)).round(6)
CONTRACT = Contract(
    schema=SCHEMA,
    boundaries=True,
    style_channels=3,
    style_defaults={10: (0.125, -1e-05, 0.5)},
    style_clusters={
        label: tuple((float(a), float(b), float(c)) for a, b, c in centres)
        for label, centres in enumerate(CLUSTERS)
    },
    size_multiple=4,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    architecture = GeneratorArchitecture(
        input_channels=15, ngf=4, global_downsamplings=2, global_blocks=2
    )
    folder = tmp_path_factory.mktemp("styled") / "checkpoint"
    encoder = FeatureEncoder(3, nef=4, downsamplings=2)
    save_checkpoint(folder, wide_generator(architecture, seed=5), CONTRACT, {}, encoder=encoder)
    return folder


@pytest.fixture(scope="module")
def styled(bundle: Path) -> Exported:
    return export_bundle(bundle, bundle.parent / "repository", largest=(96, 128))


@pytest.fixture(scope="module")
def url(styled: Exported) -> Iterator[str]:
    with EmbeddedServer(styled.repository, free_ports()) as server:
        yield server.grpc


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[TritonSynthesizer]:
    with TritonSynthesizer(url) as client:
        yield client


@pytest.fixture(scope="module")
def reference(bundle: Path) -> TorchSynthesizer:
    loaded = load_checkpoint(bundle)
    assert loaded.contract == CONTRACT
    return TorchSynthesizer(loaded.generator, loaded.contract)


def test_clusters_are_in_the_graphs_and_in_the_configuration(styled: Exported) -> None:
    folder = styled.repository / "synthesis"
    for name in ("model.onnx", "onnxruntime.onnx"):
        graph = onnx.load(folder / "1" / name, load_external_data=False)
        [text] = [entry.value for entry in graph.metadata_props if entry.key == "sceneloom"]
        assert Contract.loads(text) == CONTRACT
    config = model_config_pb2.ModelConfig()
    text_format.Parse((folder / "config.pbtxt").read_text(), config)
    served = Contract.loads(config.parameters["sceneloom"].string_value)
    assert dataclasses.replace(served, bundle_hash="") == CONTRACT
    assert served == styled.contract


def test_styled_pictures_are_those_of_pytorch(
    client: TritonSynthesizer, reference: TorchSynthesizer, styled: Exported
) -> None:
    assert client.contract == styled.contract
    maps = blocky_maps(64, 93, seed=1, labels=11)
    tables = [None, *(styles_by_seed(client.contract, *maps, seed=seed) for seed in (1, 2))]
    tables.append(styles_by_cluster(client.contract, *maps, {int(maps[1].min()): 3}))
    pictures = [client.synthesize(*maps, table) for table in tables]
    for table, picture in zip(tables, pictures, strict=True):
        assert compare([reference.synthesize(*maps, table)], [picture]).max <= 1
    for other in pictures[1:]:
        assert compare([pictures[0]], [other]).max > 10
    assert compare([pictures[1]], [pictures[2]]).mean > 1


def test_equal_seeds_give_equal_bytes(client: TritonSynthesizer) -> None:
    maps = blocky_maps(40, 64, seed=2, labels=11)
    first, again, other = (
        client.synthesize(*maps, styles_by_seed(client.contract, *maps, seed=seed)).tobytes()
        for seed in (7, 7, 8)
    )
    assert first == again != other


def test_the_server_refuses_a_table_of_another_shape(client: TritonSynthesizer) -> None:
    label_map, instance_map = (x[None] for x in blocky_maps(32, 32, seed=0, labels=11))
    with pytest.raises(RequestRejectedError):
        client.run_batch(label_map, instance_map, np.zeros((1, 255, 3), np.float32))
    with pytest.raises(RequestRejectedError):
        client.run_batch(label_map, instance_map, None)


def test_render(url: str, tmp_path: Path) -> None:
    label_map, instance_map = blocky_maps(32, 48, seed=3, labels=11)
    for name in ("a", "b"):
        for folder, values in (("test_label", label_map), ("test_inst", instance_map)):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"{name}.png"), values.astype(np.uint16))
    write_styles(tmp_path / "style.json", StyleFile(labels={0: (1.0, 1.0, 1.0)}))
    choices = {
        "seed": ["--style-seed", "1"],
        "again": ["--style-seed", "1"],
        "other": ["--style-seed", "2"],
        "dataset": ["--style-seed", "1", "--style-per", "dataset"],
        "file": ["--style-file", str(tmp_path / "style.json")],
        "default": [],
    }
    pictures = {}
    for name, flags in choices.items():
        out = tmp_path / name
        assert main(["render", str(tmp_path), str(out), "--url", url, *flags]) == 0
        pictures[name] = [(out / f"{key}.png").read_bytes() for key in "ab"]
    assert pictures["seed"] == pictures["again"]
    assert pictures["seed"] != pictures["other"]
    assert pictures["seed"][0] != pictures["seed"][1]
    for name in ("dataset", "file", "default"):
        assert pictures[name][0] == pictures[name][1]
    assert len({picture for both in pictures.values() for picture in both}) == 7
