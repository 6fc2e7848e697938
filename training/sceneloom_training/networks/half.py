"""A generator in 16 bits, as GPUs run it: convolutions in half, norms and the last step in float32.

An InstanceNorm at 2048x1024 sums 2,097,152 values a channel, which half precision cannot; and a
tanh rounded to half has steps of half a grey level.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sceneloom_training.networks.build import SynthesisNetwork
from sceneloom_training.networks.layers import InstanceNorm


class Float32Norm(nn.Module):
    """An InstanceNorm that computes in float32 between 16 bit neighbours."""

    def __init__(self, norm: InstanceNorm) -> None:
        """Wrap a norm; its scale and shift, if it has any, stay float32."""
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Normalise: [N, C, H, W] -> the same, in the type it came in."""
        y: Tensor = self.norm(x.to(torch.float32)).to(x.dtype)
        return y


class HalfGenerator(nn.Module):
    """A generator in 16 bits that takes and gives float32."""

    def __init__(self, generator: SynthesisNetwork, dtype: torch.dtype = torch.float16) -> None:
        """Copy a generator and lower it; the one that was given stays as it is.

        Args:
            generator: in eval mode, float32.
            dtype: float16 or bfloat16, of weights and convolutions.
        """
        super().__init__()
        self.architecture = generator.architecture
        self.dtype = dtype
        self.network = copy.deepcopy(generator).to(dtype)
        for parent in list(self.network.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, InstanceNorm):
                    setattr(parent, name, Float32Norm(child.float()))
        self.network.head = nn.Sequential(self.network.head, _ToFloat32())

    def forward(self, x: Tensor) -> Tensor:
        """Synthesize: float32 [N, input_channels, H, W] -> float32 [N, output_channels, H, W]."""
        y: Tensor = self.network(x.to(self.dtype))
        return y


class _ToFloat32(nn.Module):
    """The tanh that follows the last convolution is float32."""

    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.float32)
