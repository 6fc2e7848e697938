"""The coarse-to-fine generator (pix2pixHD, section 3.2): a global generator G1 and local enhancers
around it.

Every InstanceNorm is without affine parameters, eps 1e-5, and every padding of a convolution that
is not strided is by reflection unless the architecture says otherwise. Height and width are
multiples of `GeneratorArchitecture.size_multiple`, each at least twice that: below it the
reflection at the bottleneck has nothing to reflect.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sceneloom_training.modes import PaddingMode
from sceneloom_training.networks.architecture import GeneratorArchitecture
from sceneloom_training.networks.layers import InstanceNorm, conv7, down, pad, run, stem, up


class ResidualBlock(nn.Module):
    """Pad, conv 3, norm, ReLU, pad, conv 3, norm, added to the input."""

    def __init__(self, channels: int, padding: PaddingMode = "reflect") -> None:
        """Build a block of [N, channels, H, W] -> [N, channels, H, W]."""
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3)
        self.conv2 = nn.Conv2d(channels, channels, 3)
        self.pad = pad(1, padding)
        self.norm1 = InstanceNorm(channels)
        self.norm2 = InstanceNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Add the block's residual."""
        y = torch.relu_(self.norm1(self.conv1(self.pad(x))))
        residual: Tensor = self.norm2(self.conv2(self.pad(y)))
        return x + residual


class GlobalGenerator(nn.Module):
    """G1 without its last convolution: [N, inputs, H, W] -> features [N, ngf, H, W]."""

    def __init__(
        self,
        inputs: int,
        ngf: int,
        downsamplings: int,
        blocks: int,
        padding: PaddingMode = "reflect",
    ) -> None:
        """Build the encoder, the residual blocks at ngf * 2**downsamplings channels, and the
        decoder.
        """
        super().__init__()
        widest = ngf * 2**downsamplings
        self.stem = stem(inputs, ngf, padding)
        self.downs = nn.Sequential(*(down(ngf * 2**i) for i in range(downsamplings)))
        self.blocks = nn.Sequential(*(ResidualBlock(widest, padding) for _ in range(blocks)))
        self.ups = nn.Sequential(*(up(ngf * 2**i) for i in range(downsamplings, 0, -1)))

    def forward(self, x: Tensor, *, recompute: bool = False) -> Tensor:
        """Features at the input's resolution."""
        for part in (self.stem, *self.downs, *self.blocks, *self.ups):
            x = run(part, x, recompute=recompute)
        return x


class LocalEnhancer(nn.Module):
    """One enhancer without its last convolution; it works at twice the resolution of the features
    it is given.
    """

    def __init__(
        self, inputs: int, ngf: int, blocks: int, padding: PaddingMode = "reflect"
    ) -> None:
        """Build the front end, the residual blocks at 2 * ngf channels, and the upsampling."""
        super().__init__()
        self.stem = stem(inputs, ngf, padding)
        self.down = down(ngf)
        self.blocks = nn.Sequential(*(ResidualBlock(2 * ngf, padding) for _ in range(blocks)))
        self.up = up(2 * ngf)

    def forward(self, x: Tensor, coarse: Tensor, *, recompute: bool = False) -> Tensor:
        """Refine.

        Args:
            x: [N, inputs, H, W].
            coarse: [N, 2 * ngf, H / 2, W / 2], the features of the network inside.
            recompute: as for `Generator.recompute`.

        Returns:
            [N, ngf, H, W].
        """
        y = run(self.down, run(self.stem, x, recompute=recompute), recompute=recompute) + coarse
        for part in (*self.blocks, self.up):
            y = run(part, y, recompute=recompute)
        return y


class Generator(nn.Module):
    """The whole generator: image pyramid, global generator, enhancers from coarse to fine, last
    convolution, tanh.
    """

    def __init__(self, architecture: GeneratorArchitecture) -> None:
        """Build the networks with PyTorch's initialisation; `build_generator` applies the published
        one.
        """
        super().__init__()
        a = architecture
        self.architecture = a
        self.recompute = False
        """Trade time for memory while training: activations are computed again in the backward
        pass instead of being kept.
        """
        self.global_generator = GlobalGenerator(
            a.input_channels, a.global_ngf, a.global_downsamplings, a.global_blocks, a.padding
        )
        self.enhancers = nn.ModuleList(
            LocalEnhancer(
                a.input_channels, a.global_ngf // 2 ** (n + 1), a.enhancer_blocks, a.padding
            )
            for n in range(a.enhancers)
        )
        self.head = conv7(a.ngf, a.output_channels, a.padding)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Synthesize.

        Args:
            x: float [N, input_channels, H, W]; one-hot labels, then the boundary map, then the
                style features.

        Returns:
            float [N, output_channels, H, W] in [-1, 1].
        """
        pyramid = [x]
        for _ in self.enhancers:
            pyramid.append(self.pool(pyramid[-1]))
        features = self.global_generator(pyramid.pop(), recompute=self.recompute)
        for enhancer in self.enhancers:
            features = enhancer(pyramid.pop(), features, recompute=self.recompute)
        return torch.tanh(self.head(features))
