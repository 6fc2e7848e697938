"""pix2pix's U-Net, and that it is trained, saved and served like the other generator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sceneloom.contract import Contract
from sceneloom.errors import CheckpointError
from sceneloom.schema import load_schema
from sceneloom_training.checkpoint import load_checkpoint, save_checkpoint
from sceneloom_training.networks import (
    MultiscaleDiscriminator,
    UNet,
    UNetArchitecture,
    build_generator,
)


def test_published_size_at_256() -> None:
    with torch.device("meta"):
        network = UNet(UNetArchitecture(input_channels=3))
    # pytorch-CycleGAN-and-pix2pix prints 54.414 M for unet_256; only its last layer has a bias.
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    biases = sum(m.bias.numel() for m in convolutions if m is not network.head)
    total = sum(p.numel() for p in network.parameters())
    assert round((total - biases) / 1e6, 3) == 54.414


def test_smallest_picture_is_one_pixel_inside() -> None:
    architecture = UNetArchitecture(input_channels=4, ngf=2, downsamplings=5)
    network = build_generator(architecture, seed=1).eval()
    assert architecture.smallest_side == architecture.size_multiple == 32
    with torch.inference_mode():
        for size in ((32, 32), (32, 64), (96, 64)):
            image = network(torch.rand(2, 4, *size))
            assert image.shape == (2, 3, *size)
            assert image.abs().max() <= 1


def test_dropout_is_the_only_noise_and_off_when_serving() -> None:
    network = build_generator(UNetArchitecture(input_channels=3, ngf=4, downsamplings=5), seed=1)
    x = torch.rand(1, 3, 32, 32)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))
    without = build_generator(
        UNetArchitecture(input_channels=3, ngf=4, downsamplings=5, dropout=False), seed=1
    )
    assert torch.equal(without(x), without(x))


def test_batch_changes_nothing() -> None:
    network = build_generator(UNetArchitecture(input_channels=3, ngf=4, downsamplings=4)).eval()
    network.double()
    x = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    with torch.inference_mode():
        together = network(x)
        alone = torch.cat([network(x[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-9)


def test_every_level_reaches_the_picture() -> None:
    network = build_generator(UNetArchitecture(input_channels=3, ngf=4, downsamplings=4)).eval()
    x = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        before = network(x)
        for level in range(4):
            weight = network.downs[level][-1 if level == 3 else (0 if not level else 1)].weight
            saved = weight.clone()
            weight.add_(0.5)
            assert not torch.allclose(network(x), before, atol=1e-6), level
            weight.copy_(saved)


def test_bundle_round_trip(tmp_path: Path) -> None:
    architecture = UNetArchitecture(input_channels=35, ngf=2, downsamplings=4)
    contract = Contract(
        schema=load_schema("cityscapes"), boundaries=False, size_multiple=16, smallest_side=16
    )
    network = build_generator(architecture, seed=2)
    save_checkpoint(tmp_path / "bundle", network, contract, {})
    loaded = load_checkpoint(tmp_path / "bundle")
    assert isinstance(loaded.generator, UNet)
    assert loaded.generator.architecture == architecture
    assert loaded.contract == contract
    ours, theirs = network.state_dict(), loaded.generator.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("change", [{"downsamplings": 1}, {"dropout": 1}, {"ngf": 0}])
def test_architecture_out_of_range(change: dict[str, int]) -> None:
    with pytest.raises(CheckpointError, match=next(iter(change))):
        UNetArchitecture(**{"input_channels": 3, **change})


def test_patch_discriminator_of_pix2pix() -> None:
    single = MultiscaleDiscriminator(6, scales=1, ndf=64, padding=1, affine_norm=True)
    # 70x70 PatchGAN: 30x30 decisions for 256x256 (Isola et al., section 6.1.2).
    with torch.inference_mode():
        ((*_, decision),) = single(torch.rand(1, 6, 256, 256))
    assert decision.shape == (1, 1, 30, 30)
    # pytorch-CycleGAN-and-pix2pix prints 2.769 M; it has no biases before its norms.
    count = sum(p.numel() for p in single.parameters()) - (128 + 256 + 512)
    assert round(count / 1e6, 3) == 2.769
