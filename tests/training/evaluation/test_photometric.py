"""Distortions that a judge is trained with."""

from __future__ import annotations

import torch

from sceneloom_training.evaluation.segmenter_training import distort


def test_values_stay_in_range_and_things_where_they_are() -> None:
    torch.manual_seed(0)
    picture = torch.zeros(1, 3, 64, 96)
    picture[..., 48:] = 0.8
    for _ in range(30):
        out = distort(picture)
        assert out.shape == picture.shape
        assert out.dtype == torch.float32
        assert 0 <= float(out.min()) <= float(out.max()) <= 1
        left, right = out[..., :40].mean(), out[..., 56:].mean()
        assert right - left > 0.2


def test_equal_states_give_equal_pictures_and_each_picture_its_own() -> None:
    pictures = torch.rand(1, 3, 32, 32).expand(6, 3, 32, 32)
    torch.manual_seed(5)
    first = distort(pictures)
    torch.manual_seed(5)
    assert torch.equal(distort(pictures), first)
    assert len({float(picture.sum()) for picture in first}) > 3


def test_odd_sizes() -> None:
    torch.manual_seed(1)
    for _ in range(10):
        assert distort(torch.rand(1, 3, 33, 71)).shape == (1, 3, 33, 71)
