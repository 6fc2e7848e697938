"""Where to compute: what the user asks for, if it is there."""

from __future__ import annotations

import torch

from sceneloom.errors import InputError
from sceneloom_training.modes import DeviceChoice


def choose_device(wanted: DeviceChoice, setting: str) -> str:
    """Choose between CPU and GPU.

    Args:
        wanted: ``auto`` takes a GPU if there is one.
        setting: what to call it in an error.

    Returns:
        ``cpu`` or ``cuda``.

    Raises:
        InputError: a GPU is wanted, and PyTorch finds none.
    """
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise InputError(f"{setting} is cuda, and PyTorch finds no GPU here: use auto or cpu")
    return "cuda" if there and wanted != "cpu" else "cpu"
