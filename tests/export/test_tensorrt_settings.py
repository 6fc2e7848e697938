"""Optimisation profiles as people write them, what a model takes, and which one runs a batch."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sceneloom.contract import Contract
from sceneloom.errors import InputError, SchemaError, SizeError
from sceneloom.schema import load_schema
from sceneloom_export.settings import PlanSettings, chosen_profiles, parse_profile
from sceneloom_serving.plan_record import Profile, choose_profile

CONTRACT = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=32)


def chosen(settings: PlanSettings, contract: Contract) -> tuple[Profile, ...]:
    return chosen_profiles(settings, contract, (1024, 2048))


def test_forms() -> None:
    fixed = parse_profile("2048x1024")
    assert fixed == Profile(batch=(1, 1, 1), height=(1024,) * 3, width=(2048,) * 3)
    assert fixed.fixed_size == (1024, 2048)
    ranged = parse_profile("1:4:8@512x256:1024x512:2048x1024")
    assert ranged.batch == (1, 4, 8)
    assert ranged.height == (256, 512, 1024)
    assert ranged.width == (512, 1024, 2048)
    assert ranged.fixed_size is None
    assert parse_profile("2@64x32").batch == (2, 2, 2)
    assert str(ranged) == "1:4:8@512x256:1024x512:2048x1024"


@given(
    st.lists(st.integers(1, 1024), min_size=3, max_size=3).map(sorted),
    st.lists(st.integers(1, 99_999), min_size=3, max_size=3).map(sorted),
    st.lists(st.integers(1, 99_999), min_size=3, max_size=3).map(sorted),
)
def test_round_trips(batch: list[int], height: list[int], width: list[int]) -> None:
    profile = Profile(batch=tuple(batch), height=tuple(height), width=tuple(width))  # type: ignore[arg-type]
    assert parse_profile(str(profile)) == profile


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1@",
        "@64x32",
        "0@64x32",
        "1:2@64x32",
        "4:1:1@64x32",
        "1@64x32:32x32:64x32",
        "x@64x32",
        "2000@64x32",
        "1@64x32@1",
        "-1@64x32",
    ],
)
def test_forms_that_are_wrong(text: str) -> None:
    with pytest.raises((InputError, SchemaError)):
        PlanSettings(profiles=(text,))


@pytest.mark.parametrize(
    "settings",
    [
        {"builder_level": 6},
        {"workspace_gib": -1.0},
        {"timed_runs": 0},
        {"device": -1},
        {"norms": "plugin", "version_compatible": True},
        {"norms": "plugin", "hardware": "ampere+"},
    ],
)
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(SchemaError):
        PlanSettings(**settings)


def test_defaults_and_what_the_model_takes() -> None:
    import dataclasses

    assert chosen(PlanSettings(), CONTRACT) == (parse_profile("2048x1024"),)
    fixed = dataclasses.replace(CONTRACT, sizes=((64, 128), (128, 64)))
    assert [p.fixed_size for p in chosen(PlanSettings(), fixed)] == list(fixed.sizes or ())
    with pytest.raises(SizeError, match="multiple of 32"):
        chosen(PlanSettings(profiles=("100x64",)), CONTRACT)
    with pytest.raises(SizeError, match="too small"):
        chosen(PlanSettings(profiles=("32x64:64x64:64x64",)), CONTRACT)
    with pytest.raises(SizeError, match="nearest"):
        chosen(PlanSettings(profiles=("256x256",)), fixed)
    with pytest.raises(SchemaError, match="twice"):
        chosen(PlanSettings(profiles=("64x64", "1@64x64")), CONTRACT)


def test_shapes_of_the_inputs() -> None:
    profile = parse_profile("1:2:4@64x32:128x64:256x128")
    assert profile.shapes(CONTRACT, "least") == {
        "label_map": (1, 32, 64),
        "instance_map": (1, 32, 64),
    }
    styled = Contract(
        schema=load_schema("helen"), boundaries=True, style_channels=3, size_multiple=8
    )
    assert profile.shapes(styled, "most")["style"] == (4, 256, 3)
    plain = Contract(schema=load_schema("helen"), boundaries=False, size_multiple=8)
    assert list(profile.shapes(plain, "tuned")) == ["label_map"]


def test_which_profile_runs_a_batch() -> None:
    latency, throughput = parse_profile("64x32"), parse_profile("1:4:4@64x32")
    small = parse_profile("1:2:8@8x8:16x16:32x32")
    profiles = [latency, throughput, small]
    assert choose_profile(profiles, 1, 32, 64) == (0, 1)
    assert choose_profile(profiles, 4, 32, 64) == (1, 4)
    assert choose_profile(profiles, 3, 32, 64) == (1, 3)
    assert choose_profile(profiles, 9, 32, 64) == (1, 4)  # the rest comes after it
    assert choose_profile(profiles, 20, 16, 16) == (2, 8)
    assert choose_profile(profiles, 1, 64, 64) is None
    assert choose_profile([parse_profile("4@64x32")], 3, 32, 64) is None
