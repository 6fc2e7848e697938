"""pix2pixHD's coarse-to-fine generator, pix2pix's U-Net, the feature encoder, and their layers.

pix2pixHD (Wang et al., CVPR 2018, section 3.2): every InstanceNorm has eps 1e-5 and no affine
parameters. The U-Net (Isola et al., CVPR 2017) was published with BatchNorm at one picture a batch:
here InstanceNorm with learnt scale and shift. Dropout is off in eval mode.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrize import is_parametrized
from torch.utils.checkpoint import checkpoint

from sceneloom_training.networks.architecture import (
    Architecture,
    GeneratorArchitecture,
    UNetArchitecture,
)
from sceneloom_training.settings import PaddingMode


class InstanceNorm(nn.InstanceNorm2d):
    """InstanceNorm that keeps the memory order of channels_last while it trains in 16 bits.

    PyTorch's own copies to contiguous and back. One picture's instance norm is its batch norm,
    which has kernels for either order. float32 takes PyTorch's own: on the CPU, batch norm adds up
    a channels_last tensor pixel by pixel, 1e-5 off at 512x256 (16 bits round to 4e-3). One picture
    in training always takes batch norm: PyTorch's own (2.13, CPU) has a wrong backward pass for a
    gradient in channels_last.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [N, C, H, W]. Inference, and the served graph, is PyTorch's own."""
        if not (torch.is_grad_enabled() and (len(x) == 1 or _is_half_channels_last(x))):
            y: Tensor = super().forward(x)
            return y
        if not _is_half_channels_last(x):
            x = x.contiguous()
        pictures = [
            functional.batch_norm(
                picture, None, None, self.weight, self.bias, training=True, eps=self.eps
            )
            for picture in torch.split(x, 1)
        ]
        return pictures[0] if len(pictures) == 1 else torch.cat(pictures)


class ReflectionPad(nn.ReflectionPad2d):
    """Reflection in the type and memory order of its input. Autocast would copy to float32 and
    back; PyTorch's own kernels, where it does not compile, copy channels_last to contiguous.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pad: [N, C, H, W] -> [N, C, H + 2 pixels, W + 2 pixels]."""
        eager = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        if eager and is_channels_last(x):
            return _reflect(x, self.padding[0])
        if not torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x)


