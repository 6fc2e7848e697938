"""Discriminators and encoder against the published ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sceneloom_training.losses import gan_term
from sceneloom_training.networks.discriminator import MultiscaleDiscriminator
from sceneloom_training.networks.generator import FeatureEncoder, instance_means


def load_discriminator(path: Path) -> MultiscaleDiscriminator:
    """The published layout numbers scales from the coarsest."""
    network = MultiscaleDiscriminator(39, scales=3, ndf=4)
    state = torch.load(path, weights_only=True)
    ours = {}
    for key, tensor in state.items():
        scale, layer, kind = int(key[5]), int(key[12]), key.split(".")[-1]
        ours[f"discriminators.{2 - scale}.stages.{layer}.0.{kind}"] = tensor
    network.load_state_dict(ours)
    return network.eval()


def test_multiscale_discriminator_agrees_with_the_published_one(shared: Path) -> None:
    network = load_discriminator(shared / "reference" / "multiscale_discriminator.pth")
    with np.load(shared / "reference" / "multiscale_discriminator.npz") as data:
        with torch.inference_mode():
            judged = network(torch.from_numpy(data["input"]))
        for scale, features in enumerate(judged):
            assert len(features) == 5
            for layer, feature in enumerate(features):
                expected = data[f"scale{scale}_layer{layer}"]
                assert np.abs(feature.numpy() - expected).max() <= 1e-5
        for target in ("real", "fake"):
            loss = sum(gan_term("least_squares", f[-1], target=target).item() for f in judged)
            assert loss == pytest.approx(float(data[f"lsgan_loss_{target}"]), abs=1e-5)


def test_feature_encoder_agrees_with_the_published_one(shared: Path) -> None:
    network = FeatureEncoder(3, nef=4).eval()
    state = torch.load(shared / "reference" / "feature_encoder.pth", weights_only=True)
    places = ["stem.1", *(f"downs.{i}.0" for i in range(4)), *(f"ups.{i}.0" for i in range(4))]
    indices = [1, *range(4, 28, 3)]
    names = {f"model.{i}": place for i, place in zip(indices, places, strict=True)}
    names["model.29"] = "head.1"
    renamed = {
        names[k.rpartition(".")[0]] + "." + k.rpartition(".")[2]: v for k, v in state.items()
    }
    network.load_state_dict(renamed)
    with np.load(shared / "reference" / "feature_encoder.npz") as data:
        instance_map = torch.from_numpy(data["instance_map"])[:, 0]
        with torch.inference_mode():
            output = network(torch.from_numpy(data["image"]), instance_map).numpy()
        assert np.abs(output - data["output"]).max() <= 1e-5


def test_instance_means_of_a_known_map() -> None:
    features = torch.arange(16, dtype=torch.float32).view(2, 2, 2, 2).requires_grad_()
    instance_map = torch.tensor([[[7, 7], [7, 100000]], [[7, 3], [3, 3]]])
    means, index = instance_means(features, instance_map)
    assert means.shape == (4, 2)
    painted = means[index].permute(0, 3, 1, 2)
    assert painted[0, 0].tolist() == [[1, 1], [1, 3]]
    assert painted[0, 1].tolist() == [[5, 5], [5, 7]]
    assert painted[1, 0].tolist() == [[8, 10], [10, 10]]
    painted.sum().backward()
    assert features.grad is not None
    assert torch.allclose(features.grad, torch.ones_like(features))


def test_spectral_norm_bounds_every_convolution() -> None:
    torch.manual_seed(0)
    network = MultiscaleDiscriminator(5, scales=2, ndf=8, spectral_norm=True).train()
    for _ in range(60):  # its power iteration takes one step a pass
        judged = network(torch.randn(1, 5, 64, 64))
    assert [len(scale) for scale in judged] == [5, 5]
    weights = [m.weight for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(weights) == 10
    for weight in weights:
        assert torch.linalg.matrix_norm(weight.flatten(1), ord=2).item() == pytest.approx(
            1, abs=0.05
        )
    assert not any(isinstance(m, torch.nn.InstanceNorm2d) for m in network.modules())


@pytest.mark.parametrize("scales", [1, 2, 4])
def test_any_number_of_scales_and_gradients_everywhere(scales: int) -> None:
    network = MultiscaleDiscriminator(4, scales=scales, ndf=4)
    judged = network(torch.randn(2, 4, 128, 96))
    assert len(judged) == scales
    assert judged[0][-1].shape[1] == 1
    sum(scale[-1].square().mean() for scale in judged).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize(("scales", "padding"), [(1, 1), (3, 1), (1, 2), (3, 2), (8, 1)])
def test_smallest_picture_that_every_scale_can_see(scales: int, padding: int) -> None:
    network = MultiscaleDiscriminator(3, scales=scales, ndf=2, padding=padding)
    side = network.smallest_side
    network(torch.rand(1, 3, side, side))
    if side > 1:
        with pytest.raises((RuntimeError, ValueError)):
            network(torch.rand(1, 3, side - 1, side - 1))
