"""From settings to networks: inputs, contract, and a generator that starts from a smaller one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from support import wide_generator

from sceneloom.contract import Contract
from sceneloom.errors import CheckpointError, InputError
from sceneloom.schema import Label, load_schema
from sceneloom_training.assembly import assemble, size_limits
from sceneloom_training.checkpoint import load_checkpoint, save_checkpoint
from sceneloom_training.data import DataSettings
from sceneloom_training.networks import GeneratorArchitecture
from sceneloom_training.settings import (
    DiscriminatorSettings,
    GeneratorSettings,
    ScheduleSettings,
    StyleSettings,
    TrainSettings,
)

SCHEMA = load_schema("helen")
SMALL = GeneratorSettings(ngf=4, global_downsamplings=2, global_blocks=1)


def settings(**changes: object) -> TrainSettings:
    base = TrainSettings(
        data=DataSettings(layout="streets"),
        generator=SMALL,
        discriminator=DiscriminatorSettings(ndf=4, scales=2),
        style=StyleSettings(nef=2, downsamplings=1),
    )
    return dataclasses.replace(base, **changes)


@pytest.mark.parametrize(
    ("boundaries", "style", "channels"), [(True, 0, 12), (False, 0, 11), (True, 3, 15)]
)
def test_contract_and_generator_add_up(boundaries: bool, style: int, channels: int) -> None:
    made = assemble(
        settings(
            generator=dataclasses.replace(SMALL, boundaries=boundaries),
            style=StyleSettings(features=style, nef=2, downsamplings=1),
        ),
        SCHEMA,
        has_instances=True,
    )
    assert made.objective.generator.architecture.input_channels == channels
    assert made.contract == Contract(
        schema=SCHEMA, boundaries=boundaries, style_channels=style, size_multiple=4
    )
    # As published: the discriminators see labels, boundaries and the image, never the style.
    first = made.objective.discriminator.discriminators[0].stages[0][0]
    assert first.in_channels == 11 + boundaries + 3


def test_sizes_fit_the_encoder_as_well() -> None:
    deep = settings(style=StyleSettings(features=2, nef=2, downsamplings=4))
    assert size_limits(deep)[0] == 16
    shallow = settings(style=StyleSettings(features=2, nef=2, downsamplings=1))
    assert size_limits(shallow)[0] == 4


def test_pictures_instead_of_labels() -> None:
    no_boundaries = dataclasses.replace(SMALL, boundaries=False)
    made = assemble(settings(generator=no_boundaries), None, has_instances=False)
    assert (made.contract.kind, made.contract.schema) == ("picture", None)
    assert made.objective.generator.architecture.input_channels == 3


@pytest.mark.parametrize("change", [{}, {"style": StyleSettings(features=3)}])
def test_wanting_instances_that_are_not_there(change: dict[str, object]) -> None:
    generator = dataclasses.replace(SMALL, boundaries=not change)
    with pytest.raises(InputError, match=r"needs instance maps, and the data has none: --"):
        assemble(settings(generator=generator, **change), SCHEMA, has_instances=False)


def test_equal_seeds_give_equal_networks() -> None:
    styled = settings(style=StyleSettings(features=2, nef=2, downsamplings=1))
    torch.manual_seed(1)
    first = assemble(styled, SCHEMA, has_instances=True).objective.state_dict()
    torch.manual_seed(2)
    second = assemble(styled, SCHEMA, has_instances=True).objective.state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)


def bundle(tmp_path: Path, *, style_channels: int = 0, **changes: int) -> Path:
    architecture = GeneratorArchitecture(
        **{
            "input_channels": 12,
            "ngf": 8,
            "global_downsamplings": 2,
            "global_blocks": 1,
            **changes,
        }
    )
    contract = Contract(
        schema=SCHEMA,
        boundaries=True,
        style_channels=style_channels,
        size_multiple=architecture.size_multiple,
    )
    save_checkpoint(tmp_path / "inner", wide_generator(architecture, seed=9), contract, {})
    return tmp_path / "inner"


def test_starts_from_the_generator_inside(tmp_path: Path) -> None:
    inner = bundle(tmp_path)
    outer = dataclasses.replace(SMALL, enhancers=1, enhancer_blocks=1, start_from=inner)
    made = assemble(settings(generator=outer), SCHEMA, has_instances=True).objective.generator
    fresh = dataclasses.replace(outer, start_from=None)
    drawn = assemble(settings(generator=fresh), SCHEMA, has_instances=True).objective.generator
    expected = wide_generator(
        GeneratorArchitecture(input_channels=12, ngf=8, global_downsamplings=2, global_blocks=1), 9
    )
    inside = expected.global_generator.state_dict()
    ours = made.global_generator.state_dict()
    assert all(torch.equal(ours[k], inside[k]) for k in inside)
    # The last convolution has another shape and is drawn anew, as the enhancer is.
    assert torch.equal(made.head[1].weight, drawn.head[1].weight)
    assert torch.equal(made.enhancers[0].stem[1].weight, drawn.enhancers[0].stem[1].weight)


def test_starts_from_an_equal_generator(tmp_path: Path) -> None:
    inner = bundle(tmp_path, ngf=4)
    made = assemble(
        settings(generator=dataclasses.replace(SMALL, start_from=inner)), SCHEMA, has_instances=True
    ).objective.generator
    expected = wide_generator(
        GeneratorArchitecture(input_channels=12, ngf=4, global_downsamplings=2, global_blocks=1), 9
    )
    assert all(torch.equal(made.state_dict()[k], v) for k, v in expected.state_dict().items())


def test_more_labels_leave_what_is_seen_in_the_old_ones(tmp_path: Path) -> None:
    """One label more, in the middle: pictures of maps without it are the old generator's."""
    bundle_of = {"ngf": 4, "input_channels": 15}
    old = bundle(tmp_path, style_channels=3, **bundle_of)
    fresh = Label(id=99, name="ring", colour=(1, 2, 3))
    labels = (*SCHEMA.labels[:4], fresh, *SCHEMA.labels[4:])
    schema = dataclasses.replace(SCHEMA, name="helen-and-more", labels=labels)
    styled = StyleSettings(features=3, nef=2, downsamplings=1)
    further = settings(generator=dataclasses.replace(SMALL, start_from=old), style=styled)
    made = assemble(further, schema, has_instances=True).objective.generator.eval().double()
    x = torch.rand(1, 15, 16, 16, dtype=torch.float64)
    wider = torch.cat([x[:, :4], torch.zeros(1, 1, 16, 16), x[:, 4:]], 1)
    with torch.inference_mode():
        expected = load_checkpoint(old).generator.double()(x)
        assert torch.allclose(made(wider), expected, atol=1e-9)
        wider[:, 4, 4:9, 4:9] = 1
        assert not torch.allclose(made(wider), expected, atol=1e-3)


