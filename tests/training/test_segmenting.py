"""The discriminator that segments: its losses by hand, its step, and its runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_runs import (
    Command,
    differences,
    newest_state,
    resolved,
    small,
    world,
    write_samples,
    write_toml,
)

from sceneloom.errors import CheckpointError, InputError
from sceneloom_training import losses
from sceneloom_training.checkpoint import load_checkpoint
from sceneloom_training.networks import (
    GeneratorArchitecture,
    SegmentingDiscriminator,
    build_generator,
    initialise,
)
from sceneloom_training.objective import Inputs, Objective, constant
from sceneloom_training.settings import LossSettings
from sceneloom_training.trainer import train

pytestmark = pytest.mark.usefixtures("one_thread")

KIND = {"kind": "segmenting", "ndf": 2, "levels": 3}


# Losses ------------------------------------------------------------------------------------------

LABELS = torch.tensor([[[0, 0, 0, 1, 255]]], dtype=torch.uint8)
"""Three pixels of class 0, one of class 1, one without a class; class 2 is generated."""


def logits() -> Tensor:
    values = torch.tensor([[1.0, 0, 0], [0, 2, 0], [0, 0, 3], [0, 0, 1], [9, 9, 9]])
    return values.T.reshape(1, 3, 1, 5).clone().requires_grad_()


def test_a_rare_class_counts_as_much_as_a_frequent_one() -> None:
    e = math.e
    first = (math.log(e + 2) - 1 + math.log(e**2 + 2) + math.log(e**3 + 2)) / 3
    second = math.log(e + 2)
    given = logits()
    loss = losses.class_loss(given, LABELS)
    assert loss.item() == pytest.approx((first + second) / 2)
    loss.backward()
    # Weight of the pixel's class, times probability minus truth.
    softmax = given.detach().softmax(1)[0, :, 0]
    expected = softmax.clone()
    expected[0, :3] -= 1
    expected[1, 3] -= 1
    expected *= torch.tensor([1 / 6, 1 / 6, 1 / 6, 1 / 2, 0])
    assert torch.allclose(given.grad[0, :, 0], expected, atol=1e-6)


def test_generated_pixels_with_a_class_count_alike() -> None:
    e = math.e
    # The generated class has logits 0, 0, 3, 1; the pixel without a class is ignored.
    terms = (math.log(e + 2), math.log(e**2 + 2), math.log(e**3 + 2) - 3, math.log(e + 2) - 1)
    loss = losses.generated_loss(given := logits(), LABELS)
    assert loss.item() == pytest.approx(sum(terms) / 4)
    loss.backward()
    assert given.grad[..., 4].abs().max() == 0


def test_a_map_without_any_class_has_no_loss() -> None:
    empty = torch.full((1, 1, 5), 255, dtype=torch.uint8)
    total = losses.class_loss(given := logits(), empty) + losses.generated_loss(given, empty)
    total.backward()
    assert total.item() == 0
    assert given.grad.abs().max() == 0


def test_classes_are_mixed_whole_and_maps_apart() -> None:
    label_map = torch.randint(12, (8, 16, 16)).to(torch.uint8)
    mask = losses.mix_classes(label_map)
    assert mask.shape == (8, 1, 16, 16)
    coins = {}
    for n in range(8):
        for label in range(12):
            found = mask[n, 0][label_map[n] == label].unique().tolist()
            assert len(found) == 1
            coins[n, label] = found[0]
    assert 24 < sum(coins.values()) < 72
    assert len({tuple(coins[n, label] for label in range(12)) for n in range(8)}) > 1


def test_label_mix_wants_the_logits_of_the_mixture() -> None:
    real, fake = torch.randn(1, 3, 2, 2), torch.randn(1, 3, 2, 2)
    mask = torch.tensor([[[[True, False], [False, True]]]])
    mixed = torch.where(mask, real, fake)
    assert losses.label_mix_loss(mixed, real, fake, mask).item() == 0
    off = losses.label_mix_loss(mixed + 0.5, real, fake, mask, weight=10.0)
    assert off.item() == pytest.approx(2.5)


# Network -----------------------------------------------------------------------------------------


def test_channels_are_the_published_ones() -> None:
    network = SegmentingDiscriminator(19, ndf=4)
    downs = [(x.conv1.in_channels, x.conv1.out_channels) for x in network.downs]
    ups = [(x.conv1.in_channels, x.conv1.out_channels) for x in network.ups]
    # A sixteenth of the paper's: 128, 128, 256, 256, 512, 512 down, 512 to 64 up.
    assert downs == [(3, 8), (8, 8), (8, 16), (16, 16), (16, 32), (32, 32)]
    assert ups == [(32, 32), (64, 16), (32, 16), (32, 8), (16, 8), (16, 4)]
    assert (network.head.in_channels, network.head.out_channels) == (4, 20)


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (24, 32)])
@pytest.mark.parametrize("levels", [1, 4])
def test_any_size_and_gradients_everywhere(size: tuple[int, int], levels: int) -> None:
    network = SegmentingDiscriminator(5, ndf=2, levels=levels)
    judged = network(torch.randn(2, 3, *size))
    assert judged.shape == (2, 6, *size)
    judged.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_pictures_of_a_batch_do_not_see_each_other() -> None:
    network = SegmentingDiscriminator(5, ndf=2, levels=2).eval()
    pictures = torch.randn(3, 3, 8, 8)
    together, alone = network(pictures), torch.cat([network(x) for x in pictures.split(1)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_it_learns_classes_and_what_is_generated() -> None:
    torch.manual_seed(0)
    network = SegmentingDiscriminator(3, ndf=4, levels=2)
    initialise(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2, betas=(0.5, 0.999))
    label_map = (torch.arange(16).view(1, 1, 16) // 6).expand(2, 16, 16).to(torch.uint8)
    shades = torch.tensor([-0.8, 0.0, 0.8])[label_map.long()].unsqueeze(1).expand(2, 3, 16, 16)
    checkerboard = (torch.arange(16).view(-1, 1) + torch.arange(16)) % 2 - 0.5
    found = []
    for _ in range(40):
        real = network(shades + 0.1 * torch.randn(2, 3, 16, 16))
        fake = network(shades + checkerboard)
        loss = losses.class_loss(real, label_map) + losses.generated_loss(fake, label_map)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[0] > 2.5  # chance: 2 log 4
    assert found[-1] < 1.0
    assert (real.argmax(1) == label_map).float().mean() > 0.9
    assert (fake.argmax(1) == 3).float().mean() > 0.9


# Step --------------------------------------------------------------------------------------------


def objective(**loss: float) -> Objective:
    inputs = Inputs(labels=5, boundaries=True, style=0)
    torch.manual_seed(3)
    architecture = GeneratorArchitecture(
        input_channels=6, ngf=4, global_downsamplings=2, global_blocks=1
    )
    networks = build_generator(architecture), SegmentingDiscriminator(5, ndf=2, levels=2)
    settings = LossSettings(**loss)
    return Objective(inputs, *networks, None, loss=settings, perceptual=None, seed=0)


def batch() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    label_map = torch.randint(5, (2, 16, 16), generator=draw).to(torch.uint8)
    label_map[:, :3] = 255
    return {
        "label_map": label_map,
        "instance_map": torch.randint(3, (2, 16, 16), generator=draw).to(torch.int32),
        "photo": torch.randint(256, (2, 16, 16, 3), generator=draw).to(torch.uint8),
    }


def test_each_loss_trains_its_own_network() -> None:
    ours = objective(l1=1.0)
    total, terms, _ = ours(batch())
    # No feature matching: its default weight is for PatchGANs.
    assert set(terms) == {"discriminator", "generator_gan", "label_mix", "l1"}
    assert total.item() == pytest.approx(sum(x.item() for x in terms.values()), rel=1e-5)
    total.backward()
    assert all(p.grad is not None for p in ours.parameters())
    wanted = [p.grad.clone() for p in ours.generator.parameters()]
    ours.zero_grad()
    with constant(ours.discriminator):
        ours(batch())[0].backward()
    assert all(p.grad is None for p in ours.discriminator.parameters())
    assert any(x.abs().max() > 0 for x in wanted)
    assert ours.generator.head[1].weight.grad.abs().max() > 0


def test_label_mix_can_be_off() -> None:
    assert set(objective(label_mix=0)(batch())[1]) == {"discriminator", "generator_gan"}


def test_bfloat16_has_the_losses_of_float32() -> None:
    ours = objective(label_mix=0).eval()  # no step of spectral norm between the two
    exact = ours(batch())[1]
    with torch.autocast("cpu", torch.bfloat16):
        total, rounded, _ = ours(batch())
    assert total.dtype == torch.float32
    for name, value in exact.items():
        assert rounded[name].item() == pytest.approx(value.item(), rel=0.05)


# Runs --------------------------------------------------------------------------------------------


def run(samples: Path, out: Path, **sections: Any) -> None:
    sections = {"discriminator": KIND, "schedule": {"epochs": 1, "decay_epochs": 1}, **sections}
    train(resolved(small(samples, **sections)), out)


def test_a_stopped_run_resumes_bit_for_bit(
    samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compute = {"precision": "bfloat16"}
    run(samples, tmp_path / "whole", compute=compute)
    assert "feature matching off: discriminator.kind is segmenting" in capsys.readouterr().err
    for steps in (1, 4, 12):
        schedule = {"epochs": 1, "decay_epochs": 1, "max_steps": steps}
        torch.manual_seed(steps)
        run(samples, tmp_path / "parts", schedule=schedule, compute=compute)
    ours, theirs = newest_state(tmp_path / "parts"), newest_state(tmp_path / "whole")
    assert differences(ours, theirs) == []
    assert load_checkpoint(tmp_path / "parts" / "model").contract is not None


def test_two_processes_stay_equal(samples: Path, tmp_path: Path) -> None:
    sections = {"discriminator": KIND, "schedule": {"epochs": 1, "decay_epochs": 0}}
    toml = write_toml(tmp_path / "two.toml", small(samples, **sections))
    commands = [
        Command("train", toml, "--out", tmp_path / "run", said=tmp_path / f"{n}", environment=e)
        for n, e in enumerate(world(2))
    ]
    assert [command.wait() for command in commands] == [0, 0], [c.errors for c in commands]
    state = newest_state(tmp_path / "run")
    assert len(state["ranks"]) == 2
    assert not torch.equal(state["ranks"][0]["torch"], state["ranks"][1]["torch"])


def test_starting_from_another_run(samples: Path, tmp_path: Path) -> None:
    one = {"epochs": 1, "decay_epochs": 0, "max_steps": 1}
    run(samples, tmp_path / "first", schedule=one)
    further = {**KIND, "start_from": tmp_path / "first"}
    slow = {"learning_rate": 0.0}
    run(samples, tmp_path / "second", schedule=one, discriminator=further, optimizer=slow)
    ours, theirs = (newest_state(tmp_path / x)["networks"] for x in ("second", "first"))
    names = [name for name in theirs if name.endswith("original") and "discriminator" in name]
    assert len(names) == 18
    assert all(torch.equal(ours[name], theirs[name]) for name in names)
    with pytest.raises(CheckpointError, match="have other shapes"):
        run(samples, tmp_path / "third", discriminator={**further, "levels": 2})
    patches = {"start_from": tmp_path / "first"}
    with pytest.raises(CheckpointError, match=r"of the other discriminator\.kind"):
        run(samples, tmp_path / "third", discriminator=patches)


def test_what_has_no_classes_or_no_place_is_refused(samples: Path, tmp_path: Path) -> None:
    paired = write_samples(tmp_path / "paired", 2, layout="paired")
    data = {"layout": "paired", "root": paired}
    with pytest.raises(InputError, match=r"needs label maps, and a paired data set has none: --"):
        run(samples, tmp_path / "run", data=data, generator={"boundaries": False})
    for section, changes, name in (
        ("discriminator", {**KIND, "affine_norm": True}, r"discriminator\.affine_norm"),
        ("discriminator", {**KIND, "spectral_norm": True}, r"discriminator\.spectral_norm"),
        ("loss", {"pool": 2}, r"loss\.pool"),
    ):
        with pytest.raises(InputError, match=rf"{name} is for discriminator\.kind patch"):
            run(samples, tmp_path / "run", **{section: changes})
