"""Cityscapes' coarse maps and JPEG frames, one of them damaged as a published one is: checked,
trained on, served by the real tritonserver, rendered.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import blocky_maps, free_ports
from trees import photo_of, save

from sceneloom.cli import main
from sceneloom.pictures import decode_picture
from sceneloom_export.bundle import export_bundle
from sceneloom_export.settings import ExportSettings
from sceneloom_serving.embedded import EmbeddedServer

CONFIG = """
data = { layout = "cityscapes", root = "ROOT", split = "train_extra" }
geometry = { mode = "none" }
generator = { ngf = 4, global_downsamplings = 2, global_blocks = 1 }
discriminator = { ndf = 4, scales = 1 }
schedule = { max_steps = 6 }
compute = { device = "cpu", workers = 0 }
"""


def write_coarse(root: Path, split: str, count: int) -> None:
    for i in range(count):
        label_map, instance_map = blocky_maps(64, 96, i, labels=34)
        stem = f"troisdorf/troisdorf_000000_{i:06}"
        save(root / "leftImg8bit" / split / f"{stem}_leftImg8bit.jpg", photo_of(label_map, i))
        coarse = root / "gtCoarse" / split
        save(coarse / f"{stem}_gtCoarse_labelIds.png", label_map)
        save(coarse / f"{stem}_gtCoarse_instanceIds.png", instance_map.astype(np.uint16))
        save(coarse / f"{stem}_gtCoarse_color.png", photo_of(label_map, i))
        (coarse / f"{stem}_gtCoarse_polygons.json").write_text("{}")


@pytest.mark.slow
@pytest.mark.triton
def test_from_coarse_maps_to_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "cityscapes"
    write_coarse(root, "train_extra", 4)
    write_coarse(root, "val", 2)
    frame = root / "leftImg8bit/train_extra/troisdorf/troisdorf_000000_000002_leftImg8bit.jpg"
    frame.write_bytes(frame.read_bytes()[:-500])
    toml = tmp_path / "coarse.toml"
    toml.write_text(CONFIG.replace("ROOT", str(root)))
    assert main(["check-data", str(toml)]) == 1
    assert "000002_leftImg8bit.jpg: truncated or damaged" in capsys.readouterr().out
    assert main(["check-data", str(toml), "--data.split", "val_coarse"]) == 0
    assert "2 samples: 96x64 (2)" in capsys.readouterr().out
    run = tmp_path / "run"
    assert main(["train", str(toml), "--out", str(run), "--data.skip-broken"]) == 0
    assert "left out: 1 broken sample" in capsys.readouterr().out
    fp32 = ExportSettings(precision=("fp32",))
    repository = tmp_path / "repository"
    exported = export_bundle(run / "model", repository, largest=(64, 96), export=fp32)
    pictures = tmp_path / "pictures"
    with EmbeddedServer(exported.repository, free_ports(), engine="openvino-fp32") as server:
        maps = ["--labels", "gtCoarse/val", "--instances", "gtCoarse/val"]
        command = ["render", str(root), str(pictures), *maps, "--url", server.grpc]
        assert main([*command, "--log", "none"]) == 0
    names = [f"troisdorf/troisdorf_000000_{i:06}_gtCoarse_labelIds.png" for i in range(2)]
    assert sorted(p.relative_to(pictures).as_posix() for p in pictures.rglob("*.png")) == names
    for name in names:
        picture = decode_picture((pictures / name).read_bytes())
        assert picture.shape == (64, 96, 3)
        assert picture.std() > 1