def is_channels_last(x: Tensor) -> bool:
    """Whether a tensor of four axes is in the memory order of channels_last alone."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _is_half_channels_last(x: Tensor) -> bool:
    return x.dtype in (torch.bfloat16, torch.float16) and is_channels_last(x)


def _reflect(x: Tensor, pad: int) -> Tensor:
    """Reflect [N, C, H, W] at its edges, in channels_last: a copy, then narrow strips."""
    batch, channels, height, width = x.shape
    size = (batch, channels, height + 2 * pad, width + 2 * pad)
    y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    rows = y[:, :, pad:-pad]
    rows[..., pad:-pad] = x
    rows[..., :pad] = x[..., 1 : pad + 1].flip(-1)
    rows[..., -pad:] = x[..., -pad - 1 : -1].flip(-1)
    y[:, :, :pad] = rows[:, :, 1 : pad + 1].flip(2)
    y[:, :, -pad:] = rows[:, :, -pad - 1 : -1].flip(2)
    return y


_PADS = {"reflect": ReflectionPad, "replicate": nn.ReplicationPad2d, "zeros": nn.ZeroPad2d}


def conv7(inputs: int, outputs: int, padding: PaddingMode = "reflect") -> nn.Sequential:
    """Pad 3 and conv 7: [N, inputs, H, W] -> [N, outputs, H, W]."""
    return nn.Sequential(_PADS[padding](3), nn.Conv2d(inputs, outputs, 7))


def stem(inputs: int, outputs: int, padding: PaddingMode = "reflect") -> nn.Sequential:
    """`conv7`, InstanceNorm, ReLU."""
    return nn.Sequential(
        *conv7(inputs, outputs, padding), InstanceNorm(outputs), nn.ReLU(inplace=True)
    )


def down(channels: int) -> nn.Sequential:
    """Conv 3 with stride 2, InstanceNorm, ReLU: [N, C, H, W] -> [N, 2 C, H / 2, W / 2]."""
    return nn.Sequential(
        nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
        InstanceNorm(2 * channels),
        nn.ReLU(inplace=True),
    )


def up(channels: int) -> nn.Sequential:
    """Transposed conv 3 with stride 2, InstanceNorm, ReLU: [N, C, H, W] -> [N, C / 2, 2 H, 2 W]."""
    conv = nn.ConvTranspose2d(channels, channels // 2, 3, stride=2, padding=1, output_padding=1)
    return nn.Sequential(conv, InstanceNorm(channels // 2), nn.ReLU(inplace=True))


def run(module: nn.Module, x: Tensor, *, recompute: bool) -> Tensor:
    """Run a module. `recompute` computes its activations again in the backward pass."""
    if recompute and torch.is_grad_enabled():
        y: Tensor = checkpoint(module, x, use_reentrant=False, preserve_rng_state=False)
    else:
        y = module(x)
    return y


def balance_phases(network: nn.Module) -> None:
    """Give the phases of every transposed convolution equal sums, in place, by the smallest change.

    A transposed convolution of stride s computes the s * s pixels of an input pixel with different
    weights, its phases. Unequal sums make a checkerboard of an even surface (Odena, Dumoulin and
    Olah, 2016). Kernels are at least as large as their stride.
    """
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.ConvTranspose2d):
                rows, columns = module.stride
                phases = [
                    module.weight[..., row::rows, column::columns]
                    for row in range(rows)
                    for column in range(columns)
                ]
                sums = [phase.sum((-2, -1), keepdim=True) for phase in phases]
                mean = torch.stack(sums).mean(0)
                for phase, total in zip(phases, sums, strict=True):
                    taps = phase.shape[-2] * phase.shape[-1]
                    phase += (mean - total) / taps


class ResidualBlock(nn.Module):
    """Pad, conv 3, norm, ReLU, pad, conv 3, norm, added to the input, [N, channels, H, W]."""

    def __init__(self, channels: int, padding: PaddingMode = "reflect") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3)
        self.conv2 = nn.Conv2d(channels, channels, 3)
        self.pad = _PADS[padding](1)
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
    """One enhancer without its last convolution, at twice the resolution of the features inside."""

    def __init__(
        self, inputs: int, ngf: int, blocks: int, padding: PaddingMode = "reflect"
    ) -> None:
        super().__init__()
        self.stem = stem(inputs, ngf, padding)
        self.down = down(ngf)
        self.blocks = nn.Sequential(*(ResidualBlock(2 * ngf, padding) for _ in range(blocks)))
        self.up = up(2 * ngf)

    def forward(self, x: Tensor, coarse: Tensor, *, recompute: bool = False) -> Tensor:
        """Refine [N, inputs, H, W] with `coarse`, [N, 2 * ngf, H / 2, W / 2]: [N, ngf, H, W]."""
        y = run(self.down, run(self.stem, x, recompute=recompute), recompute=recompute) + coarse
        for part in (*self.blocks, self.up):
            y = run(part, y, recompute=recompute)
        return y


class Generator(nn.Module):
    """Image pyramid, global generator, enhancers from coarse to fine, last convolution, tanh."""

    def __init__(self, architecture: GeneratorArchitecture) -> None:
        super().__init__()
        a = architecture
        self.architecture = a
        self.recompute = False
        """Compute activations again in the backward pass: less memory, more time."""
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
        """Planes [N, input_channels, H, W] to pictures [N, output_channels, H, W] in [-1, 1]."""
        pyramid = [x]
        for _ in self.enhancers:
            pyramid.append(self.pool(pyramid[-1]))
        features = self.global_generator(pyramid.pop(), recompute=self.recompute)
        for enhancer in self.enhancers:
            features = enhancer(pyramid.pop(), features, recompute=self.recompute)
        return torch.tanh(self.head(features))


_DROPOUT_LEVELS = 3
"""Levels above the innermost with dropout, as published for 256x256."""


class UNet(nn.Module):
    """Encoder and decoder with a skip connection at every level."""

    def __init__(self, architecture: UNetArchitecture) -> None:
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
        noisy = range(last - _DROPOUT_LEVELS, last) if a.dropout else ()
        self.ups = nn.ModuleList(
            _up(widths[i] * (1 if i == last else 2), widths[i - 1], dropout=i in noisy)
            for i in range(last, 0, -1)
        )
        self.head = nn.ConvTranspose2d(2 * widths[0], a.output_channels, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Planes [N, input_channels, H, W] to pictures [N, output_channels, H, W] in [-1, 1]."""
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


