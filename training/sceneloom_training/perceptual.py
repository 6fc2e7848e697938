"""The perceptual loss of pix2pixHD (section 3.5): L1 between VGG19 features of picture and
photograph.

The weights come from a file that the user names, in torchvision's format (`vgg19-*.pth`); nothing
is downloaded. As published, images go in as they are, in [-1, 1], without ImageNet's normalisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sceneloom.errors import CheckpointError
from sceneloom.files import file_hash
from sceneloom.text import reason
from sceneloom_training.torch_files import load_tensors

LAYER_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""For relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1."""
_WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512)
"""Filters of VGG19's convolutions up to conv5_1; 0 is a pooling."""


class PerceptualLoss(nn.Module):
    """Weighted L1 between VGG19's features; it has no parameters to train."""

    def __init__(self, weights: Path) -> None:
        """Load VGG19.

        Args:
            weights: state dict of torchvision's vgg19; only tensors in it are read.

        Raises:
            CheckpointError: no such file, unsafe, or not VGG19's weights.
        """
        super().__init__()
        self.layers = nn.ModuleList(_layers())
        convolutions = {i: x for i, x in enumerate(self.layers) if isinstance(x, nn.Conv2d)}
        try:
            state = load_tensors(weights)
            for i, convolution in convolutions.items():
                kinds = ("weight", "bias")
                convolution.load_state_dict({k: state[f"features.{i}.{k}"] for k in kinds})
        except Exception as error:  # pickle, zip, key and shape errors of another file
            raise CheckpointError(
                f"{weights}: not readable as torchvision's VGG19 weights ({reason(error)})"
            ) from None
        self.requires_grad_(False)
        self.weights_hash = file_hash(weights)
        """SHA-256 of the weights file, for the run's record."""

    def forward(self, picture: Tensor, photograph: Tensor) -> Tensor:
        """Compare.

        Args:
            picture: float [N, 3, H, W] in [-1, 1]; the gradient flows into it.
            photograph: likewise; no gradient flows into it.
        """
        with torch.no_grad():
            wanted = list(self._features(photograph))
        pairs = zip(LAYER_WEIGHTS, self._features(picture), wanted, strict=True)
        return torch.stack(
            [w * functional.l1_loss(ours, theirs) for w, ours, theirs in pairs]
        ).sum()

    def _features(self, x: Tensor) -> Iterator[Tensor]:
        """Outputs of the first ReLU of each block."""
        first = True
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.ReLU) and first:
                yield x
            first = isinstance(layer, nn.MaxPool2d) or (first and isinstance(layer, nn.Conv2d))


def _layers() -> Iterator[nn.Module]:
    channels = 3
    for width in _WIDTHS:
        if width:
            yield nn.Conv2d(channels, width, 3, padding=1)
            yield nn.ReLU()
            channels = width
        else:
            yield nn.MaxPool2d(2)
