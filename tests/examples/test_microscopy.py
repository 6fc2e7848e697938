"""A user's own field, by the commands of examples/README.md.

All but the server run here, where PyTorch is loaded already.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from support import CHECKOUT, ServeCommand, save_published, wide_generator

from sceneloom import TritonSynthesizer, load_schema, read_instance_map, read_label_map
from sceneloom.cli import main
from sceneloom_training.checkpoint import load_checkpoint
from sceneloom_training.networks import GeneratorArchitecture
from sceneloom_training.torch_synthesizer import TorchSynthesizer

EXAMPLE = CHECKOUT / "examples" / "microscopy"
QUICK = ("--precision", "fp32", "--largest", "256x256")  # the cells' own size is 200x200


@pytest.mark.slow
@pytest.mark.triton
def test_microscopy_goes_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "cells"
    subprocess.run(
        [sys.executable, str(EXAMPLE / "draw_cells.py"), str(data), "--maps", "3", "--size", "200"],
        check=True,
        capture_output=True,
    )
    architecture = GeneratorArchitecture(
        input_channels=6, ngf=8, global_downsamplings=2, global_blocks=2
    )
    save_published(wide_generator(architecture, seed=3), tmp_path / "latest_net_G.pth")
    for arguments in (
        ["schemas", EXAMPLE / "cells.json"],
        ["import", "latest_net_G.pth", "--labels", EXAMPLE / "cells.json", "--out", "checkpoint"],
        ["export", "checkpoint", "--repository", "repository", *QUICK],
    ):
        assert main([*map(str, arguments)]) == 0

    with ServeCommand(tmp_path / "repository", "--engine", "openvino-fp32") as serve:
        render = ["render", str(data), str(tmp_path / "out"), "--url", serve.grpc]
        assert main([*render, "--labels", "labels", "--instances", "instances"]) == 0
        with TritonSynthesizer(serve.grpc) as client:
            assert client.contract.schema == load_schema(EXAMPLE / "cells.json")

    checkpoint = load_checkpoint(tmp_path / "checkpoint")
    reference = TorchSynthesizer(checkpoint.generator, checkpoint.contract)
    pictures = []
    for label_file in sorted((data / "labels").iterdir()):
        with Image.open(label_file) as opened:
            assert opened.mode == "P"
        label_map = read_label_map(label_file, checkpoint.contract.schema)
        assert set(np.unique(label_map)) == {0, 1, 2, 3, 4}
        instance_map = read_instance_map(data / "instances" / f"{label_file.stem}.tif")
        assert instance_map.max() > 2**16
        picture = cv2.imread(str(tmp_path / "out" / label_file.name))[..., ::-1].astype(int)
        assert np.abs(picture - reference.synthesize(label_map, instance_map)).max() <= 1
        assert picture.std() >= 20
        pictures.append(picture)
    assert len(pictures) == 3
    assert np.abs(pictures[0] - pictures[1]).mean() > 5
