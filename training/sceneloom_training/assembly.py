"""Networks and contract of a model, from the settings and the weights of an earlier run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from sceneloom.contract import Contract
from sceneloom.errors import CheckpointError, InputError
from sceneloom.schema import LabelSchema
from sceneloom.text import counted
from sceneloom_training import networks
from sceneloom_training.checkpoint import load_checkpoint
from sceneloom_training.networks import (
    Architecture,
    FeatureEncoder,
    Generator,
    MultiscaleDiscriminator,
    SegmentingDiscriminator,
    SynthesisNetwork,
)
from sceneloom_training.objective import Discriminator, Inputs, Objective
from sceneloom_training.perceptual import PerceptualLoss
from sceneloom_training.run_folder import RunFolder
from sceneloom_training.settings import (
    DiscriminatorSettings,
    GeneratorSettings,
    TrainSettings,
)

_Network = TypeVar("_Network", bound=nn.Module)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """The trained model."""

    objective: Objective
    """Networks and losses, on the CPU, float32."""
    contract: Contract
    perceptual: str
    """For the run's record: SHA-256 of the VGG's file, or why the perceptual loss is off."""


def assemble(settings: TrainSettings, schema: LabelSchema | None, *, has_instances: bool) -> Model:
    """Build the networks with the seed's weights. Without a schema, the data set is paired. Raises
    InputError or CheckpointError if data or files do not fit the settings.
    """
    g, s, seed = settings.generator, settings.style, settings.compute.seed
    check_instances(settings, has_instances=has_instances)
    inputs = Inputs(
        labels=schema.channels if schema else 0, boundaries=g.boundaries, style=s.features
    )
    architecture = architecture_of(g, inputs.channels)
    generator = networks.build_generator(architecture, seed=seed)
    if g.start_from is not None:
        start_generator(generator, g.start_from, schema)
    if g.balanced_upsampling:
        networks.balance_phases(generator)
    discriminator = _seeded(lambda: build_discriminator(settings.discriminator, inputs), seed + 1)
    if settings.discriminator.start_from is not None:
        start_discriminator(discriminator, settings.discriminator.start_from)
    encoder = None
    if s.features:
        encoder = _seeded(
            lambda: FeatureEncoder(s.features, nef=s.nef, downsamplings=s.downsamplings), seed + 2
        )
        if g.start_from is not None:
            start_encoder(encoder, g.start_from)
    perceptual, status = None, "off: loss.perceptual is 0"
    if settings.loss.perceptual and settings.loss.vgg is None:
        status = "off: loss.vgg names no weights file"
    elif settings.loss.perceptual and settings.loss.vgg is not None:
        perceptual = PerceptualLoss(settings.loss.vgg)
        status = perceptual.weights_hash
    trained = generator, discriminator, encoder
    objective = Objective(inputs, *trained, loss=settings.loss, perceptual=perceptual, seed=seed)
    contract = Contract(
        kind="picture" if schema is None else "labels",
        schema=schema,
        boundaries=inputs.boundaries,
        style_channels=inputs.style,
        size_multiple=architecture.size_multiple,
        smallest_side=architecture.smallest_side,
    )
    return Model(objective=objective, contract=contract, perceptual=status)


def check_instances(settings: TrainSettings, *, has_instances: bool) -> None:
    """Raise InputError if the settings need instance maps that the data lacks."""
    for name, on, off in (
        ("generator.boundaries", settings.generator.boundaries, "--generator.no-boundaries"),
        ("style.features", settings.style.features > 0, "--style.features 0"),
    ):
        if on and not has_instances:
            raise InputError(
                f"{name} needs instance maps, and the data has none: {off}, or the edges of the "
                "label maps with --data.boundaries labels"
            )


def architecture_of(generator: GeneratorSettings, input_channels: int) -> Architecture:
    """The generator's hyper-parameters."""
    is_unet = generator.network == "unet"
    kind = networks.UNetArchitecture if is_unet else networks.GeneratorArchitecture
    fields = {field.name for field in dataclasses.fields(kind)}
    values = {name: value for name, value in vars(generator).items() if name in fields}
    if is_unet:
        values["downsamplings"] = generator.unet_downsamplings
    return kind(input_channels=input_channels, **values)


def size_limits(settings: TrainSettings) -> tuple[int, int]:
    """The multiple of both sides of a sample that the networks take, and the least side. Encoder
    and generator keep the picture's size.
    """
    generator = architecture_of(settings.generator, 1)
    encoder = 1 << settings.style.downsamplings if settings.style.features else 1
    narrow = dataclasses.replace(settings.discriminator, ndf=1)
    discriminator = build_discriminator(narrow, Inputs(labels=1, boundaries=False, style=0))
    sides = [generator.smallest_side, discriminator.smallest_side]
    if settings.loss.perceptual and settings.loss.vgg is not None:
        sides.append(PerceptualLoss.smallest_side)
    return math.lcm(generator.size_multiple, encoder), max(sides)


def build_discriminator(settings: DiscriminatorSettings, inputs: Inputs) -> Discriminator:
    """Build it with PyTorch's own weights. Raises InputError for pictures instead of label maps."""
    d = settings
    if d.kind == "segmenting":
        if not inputs.labels:
            raise InputError(
                "discriminator.kind segmenting needs label maps, and a paired data set has none: "
                "--discriminator.kind patch"
            )
        return SegmentingDiscriminator(inputs.labels, ndf=d.ndf, levels=d.levels)
    return MultiscaleDiscriminator(
        inputs.condition_channels + 3,
        scales=d.scales,
        ndf=d.ndf,
        layers=d.layers,
        padding=d.padding,
        affine_norm=d.affine_norm,
        spectral_norm=d.spectral_norm,
    )


