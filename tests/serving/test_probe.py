"""The golden probe as a command: right, wrong, dead; and the map that fits the served size."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support import run_here

from sceneloom.contract import Contract
from sceneloom.errors import ServerStartError
from sceneloom.request import Padding, Request
from sceneloom.schema import load_schema
from sceneloom_export.bundle import Exported
from sceneloom_serving.bundle import References, block_means, save_references
from sceneloom_serving.embedded import EmbeddedServer
from sceneloom_serving.probe_command import golden_for

CONTRACT = Contract(schema=load_schema("helen"), boundaries=False, size_multiple=8)


@pytest.fixture
def copy(tmp_path: Path, exported: Exported) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    for name in ("report.json", "golden.npz"):
        shutil.copy(exported.repository / name, folder)
    return folder


@pytest.mark.triton
def test_a_server_that_is_right(server: EmbeddedServer, exported: Exported) -> None:
    done = run_here("probe", exported.repository, "--url", server.grpc)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{server.grpc}: right, 0.")
    assert done.stdout.count("\n") == 1


@pytest.mark.triton
def test_a_server_of_another_export(server: EmbeddedServer, copy: Path) -> None:
    report = json.loads((copy / "report.json").read_text())
    (copy / "report.json").write_text(json.dumps({**report, "bundle_hash": "0" * 64}))
    done = run_here("probe", copy, "--url", server.grpc)
    assert done.returncode == 1
    assert "not 000000000000 of" in done.stderr


@pytest.mark.triton
def test_a_server_that_answers_another_picture(server: EmbeddedServer, copy: Path) -> None:
    with np.load(copy / "golden.npz") as data:
        fields = dict(data)
    fields["block_means"] = fields["block_means"] + np.float32(3)
    np.savez(copy / "golden.npz", **fields)
    done = run_here("probe", copy, "--url", server.grpc)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "its picture differs by" in done.stderr


def test_no_server_is_one_line(copy: Path) -> None:
    done = run_here("probe", copy, "--url", "127.0.0.1:9", "--timeout", "2")
    assert done.returncode == 1
    assert done.stderr.startswith("sceneloom probe: 127.0.0.1:9")
    assert done.stderr.count("\n") == 1


def write_golden(folder: Path, height: int, width: int) -> None:
    means = np.zeros((height // 16, width // 16, 3), np.float32)
    np.savez(
        folder / "golden.npz", label_map=np.zeros((height, width), np.uint8), block_means=means
    )


def test_fixed_sizes_are_probed_with_a_reference_of_that_size(tmp_path: Path) -> None:
    write_golden(tmp_path, 64, 128)
    requests, pictures = [], []
    for side in (32, 48, 96):
        labels = np.full((side, side), side, np.uint8)
        requests.append(Request(label_map=labels, instance_map=None, style=None, padding=Padding()))
        pictures.append(np.full((1, side, side, 3), side, np.uint8))
    save_references(References(requests=requests, pictures=pictures), tmp_path)
    assert golden_for(tmp_path, CONTRACT).request.label_map.shape == (64, 128)
    fixed = dataclasses.replace(CONTRACT, sizes=((96, 96),))
    golden = golden_for(tmp_path, fixed)
    assert golden.request.label_map.shape == (96, 96)
    assert golden.block_means.tolist() == block_means(pictures[2][0]).tolist()
    with pytest.raises(ServerStartError, match="no reference picture of a served size"):
        golden_for(tmp_path, dataclasses.replace(CONTRACT, sizes=((80, 80),)))
