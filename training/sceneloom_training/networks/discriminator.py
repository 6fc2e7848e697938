"""The multi-scale discriminators (pix2pixHD, section 3.2): equal PatchGANs on an image pyramid."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as with_spectral_norm

_MOST_FILTERS = 512


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
        """Build it.

        Args:
            inputs: channels of labels, boundary map and image together.
            ndf: filters of the first convolution; each further one has twice as many, at most 512.
            layers: convolutions with stride 2.
            padding: of every convolution; pix2pixHD 2, pix2pix 1.
            affine_norm: norms with learnt scale and shift, which is what pix2pix's BatchNorm is
                with one picture a batch.
            spectral_norm: normalise every convolution's weights by their spectral norm (Miyato et
                al., 2018) instead of the features by InstanceNorm.
        """
        super().__init__()
        widths = [min(ndf * 2**i, _MOST_FILTERS) for i in range(layers + 1)]
        stages = []
        for i, width in enumerate(widths):
            conv = nn.Conv2d(
                widths[i - 1] if i else inputs,
                width,
                4,
                stride=2 if i < layers else 1,
                padding=padding,
            )
            norm = [nn.InstanceNorm2d(width, affine=affine_norm)] if i and not spectral_norm else []
            stages.append([conv, *norm, nn.LeakyReLU(0.2)])
        stages.append([nn.Conv2d(widths[-1], 1, 4, padding=padding)])
        if spectral_norm:
            stages = [[with_spectral_norm(stage[0]), *stage[1:]] for stage in stages]
        self.stages = nn.ModuleList(nn.Sequential(*stage) for stage in stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of every stage; the last is the decision for each patch, [N, 1, h, w]."""
        features: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class MultiscaleDiscriminator(nn.Module):
    """PatchGANs on the picture, on half of it, on a quarter of it, ..."""

    def __init__(
        self,
        inputs: int,
        *,
        scales: int = 3,
        ndf: int = 64,
        layers: int = 3,
        padding: int = 2,
        affine_norm: bool = False,
        spectral_norm: bool = False,
    ) -> None:
        """Build `scales` discriminators; the other arguments are those of `PatchDiscriminator`."""
        super().__init__()
        self.discriminators = nn.ModuleList(
            PatchDiscriminator(
                inputs,
                ndf=ndf,
                layers=layers,
                padding=padding,
                affine_norm=affine_norm,
                spectral_norm=spectral_norm,
            )
            for _ in range(scales)
        )
        self.pool = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        """Judge a picture.

        Args:
            x: float [N, inputs, H, W]; labels, boundary map and image concatenated.

        Returns:
            for each scale, the full size first, the features of every stage.
        """
        judged = []
        for i, discriminator in enumerate(self.discriminators):
            x = self.pool(x) if i else x
            judged.append(discriminator(x))
        return judged
