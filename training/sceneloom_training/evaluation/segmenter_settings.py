"""How a segmenter is trained, as `sceneloom train-segmenter` takes it from flags."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from sceneloom.errors import InputError
from sceneloom.maps import DEFAULT_MAX_PIXELS
from sceneloom_training.data.sizes import parse_size
from sceneloom_training.modes import DeviceChoice, Precision


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmenterSettings:
    """A segmentation network from random weights, and its training."""

    network: Literal["segformer", "unet"] = "segformer"
    """SegFormer (Xie et al., NeurIPS 2021; from transformers), for many photographs and long
    training, or a convolutional U-Net (Ronneberger et al., MICCAI 2015; from MONAI), which learns
    small things in small pictures from few.
    """
    size: str = "512x256"
    """WIDTHxHEIGHT that photographs are resized to, in training and when it judges."""
    width: int = 32
    """Channels of the first stage; 32 gives SegFormer's B0 and MONAI's usual U-Net."""
    epochs: int = 160
    """Passes over the photographs."""
    batch: int = 8
    """Pictures per step."""
    learning_rate: float = 6e-4
    """Of AdamW after warm-up; it falls to zero in a straight line."""
    weight_decay: float = 0.01
    """Of AdamW."""
    warm_up: float = 0.05
    """Share of the steps in which the learning rate rises from zero."""
    balance: float = 0.0
    """Weight of a class in the loss: its share of the pixels to the power of minus this. 0 weighs
    all pixels alike, 0.5 lets rare classes be learnt in a short training.
    """
    precision: Precision = "float32"
    """bfloat16 is faster where the processor has it; float16 and float64 are not for this."""
    flip: bool = True
    """Mirror left to right, with a chance of one half."""
    photometric: bool = True
    """Vary light, colours, grain and sharpness at random: a judge is to see what a picture shows,
    however it is drawn.
    """
    workers: int = 2
    """Processes that load photographs."""
    cache: int = 0
    """Photographs that each loading process keeps in memory."""
    checkpoint_every: int = 500
    """Steps between checkpoints, from which the same command goes on."""
    half: bool = False
    """Write the weights as float16, in half the space; they are loaded as float32."""
    seed: int = 0
    """Of weights, order and flips."""
    device: DeviceChoice = "auto"
    """auto takes a GPU if there is one."""

    def __post_init__(self) -> None:
        """Check the ranges, and what the fields mean together."""
        height, width = parse_size(self.size, of="size")
        if height * width > DEFAULT_MAX_PIXELS:
            raise InputError(f"size is {self.size}; it is at most {DEFAULT_MAX_PIXELS:,} pixels")
        if height % 32 or width % 32:
            raise InputError(f"size is {self.size}; both sides are multiples of 32")
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:  # also refuses nan
                raise InputError(f"{name} is {value}; it is from {low:g} to {high:g}")
        if self.network not in ("segformer", "unet"):
            raise InputError(f"network is {self.network}; it is segformer or unet")
        if self.network == "segformer" and self.width % 8:
            raise InputError(f"width is {self.width}; a SegFormer takes multiples of 8")
        if self.precision not in ("float32", "bfloat16"):
            raise InputError(f"precision is {self.precision}; it is float32 or bfloat16")

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object."""
        return dataclasses.asdict(self)


_RANGES = (
    ("width", 1, 1024),
    ("epochs", 1, 1_000_000),
    ("batch", 1, 4096),
    ("learning_rate", 0, 1),
    ("weight_decay", 0, 1),
    ("warm_up", 0, 0.99),
    ("balance", 0, 1),
    ("workers", 0, 256),
    ("cache", 0, 10**9),
    ("checkpoint_every", 1, 10**12),
    ("seed", 0, 2**63 - 1),
)
"""Field, least and greatest value."""
