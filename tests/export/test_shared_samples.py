"""Real Cityscapes maps at 2048x1024 through the real server, each picture within one grey level.

Import and export run here, where PyTorch is loaded already.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from support import ServeCommand, run_command

from sceneloom import load_schema, read_instance_map, read_label_map
from sceneloom.cli import main
from sceneloom.pairing import pair_maps
from sceneloom_training.checkpoint import load_checkpoint
from sceneloom_training.torch_synthesizer import TorchSynthesizer

QUICK = ("--precision", "fp32", "--largest", "256x128")  # the real maps prove it at full size


def link_samples(samples: Path, folder: Path, count: int) -> None:
    """A folder of the first of the samples."""
    pairs = pair_maps(samples / "test_label", samples / "test_inst")[0]
    for name in ("test_label", "test_inst"):
        (folder / name).mkdir(parents=True)
    for pair in pairs[:count]:
        assert pair.instance is not None
        for path in (pair.label, pair.instance):
            (folder / path.parent.name / path.name).symlink_to(path)


@pytest.mark.triton
@pytest.mark.timeout(400)
@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 10])
def test_real_maps(shared: Path, tmp_path: Path, count: int) -> None:
    weights = shared / "reference" / "local_enhancer_1.pth"
    samples = tmp_path / "samples"
    link_samples(shared / "data" / "cityscapes_sample", samples, count)
    for arguments in (
        ["import", weights, "--labels", "cityscapes", "--out", tmp_path / "checkpoint"],
        ["export", tmp_path / "checkpoint", "--repository", tmp_path / "repository", *QUICK],
    ):
        assert main([*map(str, arguments)]) == 0
    with ServeCommand(tmp_path / "repository", "--engine", "openvino-fp32") as serve:
        done = run_command("render", samples, tmp_path / "out", "--url", serve.grpc)
    assert done.returncode == 0, done.stderr
    assert f"rendered {count} of {count} map" in done.stdout

    checkpoint = load_checkpoint(tmp_path / "checkpoint")
    reference = TorchSynthesizer(checkpoint.generator, checkpoint.contract)
    schema = load_schema("cityscapes")
    means = []
    for pair in pair_maps(samples / "test_label", samples / "test_inst")[0]:
        assert pair.instance is not None
        maps = read_label_map(pair.label, schema), read_instance_map(pair.instance)
        assert maps[1].max() > 20_000  # 16 bits, read as such
        picture = cv2.imread(str(tmp_path / "out" / f"{pair.key}.png"))[..., ::-1]
        assert picture.shape == (1024, 2048, 3)
        difference = np.abs(reference.synthesize(*maps).astype(np.int16) - picture)
        assert difference.max() <= 1
        assert picture.std() >= 20
        means.append(tuple(picture.mean((0, 1)).round(3)))
    assert len(set(means)) == count
