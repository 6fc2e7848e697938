"""Several processes train what one would: gloo, real processes, float64 against one process."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from training_runs import (
    Command,
    Forked,
    differences,
    newest_state,
    resolved,
    small,
    steps_logged,
    world,
    write_samples,
    write_toml,
)
from training_worlds import load_gradients, save_gradients

from sceneloom_training.run_folder import RunFolder
from sceneloom_training.trainer import train

pytestmark = pytest.mark.usefixtures("one_thread")

EXACT: dict[str, Any] = {
    "generator": {"enhancers": 1, "enhancer_blocks": 1},
    "style": {"features": 2, "nef": 2, "downsamplings": 1},
    "compute": {"precision": "float64"},
    "optimizer": {"ema": 0.9},
}


def two(toml: Path, out: Path, *flags: str) -> list[Command]:
    """Start `sceneloom train` twice, as torchrun does."""
    return [
        Command(
            "train",
            toml,
            "--out",
            out,
            *flags,
            said=out.with_name(f"{out.name}-{n}"),
            environment=e,
        )
        for n, e in enumerate(world(2))
    ]


def finish(commands: list[Command]) -> None:
    assert [command.wait() for command in commands] == [0, 0], [c.errors for c in commands]


def batches(size: int, accumulate: int) -> dict[str, Any]:
    return {**EXACT["optimizer"], "batch": size, "accumulate": accumulate}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_are_those_of_one_process_with_the_whole_batch(
    samples: Path, tmp_path: Path, accumulate: int
) -> None:
    settings = small(samples, **{**EXACT, "optimizer": batches(1, accumulate)})
    processes = [
        Forked(
            save_gradients,
            settings,
            str(tmp_path / "two"),
            said=tmp_path / f"said-{rank}",
            environment=environment,
        )
        for rank, environment in enumerate(world(2))
    ]
    whole = small(samples, **{**EXACT, "optimizer": batches(2 * accumulate, 1)})
    save_gradients(whole, str(tmp_path / "one"))
    assert [process.wait() for process in processes] == [0, 0], processes[0].errors

    one = load_gradients(tmp_path / "one-0")
    assert {name.split(".")[0] for name in one} == {"generator", "discriminator", "encoder"}
    assert sum(float(gradient.abs().max()) > 1e-3 for gradient in one.values()) > 10
    for rank in range(2):
        shared = load_gradients(tmp_path / f"two-{rank}")
        assert shared.keys() == one.keys()
        worst = max(float((shared[name] - one[name]).abs().max()) for name in one)
        assert worst <= 1e-9


def test_gradients_of_half_the_batch_are_others(samples: Path, tmp_path: Path) -> None:
    for size in (1, 2):
        settings = small(samples, **{**EXACT, "optimizer": batches(size, 1)})
        save_gradients(settings, str(tmp_path / f"batch-{size}"))
    one, two_ = (load_gradients(tmp_path / f"batch-{size}-0") for size in (1, 2))
    assert max(float((one[name] - two_[name]).abs().max()) for name in one) > 1e-3


@pytest.mark.parametrize(
    ("accumulate", "schedule", "steps"),
    [(1, {"epochs": 1, "decay_epochs": 0}, 3), (1, {"epochs": 2, "enhancer_only_epochs": 1}, 5)],
    ids=["one stage", "across the switch of stages"],
)
def test_weights_after_some_steps_are_those_of_one_process(
    samples: Path, tmp_path: Path, accumulate: int, schedule: dict[str, int], steps: int
) -> None:
    sections = {**EXACT, "schedule": {**schedule, "max_steps": steps}}
    shared = small(samples, **{**sections, "optimizer": batches(1, accumulate)})
    commands = two(write_toml(tmp_path / "two.toml", shared), tmp_path / "two")
    whole = small(samples, **{**sections, "optimizer": batches(2 * accumulate, 1)})
    train(resolved(whole), tmp_path / "one")
    finish(commands)

    assert RunFolder(tmp_path / "two").steps()[-1] == steps
    one, ours = newest_state(tmp_path / "one"), newest_state(tmp_path / "two")
    assert len(ours["ranks"]) == 2
    for part in ("networks", "average"):
        assert ours[part].keys() == one[part].keys()
        worst = max(float((ours[part][k] - one[part][k]).abs().max()) for k in one[part])
        assert worst <= 1e-6
    assert commands[0].printed.startswith(f"trained {steps} steps")
    assert commands[1].printed == ""  # one process speaks for both
    assert steps_logged(tmp_path / "two") == list(range(1, steps + 1))


def test_two_processes_resume_bit_for_bit(samples: Path, tmp_path: Path) -> None:
    sections = {
        "generator": {"network": "unet", "unet_downsamplings": 3},
        "loss": {"pool": 2},
        "schedule": {"epochs": 2, "decay_epochs": 0},
    }
    toml = write_toml(tmp_path / "run.toml", small(samples, **sections))
    whole = two(toml, tmp_path / "whole", "--schedule.max-steps=4")
    finish(two(toml, tmp_path / "parts", "--schedule.max-steps=2"))
    finish(two(toml, tmp_path / "parts", "--schedule.max-steps=4"))
    finish(whole)
    ours, theirs = newest_state(tmp_path / "parts"), newest_state(tmp_path / "whole")
    assert differences(ours, theirs) == []
    first, second = ours["ranks"]
    assert differences(first["torch"], second["torch"])  # their dropout is not the same noise

    alone = Command("train", toml, "--out", tmp_path / "parts", said=tmp_path / "alone")
    assert alone.wait() == 1
    assert "processes was 2 and is 1" in alone.errors


def test_sigterm_to_one_process_stops_both_after_a_checkpoint(
    samples: Path, tmp_path: Path
) -> None:
    endless = {"schedule": {"epochs": 100_000}, "record": {"checkpoint_every": 100_000}}
    toml = write_toml(tmp_path / "run.toml", small(samples, **endless))
    commands = two(toml, tmp_path / "run")
    commands[0].wait_for(lambda: len(steps_logged(tmp_path / "run")) > 2)
    commands[1].end(signal.SIGTERM)
    assert [command.wait() for command in commands] == [143, 143]
    (step,) = RunFolder(tmp_path / "run").steps()
    assert steps_logged(tmp_path / "run") == list(range(1, step + 1))
    assert f"stopped by signal 15 at step {step}" in commands[0].printed
    assert commands[1].printed == ""


def test_a_lost_process_ends_the_other_with_a_sentence(samples: Path, tmp_path: Path) -> None:
    endless = {"schedule": {"epochs": 100_000}, "record": {"checkpoint_every": 2}}
    toml = write_toml(tmp_path / "run.toml", small(samples, **endless))
    commands = two(toml, tmp_path / "run")
    commands[0].wait_for(lambda: len(steps_logged(tmp_path / "run")) > 2)
    commands[1].end(signal.SIGKILL)
    assert commands[0].wait() == 1
    assert "another process of this run has ended" in commands[0].errors
    assert "Traceback" not in commands[0].errors
    assert newest_state(tmp_path / "run")["ranks"]


def test_a_folder_that_is_refused_ends_all_processes(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    toml = write_toml(tmp_path / "run.toml", small(samples))
    commands = two(toml, tmp_path / "run")
    assert [command.wait() for command in commands] == [1, 1]
    assert "is not a training run" in commands[0].errors
    assert "another process of this run has ended" in commands[1].errors


def test_a_world_that_torchrun_did_not_make_is_refused(samples: Path, tmp_path: Path) -> None:
    toml = write_toml(tmp_path / "run.toml", small(samples))
    half = Command(
        "train", toml, "--out", tmp_path / "run", said=tmp_path / "said",
        environment={"WORLD_SIZE": "2"},
    )  # fmt: skip
    assert half.wait() == 1
    assert "RANK is not set" in half.errors
    assert "torchrun" in half.errors


def test_a_broken_sample_of_any_process_is_named_once_by_the_first(tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "samples", 6)
    for name in ("4", "5"):
        photo = samples / "train_img" / f"{name}.png"
        photo.write_bytes(photo.read_bytes()[:-200])
    toml = write_toml(tmp_path / "run.toml", small(samples, data={"skip_broken": True}))
    commands = two(toml, tmp_path / "two", "--schedule.max-steps", "9")
    finish(commands)
    for name in ("4", "5"):
        said = f"left out: {name}, a broken sample ("
        assert [command.errors.count(said) for command in commands] == [1, 0]
    assert "left out: 2 broken samples" in commands[0].printed
