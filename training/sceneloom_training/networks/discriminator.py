"""The multi-scale discriminators (pix2pixHD, section 3.2): equal PatchGANs on an image pyramid."""

from __future__ import annotations

import itertools
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm as with_spectral_norm

from sceneloom_training.networks.generator import InstanceNorm

_MOST_FILTERS = 512

Seen: TypeAlias = tuple[Tensor, Tensor]
"""A first convolution of the condition alone, [N, ndf, h, w], and its weights for the picture."""


class PatchDiscriminator(nn.Module):
    """One PatchGAN: kernel 4, LeakyReLU 0.2, InstanceNorm except on the first layer."""

    def __init__(
        self,
        inputs: int,
        *,
        ndf: int = 64,
        layers: int = 3,
        padding: int = 2,
        affine_norm: bool = False,
        spectral_norm: bool = False,
    ) -> None:
        """Build `layers` convolutions with stride 2 over `inputs` planes; filters double from `ndf`
        to 512. pix2pixHD has padding 2, pix2pix 1 and affine norms: BatchNorm at one picture.
        `spectral_norm` normalises weights (Miyato et al., 2018) instead of features.
        """
        super().__init__()
        widths = [min(ndf * 2**i, _MOST_FILTERS) for i in range(layers + 1)]
        stages = []
        for i, width in enumerate(widths):
            before, stride = widths[i - 1] if i else inputs, 2 if i < layers else 1
            conv = nn.Conv2d(before, width, 4, stride=stride, padding=padding)
            norm = [InstanceNorm(width, affine=affine_norm)] if i and not spectral_norm else []
            stages.append([conv, *norm, nn.LeakyReLU(0.2, inplace=True)])
        stages.append([nn.Conv2d(widths[-1], 1, 4, padding=padding)])
        if spectral_norm:
            stages = [[with_spectral_norm(stage[0]), *stage[1:]] for stage in stages]
        self.stages = nn.ModuleList(nn.Sequential(*stage) for stage in stages)

    def see(self, condition: Tensor) -> Seen:
        """The first convolution's share of the condition, [N, inputs - picture channels, H, W]."""
        conv, _ = self._first_stage
        weight = conv.weight  # read once: spectral norm takes a step at every reading
        channels = condition.shape[1]
        planes = functional.conv2d(
            condition, weight[:, :channels], conv.bias, conv.stride, conv.padding
        )
        return planes, weight[:, channels:]

    def forward(self, x: Tensor, seen: Seen | None = None) -> list[Tensor]:
        """Compute each stage's features, the last [N, 1, h, w]. With `seen`, `x` is the picture."""
        features: list[Tensor] = []
        for i, stage in enumerate(self.stages):
            if seen and not i:
                planes, weight = seen
                conv, activation = self._first_stage
                y = functional.conv2d(x, weight, None, conv.stride, conv.padding)
                x = activation(y.add_(planes))
            else:
                x = stage(x)
            features.append(x)
        return features

    @property
    def _first_stage(self) -> Any:
        """Convolution and activation: the first stage has no norm."""
        return self.stages[0]


class MultiscaleDiscriminator(nn.Module):
    """PatchGANs on the picture, its half, its quarter, ..."""

    def __init__(self, inputs: int, *, scales: int = 3, **options: Any) -> None:
        """Build `scales` discriminators with the options of `PatchDiscriminator`."""
        super().__init__()
        self.discriminators = nn.ModuleList(
            PatchDiscriminator(inputs, **options) for _ in range(scales)
        )
        self.pool = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)

    @property
    def smallest_side(self) -> int:
        """Least side for the coarsest scale's convolutions, with two pixels for every norm."""

        def fits(side: int) -> bool:
            for _ in self.discriminators[1:]:
                side = (side - 1) // 2 + 1
            first: Any = self.discriminators[0]
            for stage in first.stages:
                conv = stage[0]
                side += 2 * conv.padding[0]
                if side < conv.kernel_size[0]:
                    return False
                side = (side - conv.kernel_size[0]) // conv.stride[0] + 1
                if side < 2 and any(isinstance(layer, InstanceNorm) for layer in stage):
                    return False
            return True

        return next(filter(fits, itertools.count(1)))

    def see(self, condition: Tensor) -> list[Seen]:
        """Each scale's first convolution of the condition alone (labels, boundary map). It is
        linear: this share, 36 of 39 channels with Cityscapes, is the same for every picture.
        """
        seen = []
        for i, discriminator in enumerate(self.discriminators):
            condition = self.pool(condition) if i else condition
            assert isinstance(discriminator, PatchDiscriminator)
            seen.append(discriminator.see(condition))
        return seen

    def forward(self, x: Tensor, seen: list[Seen] | None = None) -> list[list[Tensor]]:
        """Features of every stage of each scale, full size first."""
        features = []
        for i, discriminator in enumerate(self.discriminators):
            x = self.pool(x) if i else x
            features.append(discriminator(x, seen[i] if seen else None))
        return features
