"""Import of published checkpoints: what fits, what does not and why, and what must never run."""

from __future__ import annotations

import os
import pickle
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support import save_published, wide_generator

from sceneloom.contract import Contract
from sceneloom.errors import CheckpointError
from sceneloom.schema import load_schema
from sceneloom_training.networks import GeneratorArchitecture
from sceneloom_training.published import import_published, load_published

CITYSCAPES = load_schema("cityscapes")


@pytest.fixture
def state(published: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(published, weights_only=True))


def write(state: object, folder: Path) -> Path:
    path = folder / "latest_net_G.pth"
    torch.save(state, path)
    return path


@pytest.mark.parametrize("enhancers", [0, 1, 2, 3])
@pytest.mark.parametrize(("downsamplings", "blocks", "enhancer_blocks"), [(1, 0, 1), (3, 2, 3)])
def test_architecture_is_derived_and_the_function_is_the_same(
    tmp_path: Path, enhancers: int, downsamplings: int, blocks: int, enhancer_blocks: int
) -> None:
    architecture = GeneratorArchitecture(
        input_channels=36,
        ngf=2,
        global_downsamplings=downsamplings,
        global_blocks=blocks,
        enhancers=enhancers,
        enhancer_blocks=enhancer_blocks if enhancers else 3,
    )
    generator = wide_generator(architecture, seed=4)
    save_published(generator, tmp_path / "g.pth")
    imported = import_published(tmp_path / "g.pth", CITYSCAPES)
    assert imported.generator.architecture == architecture
    assert imported.contract.size_multiple == architecture.size_multiple
    side = 2 * architecture.size_multiple
    x = torch.rand(1, 36, side, side)
    with torch.inference_mode():
        assert torch.equal(imported.generator(x), generator(x))


@pytest.mark.parametrize(
    ("channels", "schema", "given", "boundaries", "style"),
    [
        (35, "cityscapes", None, False, 0),
        (36, "cityscapes", None, True, 0),
        (39, "cityscapes", None, True, 3),
        (38, "cityscapes", 3, False, 3),
        (46, "cityscapes", 10, True, 10),
        (151, "ade20k", None, True, 0),
    ],
)
def test_inputs_are_split(
    tmp_path: Path, channels: int, schema: str, given: int | None, boundaries: bool, style: int
) -> None:
    architecture = GeneratorArchitecture(
        input_channels=channels, ngf=2, global_downsamplings=1, global_blocks=1
    )
    save_published(wide_generator(architecture, seed=0), tmp_path / "g.pth")
    imported = import_published(tmp_path / "g.pth", load_schema(schema), style_channels=given)
    assert imported.contract.boundaries is boundaries
    assert imported.contract.style_channels == style


@pytest.mark.parametrize(("channels", "boundaries"), [(3, False), (4, True)])
def test_pictures_instead_of_labels(tmp_path: Path, channels: int, boundaries: bool) -> None:
    architecture = GeneratorArchitecture(
        input_channels=channels, ngf=2, global_downsamplings=1, global_blocks=1
    )
    save_published(wide_generator(architecture, seed=0), tmp_path / "g.pth")
    contract = import_published(tmp_path / "g.pth", None).contract
    assert contract == Contract(kind="picture", boundaries=boundaries, size_multiple=2)


@pytest.mark.parametrize(("channels", "style"), [(7, None), (4, 1), (36, None)])
def test_inputs_that_no_picture_explains(tmp_path: Path, channels: int, style: int | None) -> None:
    architecture = GeneratorArchitecture(
        input_channels=channels, ngf=2, global_downsamplings=1, global_blocks=1
    )
    save_published(wide_generator(architecture, seed=0), tmp_path / "g.pth")
    with pytest.raises(CheckpointError, match=r"a picture explains 3.*style features.*--labels"):
        import_published(tmp_path / "g.pth", None, style_channels=style)


@pytest.mark.parametrize("outputs", [2, 4, 6])
def test_16_bit_and_other_outputs_are_refused(tmp_path: Path, outputs: int) -> None:
    architecture = GeneratorArchitecture(
        input_channels=36, output_channels=outputs, ngf=2, global_downsamplings=1, global_blocks=1
    )
    save_published(wide_generator(architecture, seed=0), tmp_path / "g.pth")
    with pytest.raises(CheckpointError, match=rf"gives {outputs} channels.*neither 16-bit output"):
        import_published(tmp_path / "g.pth", CITYSCAPES)


@pytest.mark.parametrize("given", [None, 2, 40, -1])
def test_schema_that_does_not_fit(published: Path, given: int | None) -> None:
    with pytest.raises(CheckpointError, match=r"36 input channels.*cityscapes19 explains 19"):
        import_published(published, load_schema("cityscapes19"), style_channels=given)


def test_too_few_channels(published: Path) -> None:
    with pytest.raises(CheckpointError, match="nyu40"):
        import_published(published, load_schema("nyu40"))


