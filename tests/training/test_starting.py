"""Runs that begin with another run's networks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import newest_state, resolved, small

from sceneloom.errors import CheckpointError, TrainingError
from sceneloom_training.assembly import assemble
from sceneloom_training.data import open_data_set
from sceneloom_training.trainer import train

pytestmark = pytest.mark.usefixtures("one_thread")

STYLED: dict[str, Any] = {
    "style": {"features": 2, "nef": 2, "downsamplings": 1},
    "discriminator": {"ndf": 2, "scales": 2, "layers": 1},
    "schedule": {"epochs": 1, "decay_epochs": 0, "max_steps": 2},
}


@pytest.fixture(scope="module")
def trained(samples: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    folder = tmp_path_factory.mktemp("first") / "run"
    train(resolved(small(samples, **STYLED)), folder)
    return folder


def begun(samples: Path, trained: Path, **changes: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The networks of a run that starts from the trained one, before its first step."""
    sections = {**STYLED, **{k: {**STYLED.get(k, {}), **v} for k, v in changes.items()}}
    sections["generator"] = {**sections.get("generator", {}), "start_from": trained / "model"}
    sections["discriminator"] = {"start_from": trained, **sections["discriminator"]}
    settings = resolved(small(samples, **sections))
    made = assemble(settings, open_data_set(settings.data).schema, has_instances=True)
    return made.objective.state_dict()


def test_an_equal_run_begins_with_all_three_networks(samples: Path, trained: Path) -> None:
    ours, theirs = begun(samples, trained), newest_state(trained)["networks"]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_scales_are_matched_from_the_coarsest(samples: Path, trained: Path) -> None:
    theirs = newest_state(trained)["networks"]
    more = begun(samples, trained, discriminator={"scales": 3})
    fewer = begun(samples, trained, discriminator={"scales": 1})
    for name, weights in theirs.items():
        if name.startswith("discriminator."):
            scale = int(name.split(".")[2])
            rest = name.split(".", 3)[3]
            finer = more[f"discriminator.discriminators.{scale + 1}.{rest}"]
            assert torch.equal(finer, weights)
            if scale == 1:
                assert torch.equal(fewer[f"discriminator.discriminators.0.{rest}"], weights)


def test_what_does_not_fit(samples: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="its discriminators have other shapes"):
        begun(samples, trained, discriminator={"ndf": 4})
    with pytest.raises(CheckpointError, match="was trained with the encoder"):
        begun(samples, trained, style={"nef": 4})
    with pytest.raises(CheckpointError, match="is no training run with a checkpoint"):
        begun(samples, trained, discriminator={"start_from": tmp_path})


def test_they_are_needed_only_once(samples: Path, trained: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    shutil.copytree(trained, first, symlinks=True)
    sections = {**STYLED, "generator": {"start_from": first / "model"}}
    sections["discriminator"] = {**STYLED["discriminator"], "start_from": first}
    train(resolved(small(samples, **sections)), tmp_path / "run")
    shutil.rmtree(first)
    sections["schedule"] = {**STYLED["schedule"], "max_steps": 3}
    assert train(resolved(small(samples, **sections)), tmp_path / "run").step == 3


def test_a_run_of_a_version_without_a_setting_resumes_with_its_default(
    samples: Path, trained: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run, symlinks=True)
    record = json.loads((run / "run.json").read_text())
    del record["settings"]["discriminator"]["spectral_norm"]
    (run / "run.json").write_text(json.dumps(record))
    longer = {**STYLED, "schedule": {**STYLED["schedule"], "max_steps": 3}}
    assert train(resolved(small(samples, **longer)), run).step == 3
    other = {**longer, "discriminator": {**STYLED["discriminator"], "layers": 2}}
    with pytest.raises(TrainingError, match="layers was 1 and is 2"):
        train(resolved(small(samples, **other)), run)
