"""Layers that the generator and the feature encoder have in common, as published."""

from __future__ import annotations

from torch import nn


def conv7(inputs: int, outputs: int) -> nn.Sequential:
    """Reflection pad 3 and conv 7: [N, inputs, H, W] -> [N, outputs, H, W]."""
    return nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(inputs, outputs, 7))


def stem(inputs: int, outputs: int) -> nn.Sequential:
    """`conv7`, InstanceNorm, ReLU."""
    return nn.Sequential(*conv7(inputs, outputs), nn.InstanceNorm2d(outputs), nn.ReLU())


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
