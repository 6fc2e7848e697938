"""Generators from their architecture: with given weights, or with the published initialisation."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from sceneloom_training.networks.architecture import Architecture, UNetArchitecture
from sceneloom_training.networks.generator import Generator
from sceneloom_training.networks.unet import UNet

SynthesisNetwork: TypeAlias = Generator | UNet
"""Any network that turns the input planes into a picture."""


def load_weights(architecture: Architecture, weights: dict[str, Tensor]) -> SynthesisNetwork:
    """Build a generator around given weights, float32, in eval mode; none are drawn.

    Raises:
        RuntimeError: names or shapes do not fit the architecture.
    """
    with torch.device("meta"):
        generator = _network(architecture)
    generator.load_state_dict(weights, assign=True)
    return generator.float().eval()


def build_generator(architecture: Architecture, *, seed: int | None = None) -> SynthesisNetwork:
    """Build a generator with the published initialisation.

    Args:
        architecture: the hyper-parameters.
        seed: makes the weights repeatable without touching the process's random state; None draws
            from that state.
    """
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        generator = _network(architecture)
        initialise(generator)
    return generator


def initialise(network: nn.Module) -> None:
    """Draw the published initialisation: convolutions from N(0, 0.02), scales of norms from
    N(1, 0.02), biases by PyTorch's default.
    """
    for module in network.modules():
        if is_parametrized(module, "weight"):  # spectral norm computes `weight` from this one
            nn.init.normal_(module.parametrizations["weight"].original, 0.0, 0.02)  # type: ignore
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.InstanceNorm2d) and module.affine:
            nn.init.normal_(module.weight, 1.0, 0.02)


def _network(architecture: Architecture) -> SynthesisNetwork:
    return (
        UNet(architecture)
        if isinstance(architecture, UNetArchitecture)
        else Generator(architecture)
    )
