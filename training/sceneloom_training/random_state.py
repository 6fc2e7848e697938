"""Every random state of the process, in a form that a checkpoint can hold without pickled code."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def seed_random_states(seed: int) -> None:
    """Begin every random state of the process with a seed, from 0."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def random_states() -> dict[str, Any]:
    """States of PyTorch (CPU, current GPU), NumPy and Python, as tensors and plain values."""
    legacy: Any = np.random.get_state(legacy=True)
    _, keys, position, has_gauss, gauss = legacy
    version, inner, following = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(inner), following],
    }


def set_random_states(state: dict[str, Any]) -> None:
    """Go on where `random_states` was taken."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, inner, following = state["python"]
    random.setstate((version, tuple(inner), following))
