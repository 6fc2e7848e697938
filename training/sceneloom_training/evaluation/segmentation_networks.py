"""Segmentation networks of well-kept libraries, built from a few numbers and never downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from sceneloom.errors import CheckpointError, require
from sceneloom.schema import NO_CHANNEL, LabelSchema
from sceneloom_training.evaluation.transformers_folder import load_quietly

_B0 = (32, 64, 160, 256)
"""Channels of the stages of SegFormer's B0 (Xie et al., 2021, Table 6)."""


def build_segformer(schema: LabelSchema, *, width: int) -> nn.Module:
    """A SegFormer with random weights: B0, wider or narrower.

    Args:
        schema: what it tells apart.
        width: channels of the first stage, a multiple of 8; 32 is B0.

    Raises:
        MissingDependencyError: transformers is not installed.
    """
    require(["transformers"], extra="train", purpose="training a segmenter")
    from transformers import SegformerConfig, SegformerForSemanticSegmentation
    from transformers.utils import logging

    logger: Any = logging  # its functions are not annotated
    logger.disable_progress_bar()
    config = SegformerConfig(
        hidden_sizes=[channels * width // 32 for channels in _B0],
        id2label={channel: label.name for channel, label in enumerate(schema.labels)},
        label2id={label.name: channel for channel, label in enumerate(schema.labels)},
        semantic_loss_ignore_index=NO_CHANNEL,
    )
    network: nn.Module = SegformerForSemanticSegmentation(config)
    return network


def load_transformers(path: Path) -> nn.Module:
    """Whatever semantic segmentation model a folder of transformers holds, as float32.

    Raises:
        MissingDependencyError: transformers is not installed.
        CheckpointError: weights are missing or of other shapes, which would be random.
        Exception: nearly anything else, on damaged folders.
    """
    require(["transformers"], extra="train", purpose="loading a segmenter")
    from transformers import AutoModelForSemanticSegmentation

    network, loading = load_quietly(AutoModelForSemanticSegmentation, path)
    if missing := sorted(loading["missing_keys"]):
        raise CheckpointError(f"{path}: its weights lack {missing[0]} ({len(missing)} in all)")
    if other := sorted(name for name, *_ in loading["mismatched_keys"]):
        raise CheckpointError(
            f"{path}: its weights are of other shapes than config.json says: {other[0]} "
            f"({len(other)} in all)"
        )
    return network  # type: ignore[no-any-return]


def build_unet(schema: LabelSchema, *, width: int) -> nn.Module:
    """MONAI's BasicUNet with batch normalisation and random weights.

    Args:
        schema: what it tells apart.
        width: channels of the first stage; its depth doubles them four times.

    Raises:
        MissingDependencyError: MONAI is not installed.
    """
    require(["monai"], extra="train", purpose="a U-Net as segmenter")
    from monai.networks.nets.basic_unet import BasicUNet

    network: nn.Module = BasicUNet(
        spatial_dims=2,
        in_channels=3,
        out_channels=schema.channels,
        features=(width, 2 * width, 4 * width, 8 * width, 16 * width, width),
        act="relu",
        norm="batch",
    )
    return network


def logits_of(network: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Scores of every class at the size of the pixels.

    Args:
        network: of this file.
        pixels: normalised float32 [N, 3, H, W].

    Returns:
        float32 [N, channels, H, W].
    """
    given = network(pixels)
    # transformers wraps its scores, and gives them at a quarter of the size.
    scores: torch.Tensor = given if isinstance(given, torch.Tensor) else given.logits
    size = (pixels.shape[2], pixels.shape[3])
    if scores.shape[2:] == size:
        return scores.float()
    return functional.interpolate(scores.float(), size=size, mode="bilinear", align_corners=False)
