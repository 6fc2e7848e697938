"""The step benchmark: the published recipe is what we train, and a wrong one is noticed."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from sceneloom_training.assembly import assemble
from sceneloom_training.data import open_data_set
from sceneloom_training.process import World
from sceneloom_training.schedule import Schedule
from sceneloom_training.train_step import TrainStep
from training_step import (
    LIMIT,
    OURS,
    PUBLISHED,
    Case,
    PublishedRecipe,
    StepVariant,
    TrainingStepSettings,
    compare,
    draw_batches,
    make_step,
    report,
    table,
    train_settings,
)

TINY = Case(height=32, width=64, ngf=4, ndf=4, scales=2, downsamplings=2, blocks=1, samples=2)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors this small only wait for a second thread."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # for processes that are started
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def batches() -> list[dict[str, torch.Tensor]]:
    return [{k: torch.from_numpy(x) for k, x in b.items()} for b in draw_batches(TINY)]


def test_losses_and_all_gradients_are_those_of_the_published_recipe(
    batches: list[dict[str, torch.Tensor]],
) -> None:
    """Shared convolutions, one backward pass and other layers change nothing but rounding."""
    settings = train_settings(TINY, StepVariant(precision="float64", channels_last=True), "cpu")
    schema = open_data_set(settings.data).schema
    objective = assemble(settings, schema, has_instances=True).objective
    theirs = copy.deepcopy(objective).double()
    recipe = PublishedRecipe(theirs.generator, theirs.discriminator, labels=schema.channels)
    schedule = Schedule.of(settings.schedule, 1)
    train_step = TrainStep(settings, objective, schedule, World(), torch.device("cpu"))

    ours = train_step.differentiate(iter(batches))
    losses = recipe.losses(batches[0])
    of_generator = losses["generator_gan"] + losses["feature_matching"]
    expected = [
        *torch.autograd.grad(of_generator, recipe.generator.parameters(), retain_graph=True),
        *torch.autograd.grad(losses["discriminator"], recipe.discriminator.parameters()),
    ]
    assert set(ours) == set(losses)
    for name, loss in losses.items():
        assert ours[name].item() == pytest.approx(loss.item(), rel=1e-9)
    parameters = [*objective.generator.parameters(), *objective.discriminator.parameters()]
    for parameter, gradient in zip(parameters, expected, strict=True):
        assert parameter.grad is not None
        assert (parameter.grad - gradient).abs().max() <= 1e-9 * max(1, gradient.abs().max())


def losses_of(variant: StepVariant, batches: list[Any], steps: int) -> dict[str, list[float]]:
    step = make_step(TINY, variant, "cpu")
    done = [step(iter([batches[i % len(batches)]])) for i in range(steps)]
    return {name: [float(each[name]) for each in done] for name in done[0]}


def test_the_first_losses_are_equal_in_float32(batches: list[Any]) -> None:
    published = losses_of(StepVariant(published=True), batches, 1)
    for channels_last in (False, True):
        ours = losses_of(StepVariant(channels_last=channels_last), batches, 1)
        for name in published:
            assert ours[name] == pytest.approx(published[name], rel=1e-5)


def as_run(losses: dict[str, list[Any]]) -> dict[str, Any]:
    return {"losses": losses, "images_per_second_each_turn": [1.0], "peak_memory_mib": 1}


def test_a_wrong_recipe_is_noticed(batches: list[Any]) -> None:
    published = as_run(losses_of(StepVariant(published=True), batches, 25))
    good = as_run(losses_of(StepVariant(channels_last=True, precision="bfloat16"), batches, 25))
    wrong = as_run(losses_of(StepVariant(learning_rate=2e-3), batches, 25))
    assert compare({PUBLISHED: published, OURS: good})["curves_agree"]
    compared = compare({PUBLISHED: published, OURS: wrong})
    assert not compared["curves_agree"]
    assert max(compared["curves"][OURS].values()) > LIMIT


def test_losses_that_are_not_finite_and_missing_runs_agree_with_nothing() -> None:
    good, broken = as_run({"l1": [1.0, 2.0]}), as_run({"l1": [1.0, None]})
    assert not compare({PUBLISHED: good, OURS: broken})["curves_agree"]
    full = {"out_of_memory": True, "peak_memory_mib": 1}
    assert not compare({PUBLISHED: full, OURS: good})["curves_agree"]
    assert not compare({PUBLISHED: good, OURS: full})["curves_agree"]


@pytest.mark.slow
def test_report_of_a_tiny_run() -> None:
    small = TrainingStepSettings(
        height=32, width=64, ngf=4, ndf=4, downsamplings=2, blocks=1, samples=2, turns=2, steps=1
    )
    variants = {
        PUBLISHED: StepVariant(published=True),
        OURS: StepVariant(channels_last=True, precision="bfloat16"),
    }
    result = report(small, "cpu", variants)
    assert json.loads(json.dumps(result)) == result
    case = result["cases"]["64x32"]
    assert case["curves_agree"]
    assert set(case["ratios"][OURS]) == {"median", "low", "high"}
    for run in case["runs"].values():
        assert len(run["images_per_second_each_turn"]) == 2
        assert run["images_per_second"] > 0
        assert run["peak_memory_mib"] > 100
        assert [len(losses) for losses in run["losses"].values()] == [3, 3, 3]
    assert "The loss curves agree" in table(result)
    assert f"| {OURS} |" in table(result)
    case["runs"][OURS] = {"out_of_memory": True, "peak_memory_mib": 20_000}
    case["device"] = "cuda"
    assert "out of memory" in table(result)
    assert "over 16 GiB" in table(result)
