"""Perceptual loss and image pool."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sceneloom.errors import CheckpointError
from sceneloom_training.losses import LAYER_WEIGHTS, ImagePool, PerceptualLoss

VGG19_CONVOLUTIONS = {  # index in torchvision's `features`: (inputs, outputs)
    0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256),
    14: (256, 256), 16: (256, 256), 19: (256, 512), 21: (512, 512), 23: (512, 512),
    25: (512, 512), 28: (512, 512),
}  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in torchvision's format, with the layers that are not used."""
    noise = torch.Generator().manual_seed(0)
    state = {"classifier.0.weight": torch.zeros(2, 2)}
    for i, (inputs, outputs) in VGG19_CONVOLUTIONS.items():
        state[f"features.{i}.weight"] = 0.05 * torch.randn(outputs, inputs, 3, 3, generator=noise)
        state[f"features.{i}.bias"] = 0.05 * torch.randn(outputs, generator=noise)
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(state, path)
    return path


def torchvisions_features(weights: Path) -> nn.Sequential:
    """VGG19 written out layer by layer, as torchvision numbers it."""
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in VGG19_CONVOLUTIONS.items():
        if len(layers) < i:
            layers.append(nn.MaxPool2d(2))
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers)
    state = torch.load(weights, weights_only=True)
    network.load_state_dict({k[9:]: v for k, v in state.items() if k.startswith("features.")})
    return network


def test_loss_is_the_weighted_difference_of_the_first_relus(weights: Path) -> None:
    loss = PerceptualLoss(weights)
    a, b = torch.rand(2, 3, 32, 48) * 2 - 1, torch.rand(2, 3, 32, 48) * 2 - 1
    network = torchvisions_features(weights)
    expected = 0.0
    with torch.no_grad():
        for weight, last in zip(LAYER_WEIGHTS, (1, 6, 11, 20, 29), strict=True):
            part = network[: last + 1]
            expected += weight * (part(a) - part(b)).abs().mean().item()
        assert loss(a, b).item() == pytest.approx(expected, rel=1e-5)
        assert loss(a, a).item() == 0
    assert len(loss.weights_hash) == 64


def test_gradient_reaches_the_picture_only(weights: Path) -> None:
    loss = PerceptualLoss(weights)
    picture = torch.rand(1, 3, 32, 32, requires_grad=True)
    photograph = torch.rand(1, 3, 32, 32, requires_grad=True)
    loss(picture, photograph).backward()
    assert picture.grad is not None
    assert picture.grad.abs().sum() > 0
    assert photograph.grad is None
    assert not any(p.requires_grad for p in loss.parameters())


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["missing", "damaged", "other", "evil"])
def test_file_that_is_not_vgg19(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "vgg.pth"
    if kind == "damaged":
        path.write_bytes(b"PK damaged")
    elif kind != "missing":
        content = (
            Touch(tmp_path / "ran") if kind == "evil" else {"features.0.weight": torch.ones(1)}
        )
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"vgg\.pth: not readable as torchvision's VGG19"):
        PerceptualLoss(path)
    assert not (tmp_path / "ran").exists()


def pictures(first: int, count: int) -> torch.Tensor:
    return torch.arange(first, first + count, dtype=torch.float32).view(-1, 1, 1, 1)


def test_pool_of_size_0_hands_pictures_through() -> None:
    images = pictures(0, 3).requires_grad_()
    out = ImagePool(0).query(images)
    assert torch.equal(out, images)
    assert not out.requires_grad


def test_pool_hands_out_half_of_the_earlier_ones_and_loses_none() -> None:
    pool = ImagePool(8, seed=1)
    assert torch.equal(pool.query(pictures(0, 8)), pictures(0, 8))
    given = [int(x) for i in range(8, 1008) for x in pool.query(pictures(i, 1)).flatten()]
    earlier = sum(x != i for i, x in enumerate(given, start=8))
    assert 430 < earlier < 570
    kept = [int(x) for x in pool.state_dict()["images"]]
    assert sorted(given + kept) == list(range(1008))


def test_pool_resumes_alike() -> None:
    pool, other = ImagePool(4, seed=2), ImagePool(4, seed=9)
    pool.query(pictures(0, 10))
    other.load_state_dict(pool.state_dict())
    assert torch.equal(pool.query(pictures(10, 20)), other.query(pictures(10, 20)))
