"""Transposed convolutions that leave no checkerboard."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn


def balance_phases(network: nn.Module) -> None:
    """Make every transposed convolution answer an even surface evenly; changes weights in place.

    A transposed convolution of stride s computes the s * s pixels that come out of one with
    different weights, its phases. Where their sums differ, an even surface comes out as a grid of
    s * s pixels, a checkerboard (Odena, Dumoulin and Olah, "Deconvolution and checkerboard
    artifacts", 2016). Weights that were drawn at random begin so, and short training does not mend
    it. This moves every weight as little as makes the sums equal: the projection onto the weights
    without a checkerboard.

    Args:
        network: its transposed convolutions have kernels of at least their stride.
    """
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.ConvTranspose2d):
                phases = list(_phases(module))
                sums = [phase.sum((-2, -1), keepdim=True) for phase in phases]
                mean = torch.stack(sums).mean(0)
                for phase, total in zip(phases, sums, strict=True):
                    taps = phase.shape[-2] * phase.shape[-1]
                    phase += (mean - total) / taps


def _phases(module: nn.ConvTranspose2d) -> Iterator[Tensor]:
    """Views of the weights that each phase is computed with: [inputs, outputs, taps, taps]."""
    rows, columns = module.stride
    for row in range(rows):
        for column in range(columns):
            yield module.weight[..., row::rows, column::columns]
