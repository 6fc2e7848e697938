"""The two-stage schedule: first the outermost enhancer alone, then everything, then the decay."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_runs import resolved, small

from sceneloom_training.assembly import assemble
from sceneloom_training.checkpoint import load_checkpoint
from sceneloom_training.data import open_data_set
from sceneloom_training.run_folder import RunFolder
from sceneloom_training.trainer import train

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = 1e-3
SWITCH, FLAT, LAST = 3, 6, 12
"""Three steps an epoch: one epoch of the enhancer, one of everything, two decaying."""
TWO_STAGE: dict[str, Any] = {
    "generator": {"enhancers": 1, "enhancer_blocks": 1, "ngf": 2},
    "optimizer": {"batch": 2, "learning_rate": RATE},
    "schedule": {"enhancer_only_epochs": 1, "epochs": 2, "decay_epochs": 2},
    "record": {"checkpoint_every": 1, "keep": 100},
}


@pytest.fixture(scope="module")
def stages(samples: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    folder = tmp_path_factory.mktemp("stages") / "run"
    train(resolved(small(samples, **TWO_STAGE)), folder)
    return folder


@pytest.fixture(scope="module")
def weights(samples: Path, stages: Path) -> list[dict[str, Tensor]]:
    """The networks' weights after each step, and first those before any."""
    settings = resolved(small(samples, **TWO_STAGE))
    begun = assemble(settings, open_data_set(settings.data).schema, has_instances=True)
    run = RunFolder(stages)
    assert run.steps() == list(range(1, LAST + 1))
    return [
        {name: tensor.clone() for name, tensor in begun.objective.state_dict().items()},
        *(run.load(step)["networks"] for step in run.steps()),
    ]


def moved(weights: list[dict[str, Tensor]], step: int, part: str) -> float:
    """How far a step moved the weights of a part: the largest change."""
    before, after = weights[step - 1], weights[step]
    names = [name for name in after if name.startswith(part)]
    assert names
    return max(float((after[name] - before[name]).abs().max()) for name in names)


def test_the_global_generator_rests_until_the_switch_and_moves_after_it(
    weights: list[dict[str, Tensor]],
) -> None:
    for step in range(1, SWITCH + 1):
        assert moved(weights, step, "generator.global_generator.") == 0
        for part in ("generator.enhancers.0.", "generator.head.", "discriminator."):
            assert moved(weights, step, part) > RATE / 100
    for step in range(SWITCH + 1, LAST + 1):
        for part in ("generator.global_generator.", "generator.enhancers.0.", "discriminator."):
            assert moved(weights, step, part) > 0


def test_every_weight_of_the_global_generator_that_matters_is_trained_after_the_switch(
    weights: list[dict[str, Tensor]],
) -> None:
    names = [n for n in weights[0] if n.startswith("generator.global_generator.")]
    kernels = [n for n in names if n.endswith("weight")]
    assert len(kernels) >= 5
    for name in kernels:  # a bias before an InstanceNorm changes nothing
        assert not torch.equal(weights[SWITCH][name], weights[SWITCH + 1][name]), name


def test_the_learning_rate_of_the_global_generator_decays_to_the_last_step(
    stages: Path, weights: list[dict[str, Tensor]]
) -> None:
    decay = [1 - n / (LAST - FLAT) for n in range(LAST - FLAT)]
    wanted = [RATE] * FLAT + [RATE * factor for factor in decay]
    run = RunFolder(stages)
    count = sum(name.startswith("generator.") for name in weights[0])
    for step, rate in enumerate(wanted, 1):
        for optimizer in run.load(step)["optimizers"]:
            (group,) = optimizer["param_groups"]
            assert group["lr"] == pytest.approx(rate, rel=1e-12)
        (ours,) = run.load(step)["optimizers"][0]["param_groups"]
        assert len(ours["params"]) == count  # one group holds the whole generator
    # Adam's steps are no longer than a few times the rate; the last step has a sixth of it.
    assert moved(weights, SWITCH + 1, "generator.global_generator.") > RATE / 2
    assert moved(weights, LAST, "generator.global_generator.") < RATE / 2
    logged = [json.loads(line) for line in (stages / "log.jsonl").read_text().splitlines()]
    assert [entry["learning_rate"] for entry in logged] == pytest.approx(wanted)


def test_the_second_stage_starts_from_the_first_ones_weights_and_needs_them_only_once(
    samples: Path, tmp_path: Path
) -> None:
    stop = {**TWO_STAGE["schedule"], "max_steps": SWITCH}
    inner = {"generator": {"ngf": 4}, "schedule": {"epochs": 1, "decay_epochs": 0}}
    train(resolved(small(samples, **inner)), tmp_path / "global")
    bundle = tmp_path / "global" / "model"
    trained = load_checkpoint(bundle).generator.state_dict()
    generator = {**TWO_STAGE["generator"], "start_from": bundle}
    settings = {**TWO_STAGE, "generator": generator}
    train(resolved(small(samples, **{**settings, "schedule": stop})), tmp_path / "run")
    shutil.rmtree(tmp_path / "global")  # from here on the run has all it needs
    train(resolved(small(samples, **settings)), tmp_path / "run")

    run = RunFolder(tmp_path / "run")
    names = [name for name in trained if name.startswith("global_generator.")]
    for name in names:
        at_switch = run.load(SWITCH)["networks"][f"generator.{name}"]
        assert torch.equal(at_switch, trained[name]), name
    after = run.load(LAST)["networks"]
    assert any(not torch.equal(after[f"generator.{name}"], trained[name]) for name in names)
