"""Every committed configuration is loaded and takes one step at a tiny size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tomllib
import torch
from support import CHECKOUT
from trees import WRITERS

from sceneloom import cli
from sceneloom_training.checkpoint import load_checkpoint
from sceneloom_training.process import choose_precision

CONFIGS = sorted((CHECKOUT / "training" / "configs").glob("*.toml"))
TINY = {
    "--generator.ngf": 2,
    "--generator.global-blocks": 1,
    "--generator.unet-downsamplings": 5,
    "--discriminator.ndf": 2,
    "--style.nef": 2,
    "--schedule.max-steps": 1,
    "--compute.workers": 0,
    "--compute.device": "cpu",
    "--record.held-out": 0,
    "--record.picture-every": 1000,
}
SIZES = {
    "none": {},
    "resize": {"--geometry.size": "32x32"},
    "scale_width": {"--geometry.load-size": 64},
    "crop": {"--geometry.size": "64x64"},
    "resize_and_crop": {"--geometry.size": "32x32", "--geometry.load-size": 36},
}


def test_there_is_one_for_every_use() -> None:
    assert {path.stem for path in CONFIGS} == {
        "ade20k",
        "camvid-256x192",
        "cityscapes-1024x512",
        "cityscapes-1024x512-modern",
        "cityscapes-2048x1024",
        "cityscapes-2048x1024-modern",
        "demo",
        "faces",
        "gpu-demo",
        "nyu",
        "own-data",
        "pix2pix-256",
        "street-demo-1-whole-512x256",
        "street-demo-2-whole-1024x512",
        "street-demo-3-crops-of-2048x1024",
        "street-demo-4-whole-2048x1024",
        "street-demo-5-balanced-crops-of-2048x1024",
        "street-demo-6-balanced-whole-2048x1024",
        "street-demo-7-markings-crops-of-2048x1024",
        "street-demo-8-markings-whole-2048x1024",
        "streets-256x128",
    }


def test_the_document_of_ones_own_data_has_its_configuration_word_for_word() -> None:
    config = (CHECKOUT / "training" / "configs" / "own-data.toml").read_text()
    assert f"```toml\n{config}```" in (CHECKOUT / "docs" / "your-own-data.md").read_text()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_loads_and_takes_a_step(config: Path, tmp_path: Path) -> None:
    says = tomllib.loads(config.read_text())
    flags = {**TINY, **SIZES[says["geometry"]["mode"]], "--out": tmp_path / "run"}
    if says["data"]["layout"] == "streets":
        flags |= {"--data.streets-size": "64x32", "--data.streets-count": 1}
    else:
        WRITERS[says["data"]["layout"]](tmp_path / "data", 64, 128)
        flags["--data.root"] = tmp_path / "data"
    if config.stem == "own-data":  # its schema has five classes
        flags["--data.labels"] = "cityscapes"
    if config.stem == "camvid-256x192":  # the files have ids of Cityscapes
        flags["--data.unknown"] = "unlabelled"
    arguments = [str(x) for pair in flags.items() for x in pair]
    assert cli.main(["train", str(config), *arguments]) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    changed = {name.removeprefix("--").replace("-", "_") for name in flags}
    for section, fields in says.items():
        for name, value in fields.items():
            if f"{section}.{name}" not in changed:
                assert record["settings"][section][name] == value, (section, name)
    assert record["precision"] in ("float32", "bfloat16")
    bundle = load_checkpoint(tmp_path / "run" / "model")
    assert bundle.provenance["steps"] == 1
    assert bundle.contract is not None
    assert bundle.contract.boundaries == says["generator"].get("boundaries", True)
    assert (bundle.encoder is not None) == ("style" in says)


@pytest.mark.parametrize(
    ("avx512_bf16", "amx", "expected"),
    [(False, False, "float32"), (True, False, "bfloat16"), (False, True, "bfloat16")],
)
def test_precision_auto_is_bfloat16_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, avx512_bf16: bool, amx: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert choose_precision("auto", torch.device("cpu")) == expected
    assert choose_precision("bfloat16", torch.device("cpu")) == "bfloat16"
