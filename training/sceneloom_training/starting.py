"""Networks that begin with another run's weights: fine-tuning, and the stages of coarse to fine
training.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from sceneloom.contract import Contract
from sceneloom.errors import CheckpointError
from sceneloom.schema import LabelSchema
from sceneloom.text import counted
from sceneloom_training.checkpoint import load_checkpoint
from sceneloom_training.networks import (
    FeatureEncoder,
    Generator,
    MultiscaleDiscriminator,
    SynthesisNetwork,
)
from sceneloom_training.run_folder import RunFolder

_STEM = "stem.1.weight"
"""Ends the name of every convolution that sees the input planes."""
_OWN = "discriminator."
_SCALE = "discriminators."


def start_generator(
    generator: SynthesisNetwork, bundle: Path, schema: LabelSchema | None = None
) -> None:
    """Copy the weights of an equal generator, or those of a smaller one into the one that encloses
    it: all but its last convolution. Where the new one knows more labels, theirs find their planes
    by name, and what is seen in the others' begins as it was drawn.

    Args:
        generator: is changed.
        bundle: checkpoint bundle.
        schema: of the new generator's label maps; None for a paired data set.

    Raises:
        CheckpointError: the bundle cannot be read, or its generator does not fit inside.
    """
    read = load_checkpoint(bundle)
    inner = read.generator
    if not isinstance(inner, Generator) or not isinstance(generator, Generator):
        raise CheckpointError(f"{bundle}: only a pix2pixHD generator fits into another")
    ours, theirs = generator.architecture, inner.architecture
    left = ours.enhancers - theirs.enhancers
    if left < 0:
        raise CheckpointError(
            f"{bundle}: has {counted(theirs.enhancers, 'enhancer')}, the new generator "
            f"{ours.enhancers}; it cannot have fewer"
        )
    blocks = ours.enhancer_blocks if theirs.enhancers else theirs.enhancer_blocks
    expected = dataclasses.replace(
        ours, enhancers=theirs.enhancers, enhancer_blocks=blocks, ngf=ours.ngf << left
    )
    planes = _planes_of_labels(read.contract, schema)
    if planes is not None:
        if planes[-1] + 1 != ours.input_channels:
            raise CheckpointError(
                f"{bundle}: knows fewer labels than the new generator, which then has to have "
                "boundaries and style features as it has"
            )
        expected = dataclasses.replace(expected, input_channels=theirs.input_channels)
    if theirs != expected:
        differ = [
            f"{field.name} {getattr(theirs, field.name)} instead of {getattr(expected, field.name)}"
            for field in dataclasses.fields(theirs)
            if getattr(theirs, field.name) != getattr(expected, field.name)
        ]
        raise CheckpointError(
            f"{bundle}: does not fit inside the new generator ({', '.join(differ)})"
        )
    weights = inner.state_dict()
    if left:
        weights = {name: w for name, w in weights.items() if not name.startswith("head.")}
    if planes is not None:
        drawn = generator.state_dict()
        for name in [name for name in weights if name.endswith(_STEM)]:
            weights[name] = _spread(weights[name], drawn[name], planes)
    missing, unexpected = generator.load_state_dict(weights, strict=False)
    assert not unexpected
    assert left or not missing


def _planes_of_labels(theirs: Contract | None, schema: LabelSchema | None) -> list[int] | None:
    """Where each of their input planes is among ours, if our labels are theirs and more."""
    if theirs is None or schema is None:
        return None
    ours = [label.name for label in schema.labels]
    names = [label.name for label in theirs.schema.labels]
    if len(ours) <= len(names) or not set(names) <= set(ours) or len(set(ours)) < len(ours):
        return None
    others = int(theirs.boundaries) + theirs.style_channels
    return [*map(ours.index, names), *range(len(ours), len(ours) + others)]


def _spread(weight: Tensor, drawn: Tensor, planes: list[int]) -> Tensor:
    spread = drawn.clone()
    spread[:, torch.tensor(planes)] = weight.to(drawn)
    return spread


def start_encoder(encoder: FeatureEncoder, bundle: Path) -> None:
    """Copy the weights of the encoder that a generator was trained with: what its features mean is
    nothing without it.

    Args:
        encoder: is changed; left as it is where the bundle has none.
        bundle: checkpoint bundle.

    Raises:
        CheckpointError: the bundle's encoder is built otherwise.
    """
    theirs = load_checkpoint(bundle).encoder
    if theirs is None:
        return
    if theirs.settings != encoder.settings:
        raise CheckpointError(
            f"{bundle}: was trained with the encoder {theirs.settings}, and [style] says "
            f"{encoder.settings}"
        )
    encoder.load_state_dict(theirs.state_dict())


def start_discriminator(discriminator: MultiscaleDiscriminator, run: Path) -> None:
    """Copy the weights of another run's discriminators, the coarsest to the coarsest: one that
    sees a finer scale than any of theirs is left as it is.

    Args:
        discriminator: is changed.
        run: folder of a training run; its newest checkpoint is read.

    Raises:
        CheckpointError: the run has no checkpoint, or its discriminators are built otherwise.
    """
    folder = RunFolder(run)
    if not folder.steps():
        raise CheckpointError(f"{run}: is no training run with a checkpoint")
    networks = folder.load(folder.steps()[-1])["networks"]
    theirs = {k.removeprefix(_OWN): v for k, v in networks.items() if k.startswith(_OWN)}
    finer = len(discriminator.discriminators) - 1 - max(map(_scale, theirs))
    ours = discriminator.state_dict()
    for name, weights in theirs.items():
        at = _scale(name) + finer
        if at < 0:
            continue
        mine = name.replace(f"{_SCALE}{_scale(name)}.", f"{_SCALE}{at}.", 1)
        if mine not in ours or ours[mine].shape != weights.shape:
            raise CheckpointError(f"{run}: its discriminators are built otherwise ({name})")
        ours[mine] = weights
    discriminator.load_state_dict(ours)


def _scale(name: str) -> int:
    return int(name.removeprefix(_SCALE).partition(".")[0])
