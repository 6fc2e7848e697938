"""A resumed run is an uninterrupted one: the same bits, each step once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import (
    Command,
    differences,
    newest_state,
    resolved,
    small,
    steps_logged,
    write_toml,
)

from sceneloom.errors import CheckpointError, TrainingError
from sceneloom_training.batches import step_items
from sceneloom_training.process import World
from sceneloom_training.run_folder import RunFolder
from sceneloom_training.trainer import train

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 6
"""Of six samples, two a step: three steps an epoch, one epoch flat and one decaying."""
PARTS: Mapping[str, Any] = {
    "optimizer": {"accumulate": 2, "ema": 0.9},
    "loss": {"pool": 3},
    "style": {"features": 2, "nef": 2, "downsamplings": 1},
    "schedule": {"epochs": 1, "decay_epochs": 1},
}
NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "two stages": {
        "generator": {"enhancers": 1, "enhancer_blocks": 1},
        "schedule": {"epochs": 1, "decay_epochs": 1, "enhancer_only_epochs": 1},
    },
    "dropout": {
        "generator": {"network": "unet", "unet_downsamplings": 3},
        "discriminator": {"spectral_norm": True},
    },
    "float16": {"compute": {"precision": "float16"}, "optimizer": {"batch": 2}},
}


def run(data: Path, out: Path, **sections: Any) -> None:
    train(resolved(small(data, **{**PARTS, **sections})), out)


LONG = ("dropout", "float16", "two stages")


@pytest.mark.parametrize(
    "network",
    [pytest.param(one, marks=[pytest.mark.slow] * (one in LONG)) for one in NETWORKS],
)
def test_a_run_stopped_after_every_step_gives_the_bits_of_one_that_never_was(
    samples: Path, tmp_path: Path, network: str
) -> None:
    sections = dict(NETWORKS[network])
    every = {"log_every": 1, "checkpoint_every": 1, "keep": 100}
    torch.manual_seed(1)  # what the process drew before is not to matter
    run(samples, tmp_path / "whole", **sections, record=every)
    whole = RunFolder(tmp_path / "whole")
    assert whole.steps() == list(range(1, STEPS + 1))
    schedule = sections.pop("schedule", PARTS["schedule"])
    for step in range(1, STEPS + 1):
        torch.manual_seed(2)
        run(samples, tmp_path / "parts", **sections, schedule={**schedule, "max_steps": step})
        assert differences(newest_state(tmp_path / "parts"), whole.load(step)) == []
        ours, theirs = (
            (folder / "model" / "model.safetensors").read_bytes()
            for folder in (tmp_path / "parts", whole.folder(step))
        )
        assert ours == theirs
    assert steps_logged(tmp_path / "parts") == list(range(1, STEPS + 1))


def test_what_is_compared_is_there_and_changes(samples: Path, tmp_path: Path) -> None:
    sections = NETWORKS["dropout"]
    every = {"checkpoint_every": 1, "keep": 100}
    run(samples, tmp_path / "run", **sections, record=every)
    first, second = (RunFolder(tmp_path / "run").load(step) for step in (4, 5))
    changed = differences(first, second)
    for part in (
        "/networks/generator.",
        "/networks/discriminator.",
        "/networks/encoder.",
        "/average/",
        "/optimizers/0/state/",
        "/optimizers/1/state/",
        "/optimizers/0/param_groups/0/lr",
        "/ranks/0/torch",  # dropout drew from it
        "/ranks/0/pool/images/",
        "/ranks/0/pool/random",
    ):
        assert any(place.startswith(part) for place in changed), part


def test_loading_processes_change_nothing(samples: Path, tmp_path: Path) -> None:
    settings = small(samples, **PARTS, **NETWORKS["dropout"])
    command = Command(
        "train",
        write_toml(tmp_path / "run.toml", settings),
        "--compute.workers=2",
        "--compute.cache=0",
        "--out",
        tmp_path / "two",
        said=tmp_path / "said",
    )
    train(resolved(settings), tmp_path / "none")
    assert command.wait() == 0, command.errors
    assert differences(newest_state(tmp_path / "two"), newest_state(tmp_path / "none")) == []


def test_another_seed_gives_another_run(samples: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        run(samples, tmp_path / str(seed), compute={"seed": seed})
    assert differences(newest_state(tmp_path / "0"), newest_state(tmp_path / "1"))


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("first", [0, 1, 5])
def test_items_resume_in_the_middle_of_an_epoch(size: int, first: int) -> None:
    def passes(steps: range, rank: int) -> list[list[tuple[int, int]]]:
        world = World(rank=rank, size=size)
        return list(step_items(13, seed=4, world=world, batch=2, accumulate=2, steps=steps))

    for rank in range(size):
        assert passes(range(first, 9), rank) == passes(range(9), rank)[2 * first :]


@pytest.mark.parametrize("size", [1, 2])
def test_an_epoch_takes_each_sample_once_and_the_processes_share_them(size: int) -> None:
    per_epoch = 13 // (2 * size)
    taken = [
        item
        for rank in range(size)
        for items in step_items(
            13,
            seed=4,
            world=World(rank=rank, size=size),
            batch=2,
            accumulate=1,
            steps=range(2 * per_epoch),
        )
        for item in items
    ]
    assert len(taken) == len(set(taken)) == 2 * per_epoch * 2 * size
    assert {epoch for epoch, _ in taken} == {0, 1}
    orders = [[index for epoch, index in taken if epoch == which] for which in (0, 1)]
    assert orders[0] != orders[1]


def test_what_a_killed_run_said_after_its_last_checkpoint_is_said_once(
    samples: Path, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record = {"log_every": 1, "checkpoint_every": 2, "picture_every": 1, "held_out": 1}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    optimizer = {"batch": 1}
    run(samples, whole, record=record, optimizer=optimizer)
    run(samples, parts, record=record, optimizer=optimizer, schedule={"max_steps": 5})
    shutil.rmtree(parts / "checkpoints" / "step-000000005")  # as if killed before it was there
    with (parts / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "dis')
    (parts / "pictures" / "step-000000099-of_another_life.jpg").write_bytes(b"")
    run(samples, parts, record=record, optimizer=optimizer)

    logs = [
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (whole, parts)
    ]
    for entry in logs[0] + logs[1]:
        entry.pop("images_per_second", None)
    assert logs[0] == logs[1]
    assert [path.name for path in sorted((parts / "pictures").iterdir())] == [
        path.name for path in sorted((whole / "pictures").iterdir())
    ]
    board = EventAccumulator(str(parts / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("discriminator")] == list(
        range(1, len(logs[0]) // 2 + 1)
    )


def test_a_finished_run_is_left_as_it_is(samples: Path, tmp_path: Path) -> None:
    run(samples, tmp_path / "run", record={"held_out": 2, "log_every": 1})
    before = {
        path: path.stat().st_mtime_ns
        for folder in ("checkpoints", "pictures")
        for path in (tmp_path / "run" / folder).rglob("*")
    }
    log = (tmp_path / "run" / "log.jsonl").read_text()
    assert "colour_error" in log
    run(samples, tmp_path / "run", record={"held_out": 2, "log_every": 1})
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (tmp_path / "run" / "log.jsonl").read_text() == log


def test_a_run_can_be_made_longer(samples: Path, tmp_path: Path) -> None:
    run(samples, tmp_path / "run", schedule={"epochs": 1, "decay_epochs": 0})
    assert RunFolder(tmp_path / "run").steps()[-1] == 3
    run(samples, tmp_path / "run", schedule={"epochs": 3, "decay_epochs": 0})
    run(samples, tmp_path / "long", schedule={"epochs": 3, "decay_epochs": 0})
    assert RunFolder(tmp_path / "run").steps()[-1] == 9
    assert differences(newest_state(tmp_path / "run"), newest_state(tmp_path / "long")) == []


def test_other_settings_in_the_same_folder_are_refused_by_name(
    samples: Path, tmp_path: Path
) -> None:
    run(samples, tmp_path / "run")
    with pytest.raises(TrainingError) as caught:
        run(samples, tmp_path / "run", loss={"pool": 3, "gan": "hinge"}, generator={"ngf": 3})
    said = str(caught.value)
    assert "loss.gan was 'least_squares' and is 'hinge'" in said
    assert "generator.ngf was 2 and is 3" in said
    assert "pool" not in said
    fewer = shutil.copytree(samples, tmp_path / "fewer")
    for path in fewer.rglob("0.png"):
        path.unlink()
    with pytest.raises(TrainingError, match="samples was 6 and is 5"):
        run(fewer, tmp_path / "run")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    data = np.fromfile(path, np.uint8)
    data[len(data) // 2] ^= 1
    data.tofile(path)


def not_json(path: Path) -> None:
    path.write_text("[]")


@pytest.mark.parametrize(
    ("name", "harm", "said"),
    [
        ("training.pt", cut, "changed or damaged"),
        ("training.pt", flip, "changed or damaged"),
        ("training.pt", Path.unlink, "No such file"),
        ("state.json", cut, "not readable"),
        ("state.json", Path.unlink, "No such file"),
        ("state.json", not_json, "not readable"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_an_older_one_is_gone_on_from(
    samples: Path, tmp_path: Path, name: str, harm: Any, said: str, stopped: Path
) -> None:
    folder = shutil.copytree(stopped, tmp_path / "run", symlinks=True)
    newest = RunFolder(folder).folder(4)
    harm(newest / name)
    with pytest.raises(CheckpointError) as caught:
        run(samples, folder)
    assert str(newest / name) in str(caught.value)
    assert said in str(caught.value)
    assert f"remove {newest} to resume from an older checkpoint" in str(caught.value)


@pytest.fixture(scope="module")
def stopped(samples: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """A run of which four steps are done, with the checkpoints of two and of four."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    run(samples, folder, schedule={**PARTS["schedule"], "max_steps": 4})
    assert RunFolder(folder).steps() == [2, 4]
    return folder


def test_without_the_damaged_checkpoint_the_older_one_leads_to_the_same_end(
    samples: Path, tmp_path: Path, stopped: Path
) -> None:
    folder = shutil.copytree(stopped, tmp_path / "run", symlinks=True)
    run(samples, tmp_path / "whole")
    shutil.rmtree(RunFolder(folder).folder(4))
    assert not (folder / "model").exists()  # a link to nothing
    run(samples, folder)
    assert differences(newest_state(folder), newest_state(tmp_path / "whole")) == []
    assert (folder / "model" / "model.json").is_file()


@pytest.mark.parametrize(
    ("text", "said"), [("{", "not readable"), ("[]", "not the record"), ('{"a": 1}', "not the rec")]
)
def test_a_damaged_record_is_named(
    samples: Path, tmp_path: Path, stopped: Path, text: str, said: str
) -> None:
    folder = shutil.copytree(stopped, tmp_path / "run", symlinks=True)
    (folder / "run.json").write_text(text)
    with pytest.raises(TrainingError, match=said) as caught:
        run(samples, folder)
    assert str(folder / "run.json") in str(caught.value)
