"""The training step as NVIDIA/pix2pixHD's train.py and pix2pixHD_model.py write it, to measure
against.

Eager float32 in contiguous memory, three passes of the discriminators over labels, boundaries and
picture concatenated, two backward passes and two Adam optimizers, one after the other. The
generator's loss also reaches the discriminators' weights, and what it leaves there is thrown away.
The networks are SceneLoom's with PyTorch's own layers: they agree with the published ones. There is
no VGG loss, because its weights cannot be had everywhere, and no image pool, as published.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sceneloom_training.batches import Batch
from sceneloom_training.networks import MultiscaleDiscriminator, SynthesisNetwork
from sceneloom_training.networks.generator import InstanceNorm, ReflectionPad


class PublishedRecipe:
    """Generator and discriminators, their optimizers, and the published step."""

    def __init__(
        self,
        generator: SynthesisNetwork,
        discriminator: MultiscaleDiscriminator,
        *,
        labels: int,
        learning_rate: float = 2e-4,
        feature_matching: float = 10.0,
    ) -> None:
        """Take the networks over.

        Args:
            generator: of `labels` and one boundary channel.
            discriminator: of those and three image channels.
            labels: channels of the one-hot label map.
            learning_rate: of both optimizers.
            feature_matching: weight of that loss.
        """
        self.generator, self.discriminator = generator, discriminator
        for network in (generator, discriminator):
            with_plain_layers(network)
        self._labels, self._weight = labels, feature_matching
        self._optimizers = [
            torch.optim.Adam(network.parameters(), lr=learning_rate, betas=(0.5, 0.999))
            for network in (generator, discriminator)
        ]

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Do one step; its losses, detached."""
        losses = self.losses(batch)
        generator_optimizer, discriminator_optimizer = self._optimizers
        generator_optimizer.zero_grad()
        torch.autograd.backward(losses["generator_gan"] + losses["feature_matching"])
        generator_optimizer.step()
        discriminator_optimizer.zero_grad()
        torch.autograd.backward(losses["discriminator"])
        discriminator_optimizer.step()
        return {name: loss.detach() for name, loss in losses.items()}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch on the networks' device."""
        dtype = next(self.generator.parameters()).dtype
        condition = encode(batch, self._labels, dtype)
        real = (batch["photo"].permute(0, 3, 1, 2).to(dtype) / 127.5 - 1).contiguous()
        fake = self.generator(condition)
        judged_pool = self.discriminator(torch.cat([condition, fake.detach()], 1))
        judged_real = self.discriminator(torch.cat([condition, real], 1))
        judged_fake = self.discriminator(torch.cat([condition, fake], 1))
        loss_fake, loss_real = least_squares(judged_pool, 0.0), least_squares(judged_real, 1.0)
        return {
            "discriminator": (loss_fake + loss_real) * 0.5,
            "generator_gan": least_squares(judged_fake, 1.0),
            "feature_matching": self._feature_matching(judged_fake, judged_real),
        }

    def _feature_matching(self, fake: list[list[Tensor]], real: list[list[Tensor]]) -> Tensor:
        scales, stages = len(fake), len(fake[0]) - 1  # published: 4 / (n_layers_D + 1)
        loss = torch.zeros((), dtype=fake[0][0].dtype, device=fake[0][0].device)
        for i in range(scales):
            for j in range(stages):
                difference = functional.l1_loss(fake[i][j], real[i][j].detach())
                loss = loss + 1 / scales * 4 / stages * difference * self._weight
        return loss


def encode(batch: Batch, labels: int, dtype: torch.dtype) -> Tensor:
    """One-hot labels and boundaries, [N, labels + 1, H, W], as published: scatter and compare.

    Args:
        batch: `label_map` and `instance_map`.
        labels: channels; every label id is below it.
        dtype: of the result.
    """
    ids = batch["label_map"].long().unsqueeze(1)
    n, _, height, width = ids.shape
    planes = torch.zeros(n, labels, height, width, dtype=dtype, device=ids.device)
    planes.scatter_(1, ids, 1.0)
    t = batch["instance_map"].unsqueeze(1)
    edge = torch.zeros(t.shape, dtype=torch.bool, device=t.device)
    across, down = t[..., 1:] != t[..., :-1], t[..., 1:, :] != t[..., :-1, :]
    edge[..., 1:] |= across
    edge[..., :-1] |= across
    edge[..., 1:, :] |= down
    edge[..., :-1, :] |= down
    return torch.cat([planes, edge.to(dtype)], 1)


def least_squares(judged: list[list[Tensor]], target: float) -> Tensor:
    """LSGAN, summed over the scales."""
    losses = [functional.mse_loss(s[-1], torch.full_like(s[-1], target)) for s in judged]
    return torch.stack(losses).sum()


def with_plain_layers(network: nn.Module) -> None:
    """Put PyTorch's own layers where SceneLoom has quicker ones; neither has weights."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, InstanceNorm):
                setattr(parent, name, nn.InstanceNorm2d(child.num_features))
            elif isinstance(child, ReflectionPad):
                setattr(parent, name, nn.ReflectionPad2d(child.padding))
