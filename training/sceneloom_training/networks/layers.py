"""Layers that the generator and the feature encoder have in common, as published."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from sceneloom_training.modes import PaddingMode


class InstanceNorm(nn.InstanceNorm2d):
    """InstanceNorm that keeps the memory order of channels_last while it trains in 16 bits.

    PyTorch's own copies such a tensor to contiguous and returns it so, and the next convolution
    copies it back. One picture's instance norm is its batch norm, which has kernels for either
    order. float32 takes PyTorch's own all the same: on the CPU, batch norm adds up the pixels of
    a channels_last tensor one by one, 1e-5 off at 512x256, where 16 bits round to 4e-3.

    One picture in training is given to batch norm in any case: where its gradient comes in the
    order of channels_last, the backward pass of PyTorch's own (2.13, CPU) reads it in the wrong
    order, and all gradients below are wrong.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise: [N, C, H, W] -> the same. Inference, and with it the served graph, is
        PyTorch's own.
        """
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
    """Reflection in the type it is given: autocast would copy to float32, and the convolution that
    follows back to 16 bits.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pad: [N, C, H, W] -> [N, C, H + 2 pixels, W + 2 pixels]."""
        if not torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x)


def _is_half_channels_last(x: Tensor) -> bool:
    return x.dtype in (torch.bfloat16, torch.float16) and (
        x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    )


_PADS = {"reflect": ReflectionPad, "replicate": nn.ReplicationPad2d, "zeros": nn.ZeroPad2d}


def pad(pixels: int, mode: PaddingMode = "reflect") -> nn.Module:
    """Padding of all four sides: [N, C, H, W] -> [N, C, H + 2 pixels, W + 2 pixels]."""
    return _PADS[mode](pixels)


def conv7(inputs: int, outputs: int, padding: PaddingMode = "reflect") -> nn.Sequential:
    """Pad 3 and conv 7: [N, inputs, H, W] -> [N, outputs, H, W]."""
    return nn.Sequential(pad(3, padding), nn.Conv2d(inputs, outputs, 7))


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
    """Run a module; with `recompute`, its activations are not kept for the backward pass but
    computed again there.
    """
    if recompute and torch.is_grad_enabled():
        y: Tensor = checkpoint(module, x, use_reentrant=False, preserve_rng_state=False)
    else:
        y = module(x)
    return y