def _seeded(build: Callable[[], _Network], seed: int) -> _Network:
    """Build a network with the seed's weights, leaving the process's random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build()
        networks.initialise(network)
    return network


_STEM = "stem.1.weight"
"""End of the name of every convolution that sees the input planes."""
_OWN = "discriminator."
_SCALE = "discriminators."


def start_generator(generator: SynthesisNetwork, bundle: Path, schema: LabelSchema | None) -> None:
    """Copy the weights of an equal generator, or of a smaller one inside this one, without its last
    convolution. Labels match by name; planes of new labels stay as drawn. Raises CheckpointError if
    it does not fit inside.
    """
    read = load_checkpoint(bundle)
    inner = read.generator
    if not isinstance(inner, Generator) or not isinstance(generator, Generator):
        raise CheckpointError(f"{bundle}: only a pix2pixHD generator fits into another")
    ours, theirs = generator.architecture, inner.architecture
    left = ours.enhancers - theirs.enhancers
    if left < 0:
        raise CheckpointError(
            f"{bundle}: has {counted(theirs.enhancers, 'enhancer')}, more than the new one"
        )
    blocks = ours.enhancer_blocks if theirs.enhancers else theirs.enhancer_blocks
    expected = dataclasses.replace(
        ours, enhancers=theirs.enhancers, enhancer_blocks=blocks, ngf=ours.ngf << left
    )
    planes = _planes_of_labels(read.contract, schema)
    if planes is not None:
        if planes[-1] + 1 != ours.input_channels:
            raise CheckpointError(
                f"{bundle}: has fewer labels than the new generator; both need the same boundaries "
                "and style features"
            )
        expected = dataclasses.replace(expected, input_channels=theirs.input_channels)
    if theirs != expected:
        differ = [
            f"{field.name} {getattr(theirs, field.name)} instead of {getattr(expected, field.name)}"
            for field in dataclasses.fields(theirs)
            if getattr(theirs, field.name) != getattr(expected, field.name)
        ]
        raise CheckpointError(f"{bundle}: does not fit inside the new one ({', '.join(differ)})")
    weights = inner.state_dict()
    if left:
        weights = {name: w for name, w in weights.items() if not name.startswith("head.")}
    if planes is not None:
        drawn = generator.state_dict()
        for name in [name for name in weights if name.endswith(_STEM)]:
            spread = drawn[name].clone()
            spread[:, torch.tensor(planes)] = weights[name].to(spread)
            weights[name] = spread
    missing, unexpected = generator.load_state_dict(weights, strict=False)
    assert not unexpected
    assert left or not missing


def _planes_of_labels(theirs: Contract, schema: LabelSchema | None) -> list[int] | None:
    """Place of each of their input planes among ours, if ours has their labels and more."""
    if theirs.schema is None or schema is None:
        return None
    ours = [label.name for label in schema.labels]
    names = [label.name for label in theirs.schema.labels]
    if len(ours) <= len(names) or not set(names) <= set(ours) or len(set(ours)) < len(ours):
        return None
    end = len(ours) + theirs.boundaries + theirs.style_channels
    return [*map(ours.index, names), *range(len(ours), end)]


def start_encoder(encoder: FeatureEncoder, bundle: Path) -> None:
    """Copy the weights of the bundle's encoder, if any. Raises CheckpointError if they differ."""
    theirs = load_checkpoint(bundle).encoder
    if theirs is None:
        return
    if theirs.settings != encoder.settings:
        raise CheckpointError(
            f"{bundle}: was trained with the encoder {theirs.settings}, not [style]"
        )
    encoder.load_state_dict(theirs.state_dict())


def start_discriminator(discriminator: Discriminator, run: Path) -> None:
    """Copy the newest checkpoint's discriminators, PatchGANs the coarsest to the coarsest. Raises
    CheckpointError if they are of another kind or shape.
    """
    folder = RunFolder(run)
    if not (steps := folder.steps()):
        raise CheckpointError(f"{run}: is no training run with a checkpoint")
    saved = folder.load(steps[-1])["networks"]
    theirs = {k.removeprefix(_OWN): v for k, v in saved.items() if k.startswith(_OWN)}
    ours = discriminator.state_dict()
    if any(name.startswith(_SCALE) for name in ours) != any(x.startswith(_SCALE) for x in theirs):
        raise CheckpointError(f"{run}: its discriminators are of the other discriminator.kind")
    finer = 0
    if isinstance(discriminator, MultiscaleDiscriminator):
        finer = len(discriminator.discriminators) - 1 - max(map(_scale, theirs))
    for name, weights in theirs.items():
        mine = name
        if finer:
            at = _scale(name) + finer
            if at < 0:
                continue
            mine = name.replace(f"{_SCALE}{_scale(name)}.", f"{_SCALE}{at}.", 1)
        if mine not in ours or ours[mine].shape != weights.shape:
            raise CheckpointError(f"{run}: its discriminators have other shapes ({name})")
        ours[mine] = weights
    discriminator.load_state_dict(ours)


def _scale(name: str) -> int:
    return int(name.removeprefix(_SCALE).partition(".")[0])
