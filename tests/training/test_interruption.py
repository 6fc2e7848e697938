"""Stopping a run: signals, a loss that is no number, and SIGKILL at random moments.

`make soak` kills at twenty moments; CI at three.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import psutil
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

from sceneloom.errors import DivergedError
from sceneloom_training.assembly import assemble
from sceneloom_training.checkpoint import load_checkpoint
from sceneloom_training.data import open_data_set
from sceneloom_training.process import World
from sceneloom_training.run_folder import RunFolder
from sceneloom_training.schedule import Schedule
from sceneloom_training.train_step import TrainStep
from sceneloom_training.trainer import train

pytestmark = pytest.mark.usefixtures("one_thread")

ENDLESS = {"schedule": {"epochs": 100_000}, "record": {"checkpoint_every": 100_000}}


def start(samples: Path, folder: Path, *flags: str) -> Command:
    """Start a run that would take hours, and wait until it has done some steps."""
    toml = write_toml(folder / "run.toml", small(samples, **ENDLESS))
    process = Command("train", toml, "--out", folder / "run", *flags, said=folder / "said")
    process.wait_for(lambda: len(steps_logged(folder / "run")) > 2)
    return process


@pytest.mark.parametrize(
    ("number", "code", "workers"), [(signal.SIGTERM, 143, "0"), (signal.SIGINT, 130, "1")]
)
def test_a_signal_saves_and_leaves_in_good_order(
    samples: Path, tmp_path: Path, number: int, code: int, workers: str
) -> None:
    process = start(samples, tmp_path, "--compute.workers", workers)
    assert process.end(number) == code
    run = RunFolder(tmp_path / "run")
    (step,) = run.steps()
    assert steps_logged(run.root) == list(range(1, step + 1))
    assert f"stopped by signal {number:d} at step {step} of " in process.printed
    assert "the same command resumes it" in process.printed
    assert "Traceback" not in process.errors
    assert load_checkpoint(run.model).provenance["steps"] == step
    assert differences(run.load(step)["networks"], {}) != []


def test_a_signal_to_the_whole_group_does_not_lose_the_loading_processes(
    samples: Path, tmp_path: Path
) -> None:
    """As a service manager and Ctrl-C in a terminal do it."""
    process = start(samples, tmp_path, "--compute.workers", "2")
    children = psutil.Process(process.pid).children()
    assert len(children) == 2
    for child in children:
        for number in (signal.SIGTERM, signal.SIGINT):
            child.send_signal(number)
    steps = len(steps_logged(tmp_path / "run"))
    process.wait_for(lambda: len(steps_logged(tmp_path / "run")) > steps + 10)
    assert process.end(signal.SIGTERM) == 143
    assert "Traceback" not in process.errors
    assert not any(child.is_running() for child in children)


def test_a_second_signal_ends_it_at_once(samples: Path, tmp_path: Path) -> None:
    toml = write_toml(tmp_path / "run.toml", small(samples, **ENDLESS))
    # Steps of a second and more, so that the second signal comes before the step has ended.
    process = Command(
        "train",
        toml,
        "--out",
        tmp_path / "run",
        "--optimizer.accumulate=6",
        "--generator.ngf=128",
        "--generator.global-blocks=9",
        said=tmp_path / "said",
    )
    process.wait_for(lambda: (tmp_path / "run" / "log.jsonl").exists())
    time.sleep(0.3)
    begun = time.monotonic()
    # Python sees signals between its own instructions only: two within one convolution are one.
    for _ in range(3):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.25)
    code = process.end(signal.SIGTERM)
    assert code == -signal.SIGTERM
    assert time.monotonic() - begun < 5
    assert RunFolder(tmp_path / "run").steps() == []
    with RunFolder(tmp_path / "run").claimed():  # the folder is free again
        pass


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_the_last_checkpoint(
    samples: Path, tmp_path: Path
) -> None:
    settings = small(
        samples,
        optimizer={"learning_rate": 1.0},  # weights soon give features beyond 65504, float16's end
        discriminator={"ndf": 64},
        compute={"precision": "float16"},
        schedule={"epochs": 20},
        record={"checkpoint_every": 3},
    )
    toml = write_toml(tmp_path / "run.toml", settings)
    process = Command("train", toml, "--out", tmp_path / "run", said=tmp_path / "said")
    assert process.wait() == 1
    said = re.search(
        r"sceneloom train: step (\d+): a loss is not a finite number \(.*nator (nan|inf).*; "
        r"the checkpoint of step (\d+) is intact: (.*)\n",
        process.errors,
    )
    assert said, process.errors
    assert "Traceback" not in process.errors
    run = RunFolder(tmp_path / "run")
    newest = run.steps()[-1]
    assert newest == int(said[3]) < int(said[1])
    assert run.folder(newest) == Path(said[4])
    for part in ("networks", "optimizers"):
        assert run.load(newest)[part]
    assert (
        load_checkpoint(run.model).provenance["steps"] == newest
    )  # which refuses what is no number
    with pytest.raises(DivergedError, match="a loss is not a finite number"):
        train(resolved(settings), tmp_path / "run")  # the same bits, the same end
    assert run.steps()[-1] >= newest


@pytest.mark.parametrize("place", ["a weight", "a moment"])
def test_what_is_not_finite_is_seen_before_it_is_saved(samples: Path, place: str) -> None:
    settings = resolved(small(samples))
    data = open_data_set(settings.data)
    train_step = TrainStep(
        settings,
        assemble(settings, data.schema, has_instances=True).objective,
        Schedule.of(settings.schedule, 1),
        World(),
        torch.device("cpu"),
    )
    for optimizer in train_step.optimizers:
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    assert train_step.is_finite()
    if place == "a weight":
        with torch.no_grad():
            next(train_step.objective.discriminator.parameters())[0, 0, 0, 0] = float("nan")
    else:
        next(iter(train_step.optimizers[1].state.values()))["exp_avg_sq"][0, 0, 0, 0] = float("inf")
    assert not train_step.is_finite()


EVERY = 3
"""Steps between the checkpoints of the runs that are killed."""


@pytest.mark.parametrize(
    "moments",
    [
        3,
        pytest.param(20, marks=[pytest.mark.soak, pytest.mark.timeout(900)]),
    ],
)
def test_sigkill_loses_no_more_than_the_steps_since_the_last_checkpoint(
    samples: Path, tmp_path: Path, moments: int
) -> None:
    settings = small(
        samples,
        schedule={"epochs": 3, "decay_epochs": 3},
        record={"checkpoint_every": EVERY},
        optimizer={"ema": 0.9},
        loss={"pool": 2},
        generator={"network": "unet", "unet_downsamplings": 3},
        compute={"workers": 1},
    )
    toml = write_toml(tmp_path / "run.toml", settings)
    whole = Command("train", toml, "--out", tmp_path / "whole", said=tmp_path / "said")
    whole.wait_for((tmp_path / "whole").exists)
    begun = time.monotonic()
    assert whole.wait() == 0, whole.errors
    duration = time.monotonic() - begun
    wanted = newest_state(tmp_path / "whole")

    seed = random.SystemRandom().randrange(2**32)
    print(f"moments drawn with seed {seed}")
    draw, killed, finished = random.Random(seed), 0, 0
    lost = []
    run = RunFolder(tmp_path / "run")
    while killed < moments or not finished:
        process = Command("train", toml, "--out", run.root, said=tmp_path / "said")
        if killed < moments:
            process.process.join(draw.uniform(0, duration))
            code = process.end(signal.SIGKILL)
        else:
            code = process.wait()
        newest = run.steps()[-1] if run.steps() else 0
        if newest:  # it is whole: hashes, weights, and the link
            assert run.load(newest)["networks"]
            assert load_checkpoint(run.folder(newest) / "model").provenance["steps"] == newest
            assert (run.root / "model" / "model.json").is_file()
        if code == -signal.SIGKILL:
            killed += 1
            lost.append(max([0, *steps_logged(run.root)]) - newest)
            assert lost[-1] <= EVERY
        else:
            assert code == 0, process.errors
            finished += 1
            assert differences(newest_state(run.root), wanted) == []
            assert steps_logged(run.root) == steps_logged(tmp_path / "whole")
            shutil.rmtree(run.root)
    print(f"{killed} kills, steps lost {lost}, {finished} runs came to their end")
