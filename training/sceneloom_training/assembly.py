"""From the settings to the networks that are trained and the contract of the model they make."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from sceneloom.contract import Contract
from sceneloom.errors import InputError
from sceneloom.schema import LabelSchema
from sceneloom_training.networks import (
    Architecture,
    FeatureEncoder,
    GeneratorArchitecture,
    MultiscaleDiscriminator,
    UNetArchitecture,
    balance_phases,
    build_generator,
    initialise,
)
from sceneloom_training.objective import Inputs, Objective
from sceneloom_training.perceptual import PerceptualLoss
from sceneloom_training.settings import GeneratorSettings, TrainSettings
from sceneloom_training.starting import start_discriminator, start_encoder, start_generator

_Network = TypeVar("_Network", bound=nn.Module)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assembled:
    """What is trained."""

    objective: Objective
    """Networks and losses, on the CPU, float32."""
    contract: Contract | None
    """Of the model; None for a paired data set."""
    perceptual: str
    """Whether the perceptual loss is on, for the run's record: the SHA-256 of its weights file, or
    why it is off.
    """


def assemble(
    settings: TrainSettings, schema: LabelSchema | None, *, has_instances: bool
) -> Assembled:
    """Build the networks with the seed's weights.

    Args:
        settings: of the run.
        schema: of the data's label maps; None for a paired data set.
        has_instances: whether the data has instance maps.

    Raises:
        InputError: the settings ask for inputs that the data does not have.
        CheckpointError: a `start_from` or `loss.vgg` cannot be used.
    """
    inputs = _inputs(settings, schema, has_instances)
    generator = build_generator(
        _architecture(settings.generator, inputs), seed=settings.compute.seed
    )
    if settings.generator.start_from is not None:
        start_generator(generator, settings.generator.start_from, schema)
    if settings.generator.balanced_upsampling:
        balance_phases(generator)
    d, s = settings.discriminator, settings.style
    discriminator = _seeded(
        lambda: MultiscaleDiscriminator(
            inputs.condition + 3,
            scales=d.scales,
            ndf=d.ndf,
            layers=d.layers,
            padding=d.padding,
            affine_norm=d.affine_norm,
            spectral_norm=d.spectral_norm,
        ),
        settings.compute.seed + 1,
    )
    if d.start_from is not None:
        start_discriminator(discriminator, d.start_from)
    encoder = None
    if s.features:
        encoder = _seeded(
            lambda: FeatureEncoder(s.features, nef=s.nef, downsamplings=s.downsamplings),
            settings.compute.seed + 2,
        )
        if settings.generator.start_from is not None:
            start_encoder(encoder, settings.generator.start_from)
    perceptual, said = _perceptual(settings)
    objective = Objective(
        inputs,
        generator,
        discriminator,
        encoder,
        loss=settings.loss,
        perceptual=perceptual,
        seed=settings.compute.seed,
    )
    generator_contract = _contract(generator.architecture, inputs, schema)
    return Assembled(objective=objective, contract=generator_contract, perceptual=said)


def _inputs(settings: TrainSettings, schema: LabelSchema | None, has_instances: bool) -> Inputs:
    wanted = {
        "generator.boundaries": settings.generator.boundaries,
        "style.features": settings.style.features > 0,
    }
    for name, on in wanted.items():
        if on and not has_instances:
            off = "--style.features 0" if name == "style.features" else f"--{_no(name)}"
            raise InputError(f"{name} needs instance maps, and the data has none: {off}")
    return Inputs(
        labels=schema.channels if schema else 0,
        boundaries=settings.generator.boundaries,
        style=settings.style.features,
    )


def _no(name: str) -> str:
    section, field = name.split(".")
    return f"{section}.no-{field}"


def _architecture(g: GeneratorSettings, inputs: Inputs) -> Architecture:
    if g.network == "unet":
        return UNetArchitecture(
            input_channels=inputs.channels,
            ngf=g.ngf,
            downsamplings=g.unet_downsamplings,
            dropout=g.dropout,
        )
    return GeneratorArchitecture(
        input_channels=inputs.channels,
        ngf=g.ngf,
        global_downsamplings=g.global_downsamplings,
        global_blocks=g.global_blocks,
        enhancers=g.enhancers,
        enhancer_blocks=g.enhancer_blocks,
        padding=g.padding,
    )


def _contract(
    architecture: Architecture, inputs: Inputs, schema: LabelSchema | None
) -> Contract | None:
    if schema is None:
        return None
    usual = architecture.smallest_side == 2 * architecture.size_multiple
    return Contract(
        schema=schema,
        boundaries=inputs.boundaries,
        style_channels=inputs.style,
        size_multiple=architecture.size_multiple,
        smallest_side=None if usual else architecture.smallest_side,
    )


def _perceptual(settings: TrainSettings) -> tuple[PerceptualLoss | None, str]:
    if not settings.loss.perceptual:
        return None, "off: loss.perceptual is 0"
    if settings.loss.vgg is None:
        return None, "off: loss.vgg names no weights file"
    loss = PerceptualLoss(settings.loss.vgg)
    return loss, loss.weights_hash


def _seeded(build: Callable[[], _Network], seed: int) -> _Network:
    """Build a network with the seed's weights, leaving the process's random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build()
        initialise(network)
    return network
