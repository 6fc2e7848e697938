"""The training step: which loss reaches which network, and what the networks are shown."""

from __future__ import annotations

import pytest
import torch

from sceneloom_training.losses import discriminator_loss
from sceneloom_training.networks import (
    FeatureEncoder,
    GeneratorArchitecture,
    MultiscaleDiscriminator,
    build_generator,
    initialise,
)
from sceneloom_training.objective import Inputs, Objective, constant, levels, signed
from sceneloom_training.settings import LossSettings


def objective(*, style: int = 0, labels: int = 5, **loss: object) -> Objective:
    inputs = Inputs(labels=labels, boundaries=True, style=style)
    torch.manual_seed(3)
    generator = build_generator(
        GeneratorArchitecture(
            input_channels=inputs.channels, ngf=4, global_downsamplings=2, global_blocks=1
        )
    )
    discriminator = MultiscaleDiscriminator(inputs.condition_channels + 3, scales=2, ndf=4)
    initialise(discriminator)
    encoder = FeatureEncoder(style, nef=2, downsamplings=2) if style else None
    made = Objective(
        inputs,
        generator,
        discriminator,
        encoder,
        loss=LossSettings(**loss),
        perceptual=None,
        seed=0,
    ).double()
    made.dtype = torch.float64
    return made


def batch(count: int = 1, labels: int = 5) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    shape = (count, 32, 32)
    return {
        "label_map": torch.randint(labels, shape, generator=draw).to(torch.uint8),
        "instance_map": torch.randint(3, shape, generator=draw).to(torch.int32),
        "photo": torch.randint(256, (*shape, 3), generator=draw).to(torch.uint8),
    }


def test_the_discriminators_loss_trains_the_discriminators_alone() -> None:
    ours = objective(style=2)
    data = batch()
    total, terms, picture = ours(data)
    total.backward()
    wanted = {n: p.grad.clone() for n, p in ours.discriminator.named_parameters()}
    # The published implementation's discriminator step, written out.
    ours.zero_grad()
    condition, photo = ours.condition(data), signed(data["photo"], torch.float64)
    real = ours.discriminator(torch.cat([condition, photo], 1))
    fake = ours.discriminator(torch.cat([condition, picture], 1))
    loss = discriminator_loss("least_squares", real, fake)
    loss.backward()
    assert terms["discriminator"].item() == pytest.approx(loss.item(), rel=1e-12)
    for name, parameter in ours.discriminator.named_parameters():
        assert torch.allclose(wanted[name], parameter.grad, rtol=1e-9, atol=1e-12), name


def test_the_generators_losses_train_generator_and_encoder_alone() -> None:
    ours = objective(style=2)
    data = batch()
    total, terms, _ = ours(data)
    total.backward()
    trained = [*ours.generator.parameters(), *ours.encoder.parameters()]
    wanted = [p.grad.clone() for p in trained]
    assert all(g.abs().max() > 0 for g, p in zip(wanted, trained, strict=True) if p.ndim == 4)
    ours.zero_grad()
    with constant(ours.discriminator):
        total, terms, _ = ours(data)
        total.backward()
    assert all(p.grad is None for p in ours.discriminator.parameters())
    for before, parameter in zip(wanted, trained, strict=True):
        assert torch.allclose(before, parameter.grad, rtol=1e-9, atol=1e-12)
    assert set(terms) == {"discriminator", "generator_gan", "feature_matching"}


def test_spectral_norm_takes_one_step_for_all_passes() -> None:
    network = MultiscaleDiscriminator(6, scales=1, ndf=4, spectral_norm=True).double()
    x = torch.rand(1, 6, 32, 32, dtype=torch.float64)
    trained = network(x)
    before = {name: value.clone() for name, value in network.named_buffers()}
    with constant(network):
        fixed = network(x)
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.named_buffers())
    for ours, theirs in zip(fixed[0], trained[0], strict=True):
        assert torch.allclose(ours, theirs, atol=1e-9)


def test_constants_are_parameters_again_afterwards() -> None:
    ours = objective()
    ours.discriminator.discriminators[0].requires_grad_(False)
    with constant(ours.discriminator):
        assert not any(p.requires_grad for p in ours.discriminator.parameters())
    free = {n.split(".")[1] for n, p in ours.discriminator.named_parameters() if p.requires_grad}
    assert free == {"1"}


def test_switched_off_losses_are_not_there() -> None:
    _, terms, _ = objective(feature_matching=0.0, l1=100.0)(batch())
    assert set(terms) == {"discriminator", "generator_gan", "l1"}
    _, terms, _ = objective(feature_matching=0.0)(batch())
    assert set(terms) == {"discriminator", "generator_gan"}


def test_the_pool_shows_the_discriminators_earlier_pictures() -> None:
    pooled, direct = objective(pool=1), objective()
    first, second = batch(), batch()
    second["photo"] = 255 - second["photo"]
    second["label_map"] = (second["label_map"] + 1) % 5
    for _ in range(4):
        pooled(first)
    seen = {round(pooled(second)[1]["discriminator"].item(), 9) for _ in range(6)}
    direct_loss = round(direct(second)[1]["discriminator"].item(), 9)
    assert direct_loss in seen
    assert len(seen) == 2


def test_instance_ids_never_become_half() -> None:
    """Defect 4 of the published implementation: above 2048, neighbours collide in half."""
    ours = objective()
    data = batch()
    data["instance_map"] = torch.full((1, 32, 32), 26000, dtype=torch.int32)
    data["instance_map"][:, :, 16:] = 26001
    with torch.autocast("cpu", torch.bfloat16):
        boundary = ours.condition(data)[:, -1]
    expected = torch.zeros(1, 32, 32)
    expected[:, :, 15:17] = 1
    assert torch.equal(boundary.float(), expected)
    assert torch.equal(data["instance_map"].half().unique().int(), torch.tensor([26000]))


def test_pixels_without_a_channel_are_zeros_and_no_assert() -> None:
    """Defect 5: 255, or any id that is no channel, ended in a device-side assert."""
    ours = objective()
    data = batch()
    data["label_map"][:, :8] = 255
    planes = ours.condition(data)[:, :5]
    assert planes[:, :, :8].abs().max() == 0
    assert torch.equal(planes[:, :, 8:].sum(1), torch.ones(1, 24, 32, dtype=torch.float64))
    total, _, _ = ours(data)
    assert torch.isfinite(total)


def test_pictures_keep_no_graph() -> None:
    """Defect 6: inference kept the autograd graph."""
    ours = objective()
    _, terms, picture = ours(batch())
    assert not picture.requires_grad
    assert not any(term.requires_grad for term in terms.values())


def test_grey_levels_and_back() -> None:
    photo = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    assert torch.equal(levels(signed(photo)), photo)
    assert signed(photo).min() == -1
    assert signed(photo).max() == 1
