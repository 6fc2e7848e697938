"""What is measured: a checkpoint, or the published network with random weights, and the arithmetic
of one of its pictures.

Functions here load torch: they are called in a process of their own, so that the one that takes the
times stays small.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sceneloom.contract import Contract
from sceneloom.errors import InputError

if TYPE_CHECKING:
    from sceneloom_training.networks import Architecture


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A model, without its weights."""

    contract: Contract
    """What it takes and gives."""
    parameters: int
    """Of its generator."""
    weights: str
    """``random``, or the SHA-256 of the checkpoint's weights."""
    architecture: dict[str, Any]
    """Of its generator, as `model.json` has it."""
    gflop: float
    """Of one picture, in 10^9 operations; see `picture_gflop`."""


def random_checkpoint(folder: Path, ngf: int, blocks: int) -> Path:
    """Write the published 2048x1024 network with random weights as a checkpoint bundle.

    Args:
        folder: where the bundle's folder is made.
        ngf: filters of the enhancer's first convolution; 32 is the published network.
        blocks: residual blocks of the global generator; 9 is the published network.
    """
    from sceneloom.schema import load_schema
    from sceneloom_training.checkpoint import save_checkpoint
    from sceneloom_training.networks import GeneratorArchitecture, build_generator

    schema = load_schema("cityscapes")
    architecture = GeneratorArchitecture(
        input_channels=schema.channels + 1, ngf=ngf, global_blocks=blocks, enhancers=1
    )
    contract = Contract(schema=schema, boundaries=True, size_multiple=architecture.size_multiple)
    generator = build_generator(architecture, seed=0)
    save_checkpoint(folder / "checkpoint", generator, contract, {"weights": "random"})
    return folder / "checkpoint"


def read_subject(checkpoint: Path, size: tuple[int, int], *, random: bool) -> Subject:
    """Describe a checkpoint.

    Args:
        checkpoint: the bundle.
        size: (height, width) of its pictures.
        random: whether its weights mean nothing.

    Raises:
        InputError: its model takes no label maps.
        CheckpointError: it cannot be read.
    """
    from sceneloom_training.checkpoint import load_checkpoint

    trained = load_checkpoint(checkpoint)
    if trained.contract is None:
        raise InputError(f"{checkpoint}: its model takes pictures, not label maps")
    trained.contract.check_exact_size(*size)
    architecture = trained.generator.architecture
    return Subject(
        contract=trained.contract,
        parameters=sum(p.numel() for p in trained.generator.parameters()),
        weights="random" if random else trained.weights_hash,
        architecture=architecture.to_json(),
        gflop=picture_gflop(architecture, size),
    )


def picture_gflop(architecture: Architecture, size: tuple[int, int]) -> float:
    """Operations of one picture, in 10^9: a multiplication and an addition of a convolution are
    two; norms, activations and the one-hot planes are not counted.

    They are the model's as published, whatever an engine leaves out or adds. Nothing is computed:
    PyTorch's counter sees tensors that have shapes only.

    Args:
        architecture: of the generator.
        size: (height, width).
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    from sceneloom_training.networks import build_generator

    counter = FlopCounterMode(display=False)
    with FakeTensorMode():
        generator = build_generator(architecture).eval()
        with torch.inference_mode(), counter:
            generator(torch.empty(1, architecture.input_channels, *size))
    return float(counter.get_total_flops()) / 1e9


def sees_gpu() -> bool:
    """Whether PyTorch can use a GPU here."""
    import torch

    return torch.cuda.is_available()


def gpu_used_mib() -> float:
    """Memory of the GPU that is in use, by whatever process, in MiB."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return (total - free) / (1 << 20)
