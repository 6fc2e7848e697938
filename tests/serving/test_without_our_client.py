"""The blocks of docs/without-our-client.md, run from top to bottom against a real server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import CHECKOUT, blocky_maps, free_ports, wide_generator

from sceneloom import TritonSynthesizer, load_schema
from sceneloom.contract import Contract
from sceneloom_export.bundle import export_bundle
from sceneloom_export.settings import ExportSettings
from sceneloom_serving.embedded import EmbeddedServer
from sceneloom_training.checkpoint import save_checkpoint
from sceneloom_training.networks import GeneratorArchitecture

pytestmark = pytest.mark.triton

PAGE = (CHECKOUT / "docs" / "without-our-client.md").read_text()
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def styled_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A styled model with random weights and a default style for each label."""
    folder = tmp_path_factory.mktemp("styled")
    schema = load_schema("cityscapes19")
    rng = np.random.default_rng(0)
    defaults = {
        label.id: tuple(map(float, rng.normal(0, 2, 3).round(3))) for label in schema.labels
    }
    contract = Contract(
        schema=schema, boundaries=True, style_channels=3, style_defaults=defaults, size_multiple=4
    )
    architecture = GeneratorArchitecture(
        input_channels=23, ngf=4, global_downsamplings=2, global_blocks=1
    )
    save_checkpoint(folder / "checkpoint", wide_generator(architecture, seed=2), contract, {})
    export = ExportSettings(precision=("fp32",))
    exported = export_bundle(
        folder / "checkpoint", folder / "repository", largest=(64, 96), export=export
    )
    with EmbeddedServer(exported.repository, free_ports(), engine="openvino-fp32") as running:
        yield running


def run_page(folder: Path, server: EmbeddedServer, labels: np.ndarray, ids: np.ndarray) -> str:
    """Run every block in `folder` and return what they print."""
    Image.fromarray(labels).save(folder / "labels.png")
    Image.fromarray(ids).save(folder / "instances.png", format="TIFF")
    printed = ""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for number, (language, block) in enumerate(BLOCKS):
        code = block.replace("127.0.0.1:8000", server.http).replace("127.0.0.1:8001", server.grpc)
        name = "tensors.py" if "`tensors`" in code else f"block{number}"
        (folder / name).write_text(code)
        command = [sys.executable] if language == "python" else ["bash", "-e", "-o", "pipefail"]
        done = subprocess.run(
            [*command, name],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, (block, done.stdout, done.stderr)
        printed += done.stdout
    return printed


def test_curl_and_tritonclient_get_the_clients_picture(
    tmp_path: Path, server: EmbeddedServer
) -> None:
    labels, ids = blocky_maps(45, 70, seed=5, labels=34)  # padded to 48x72
    printed = run_page(tmp_path, server, labels, ids)
    with TritonSynthesizer(server.grpc) as client:
        picture = client.synthesize(labels, ids)
        assert json.loads((tmp_path / "contract.json").read_text()) == client.contract.to_json()
    assert picture.std() >= 20
    check(tmp_path, picture)
    assert printed.startswith("ready\n")


def check(folder: Path, picture: np.ndarray) -> None:
    """Check that every picture of the page is `picture`."""
    names = ("curl", "tritonclient.grpc", "tritonclient.http")
    pictures = [np.array(Image.open(folder / f"{name}.png")) for name in names]
    reply = json.loads((folder / "reply.json").read_text())["outputs"][0]
    pictures.append(np.array(reply["data"]).reshape(reply["shape"])[0])
    for other in pictures:
        height, width = picture.shape[:2]
        assert np.abs(other[:height, :width].astype(int) - picture).max() <= 1


def test_a_large_form_does_not_end_the_server(tmp_path: Path, server: EmbeddedServer) -> None:
    (tmp_path / "form").write_bytes(b" " * (6 << 20))
    url = f"http://{server.http}/v2/models/synthesis/infer"
    command = ["curl", "--silent", "--data-binary", f"@{tmp_path / 'form'}", url]
    reply = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "error" in json.loads(reply.stdout)
    assert server.wait(0.5) is None


def test_a_styled_model_gets_its_default_styles(
    tmp_path: Path, styled_server: EmbeddedServer
) -> None:
    labels, ids = blocky_maps(48, 60, seed=6, labels=19)
    run_page(tmp_path, styled_server, labels, ids)
    with TritonSynthesizer(styled_server.grpc) as client:
        picture = client.synthesize(labels, ids)
        plain = client.synthesize(labels, ids, np.zeros((256, 3), np.float32))
    assert np.abs(picture.astype(int) - plain).max() > 10
    check(tmp_path, picture)
