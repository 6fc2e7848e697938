"""Validation keeps no graph and does not touch the training; colour errors of known pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support import blocky_maps
from trees import write_pix2pixhd

from sceneloom.contract import Contract
from sceneloom.schema import load_schema
from sceneloom_training.assembly import assemble
from sceneloom_training.data import DataSettings, Geometry, open_data_set
from sceneloom_training.networks import GeneratorArchitecture, build_generator
from sceneloom_training.settings import DiscriminatorSettings, GeneratorSettings, TrainSettings
from sceneloom_training.torch_synthesizer import TorchSynthesizer
from sceneloom_training.validation import Validation, mean_colour_error


@pytest.fixture
def data(tmp_path: Path) -> DataSettings:
    write_pix2pixhd(tmp_path / "data", 32, 48)
    return DataSettings(layout="pix2pixhd", root=tmp_path / "data")


def kept_for_a_backward_pass(call: object) -> int:
    """Number of tensors that autograd keeps while `call` runs."""
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        call()  # type: ignore[operator]
    return len(kept)


@pytest.mark.parametrize("held_out", [0, 1])
def test_looking_keeps_no_graph(data: DataSettings, held_out: int) -> None:
    """Defect 6 of the published implementation: out of memory at 2048x1024 on 11 GB."""
    settings = TrainSettings(
        data=data,
        generator=GeneratorSettings(ngf=2, global_downsamplings=2, global_blocks=1),
        discriminator=DiscriminatorSettings(ndf=2, scales=1),
    )
    samples = open_data_set(data)
    objective = assemble(settings, samples.schema, has_instances=True).objective
    validation = Validation(
        samples, Geometry(mode="none"), held_out=held_out, multiple=4, smallest=8, seed=0
    )
    device = torch.device("cpu")
    looks = []
    assert (
        kept_for_a_backward_pass(
            lambda: looks.append(validation.validate(objective, objective.generator, device))
        )
        == 0
    )
    assert objective.generator.training
    assert all(p.requires_grad for p in objective.generator.parameters())
    (look,) = looks
    assert list(look.strips) == (["3"] if held_out else ["0", "1", "2", "3"])
    strip = look.strips["3"]
    assert strip.shape == (32, 3 * 48, 3)
    assert np.array_equal(strip[:, 96:], samples.read(3).photo)
    assert (look.colour_error is not None) == bool(held_out)


def test_the_reference_runtime_keeps_no_graph() -> None:
    architecture = GeneratorArchitecture(
        input_channels=12, ngf=2, global_downsamplings=2, global_blocks=1
    )
    contract = Contract(schema=load_schema("helen"), boundaries=True, size_multiple=4)
    runtime = TorchSynthesizer(build_generator(architecture), contract)
    maps = blocky_maps(32, 32, seed=0, labels=11)
    assert kept_for_a_backward_pass(lambda: runtime.synthesize(*maps)) == 0


def pictures() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    label_map = np.zeros((20, 20), np.uint8)
    label_map[:, 10:] = 3
    photo = np.full((20, 20, 3), 100, np.uint8)
    picture = photo.copy()
    picture[:, 10:] = (130, 100, 70)
    return picture, photo, label_map


def test_error_over_the_classes() -> None:
    picture, photo, label_map = pictures()
    assert mean_colour_error(picture, photo, label_map) == pytest.approx((0.0 + 20.0) / 2)


def test_only_the_mean_colour_counts() -> None:
    picture, photo, label_map = pictures()
    picture[:, :10] = 50
    picture[::2, :10] = 150
    assert mean_colour_error(picture, photo, label_map) == pytest.approx((0.0 + 20.0) / 2)


def test_small_classes_and_pixels_without_channel_are_left_out() -> None:
    picture, photo, label_map = pictures()
    label_map[:7, :9] = 5  # 63 pixels
    label_map[10:, 10:] = 255
    picture[label_map == 5] = picture[label_map == 255] = 250
    assert mean_colour_error(picture, photo, label_map) == pytest.approx((0.0 + 20.0) / 2)
    assert mean_colour_error(picture, photo, np.full_like(label_map, 255)) == 0.0
