"""The discriminator that segments (Sushko et al., "You only need adversarial supervision for
semantic image synthesis", ICLR 2021): a U-Net with one class more than the label maps, "generated".
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

_WIDTHS = (2, 2, 4, 4, 8, 8)
"""Channels of each level in ndf; published: 128 to 512 with ndf 64. Deeper levels have the last."""
_activate = partial(functional.leaky_relu, negative_slope=0.2)
_halve = partial(functional.avg_pool2d, kernel_size=2, ceil_mode=True)
"""The last of an odd number of rows or columns is averaged alone."""


class SegmentingDiscriminator(nn.Module):
    """Residual blocks down to 1 / 2**levels and up again, with skip connections between them.

    Every convolution but the last has spectral norm. Features have no norm: pictures of a batch do
    not see each other.
    """

    smallest_side = 1
    """Any size works: a side of one pixel stays one at the levels below."""

    def __init__(self, classes: int, *, ndf: int = 64, levels: int = 6) -> None:
        """Build it for pictures of three channels, and `classes` classes besides "generated"."""
        super().__init__()
        widths = [ndf * _WIDTHS[min(i, len(_WIDTHS) - 1)] for i in range(levels)]
        outer = [3, *widths[:-1]]
        self.downs = nn.ModuleList(
            _Down(outer[i], widths[i], activates=i > 0) for i in range(levels)
        )
        # Each but the deepest sees the one below it and the skip connection of its own size.
        self.ups = nn.ModuleList(
            _Up(widths[i] * (1 if i == levels - 1 else 2), outer[i] if i else ndf)
            for i in reversed(range(levels))
        )
        self.head = nn.Conv2d(ndf, classes + 1, 1)

    def forward(self, picture: Tensor) -> Tensor:
        """Logits of every pixel's class, [N, classes + 1, H, W], of [N, 3, H, W] in [-1, 1]. The
        last class is "generated".
        """
        x, above = picture, []
        for down in self.downs:
            above.append(x)
            x = down(x)
        for up in self.ups:
            skip = above.pop()
            x = up(x, skip.shape[-2:])
            if above:
                x = torch.cat([x, skip], 1)
        logits: Tensor = self.head(x)
        return logits


class _Down(nn.Module):
    """Residual block that halves height and width."""

    def __init__(self, inputs: int, outputs: int, *, activates: bool) -> None:
        """`activates` is False for a picture as input."""
        super().__init__()
        self.activates = activates
        self.conv1 = spectral_norm(nn.Conv2d(inputs, outputs, 3, padding=1))
        self.conv2 = spectral_norm(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = spectral_norm(nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(_activate(x) if self.activates else x)
        residual = _halve(self.conv2(_activate(y)))
        # The mean of a 1x1 convolution is that of its input.
        halved: Tensor = self.shortcut(_halve(x)) + residual
        return halved


class _Up(nn.Module):
    """Residual block that enlarges to a size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = spectral_norm(nn.Conv2d(inputs, outputs, 3, padding=1))
        self.conv2 = spectral_norm(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = spectral_norm(nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        y = self.conv1(functional.interpolate(_activate(x), size))
        enlarged: Tensor = functional.interpolate(self.shortcut(x), size) + self.conv2(_activate(y))
        return enlarged
