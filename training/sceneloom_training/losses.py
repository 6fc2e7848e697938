"""The losses of pix2pixHD (sections 3.2, 3.3 and 3.5), later GAN losses, and the image pool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sceneloom.errors import CheckpointError
from sceneloom.files import file_hash
from sceneloom.text import reason
from sceneloom_training.checkpoint import load_tensors
from sceneloom_training.settings import GanMode


def discriminator_loss(
    mode: GanMode, real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]
) -> Tensor:
    """Sum the discriminators' loss over scales, halved as published. `fake` is detached."""
    terms = [gan_term(mode, scale[-1], target="real") for scale in real]
    terms += [gan_term(mode, scale[-1], target="fake") for scale in fake]
    return torch.stack(terms).sum() / 2


def generator_loss(mode: GanMode, fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """Sum the generator's GAN loss over the scales of `MultiscaleDiscriminator`'s output."""
    return torch.stack([gan_term(mode, scale[-1], target="generator") for scale in fake]).sum()


def gan_term(
    mode: GanMode, decision: Tensor, *, target: Literal["real", "fake", "generator"]
) -> Tensor:
    """Compute one GAN term of decisions of any shape. ``generator`` is the generator's own aim."""
    decision = decision.to(torch.promote_types(decision.dtype, torch.float32))  # means in 32 bits
    wanted = torch.zeros_like(decision) if target == "fake" else torch.ones_like(decision)
    if mode == "least_squares":
        return functional.mse_loss(decision, wanted)
    if mode == "vanilla":
        return functional.binary_cross_entropy_with_logits(decision, wanted)
    if target == "generator":
        return -decision.mean()
    return functional.relu(1 - decision if target == "real" else 1 + decision).mean()


def feature_matching_loss(
    real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]], *, weight: float = 10.0
) -> Tensor:
    """L1 between the discriminators' features of photograph and picture (equation 4). Each of a
    scale's intermediate stages counts 4 / (stages with stride 2 + 1) / scales, as published. The
    decision itself does not count. No gradient flows into `real`.
    """
    terms = [
        functional.l1_loss(ours, theirs.detach()) * 4.0 / (len(scale) - 1)
        for scale, photographs in zip(fake, real, strict=True)
        for ours, theirs in zip(scale[:-1], photographs[:-1], strict=True)
    ]
    return torch.stack(terms).sum() * weight / len(fake)


def l1_loss(picture: Tensor, photograph: Tensor, *, weight: float = 1.0) -> Tensor:
    """L1 between the pixels of picture and photograph, float [N, 3, H, W] (pix2pix)."""
    return functional.l1_loss(picture, photograph) * weight


class ImagePool:
    """Pictures of earlier steps, half of which are shown again. Published: size 0, no pictures."""

    def __init__(self, size: int, *, seed: int = 0) -> None:
        self._size = size
        self._images: list[Tensor] = []
        self._random = torch.Generator().manual_seed(seed)

    def query(self, images: Tensor) -> Tensor:
        """Exchange pictures, [N, C, H, W], for detached ones. Half are earlier ones once full."""
        if not self._size:
            return images.detach()
        chosen = []
        for image in images.detach():
            if len(self._images) < self._size:
                self._images.append(image.clone())
            elif torch.rand((), generator=self._random) >= 0.5:
                place = int(torch.randint(self._size, (), generator=self._random))
                earlier, self._images[place] = self._images[place], image.clone()
                chosen.append(earlier)
                continue
            chosen.append(image)
        return torch.stack(chosen)

    def state_dict(self) -> dict[str, Any]:
        """Pictures and random state."""
        return {"images": list(self._images), "random": self._random.get_state()}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str = "cpu") -> None:
        """Restore `state_dict`, with the pictures on the given device."""
        self._images = [image.to(device) for image in state["images"]]
        self._random.set_state(state["random"])


LAYER_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""Weights of relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1."""
_WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512)
"""Filters of VGG19's convolutions up to conv5_1; 0 is a pooling."""


class PerceptualLoss(nn.Module):
    """Weighted L1 between VGG19's features, without parameters to train."""

    def __init__(self, weights: Path) -> None:
        """Load torchvision's vgg19 state dict. Raises CheckpointError for any other file."""
        super().__init__()
        self.layers = nn.ModuleList()
        channels = 3
        for width in _WIDTHS:
            if width:
                self.layers.extend((nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()))
                channels = width
            else:
                self.layers.append(nn.MaxPool2d(2))
        convolutions = {i: x for i, x in enumerate(self.layers) if isinstance(x, nn.Conv2d)}
        try:
            state = load_tensors(weights)
            for i, convolution in convolutions.items():
                kinds = ("weight", "bias")
                convolution.load_state_dict({k: state[f"features.{i}.{k}"] for k in kinds})
        except Exception as error:  # pickle, zip, key and shape errors of another file
            raise CheckpointError(
                f"{weights}: not readable as torchvision's VGG19 ({reason(error)})"
            ) from None
        self.requires_grad_(False)
        self.weights_hash = file_hash(weights)

    def forward(self, picture: Tensor, photograph: Tensor, *, weight: float = 1.0) -> Tensor:
        """Compare float [N, 3, H, W] in [-1, 1]. The gradient flows into the picture alone."""
        with torch.no_grad():
            wanted = list(self._features(photograph))
        pairs = zip(LAYER_WEIGHTS, self._features(picture), wanted, strict=True)
        terms = [w * functional.l1_loss(ours, theirs) for w, ours, theirs in pairs]
        return torch.stack(terms).sum() * weight

    def _features(self, x: Tensor) -> Iterator[Tensor]:
        """Outputs of the first ReLU of each block."""
        first = True
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.ReLU) and first:
                yield x
            first = isinstance(layer, nn.MaxPool2d) or (first and isinstance(layer, nn.Conv2d))
