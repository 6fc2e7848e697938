"""Options that later work has proven: cheaper padding, activation checkpointing, spectral norm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sceneloom.errors import CheckpointError
from sceneloom_training.networks import (
    GeneratorArchitecture,
    MultiscaleDiscriminator,
    build_generator,
    initialise,
)

SMALL = {
    "input_channels": 5,
    "ngf": 4,
    "global_downsamplings": 2,
    "global_blocks": 2,
    "enhancers": 1,
    "enhancer_blocks": 1,
}


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
def test_padding_changes_the_edge_and_no_name(padding: str) -> None:
    reflecting = build_generator(GeneratorArchitecture(**SMALL), seed=1).eval()
    other = build_generator(GeneratorArchitecture(**SMALL, padding=padding), seed=1).eval()
    other.load_state_dict(reflecting.state_dict())  # equal names and shapes
    kinds = {type(m).__name__ for m in other.modules() if "Pad" in type(m).__name__}
    assert kinds == {{"zeros": "ZeroPad2d", "replicate": "ReplicationPad2d"}[padding]}
    x = torch.rand(1, 5, 32, 48)
    with torch.inference_mode():
        assert other(x).shape == reflecting(x).shape
        assert not torch.allclose(other(x), reflecting(x), atol=1e-4)


def test_unknown_padding() -> None:
    with pytest.raises(CheckpointError, match="padding is 'mirror'"):
        GeneratorArchitecture(**SMALL, padding="mirror")


def test_recomputed_activations_give_equal_gradients_and_less_memory() -> None:
    x = torch.rand(1, 5, 64, 64)
    gradients, kept = [], []
    for recompute in (False, True):
        generator = build_generator(GeneratorArchitecture(**SMALL), seed=1)
        generator.recompute = recompute
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t
        ):
            loss = generator(x).square().mean()
        kept.append(sum(sizes))
        loss.backward()
        gradients.append([p.grad for p in generator.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.equal(ours, theirs)
    assert kept[1] < kept[0] / 2


def test_spectral_norm_bounds_every_convolution() -> None:
    network = MultiscaleDiscriminator(6, scales=2, ndf=4, spectral_norm=True)
    initialise(network)
    for _ in range(30):  # each forward pass in training mode improves the estimate
        network(torch.rand(1, 6, 32, 32))
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 10
    for convolution in convolutions:
        largest = torch.linalg.matrix_norm(convolution.weight.flatten(1), 2)
        assert largest.item() == pytest.approx(1.0, rel=0.03)
    assert not any(isinstance(m, nn.InstanceNorm2d) for m in network.modules())


def test_initialisation_reaches_normalised_weights() -> None:
    network = MultiscaleDiscriminator(40, scales=1, ndf=64, spectral_norm=True)
    initialise(network)
    drawn = torch.cat([p.flatten() for n, p in network.named_parameters() if "original" in n])
    assert drawn.std().item() == pytest.approx(0.02, rel=0.02)