SynthesisNetwork: TypeAlias = Generator | UNet


def load_weights(architecture: Architecture, weights: dict[str, Tensor]) -> SynthesisNetwork:
    """Make a generator of given weights, float32, in eval mode. Raises RuntimeError."""
    with torch.device("meta"):
        generator = _network(architecture)
    generator.load_state_dict(weights, assign=True)
    return generator.float().eval()


def build_generator(architecture: Architecture, *, seed: int | None = None) -> SynthesisNetwork:
    """Build a generator as published. Without a seed, the process's random state draws."""
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        generator = _network(architecture)
        initialise(generator)
    return generator


def initialise(network: nn.Module) -> None:
    """Draw as published: convolutions N(0, 0.02), norms' scales N(1, 0.02), default biases."""
    for module in network.modules():
        if is_parametrized(module, "weight"):  # spectral norm computes `weight` from this one
            nn.init.normal_(module.parametrizations["weight"].original, 0.0, 0.02)  # type: ignore
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.InstanceNorm2d) and module.affine:
            nn.init.normal_(module.weight, 1.0, 0.02)


def _network(architecture: Architecture) -> SynthesisNetwork:
    if isinstance(architecture, UNetArchitecture):
        return UNet(architecture)
    return Generator(architecture)


class FeatureEncoder(nn.Module):
    """Image -> `features` numbers per pixel, averaged over each instance."""

    def __init__(self, features: int = 3, *, nef: int = 16, downsamplings: int = 4) -> None:
        super().__init__()
        self.settings = {"features": features, "nef": nef, "downsamplings": downsamplings}
        """`FeatureEncoder(**settings)` builds another."""
        self.stem = stem(3, nef)
        self.downs = nn.Sequential(*(down(nef * 2**i) for i in range(downsamplings)))
        self.ups = nn.Sequential(*(up(nef * 2**i) for i in range(downsamplings, 0, -1)))
        self.head = conv7(nef, features)

    def forward(self, image: Tensor, instance_map: Tensor) -> Tensor:
        """Encode [N, 3, H, W] in [-1, 1] to [N, features, H, W], one value an instance."""
        features = torch.tanh(self.head(self.ups(self.downs(self.stem(image)))))
        means, index = instance_means(features, instance_map)
        return means[index].permute(0, 3, 1, 2)


def instance_means(features: Tensor, instance_map: Tensor) -> tuple[Tensor, Tensor]:
    """Instances' means [K, F] of [N, F, H, W], and each pixel's row, int64 [N, H, W]."""
    pictures = torch.arange(len(instance_map), device=instance_map.device).view(-1, 1, 1)
    # One number for each pair: unique rows would be sorted by one comparison at a time.
    pairs = (pictures << 32) + instance_map.long()
    rows, index = torch.unique(pairs.flatten(), return_inverse=True)
    # Summed in double: an instance can have a million pixels.
    flat = features.permute(0, 2, 3, 1).flatten(0, 2).double()
    sums = flat.new_zeros(len(rows), flat.shape[1]).index_add(0, index, flat)
    counts = torch.bincount(index, minlength=len(rows)).unsqueeze(1)
    return (sums / counts).to(features.dtype), index.view(instance_map.shape)
