"""The losses of pix2pixHD (section 3.2 and 3.3), with the GAN losses that later work prefers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from sceneloom_training.modes import GanMode


def discriminator_loss(
    mode: GanMode, real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]
) -> Tensor:
    """What the discriminators minimise, summed over the scales and halved as published.

    Args:
        mode: ``least_squares`` (Mao et al., 2017; published), ``vanilla`` or ``hinge``.
        real: output of `MultiscaleDiscriminator` for photographs.
        fake: for synthesized pictures, detached from the generator.
    """
    terms = [gan_term(mode, scale[-1], target="real") for scale in real]
    terms += [gan_term(mode, scale[-1], target="fake") for scale in fake]
    return torch.stack(terms).sum() / 2


def generator_loss(mode: GanMode, fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """What the generator minimises, summed over the scales.

    Args:
        mode: as for `discriminator_loss`.
        fake: output of `MultiscaleDiscriminator` for synthesized pictures.
    """
    return torch.stack([gan_term(mode, scale[-1], target="generator") for scale in fake]).sum()


def gan_term(
    mode: GanMode, decision: Tensor, *, target: Literal["real", "fake", "generator"]
) -> Tensor:
    """One GAN term.

    Args:
        mode: as for `discriminator_loss`.
        decision: the discriminator's decision for each patch, any shape.
        target: ``real`` or ``fake``, what the discriminator should say; ``generator``, what the
            generator wants it to say of its own pictures.
    """
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
    """L1 between the discriminators' features of photograph and picture (equation 4).

    Each of a scale's intermediate stages counts 4 / (stages with stride 2 + 1) / scales, as
    published; the decision itself does not count.

    Args:
        real: output of `MultiscaleDiscriminator` for photographs; no gradient flows into it.
        fake: for the synthesized pictures of the same maps.
        weight: factor of the whole.
    """
    terms = [
        functional.l1_loss(ours, theirs.detach()) * 4.0 / (len(scale) - 1)
        for scale, photographs in zip(fake, real, strict=True)
        for ours, theirs in zip(scale[:-1], photographs[:-1], strict=True)
    ]
    return torch.stack(terms).sum() * weight / len(fake)
