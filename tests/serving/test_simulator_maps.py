"""Frames of simulators and maps by colour through `sceneloom render` and a real tritonserver: the
pictures are PyTorch's of the maps that they show, at every engine and on both paths.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from map_sets import as_png
from PIL import Image
from support import free_ports

from sceneloom.cli import main
from sceneloom.rendering.manifest import Manifest
from sceneloom.schema import load_schema
from sceneloom_export.bundle import Exported
from sceneloom_serving.embedded import EmbeddedServer
from sceneloom_serving.engines import ENGINES, unavailable
from sceneloom_serving.parity import compare
from sceneloom_training.checkpoint import load_checkpoint
from sceneloom_training.torch_synthesizer import TorchSynthesizer

pytestmark = pytest.mark.triton

CITYSCAPES = load_schema("cityscapes")
TAGS = {1: 7, 2: 8, 3: 11, 9: 21, 11: 23, 12: 24, 14: 26}  # of CARLA -> Cityscapes' ids
SIZES = ((64, 96), (61, 90))  # one as the network takes it, one to be padded


@pytest.fixture(scope="module")
def shown() -> list[np.ndarray]:
    """Label maps in Cityscapes' ids, which are its channels."""
    rng = np.random.default_rng(3)
    maps = []
    for height, width in SIZES:
        blocks = rng.choice(list(TAGS.values()), (8, 12)).repeat(8, 0).repeat(8, 1)
        maps.append(blocks[:height, :width].astype(np.uint8))
    return maps


@pytest.fixture(scope="module")
def expected(checkpoint: Path, shown: list[np.ndarray]) -> list[np.ndarray]:
    """PyTorch's pictures, with the edges of the label maps as boundaries."""
    loaded = load_checkpoint(checkpoint)
    assert loaded.contract is not None
    assert loaded.contract.boundaries
    reference = TorchSynthesizer(loaded.generator, loaded.contract)
    return [reference.synthesize(one, one.astype(np.int32)) for one in shown]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, shown: list[np.ndarray]) -> Path:
    """The maps as CARLA's cameras, colour tools and Isaac Replicator write them."""
    root = tmp_path_factory.mktemp("simulators")
    tag_of = np.zeros(256, np.uint8)
    tag_of[list(TAGS.values())] = list(TAGS)
    replicator = {
        number: f"({10 + number}, {number}, 200, 255)" for number in sorted(TAGS.values())
    }
    table = {
        colour: {"class": CITYSCAPES.labels[number].name} for number, colour in replicator.items()
    }
    palette = np.zeros((256, 4), np.uint8)
    for number, colour in replicator.items():
        palette[number] = json.loads(f"[{colour[1:-1]}]")
    for name in ("carla", "colours", "isaac"):
        (root / name).mkdir()
    for number, labels in enumerate(shown):
        tags = tag_of[labels]
        frame = np.dstack([tags, *[np.zeros_like(tags)] * 2, np.full_like(tags, 255)])
        (root / "carla" / f"{number:06}.png").write_bytes(as_png(frame))
        (root / "colours" / f"{number:06}.png").write_bytes(as_png(CITYSCAPES.colourise(labels)))
        stem = root / "isaac" / "semantic_segmentation"
        Path(f"{stem}_{number:04}.png").write_bytes(as_png(palette[labels]))
        Path(f"{stem}_labels_{number:04}.json").write_text(json.dumps(table))
    return root


RUNNABLE = [name for name, one in ENGINES.items() if one.precision == "fp32" and not one.gpu]
READINGS = {
    "carla": ("--label-channel", "red", "--map-schema", "carla"),
    "colours": ("--colours", "--map-schema", "cityscapes19"),
    "isaac": ("--map-schema", "replicator"),
}


@pytest.fixture(scope="module", params=RUNNABLE)
def url(request: pytest.FixtureRequest, exported: Exported) -> Iterator[str]:
    engine = request.param
    if reason := unavailable(ENGINES[engine], exported.repository / "synthesis" / "1"):
        pytest.skip(reason)
    ports = free_ports()
    with EmbeddedServer(exported.repository, ports, engine=engine) as server:
        yield server.grpc


@pytest.mark.parametrize("kind", READINGS)
def test_pictures_are_those_of_the_maps_shown(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    url: str,
    folder: Path,
    expected: list[np.ndarray],
    kind: str,
) -> None:
    output = tmp_path / "pictures"
    command = ["render", str(folder), str(output), "--labels", kind, "--url", url]
    flags = [*command, *READINGS[kind], "--boundaries", "labels", "--log", "none"]
    if kind == "carla":
        assert main([*flags, "--dry-run"]) == 0
        assert "2 maps, of which 2 can be rendered" in capsys.readouterr().out
    assert main(flags) == 0
    said = capsys.readouterr().out
    assert "rendered 2 of 2 maps" in said
    assert "boundaries: edges of the label map's labels where a map has no instance map" in said
    pictures = [np.asarray(Image.open(file)) for file in sorted(output.glob("*.png"))]
    assert compare(expected, pictures).max <= 1
    assert expected[0].std() > 20
    with Manifest(output / "manifest.sqlite", to_read=True) as manifest:
        parameters = [json.loads(row.origin.parameters) for row in manifest.rows()]
    assert {one["boundaries"] for one in parameters} == {"labels"}
    assert main([*flags, "--verify"]) == 0
    if kind == "carla":
        capsys.readouterr()
        assert main([*flags, "--log", "json"]) == 0
        last = json.loads(capsys.readouterr().err.splitlines()[-1])
        assert last["skipped"] == 2
        assert last["reading"] == {
            "boundaries": "labels",
            "label_channel": "red",
            "map_schema": "carla",
        }


def test_without_the_switch_the_way_out_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str, folder: Path
) -> None:
    flags = ["render", str(folder), str(tmp_path / "out"), "--labels", "carla", "--url", url]
    assert main([*flags, *READINGS["carla"]]) == 1
    assert "--boundaries labels" in capsys.readouterr().err
    assert main([*flags, "--boundaries", "labels", "--log", "none"]) == 1
    said = capsys.readouterr().err
    assert "a colour picture (RGBA)" in said
    assert "--colours" in said
    assert "--label-channel" in said
