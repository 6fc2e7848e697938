"""Losses on hand-made values, and against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sceneloom_training.losses import (
    discriminator_loss,
    feature_matching_loss,
    gan_term,
    generator_loss,
)
from sceneloom_training.settings import GanMode

DECISION = torch.tensor([[-2.0, 0.0], [0.5, 3.0]])


@pytest.mark.parametrize(
    ("mode", "target", "expected"),
    [
        ("least_squares", "real", (9 + 1 + 0.25 + 4) / 4),
        ("least_squares", "fake", (4 + 0 + 0.25 + 9) / 4),
        ("least_squares", "generator", (9 + 1 + 0.25 + 4) / 4),
        ("hinge", "real", (3 + 1 + 0.5 + 0) / 4),
        ("hinge", "fake", (0 + 1 + 1.5 + 4) / 4),
        ("hinge", "generator", -(-2 + 0 + 0.5 + 3) / 4),
        ("vanilla", "real", sum(math.log1p(math.exp(-x)) for x in (-2, 0, 0.5, 3)) / 4),
        ("vanilla", "fake", sum(math.log1p(math.exp(x)) for x in (-2, 0, 0.5, 3)) / 4),
    ],
)
def test_gan_terms(mode: GanMode, target: str, expected: float) -> None:
    assert gan_term(mode, DECISION, target=target).item() == pytest.approx(expected, rel=1e-6)  # type: ignore[arg-type]


def scales(*values: float) -> list[list[Tensor]]:
    """For each scale three stages; the last is the decision."""
    return [
        [torch.full((1, 2, 4, 4), v), torch.full((1, 2, 2, 2), v), torch.full((1, 1, 2, 2), v)]
        for v in values
    ]


def test_discriminator_loss_is_halved_and_summed_over_scales() -> None:
    loss = discriminator_loss("least_squares", scales(1.0, 0.5), scales(0.0, 0.5))
    assert loss.item() == pytest.approx((0 + 0.25 + 0 + 0.25) / 2)
    assert generator_loss("least_squares", scales(0.0, 0.5)).item() == pytest.approx(1 + 0.25)


def test_feature_matching_counts_every_stage_but_the_decision() -> None:
    real, fake = scales(0.0, 0.0), scales(1.0, 2.0)
    # Two stages a scale, each 4 / 2 / 2 scales: 10 * (1 + 1 + 2 + 2) * 4 / 2 / 2.
    assert feature_matching_loss(real, fake).item() == pytest.approx(60.0)
    assert feature_matching_loss(real, fake, weight=1.0).item() == pytest.approx(6.0)


def test_feature_matching_with_the_published_weights() -> None:
    """Published: 4 / (n_layers_D + 1) per feature, 1 / num_D, lambda_feat 10; five stages."""
    real = [[torch.zeros(1, 1, 2, 2) for _ in range(5)] for _ in range(3)]
    fake = [[torch.ones(1, 1, 2, 2) for _ in range(5)] for _ in range(3)]
    expected = 10 * sum(4 / (3 + 1) * (1 / 3) for _ in range(3) for _ in range(4))
    assert feature_matching_loss(real, fake).item() == pytest.approx(expected)


def test_gradients_reach_the_generator_only() -> None:
    real = [[torch.zeros(1, 1, 2, 2, requires_grad=True) for _ in range(3)]]
    fake = [[torch.ones(1, 1, 2, 2, requires_grad=True) for _ in range(3)]]
    feature_matching_loss(real, fake).backward()
    assert [tensor.grad is not None for tensor in fake[0]] == [True, True, False]
    assert all(tensor.grad is None for tensor in real[0])