def test_missing_layer_is_named(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    del state["model.10.conv_block.5.bias"]
    with pytest.raises(CheckpointError, match=r"'model\.10\.conv_block\.5\.bias'"):
        import_published(write(state, tmp_path), CITYSCAPES)


def test_missing_enhancer_half_is_named(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state = {k: v for k, v in state.items() if not k.startswith("model1_1")}
    with pytest.raises(CheckpointError, match="model1_1"):
        import_published(write(state, tmp_path), CITYSCAPES)


def test_layer_without_a_place_is_named(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state["model.10.conv_block.3.bias"] = torch.zeros(4)
    with pytest.raises(CheckpointError, match=r"'model\.10\.conv_block\.3\.bias' has no place"):
        import_published(write(state, tmp_path), CITYSCAPES)


def test_wrong_shape_is_named(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state["model.10.conv_block.5.weight"] = torch.zeros(4, 32, 3, 3)
    with pytest.raises(
        CheckpointError, match=r"model\.10\.conv_block\.5\.weight is \[4, 32, 3, 3\]"
    ):
        import_published(write(state, tmp_path), CITYSCAPES)


def test_weights_that_are_not_finite_are_named(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    state["model.1.bias"][0] = torch.nan
    with pytest.raises(CheckpointError, match=r"model\.1\.bias.*not finite"):
        import_published(write(state, tmp_path), CITYSCAPES)


def test_weights_that_are_no_floats_are_named(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    state["model.1.bias"] = state["model.1.bias"].int()
    with pytest.raises(CheckpointError, match=r"model\.1\.bias is torch\.int32"):
        import_published(write(state, tmp_path), CITYSCAPES)


def test_enhancer_of_blocks_alone(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    kept = {k: v for k, v in state.items() if not k.startswith("model1_2.") or "conv_block" in k}
    with pytest.raises(CheckpointError, match="model1_2 has no convolution"):
        import_published(write(kept, tmp_path), CITYSCAPES)


def test_batch_norm_is_refused_as_such(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state["model.2.weight"] = torch.ones(8)
    with pytest.raises(CheckpointError, match="BatchNorm"):
        import_published(write(state, tmp_path), CITYSCAPES)


def test_other_networks_are_refused(tmp_path: Path) -> None:
    path = write({"layer1.0.conv1.weight": torch.zeros(4, 4, 3, 3)}, tmp_path)
    with pytest.raises(CheckpointError, match=r"layer1\.0\.conv1\.weight"):
        import_published(path, CITYSCAPES)


def test_running_statistics_and_wrappers_of_old_checkpoints(
    state: dict[str, torch.Tensor], tmp_path: Path, published: Path
) -> None:
    old = {f"module.{k}": v for k, v in state.items()}
    old["module.model.2.running_mean"] = torch.zeros(8)
    old["module.model.2.running_var"] = torch.ones(8)
    imported = import_published(write(old, tmp_path), CITYSCAPES)
    assert imported.notes == (
        "left out 2 running statistics of InstanceNorm, which the published network never used",
    )
    expected = import_published(published, CITYSCAPES).generator.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in imported.generator.state_dict().items())


def test_half_precision_weights_come_out_as_float32(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = write({k: v.half() for k, v in state.items()}, tmp_path)
    imported = import_published(path, CITYSCAPES)
    assert {p.dtype for p in imported.generator.parameters()} == {torch.float32}


class Touch:
    """Unpickled, it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_malicious_pickle_is_refused_and_nothing_runs(
    tmp_path: Path, state: dict[str, torch.Tensor], legacy: bool
) -> None:
    trap = tmp_path / "ran"
    path = tmp_path / "evil.pth"
    torch.save({**state, "extra": Touch(trap)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"evil\.pth: refused.*nothing in it was run"):
        import_published(path, CITYSCAPES)
    assert not trap.exists()


def test_plain_pickle_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Touch(trap)))
    with pytest.raises(CheckpointError, match=r"evil\.pth"):
        import_published(path, CITYSCAPES)
    assert not trap.exists()


@pytest.mark.parametrize("size", [0, 1, 100, 5000])
def test_truncated_file(tmp_path: Path, published: Path, size: int) -> None:
    path = tmp_path / "short.pth"
    path.write_bytes(published.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"short\.pth"):
        load_published(path)


@pytest.mark.parametrize("content", [[1, 2], {}, {"model.1.weight": 3}])
def test_something_else_in_the_file(tmp_path: Path, content: object) -> None:
    with pytest.raises(CheckpointError, match="state dict"):
        load_published(write(content, tmp_path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page"),
    ],
)
def test_a_download_that_went_wrong_is_told(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "latest_net_G.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        load_published(path)


def test_a_state_dict_inside_another_says_how_to_take_it_out(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = write({"epoch": 3, "netG": state}, tmp_path)
    with pytest.raises(CheckpointError, match="save it alone: python -c") as caught:
        load_published(path)
    _, *words = shlex.split(str(caught.value).split("alone: ")[1])
    subprocess.run([sys.executable, *words], check=True, timeout=120)
    alone = load_published(tmp_path / "latest_net_G-alone.pth")
    assert alone.keys() == state.keys()


def test_tensors_without_values_are_refused(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = write({name: tensor.to("meta") for name, tensor in state.items()}, tmp_path)
    with pytest.raises(CheckpointError, match="no plain tensor"):
        load_published(path)


def test_a_discriminator_is_told(tmp_path: Path) -> None:
    path = write({"scale0_layer0.0.weight": torch.zeros(8, 39, 4, 4)}, tmp_path)
    with pytest.raises(CheckpointError, match=r"of a discriminator; name latest_net_G\.pth"):
        import_published(path, CITYSCAPES)


def test_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a folder; name the file in it"):
        load_published(tmp_path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_published(tmp_path / "nothing.pth")
