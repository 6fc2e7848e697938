"""Layers that the generator and the feature encoder have in common, as published."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sceneloom_training.networks.architecture import PaddingMode

_PADS = {"reflect": nn.ReflectionPad2d, "replicate": nn.ReplicationPad2d, "zeros": nn.ZeroPad2d}


def pad(pixels: int, mode: PaddingMode = "reflect") -> nn.Module:
    """Padding of all four sides: [N, C, H, W] -> [N, C, H + 2 pixels, W + 2 pixels]."""
    return _PADS[mode](pixels)


def conv7(inputs: int, outputs: int, padding: PaddingMode = "reflect") -> nn.Sequential:
    """Pad 3 and conv 7: [N, inputs, H, W] -> [N, outputs, H, W]."""
    return nn.Sequential(pad(3, padding), nn.Conv2d(inputs, outputs, 7))


def stem(inputs: int, outputs: int, padding: PaddingMode = "reflect") -> nn.Sequential:
    """`conv7`, InstanceNorm, ReLU."""
    return nn.Sequential(*conv7(inputs, outputs, padding), nn.InstanceNorm2d(outputs), nn.ReLU())


def down(channels: int) -> nn.Sequential:
    """Conv 3 with stride 2, InstanceNorm, ReLU: [N, C, H, W] -> [N, 2 C, H / 2, W / 2]."""
    return nn.Sequential(
        nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
        nn.InstanceNorm2d(2 * channels),
        nn.ReLU(),
    )


def up(channels: int) -> nn.Sequential:
    """Transposed conv 3 with stride 2, InstanceNorm, ReLU: [N, C, H, W] -> [N, C / 2, 2 H, 2 W]."""
    conv = nn.ConvTranspose2d(channels, channels // 2, 3, stride=2, padding=1, output_padding=1)
    return nn.Sequential(conv, nn.InstanceNorm2d(channels // 2), nn.ReLU())


def run(module: nn.Module, x: Tensor, *, recompute: bool) -> Tensor:
    """Run a module; with `recompute`, its activations are not kept for the backward pass but
    computed again there.
    """
    if recompute and torch.is_grad_enabled():
        y: Tensor = checkpoint(module, x, use_reentrant=False, preserve_rng_state=False)
    else:
        y = module(x)
    return y