def test_more_labels_and_other_planes_do_not_fit(tmp_path: Path) -> None:
    fresh = Label(id=99, name="ring", colour=(1, 2, 3))
    schema = dataclasses.replace(SCHEMA, name="more", labels=(*SCHEMA.labels, fresh))
    start = dataclasses.replace(SMALL, start_from=bundle(tmp_path, ngf=4), boundaries=False)
    with pytest.raises(CheckpointError, match="the same boundaries and style"):
        assemble(settings(generator=start), schema, has_instances=True)


def test_fewer_or_other_labels_do_not_fit(tmp_path: Path) -> None:
    old = bundle(tmp_path, ngf=4)
    start = settings(generator=dataclasses.replace(SMALL, start_from=old))
    others = [Label(id=90 + n, name=f"other {n}", colour=(0, 0, 0)) for n in range(2)]
    twice = dataclasses.replace(others[1], name="other 0")
    for labels in (
        SCHEMA.labels[:-1],
        (*SCHEMA.labels[1:], *others),
        (*SCHEMA.labels, others[0], twice),
    ):
        schema = dataclasses.replace(SCHEMA, name="other", labels=labels, unlabelled=None)
        said = f"input_channels 12 instead of {len(labels) + 1}"
        with pytest.raises(CheckpointError, match=said):
            assemble(start, schema, has_instances=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ngf": 4}, "ngf 4 instead of 8"),
        ({"global_blocks": 2}, "global_blocks 2 instead of 1"),
        ({"enhancers": 2, "ngf": 2}, "has 2 enhancers"),
    ],
)
def test_what_does_not_fit_inside(tmp_path: Path, changes: dict[str, int], said: str) -> None:
    inner = bundle(tmp_path, **changes)
    outer = dataclasses.replace(SMALL, enhancers=1, enhancer_blocks=1, start_from=inner)
    with pytest.raises(CheckpointError, match=said):
        assemble(settings(generator=outer), SCHEMA, has_instances=True)


def test_perceptual_loss_is_off_without_weights_and_says_so() -> None:
    made = assemble(settings(), SCHEMA, has_instances=True)
    assert made.perceptual == "off: loss.vgg names no weights file"


def test_enhancer_stage_needs_an_enhancer() -> None:
    with pytest.raises(InputError, match="enhancer_only_epochs needs"):
        settings(schedule=ScheduleSettings(enhancer_only_epochs=1))


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("generator", "ngf", 0),
        ("optimizer", "batch", 0),
        ("optimizer", "learning_rate", float("nan")),
        ("optimizer", "ema", 1.0),
        ("loss", "feature_matching", -1.0),
        ("record", "keep", 0),
        ("compute", "seed", -1),
    ],
)
def test_values_out_of_range_are_named(section: str, field: str, value: float) -> None:
    changed = dataclasses.replace(getattr(settings(), section), **{field: value})
    with pytest.raises(InputError, match=rf"{section}\.{field} is {value}"):
        settings(**{section: changed})
