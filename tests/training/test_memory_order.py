"""Gradients do not depend on the order that tensors have in memory.

PyTorch 2.13's own InstanceNorm gets them wrong on the CPU for a batch of one picture whose gradient
comes in the order of channels_last.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_runs import small
from training_worlds import load_gradients, save_gradients

from sceneloom_training.networks.generator import InstanceNorm

ORDERS = [torch.contiguous_format, torch.channels_last]


def by_definition(x: Tensor) -> Tensor:
    variance = x.var((2, 3), keepdim=True, unbiased=False)
    return (x - x.mean((2, 3), keepdim=True)) / torch.sqrt(variance + 1e-5)


@pytest.mark.parametrize("of_gradient", ORDERS, ids=str)
@pytest.mark.parametrize("of_input", ORDERS, ids=str)
@pytest.mark.parametrize("pictures", [1, 2, 3])
def test_instance_norm_has_the_gradient_of_its_definition(
    pictures: int, of_input: torch.memory_format, of_gradient: torch.memory_format
) -> None:
    draw = torch.Generator().manual_seed(pictures)
    shape = (pictures, 4, 6, 10)
    x, upstream = (torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(2))
    wanted = x.clone().requires_grad_()
    by_definition(wanted).backward(upstream)
    ours = x.contiguous(memory_format=of_input).clone().requires_grad_()
    result = InstanceNorm(4).double()(ours)
    result.backward(upstream.contiguous(memory_format=of_gradient))
    torch.testing.assert_close(result, by_definition(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.grad, wanted.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "generator",
    [
        {"enhancers": 1, "enhancer_blocks": 1},
        {"network": "unet", "unet_downsamplings": 3, "dropout": False},
    ],
    ids=["pix2pixhd", "unet"],
)
@pytest.mark.parametrize("batch", [1, 2])
def test_a_training_step_has_the_same_gradients_in_either_order(
    samples: Path, tmp_path: Path, generator: dict[str, Any], batch: int
) -> None:
    for channels_last in (True, False):
        settings = small(
            samples,
            generator=generator,
            style={"features": 2, "nef": 2, "downsamplings": 1},
            optimizer={"batch": batch},
            compute={"precision": "float64", "channels_last": channels_last},
        )
        save_gradients(settings, str(tmp_path / f"{channels_last}"))
    ours, plain = (load_gradients(tmp_path / f"{order}-0") for order in (True, False))
    assert ours.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(ours[name], gradient, rtol=0, atol=1e-9, msg=name)
