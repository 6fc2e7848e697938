"""Photographs in another light and by another camera: what a judge must not depend on.

A segmenter that has only seen clean photographs takes the grain of a generator's upsampling for
things: it judges how a picture is drawn, not what it shows. Brightness, contrast and saturation are
those of the PhotoMetricDistortion that published segmenters are trained with (SSD, Liu et al.,
ECCV 2016; ranges as there); grain and blur come on top.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_CHANCE = 0.5
_BRIGHTNESS, _FACTOR = 32 / 255, (0.5, 1.5)
_STRONGEST_GRAIN = 0.12
_GRAINS = (1, 2, 4)
_GREY = (0.299, 0.587, 0.114)


def distort(pictures: Tensor) -> Tensor:
    """Distort each picture of a batch on its own, by the process's random state.

    Args:
        pictures: float32 [N, 3, H, W], values 0 to 1.

    Returns:
        float32 [N, 3, H, W], values 0 to 1.
    """
    return torch.stack([_distort_one(picture) for picture in pictures])


def _distort_one(picture: Tensor) -> Tensor:
    if _happens():
        picture = picture + _between(-_BRIGHTNESS, _BRIGHTNESS)
    if _happens():
        picture = picture.mean() + (picture - picture.mean()) * _between(*_FACTOR)
    if _happens():
        grey = (picture * picture.new_tensor(_GREY).view(3, 1, 1)).sum(0, keepdim=True)
        picture = grey + (picture - grey) * _between(*_FACTOR)
    if _happens():
        picture = _soften(picture)
    if _happens():
        picture = picture + _grain(picture)
    return picture.clamp(0, 1)


def _soften(picture: Tensor) -> Tensor:
    """As if taken at between half and the whole of its size."""
    factor = _between(0.5, 1.0)
    smaller = functional.interpolate(
        picture[None], scale_factor=factor, mode="bilinear", antialias=True
    )
    size = (picture.shape[1], picture.shape[2])
    return functional.interpolate(smaller, size=size, mode="bilinear")[0]


def _grain(picture: Tensor) -> Tensor:
    """Noise of one to four pixels' grain, of each colour on its own."""
    _, height, width = picture.shape
    side = _GRAINS[int(torch.randint(len(_GRAINS), ()))]
    noise = torch.randn(1, 3, -(-height // side), -(-width // side), device=picture.device)
    larger = functional.interpolate(noise, scale_factor=side, mode="nearest")
    return larger[0, :, :height, :width] * _between(0, _STRONGEST_GRAIN)


def _happens() -> bool:
    return float(torch.rand(())) < _CHANCE


def _between(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))
