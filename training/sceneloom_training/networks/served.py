"""The served graph: a generator with everything between the wire and the network. Its operations
suit all engines (docs/graph.md): the label map is cast to float first, boundaries compare integer
ids, style indices are clamped in float, and the step to uint8 is Clip and Round in float32.
"""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor, nn

from sceneloom.contract import STYLE_ROWS, Contract
from sceneloom_training.networks.generator import (
    InstanceNorm,
    ResidualBlock,
    SynthesisNetwork,
    is_channels_last,
)


def drop_dead_biases(network: nn.Module) -> None:
    """Remove the bias of every convolution in front of an InstanceNorm, in place: the norm takes it
    away again. On a GPU each is a pass of its own over the tensor, or a sum rounded to half.
    """
    for module in network.modules():
        pairs: list[tuple[nn.Module, nn.Module]] = []
        if isinstance(module, ResidualBlock):
            pairs = [(module.conv1, module.norm1), (module.conv2, module.norm2)]
        elif isinstance(module, nn.Sequential):
            pairs = list(itertools.pairwise(module))
        for convolution, norm in pairs:
            if isinstance(convolution, (nn.Conv2d, nn.ConvTranspose2d)) and isinstance(
                norm, InstanceNorm
            ):
                convolution.bias = None


class Float32Norm(nn.Module):
    """An InstanceNorm in float32 between 16 bit neighbours, in their memory order: PyTorch's own
    copies channels_last to contiguous.
    """

    def __init__(self, norm: InstanceNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [N, C, H, W], in the input's type."""
        y: Tensor = x.to(torch.float32)
        if not is_channels_last(x):
            y = self.norm(y)
        else:
            variance, mean = torch.var_mean(y, (2, 3), correction=0, keepdim=True)
            y = (y - mean) * torch.rsqrt(variance + self.norm.eps)
            if self.norm.affine:
                y = y * self.norm.weight.view(1, -1, 1, 1) + self.norm.bias.view(1, -1, 1, 1)
        return y.to(x.dtype)


class HalfGenerator(nn.Module):
    """Copy of a float32 generator in 16 bits, with float32 out; in half without dead biases."""

    def __init__(self, generator: SynthesisNetwork, dtype: torch.dtype = torch.float16) -> None:
        super().__init__()
        self.architecture = generator.architecture
        self.dtype = dtype
        self.network = copy.deepcopy(generator).to(dtype)
        if dtype == torch.float16:
            drop_dead_biases(self.network)
        for parent in list(self.network.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, InstanceNorm):
                    setattr(parent, name, Float32Norm(child.float()))
        self.network.head = nn.Sequential(self.network.head, _ToFloat32())

    def forward(self, x: Tensor) -> Tensor:
        """Synthesize: [N, input_channels, H, W] -> float32 [N, output_channels, H, W]."""
        first = next(self.network.parameters())
        order = torch.channels_last if is_channels_last(first) else torch.preserve_format
        y: Tensor = self.network(x.to(self.dtype, memory_format=order))
        return y


class _ToFloat32(nn.Module):
    """The tanh after the last convolution is float32."""

    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.float32)


class ServedGenerator(nn.Module):
    """`label_map` or `picture` (and `instance_map`, `style`, where the contract has them) ->
    `image`.
    """

    channel_ids: Tensor

    def __init__(self, generator: SynthesisNetwork | HalfGenerator, contract: Contract) -> None:
        """Wrap a generator whose input channels are the contract's."""
        super().__init__()
        assert generator.architecture.input_channels == contract.input_channels
        assert generator.architecture.output_channels == 3
        self.generator = generator
        self.contract = contract
        # The planes are made in the network's type: at 2048x1024 they take 302 MB in float32.
        self._dtype = torch.float32
        if isinstance(generator, HalfGenerator):
            self._dtype = generator.dtype
        if contract.schema is not None:
            ids = torch.arange(contract.schema.channels, dtype=torch.float32)
            self.register_buffer("channel_ids", ids.view(1, -1, 1, 1), persistent=False)

    def forward(
        self, label_map: Tensor, instance_map: Tensor | None = None, style: Tensor | None = None
    ) -> Tensor:
        """Synthesize uint8 [N, H, W, 3], RGB, from channels uint8 [N, H, W] (no channel: zeros) or
        pictures uint8 [N, H, W, 3] and, as the contract has them, instances int32 [N, H, W] and
        style float32 [N, 256, F].
        """
        if self.contract.kind == "labels":
            planes = [one_hot_planes(label_map, self.channel_ids, self._dtype)]
        else:
            picture = label_map.to(torch.float32).permute(0, 3, 1, 2) / 127.5 - 1.0
            planes = [picture.to(self._dtype)]
        if self.contract.boundaries:
            assert instance_map is not None
            planes.append(boundary_plane(instance_map, self._dtype))
        if self.contract.style_channels:
            assert instance_map is not None
            assert style is not None
            planes.append(style_planes(instance_map, style.to(self._dtype)))
        image: Tensor = self.generator(torch.cat(planes, 1)).to(torch.float32)
        levels = ((image + 1.0) * 127.5).clamp(0.0, 255.0).round()
        return levels.permute(0, 2, 3, 1).to(torch.uint8)


def one_hot_planes(
    label_map: Tensor, channel_ids: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Planes [N, C, H, W] of uint8 [N, H, W] and `channel_ids`, float32 [1, C, 1, 1]."""
    return (label_map.to(torch.float32).unsqueeze(1) == channel_ids).to(dtype)


def boundary_plane(instance_map: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Instance boundaries, [N, 1, H, W]: 1 where the id differs from the pixel above,
    below, left or right (pix2pixHD, section 3.3). Ids are compared as integers: above 2048, half
    collides.
    """
    i = instance_map
    left = i != torch.cat([i[:, :, :1], i[:, :, :-1]], 2)
    right = i != torch.cat([i[:, :, 1:], i[:, :, -1:]], 2)
    above = i != torch.cat([i[:, :1], i[:, :-1]], 1)
    below = i != torch.cat([i[:, 1:], i[:, -1:]], 1)
    return (left | right | above | below).unsqueeze(1).to(dtype)


def style_planes(instance_map: Tensor, style: Tensor) -> Tensor:
    """Paint each instance with its row of the style table, [N, 256, F]: [N, F, H, W]. Ids, int32
    [N, H, W], are dense and are clamped to 0..255.
    """
    rows = style.flatten(0, 1)
    first = torch.arange(style.shape[0], dtype=torch.float32, device=style.device) * float(
        STYLE_ROWS
    )
    index = instance_map.to(torch.float32).clamp(0.0, STYLE_ROWS - 1.0) + first.view(-1, 1, 1)
    planes = torch.nn.functional.embedding(index.to(torch.int64), rows)
    return planes.permute(0, 3, 1, 2)
