"""Networks and losses of a training step in one forward pass. One sum is differentiated once: the
discriminators' loss reaches the discriminators alone, because they see detached pictures; the
generator's losses reach generator and encoder alone, because there the discriminators are constant.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sceneloom_training import losses
from sceneloom_training.batches import Batch
from sceneloom_training.losses import ImagePool
from sceneloom_training.networks import (
    FeatureEncoder,
    MultiscaleDiscriminator,
    SegmentingDiscriminator,
    SynthesisNetwork,
)
from sceneloom_training.networks.served import boundary_plane
from sceneloom_training.perceptual import PerceptualLoss
from sceneloom_training.settings import LossSettings

Discriminator: TypeAlias = MultiscaleDiscriminator | SegmentingDiscriminator


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """The generator's input planes."""

    labels: int
    """Channels of the one-hot label map; 0 takes a picture (three channels) instead."""
    boundaries: bool
    style: int

    @property
    def condition_channels(self) -> int:
        """Channels that generator and discriminators both see."""
        return (self.labels or 3) + self.boundaries

    @property
    def channels(self) -> int:
        """Input channels of the generator."""
        return self.condition_channels + self.style


class Objective(nn.Module):
    """The trained networks and their losses."""

    def __init__(
        self,
        inputs: Inputs,
        generator: SynthesisNetwork,
        discriminator: Discriminator,
        encoder: FeatureEncoder | None,
        *,
        loss: LossSettings,
        perceptual: PerceptualLoss | None,
        seed: int,
    ) -> None:
        """Join networks that fit `inputs`. `seed` seeds the image pool."""
        super().__init__()
        assert generator.architecture.input_channels == inputs.channels
        assert (encoder is not None) == bool(inputs.style)
        self.inputs = inputs
        self.generator, self.discriminator, self.encoder = generator, discriminator, encoder
        self.loss = loss
        self._perceptual = [perceptual] if perceptual else []  # in a list: not one of our modules
        self.pool = ImagePool(loss.pool, seed=seed)
        self.dtype = torch.float32
        """Type of everything outside autocast."""
        self.memory_format = torch.contiguous_format
        """Memory order of the networks' inputs and weights."""

    def place_perceptual(self, device: torch.device) -> None:
        """Move the perceptual loss to the networks' device, type and memory order. It is no
        submodule: no checkpoint holds it.
        """
        for perceptual in self._perceptual:
            perceptual.to(device, self.dtype)
            perceptual.to(memory_format=self.memory_format)  # type: ignore[call-overload]

    def generator_parameters(self) -> list[nn.Parameter]:
        """Weights that the generator's losses train: generator and encoder."""
        encoder = list(self.encoder.parameters()) if self.encoder else []
        return [*self.generator.parameters(), *encoder]

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return the sum to differentiate, each loss, and the pictures, [N, 3, H, W], -1..1."""
        condition, photo = self.condition(batch), self._ordered(signed(batch["photo"], self.dtype))
        fake = self.generator(self._with_style(condition, photo, batch))
        if isinstance(self.discriminator, SegmentingDiscriminator):
            terms = self._segmenting_terms(self.discriminator, batch["label_map"], photo, fake)
        else:
            terms = self._patch_terms(self.discriminator, condition, photo, fake)
        for perceptual in self._perceptual:
            terms["perceptual"] = perceptual(fake, photo, weight=self.loss.perceptual)
        if weight := self.loss.l1:
            terms["l1"] = losses.l1_loss(fake, photo, weight=weight)
        total = torch.stack([term.to(self.dtype) for term in terms.values()]).sum()
        return total, {name: term.detach() for name, term in terms.items()}, fake.detach()

    def _patch_terms(
        self, discriminator: MultiscaleDiscriminator, condition: Tensor, photo: Tensor, fake: Tensor
    ) -> dict[str, Tensor]:
        with parametrize.cached():  # spectral norm takes one step for both
            seen = discriminator.see(condition)
            real = discriminator(photo, seen)
            shown, their_seen = fake.detach(), seen
            if self.loss.pool:  # earlier pictures come with their own maps
                pair = self.pool.query(torch.cat([condition, fake.to(condition.dtype)], 1))
                channels = condition.shape[1]
                shown, their_seen = pair[:, channels:], discriminator.see(pair[:, :channels])
            earlier = discriminator(shown, their_seen)
        with constant(discriminator):
            fixed = [(planes.detach(), weight.detach()) for planes, weight in seen]
            decided = discriminator(fake, fixed)
        terms = {
            "discriminator": losses.discriminator_loss(self.loss.gan, real, earlier),
            "generator_gan": losses.generator_loss(self.loss.gan, decided),
        }
        if weight := self.loss.feature_matching:
            terms["feature_matching"] = losses.feature_matching_loss(real, decided, weight=weight)
        return terms

    def _segmenting_terms(
        self, discriminator: SegmentingDiscriminator, label_map: Tensor, photo: Tensor, fake: Tensor
    ) -> dict[str, Tensor]:
        shown = fake.detach().to(photo.dtype)
        pictures = [photo, shown]
        if self.loss.label_mix:
            mask = losses.mix_classes(label_map)
            pictures.append(torch.where(mask, photo, shown))
        # One pass: spectral norm takes one step for all.
        real, earlier, *mixed = discriminator(torch.cat(pictures)).chunk(len(pictures))
        with constant(discriminator):
            decided = discriminator(fake)
        terms = {
            "discriminator": losses.class_loss(real, label_map)
            + losses.generated_loss(earlier, label_map),
            "generator_gan": losses.class_loss(decided, label_map),
        }
        for logits in mixed:
            terms["label_mix"] = losses.label_mix_loss(
                logits, real, earlier, mask, weight=self.loss.label_mix
            )
        return terms

    def condition(self, batch: Batch) -> Tensor:
        """Planes of generator and discriminators: float [N, C, H, W], in the type of autocast."""
        if not self.inputs.labels:
            planes = [batch["source"].to(self.dtype) / 127.5 - 1.0]
        else:
            ids = torch.arange(self.inputs.labels, device=batch["label_map"].device)
            planes = [batch["label_map"].unsqueeze(-1) == ids.to(torch.uint8)]
        if self.inputs.boundaries:
            planes.append(boundary_plane(batch["instance_map"]).permute(0, 2, 3, 1).bool())
        device, dtype = batch["photo"].device.type, self.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        joined = torch.cat(planes, -1).to(dtype)
        return self._ordered(joined.permute(0, 3, 1, 2))

    def _ordered(self, planes: Tensor) -> Tensor:
        return planes.contiguous(memory_format=self.memory_format)

    def synthesize(self, generator: nn.Module, batch: Batch) -> Tensor:
        """Pictures, float [N, 3, H, W] in [-1, 1], with the photographs' own style."""
        condition, photo = self.condition(batch), self._ordered(signed(batch["photo"], self.dtype))
        picture: Tensor = generator(self._with_style(condition, photo, batch))
        return picture

    def _with_style(self, condition: Tensor, photo: Tensor, batch: Batch) -> Tensor:
        if self.encoder is None:
            return condition
        style = self.encoder(photo, batch["instance_map"])
        return torch.cat([condition, style.to(condition.dtype)], 1)


def signed(pictures: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Grey levels, uint8 [N, H, W, 3], to the generator's range, [N, 3, H, W] in [-1, 1]."""
    return pictures.permute(0, 3, 1, 2).to(dtype) / 127.5 - 1.0


def levels(pictures: Tensor) -> Tensor:
    """[N, 3, H, W] in [-1, 1] to grey levels, uint8 [N, H, W, 3], as the served graph does."""
    grey = ((pictures.float() + 1.0) * 127.5).clamp(0.0, 255.0).round()
    return grey.permute(0, 2, 3, 1).to(torch.uint8)


@contextlib.contextmanager
def constant(network: nn.Module) -> Iterator[None]:
    """Freeze a network during the block: its weights get no gradient, spectral norm no step."""
    wanted, training = [p for p in network.parameters() if p.requires_grad], network.training
    network.eval()
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        network.train(training)
