"""Options that later work has proven: cheaper padding, activation checkpointing, spectral norm."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from training_runs import resolved, small

from sceneloom.errors import CheckpointError
from sceneloom_training.checkpoint import load_checkpoint
from sceneloom_training.networks import (
    GeneratorArchitecture,
    MultiscaleDiscriminator,
    UNetArchitecture,
    balance_phases,
    build_generator,
    initialise,
)
from sceneloom_training.trainer import train

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


def grid_of(convolution: nn.ConvTranspose2d) -> float:
    """Largest difference between neighbours that an even surface comes out with, away from the
    edge, as a share of what comes out.
    """
    with torch.inference_mode():
        out = convolution(torch.ones(1, convolution.in_channels, 12, 12))[..., 6:-6, 6:-6]
    steps = max(out.diff(dim=-1).abs().max().item(), out.diff(dim=-2).abs().max().item())
    return steps / out.abs().max().item()


@pytest.mark.parametrize(
    "architecture", [GeneratorArchitecture(**SMALL), UNetArchitecture(input_channels=5, ngf=4)]
)
def test_balanced_phases_leave_no_grid_on_even_surfaces(
    architecture: GeneratorArchitecture | UNetArchitecture,
) -> None:
    network = build_generator(architecture, seed=1)
    ups = [m for m in network.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert min(grid_of(m) for m in ups) > 0.1
    before = [m.weight.clone() for m in ups]
    balance_phases(network)
    assert max(grid_of(m) for m in ups) < 1e-5
    for module, drawn in zip(ups, before, strict=True):
        assert module.weight.mean((-2, -1)).allclose(drawn.mean((-2, -1)), atol=1e-7)
    once = [m.weight.clone() for m in ups]
    balance_phases(network)
    assert all(m.weight.allclose(w, atol=1e-7) for m, w in zip(ups, once, strict=True))


@pytest.mark.usefixtures("one_thread")
def test_training_keeps_the_phases_balanced(samples: Path, tmp_path: Path) -> None:
    for balanced in (False, True):
        run = tmp_path / str(balanced)
        sections = {
            "generator": {"ngf": 4, "balanced_upsampling": balanced},
            "optimizer": {"learning_rate": 1e-2, "ema": 0.5},
            "schedule": {"max_steps": 3},
        }
        train(resolved(small(samples, **sections)), run)
        exported = load_checkpoint(run / "model").generator
        ups = [m for m in exported.modules() if isinstance(m, nn.ConvTranspose2d)]
        grids = [grid_of(module) for module in ups]
        assert (max(grids) < 1e-5) if balanced else (min(grids) > 0.1)


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
