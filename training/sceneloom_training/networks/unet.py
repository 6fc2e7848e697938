"""The U-Net generator of pix2pix (Isola et al., CVPR 2017): the baseline at 256x256.

Published with BatchNorm and trained with one picture a batch, where BatchNorm is InstanceNorm with
learnt scale and shift; that is what stands here, so that a batch changes nothing. Dropout is the
published network's noise; it is off in eval mode, so that equal maps give equal pictures.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sceneloom_training.networks.architecture import UNetArchitecture
from sceneloom_training.networks.layers import InstanceNorm

_DROPOUT_LEVELS = 3
"""Levels above the innermost that drop out, as published for 256x256."""


class UNet(nn.Module):
    """Encoder and decoder with a skip connection at every level."""

    def __init__(self, architecture: UNetArchitecture) -> None:
        """Build it with PyTorch's initialisation; `build_generator` applies the published one."""
        super().__init__()
        a = architecture
        self.architecture = a
        widths = [a.ngf * min(2**i, 8) for i in range(a.downsamplings)]
        last = a.downsamplings - 1
        self.downs = nn.ModuleList(
            _down(
                widths[i - 1] if i else a.input_channels, widths[i], norm=0 < i < last, outer=not i
            )
            for i in range(a.downsamplings)
        )
        self.ups = nn.ModuleList(
            _up(
                widths[i] if i == last else 2 * widths[i],
                widths[i - 1],
                dropout=a.dropout and last - _DROPOUT_LEVELS <= i < last,
            )
            for i in range(last, 0, -1)
        )
        self.head = nn.ConvTranspose2d(2 * widths[0], a.output_channels, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Synthesize.

        Args:
            x: float [N, input_channels, H, W]; H and W multiples of 2 ** downsamplings.

        Returns:
            float [N, output_channels, H, W] in [-1, 1].
        """
        skips = []
        for down in self.downs:
            x = down(x)
            skips.append(x)
        x = self.ups[0](skips.pop())
        for up in self.ups[1:]:
            x = up(torch.cat([skips.pop(), x], 1))
        return torch.tanh(self.head(torch.relu(torch.cat([skips.pop(), x], 1))))


def _down(inputs: int, outputs: int, *, norm: bool, outer: bool) -> nn.Sequential:
    """LeakyReLU 0.2, conv 4 with stride 2, norm: [N, C, H, W] -> [N, outputs, H / 2, W / 2]."""
    activation = [] if outer else [nn.LeakyReLU(0.2)]
    norms = [InstanceNorm(outputs, affine=True)] if norm else []
    return nn.Sequential(*activation, nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), *norms)


def _up(inputs: int, outputs: int, *, dropout: bool) -> nn.Sequential:
    """ReLU, transposed conv 4 with stride 2, norm, dropout: twice the height and width."""
    return nn.Sequential(
        nn.ReLU(),
        nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1),
        InstanceNorm(outputs, affine=True),
        *([nn.Dropout(0.5)] if dropout else []),
    )
