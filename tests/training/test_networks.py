"""The generators against the published ones, and their architecture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support import wide_generator

from sceneloom.errors import CheckpointError
from sceneloom.schema import load_schema
from sceneloom_training.networks import (
    Generator,
    GeneratorArchitecture,
    architecture_from_json,
    build_generator,
)
from sceneloom_training.published import import_published

REFERENCES = {
    "global_generator": "cityscapes",
    "local_enhancer_1": "cityscapes",
    "local_enhancer_2": "cityscapes19",
}


def reference_input(data: np.lib.npyio.NpzFile, channels: int) -> torch.Tensor:
    """The network's input as the reference's README describes it."""
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(data["label_map"]).long(), channels)
    edge = torch.from_numpy(data["edge"]).float()
    return torch.cat([one_hot.permute(0, 3, 1, 2).float(), edge], 1)


@pytest.mark.parametrize("name", REFERENCES)
def test_agrees_with_the_published_network(shared: Path, name: str) -> None:
    schema = load_schema(REFERENCES[name])
    imported = import_published(shared / "reference" / f"{name}.pth", schema)
    with np.load(shared / "reference" / f"{name}.npz") as data:
        with torch.inference_mode():
            output = imported.generator(reference_input(data, schema.channels)).numpy()
        assert np.abs(output - data["output"]).max() <= 1e-5
    assert imported.contract.boundaries


def test_full_size_network_has_the_published_number_of_parameters() -> None:
    architecture = GeneratorArchitecture(input_channels=36, ngf=32, enhancers=1)
    with torch.device("meta"):
        generator = Generator(architecture)
    assert sum(p.numel() for p in generator.parameters()) == 182_857_059
    assert architecture.size_multiple == 32
    assert architecture.global_ngf == 64


@pytest.mark.parametrize("enhancers", [0, 1, 2, 3])
def test_smallest_size_and_the_first_that_is_too_small(enhancers: int) -> None:
    architecture = GeneratorArchitecture(
        input_channels=3, ngf=2, global_downsamplings=2, global_blocks=1, enhancers=enhancers
    )
    generator = build_generator(architecture, seed=0).eval()
    side = 2 * architecture.size_multiple
    with torch.inference_mode():
        image = generator(torch.rand(1, 3, side, side + architecture.size_multiple))
        assert image.shape == (1, 3, side, side + architecture.size_multiple)
        assert image.abs().max() <= 1
        with pytest.raises(RuntimeError):
            generator(torch.rand(1, 3, side // 2, side))


def test_published_initialisation() -> None:
    architecture = GeneratorArchitecture(input_channels=36, ngf=16, global_blocks=2)
    generator = build_generator(architecture, seed=3)
    weights = torch.cat([p.flatten() for p in generator.parameters() if p.ndim == 4])
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    assert abs(weights.mean().item()) < 1e-4


def test_seed_repeats_weights_and_leaves_the_random_state_alone() -> None:
    architecture = GeneratorArchitecture(
        input_channels=3, ngf=2, global_downsamplings=1, global_blocks=1
    )
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = build_generator(architecture, seed=1).state_dict()
    assert torch.equal(torch.rand(3), expected)
    second = build_generator(architecture, seed=1).state_dict()
    other = build_generator(architecture, seed=2).state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_every_input_channel_reaches_the_picture(small_architecture: GeneratorArchitecture) -> None:
    generator = wide_generator(small_architecture, seed=2)
    x = torch.rand(1, 36, 32, 32)
    with torch.inference_mode():
        before = generator(x)
        for channel in range(36):
            changed = x.clone()
            changed[:, channel, 10:20, 10:20] += 1
            assert not torch.allclose(generator(changed), before, atol=1e-6)


@pytest.mark.parametrize(
    "change", [{"ngf": 0}, {"enhancers": -1}, {"input_channels": 0}, {"global_blocks": 2.5}]
)
def test_architecture_out_of_range(change: dict[str, int]) -> None:
    with pytest.raises(CheckpointError, match=next(iter(change))):
        GeneratorArchitecture(**{"input_channels": 3, **change})


def test_architecture_from_json_names_the_source() -> None:
    with pytest.raises(CheckpointError, match=r"model\.json"):
        architecture_from_json({"input_channels": 3, "nfg": 2}, source="model.json")
    with pytest.raises(CheckpointError, match=r"model\.json"):
        architecture_from_json([], source="model.json")
