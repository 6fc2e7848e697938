"""The served graph in PyTorch: one-hot, boundaries, style, and the step to grey levels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from support import blocky_maps, wide_generator
from torch import Tensor, nn

from sceneloom.contract import STYLE_ROWS, Contract
from sceneloom.maps import boundary_map
from sceneloom.schema import load_schema
from sceneloom_training.networks import GeneratorArchitecture, ServedGenerator
from sceneloom_training.networks.served import boundary_plane, style_planes


class Recorder(nn.Module):
    """Stands in the generator's place, keeps its input and answers a ramp."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.architecture = GeneratorArchitecture(input_channels=channels)
        self.seen = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        n, _, h, w = x.shape
        ramp = torch.linspace(-1.2, 1.2, h * w).view(1, 1, h, w)
        return ramp.expand(n, 3, h, w)


@pytest.mark.parametrize("top", [3000, 2**24 + 2, 2**31 - 1])
def test_boundaries_agree_with_numpy_for_ids_that_collide_as_half_or_float(top: int) -> None:
    ids = torch.randint(top - 3, top, (2, 24, 40), dtype=torch.int64).to(torch.int32)
    planes = boundary_plane(ids)
    for i in range(2):
        assert np.array_equal(planes[i, 0].numpy().astype(bool), boundary_map(ids[i].numpy()))
    assert 0 < planes.mean() < 1 or planes.mean() == 1
    assert boundary_plane(torch.full((1, 8, 8), top, dtype=torch.int32)).sum() == 0


def test_network_input_is_one_hot_then_boundary() -> None:
    schema = load_schema("cityscapes19")
    contract = Contract(schema=schema, boundaries=True, size_multiple=1)
    recorder = Recorder(20)
    label_map = torch.tensor([[[0, 18, 255], [3, 3, 3]]], dtype=torch.uint8)
    instance_map = torch.tensor([[[7, 7, 7], [7, 7, 7]]], dtype=torch.int32)
    ServedGenerator(recorder, contract)(label_map, instance_map)  # type: ignore[arg-type]
    assert recorder.seen.shape == (1, 20, 2, 3)
    assert recorder.seen[0, 0].tolist() == [[1, 0, 0], [0, 0, 0]]
    assert recorder.seen[0, 18].tolist() == [[0, 1, 0], [0, 0, 0]]
    assert recorder.seen[0, 3].tolist() == [[0, 0, 0], [1, 1, 1]]
    assert recorder.seen[0, :, 0, 2].sum() == 0  # unlabelled has no channel
    assert recorder.seen[0, 19].sum() == 0


def test_levels_are_clipped_and_rounded() -> None:
    contract = Contract(schema=load_schema("helen"), boundaries=False, size_multiple=1)
    recorder = Recorder(11)
    served = ServedGenerator(recorder, contract)  # type: ignore[arg-type]
    image = served(torch.zeros(1, 50, 100, dtype=torch.uint8))
    assert image.dtype == torch.uint8
    assert image.shape == (1, 50, 100, 3)
    expected = np.clip((np.linspace(-1.2, 1.2, 5000, dtype=np.float32) + 1) * 127.5, 0, 255)
    assert np.array_equal(image[0, ..., 0].numpy().ravel(), np.round(expected).astype(np.uint8))


def test_style_rows_go_to_their_own_picture_and_instance() -> None:
    style = torch.arange(2 * STYLE_ROWS * 3, dtype=torch.float32).view(2, STYLE_ROWS, 3)
    ids = torch.tensor([[[0, 255], [3, 9999]], [[1, 0], [2, -5]]], dtype=torch.int32)
    planes = style_planes(ids, style)
    assert planes.shape == (2, 3, 2, 2)
    assert torch.equal(planes[0, :, 0, 1], style[0, 255])
    assert torch.equal(planes[0, :, 1, 0], style[0, 3])
    assert torch.equal(planes[0, :, 1, 1], style[0, 255])  # clamped
    assert torch.equal(planes[1, :, 0, 0], style[1, 1])
    assert torch.equal(planes[1, :, 1, 1], style[1, 0])  # clamped


def test_style_changes_the_picture(small_architecture: GeneratorArchitecture) -> None:
    architecture = dataclasses.replace(small_architecture, input_channels=39)
    contract = Contract(
        schema=load_schema("cityscapes"), boundaries=True, style_channels=3, size_multiple=8
    )
    served = ServedGenerator(wide_generator(architecture, seed=0), contract).eval()
    label_map, instance_map = (torch.from_numpy(x)[None] for x in blocky_maps(32, 48, seed=0))
    with torch.inference_mode():
        plain = served(label_map, instance_map % 50, torch.zeros(1, 256, 3))
        styled = served(label_map, instance_map % 50, torch.randn(1, 256, 3) * 3)
    assert (plain.int() - styled.int()).abs().float().mean() > 1


def test_generator_and_contract_must_add_up(small_architecture: GeneratorArchitecture) -> None:
    contract = Contract(schema=load_schema("helen"), boundaries=True, size_multiple=8)
    with pytest.raises(AssertionError):
        ServedGenerator(wide_generator(small_architecture, seed=0), contract)
