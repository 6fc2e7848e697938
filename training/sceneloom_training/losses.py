"""The losses of pix2pixHD (sections 3.2 and 3.3), later GAN losses, and the image pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

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
    decision = _in_32_bits(decision)
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


def class_loss(logits: Tensor, label_map: Tensor) -> Tensor:
    """Class-balanced cross entropy of [N, classes + 1, H, W] against channels, [N, H, W]: the mean
    over the batch's classes of the mean over their pixels (Sushko et al., 2021, equation 2; divided
    by the number of classes, so that photographs count as much as pictures). Pixels of 255 or of
    any id without a channel are ignored.
    """
    generated = logits.shape[1] - 1
    labels = label_map.long()
    losses = functional.cross_entropy(
        _in_32_bits(logits), labels.where(labels < generated, -1), ignore_index=-1, reduction="none"
    )
    # One more place than classes, for the ignored.
    places = labels.clamp(max=generated).flatten()
    counts = torch.bincount(places, minlength=generated + 1)[:generated]
    shares = counts.to(losses.dtype).reciprocal().masked_fill(counts == 0, 0.0)
    present = (counts > 0).sum().clamp(min=1)
    return (losses.flatten() * functional.pad(shares, (0, 1))[places]).sum() / present


def generated_loss(logits: Tensor, label_map: Tensor) -> Tensor:
    """Mean cross entropy of [N, classes + 1, H, W] against the last class, "generated", over the
    pixels that have a channel in [N, H, W].
    """
    known = label_map < logits.shape[1] - 1
    losses = torch.logsumexp(wide := _in_32_bits(logits), 1) - wide[:, -1]
    return (losses * known).sum() / known.sum().clamp(min=1)


def mix_classes(label_map: Tensor) -> Tensor:
    """LabelMix's mask, bool [N, 1, H, W]: a coin for every class of every map, [N, H, W], from
    PyTorch's global random state.
    """
    coins = torch.rand(len(label_map), 256).to(label_map.device) < 0.5
    return coins.gather(1, label_map.long().flatten(1)).view_as(label_map).unsqueeze(1)


def label_mix_loss(
    mixed: Tensor, real: Tensor, fake: Tensor, mask: Tensor, *, weight: float = 10.0
) -> Tensor:
    """Mean square between the logits of a mixed picture and the mixed logits of both pictures,
    [N, classes + 1, H, W]. The mask, bool [N, 1, H, W], is where the mixed one is real.
    """
    wanted = torch.where(mask, _in_32_bits(real), _in_32_bits(fake))
    return functional.mse_loss(_in_32_bits(mixed), wanted) * weight


def _in_32_bits(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


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
