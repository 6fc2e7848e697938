"""The checkpoint bundle: round trip, tampering, and writing that leaves nothing half done."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from support import wide_generator

from sceneloom.contract import Contract
from sceneloom.errors import CheckpointError
from sceneloom.files import file_hash
from sceneloom.schema import load_schema
from sceneloom_training.checkpoint import load_checkpoint, save_checkpoint
from sceneloom_training.networks import Generator, GeneratorArchitecture

CONTRACT = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)


@pytest.fixture
def generator(small_architecture: GeneratorArchitecture) -> Generator:
    return wide_generator(small_architecture, seed=1)


def test_round_trip(tmp_path: Path, generator: Generator) -> None:
    save_checkpoint(tmp_path / "bundle", generator, CONTRACT, {"steps": 7})
    loaded = load_checkpoint(tmp_path / "bundle")
    assert loaded.contract == CONTRACT
    assert loaded.provenance == {"steps": 7}
    assert loaded.generator.architecture == generator.architecture
    assert not loaded.generator.training
    expected = generator.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in loaded.generator.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_bundles_of_pictures_without_a_contract_have_one_now(tmp_path: Path) -> None:
    """Versions that did not serve them wrote null."""
    architecture = GeneratorArchitecture(
        input_channels=3, ngf=2, global_downsamplings=1, global_blocks=1
    )
    contract = Contract(kind="picture", boundaries=False, size_multiple=2)
    save_checkpoint(tmp_path / "bundle", wide_generator(architecture, seed=1), contract, {})
    description = tmp_path / "bundle" / "model.json"
    tree = json.loads(description.read_text())
    tree["contract"] = None
    description.write_text(json.dumps(tree))
    assert load_checkpoint(tmp_path / "bundle").contract == contract


def test_files_have_the_permissions_of_any_new_file(tmp_path: Path, generator: Generator) -> None:
    before = os.umask(0o027)
    try:
        save_checkpoint(tmp_path / "bundle", generator, CONTRACT, {})
    finally:
        os.umask(before)
    modes = {p.name: oct(p.stat().st_mode & 0o777) for p in (tmp_path / "bundle").iterdir()}
    assert modes == {"model.json": "0o640", "model.safetensors": "0o640"}


def test_half_the_space(tmp_path: Path, generator: Generator) -> None:
    for name, half in (("whole", False), ("half", True)):
        save_checkpoint(tmp_path / name, generator, CONTRACT, {}, half=half)
    sizes = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("half", "whole")]
    assert sizes[0] < 0.55 * sizes[1]
    for key, tensor in load_checkpoint(tmp_path / "half").generator.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, generator.state_dict()[key].half().float())


def test_replaces_an_older_bundle(tmp_path: Path, generator: Generator) -> None:
    for steps in (1, 2):
        save_checkpoint(tmp_path / "bundle", generator, CONTRACT, {"steps": steps})
    assert load_checkpoint(tmp_path / "bundle").provenance == {"steps": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_refuses_a_place_that_holds_something_else(tmp_path: Path, generator: Generator) -> None:
    (tmp_path / "thesis.tex").write_text("important")
    for place in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(CheckpointError, match="not a checkpoint bundle"):
            save_checkpoint(place, generator, CONTRACT, {})
    assert (tmp_path / "thesis.tex").read_text() == "important"


def test_failed_write_leaves_the_older_bundle(tmp_path: Path, generator: Generator) -> None:
    save_checkpoint(tmp_path / "bundle", generator, CONTRACT, {"steps": 1})
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path / "bundle", generator, CONTRACT, {"steps": object()})
    assert load_checkpoint(tmp_path / "bundle").provenance == {"steps": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_place_that_cannot_be_written(tmp_path: Path, generator: Generator) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / "bundle", generator, CONTRACT, {})


def test_changed_weights_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "bundle")
    weights = tmp_path / "bundle" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_checkpoint(tmp_path / "bundle")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"sha256": {}},
        {"contract": None},
        {"architecture": {"input_channels": 36, "ngf": 2, "global_blocks": 1}},
        {"contract": Contract(schema=load_schema("helen"), boundaries=True, size_multiple=8)},
        {"architecture": 3},
        {"provenance": 3},
        {"contract": Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=12)},
    ],
)
def test_damaged_description_is_refused(
    tmp_path: Path, checkpoint: Path, change: dict[str, Any]
) -> None:
    shutil.copytree(checkpoint, tmp_path / "bundle")
    path = tmp_path / "bundle" / "model.json"
    changed = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps(changed, default=Contract.to_json))
    with pytest.raises(CheckpointError, match="bundle"):
        load_checkpoint(tmp_path / "bundle")


@pytest.mark.parametrize("text", ["", "[]", "{", "3"])
def test_description_that_is_no_description(tmp_path: Path, checkpoint: Path, text: str) -> None:
    shutil.copytree(checkpoint, tmp_path / "bundle")
    (tmp_path / "bundle" / "model.json").write_text(text)
    with pytest.raises(CheckpointError, match="not a checkpoint bundle"):
        load_checkpoint(tmp_path / "bundle")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, generator: Generator) -> None:
    generator.head[1].bias[1] = torch.nan
    save_checkpoint(tmp_path / "bundle", generator, CONTRACT, {})
    with pytest.raises(CheckpointError, match=r"head\.1\.bias hold values that are not finite"):
        load_checkpoint(tmp_path / "bundle")


@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.complex64])
def test_weights_that_are_no_floats_are_refused(
    tmp_path: Path, checkpoint: Path, kind: torch.dtype
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(checkpoint, bundle)
    weights = safetensors.torch.load_file(bundle / "model.safetensors")
    weights["head.1.bias"] = weights["head.1.bias"].to(kind)
    safetensors.torch.save_file(weights, bundle / "model.safetensors")
    description = json.loads((bundle / "model.json").read_text())
    description["sha256"]["model.safetensors"] = file_hash(bundle / "model.safetensors")
    (bundle / "model.json").write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: head\.1\.bias is {kind}"):
        load_checkpoint(bundle)


@pytest.mark.parametrize(("name", "value"), [("sha256", None), ("provenance", 3), ("encoder", 3)])
def test_a_part_of_the_wrong_kind_is_told(
    tmp_path: Path, checkpoint: Path, name: str, value: object
) -> None:
    shutil.copytree(checkpoint, tmp_path / "bundle")
    path = tmp_path / "bundle" / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(CheckpointError, match="is of the wrong kind; each is a JSON object"):
        load_checkpoint(tmp_path / "bundle")


def test_folder_that_is_no_bundle(tmp_path: Path) -> None:
    for folder, words in ((tmp_path, "it has no model.json"), (tmp_path / "a", "no such folder")):
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(folder)
        assert str(caught.value) == (
            f"{folder}: not a checkpoint bundle ({words}); name the folder of one, such as "
            "RUN/model"
        )
