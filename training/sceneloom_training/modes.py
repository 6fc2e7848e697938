"""Choices that the settings offer and the networks and losses implement; torch is not imported."""

from __future__ import annotations

from typing import Literal, TypeAlias

GanMode: TypeAlias = Literal["least_squares", "vanilla", "hinge"]
"""The GAN loss: ``least_squares`` (Mao et al., 2017; as published), ``vanilla`` or ``hinge``."""

PaddingMode: TypeAlias = Literal["reflect", "replicate", "zeros"]
"""What convolutions see beyond the edge: ``reflect`` as published, or what costs engines less."""

Precision: TypeAlias = Literal["float32", "bfloat16", "float16", "float64"]
"""What convolutions compute in while training."""

DeviceChoice: TypeAlias = Literal["auto", "cpu", "cuda"]
"""``auto`` takes a GPU if there is one."""
