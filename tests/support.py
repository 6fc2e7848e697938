"""What several tests build: small random generators, published files, server settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sceneloom_serving.embedded import ServerSettings
    from sceneloom_training.networks import Generator, GeneratorArchitecture


def wide_generator(architecture: GeneratorArchitecture, seed: int) -> Generator:
    """A random generator whose pictures have contrast: weights wider than the initialisation's."""
    import torch

    from sceneloom_training.networks import build_generator

    generator = build_generator(architecture, seed=seed).eval().requires_grad_(False)
    noise = torch.Generator().manual_seed(seed)
    for tensor in generator.parameters():
        tensor.copy_(
            torch.randn(tensor.shape, generator=noise) * (0.05 if tensor.ndim > 1 else 0.1)
        )
    return generator


def save_published(generator: Generator, path: Path) -> None:
    """Write a generator as pix2pixHD does."""
    import torch

    from sceneloom_training.published import published_names

    state = generator.state_dict()
    torch.save(
        {theirs: state[ours] for ours, theirs in published_names(generator.architecture)}, path
    )


def free_ports(**settings: Any) -> ServerSettings:
    """Settings of an embedded server that takes free ports, so that tests can run side by side."""
    from sceneloom_serving.embedded import ServerSettings

    return ServerSettings(http_port=0, grpc_port=0, metrics_port=0, **settings)


def blocky_maps(
    height: int, width: int, seed: int, labels: int = 35
) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], np.ndarray[Any, np.dtype[np.int32]]]:
    """A label map and an instance map of random 8x8 blocks."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, labels, (-(-height // 8), -(-width // 8)))
    label_map = np.kron(blocks, np.ones((8, 8), int))[:height, :width].astype(np.uint8)
    instances = blocks * 1000 + rng.integers(0, 3, blocks.shape)
    instance_map = np.kron(instances, np.ones((8, 8), int))[:height, :width].astype(np.int32)
    return label_map, instance_map
