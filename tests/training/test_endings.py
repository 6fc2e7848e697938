"""Runs that something ends: memory, a loading process, a sample, a fault.

Each ends by itself, with a sentence, and leaves no process behind.
"""

from __future__ import annotations

import ctypes
import json
import resource
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from training_runs import (
    Command,
    Forked,
    command,
    resolved,
    small,
    steps_logged,
    write_samples,
    write_toml,
)

from sceneloom.errors import CheckpointError, InputError
from sceneloom.files import file_hash
from sceneloom_training.run_folder import RunFolder
from sceneloom_training.trainer import train

pytestmark = pytest.mark.usefixtures("one_thread")

ENDLESS = {"schedule": {"epochs": 100_000}, "record": {"checkpoint_every": 100_000}}
WORKERS = {"compute": {"workers": 2, "cache": 0}}


def start(samples: Path, folder: Path) -> Command:
    """Start a run with loading processes that would take hours; some steps are done."""
    toml = write_toml(folder / "run.toml", small(samples, **ENDLESS, **WORKERS))
    process = Command("train", toml, "--out", folder / "run", said=folder / "said")
    process.wait_for(lambda: len(steps_logged(folder / "run")) > 2)
    return process


def children(process: Command) -> list[psutil.Process]:
    found = psutil.Process(process.pid).children()
    assert len(found) == 2
    return found


def test_a_signal_while_it_waits_for_a_batch_ends_it_after_a_checkpoint(
    samples: Path, tmp_path: Path
) -> None:
    process = start(samples, tmp_path)
    loaders = children(process)
    for loader in loaders:  # as if the disk or the network did not answer
        loader.suspend()
    time.sleep(0.5)
    assert process.end(signal.SIGTERM) == 143
    assert "saved; the same command resumes it" in process.printed
    assert "Traceback" not in process.errors
    assert RunFolder(tmp_path / "run").steps()
    assert not any(loader.is_running() for loader in loaders)


def test_a_loading_process_that_is_killed_ends_it_after_a_checkpoint(
    samples: Path, tmp_path: Path
) -> None:
    process = start(samples, tmp_path)
    loaders = children(process)
    loaders[0].kill()
    assert process.wait() == 1
    assert "a loading process was lost (killed by signal 9)" in process.errors
    assert "the same command resumes it there" in process.errors
    assert "Traceback" not in process.errors
    assert RunFolder(tmp_path / "run").steps()
    assert not any(loader.is_running() for loader in loaders)


_ARENA_MAX = -8  # of malloc.h


def with_little_memory(arguments: list[str], more: int) -> int:
    """Run `sceneloom` with so many bytes of address space more than it has."""
    # The heap of each of glibc's threads takes 64 MiB of address space, used or not: threads would
    # fail to start, or not, by the order in which they began.
    assert ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)
    used = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (used + more,) * 2)
    return command(arguments)


def test_too_little_memory_is_a_sentence_and_ends_it(samples: Path, tmp_path: Path) -> None:
    settings = small(
        samples, **WORKERS, geometry={"mode": "resize", "size": "1024x1024"}, generator={"ngf": 64}
    )
    process = Forked(
        with_little_memory,
        ["train", str(write_toml(tmp_path / "run.toml", settings)), "--out", str(tmp_path / "run")],
        300 << 20,
        said=tmp_path / "said",
    )
    assert process.wait() == 1
    assert "sceneloom train: memory was not enough at 1024x1024 with optimizer.batch 1 and " in (
        process.errors
    )
    assert "nothing was saved yet" in process.errors
    assert "Traceback" not in process.errors


def test_any_other_error_ends_it_with_a_sentence_too(samples: Path, tmp_path: Path) -> None:
    """Such as one of the file system's in TensorBoard's files, or a fault of ours."""
    process = start(samples, tmp_path)
    loaders = children(process)
    for folder in (tmp_path / "run" / "checkpoints", tmp_path / "run"):
        for path in folder.glob("*"):
            if path.name not in {"checkpoints", "tensorboard", "pictures"}:
                path.unlink()
    (tmp_path / "run" / "checkpoints").rmdir()
    (tmp_path / "run" / "checkpoints").write_text("a file in the folder's place")
    assert process.end(signal.SIGTERM) == 1
    assert "sceneloom train: " in process.errors.splitlines()[-1]
    assert not any(loader.is_running() for loader in loaders)


def test_a_bad_sample_in_the_middle_ends_it_after_a_checkpoint(tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "samples", 6)
    photo = samples / "train_img" / "5.png"
    whole = photo.read_bytes()
    photo.write_bytes(whole[:-200])  # the header is whole; the first look takes 0 to 3
    settings = small(samples, compute={"workers": 1, "cache": 0, "seed": 1})
    toml = write_toml(tmp_path / "run.toml", settings)
    process = Command("train", toml, "--out", tmp_path / "run", said=tmp_path / "said")
    assert process.wait() == 1
    (saved,) = RunFolder(tmp_path / "run").steps()[-1:]
    assert saved == steps_logged(tmp_path / "run")[-1] > 0
    assert "5.png: truncated or damaged" in process.errors
    assert f"the run is saved at step {saved}, and the same command resumes it there" in (
        process.errors
    )
    photo.write_bytes(whole)
    again = Command("train", toml, "--out", tmp_path / "run", said=tmp_path / "said")
    assert again.wait() == 0
    assert steps_logged(tmp_path / "run") == list(range(1, 25))


def test_all_samples_that_do_not_fit_are_told_before_the_first_step(tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "samples", 6)
    Image.fromarray(np.zeros((16, 32, 3), np.uint8)).save(samples / "train_img" / "1.png")
    Image.fromarray(np.zeros((32, 16), np.uint8)).save(samples / "train_inst" / "2.png")
    (samples / "train_label" / "4.png").write_bytes(b"")
    toml = write_toml(tmp_path / "run.toml", small(samples))
    process = Command("train", toml, "--out", tmp_path / "run", said=tmp_path / "said")
    assert process.wait() == 1
    assert "3 samples cannot be used: " in process.errors
    for words in ("1.png is 32x16 and", "2.png is 16x32;", "4.png: damaged header (the file is "):
        assert words in process.errors
    assert not (tmp_path / "run").exists()


def test_an_unknown_id_in_the_middle_ends_it_likewise_where_the_run_itself_loads(
    tmp_path: Path,
) -> None:
    samples = write_samples(tmp_path / "samples", 6)
    Image.fromarray(np.full((32, 32), 200, np.uint8)).save(samples / "train_label" / "5.png")
    settings = resolved(small(samples, compute={"workers": 0, "seed": 1}))
    with pytest.raises(InputError, match=r"5\.png: unknown label.*the run is saved at step 5"):
        train(settings, tmp_path / "run")
    assert RunFolder(tmp_path / "run").steps()[-1] == 5


@pytest.mark.parametrize("part", ["networks", "optimizers", "ranks"])
def test_a_checkpoint_that_lacks_something_is_named(
    samples: Path, tmp_path: Path, part: str
) -> None:
    settings = resolved(small(samples, schedule={"max_steps": 2}))
    train(settings, tmp_path / "run")
    folder = RunFolder(tmp_path / "run").folder(2)
    state = torch.load(folder / "training.pt", weights_only=True)
    torch.save({name: value for name, value in state.items() if name != part}, folder / "new")
    (folder / "new").replace(folder / "training.pt")
    description = json.loads((folder / "state.json").read_text())
    description["sha256"]["training.pt"] = file_hash(folder / "training.pt")
    (folder / "state.json").write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match=f"does not hold what this run needs.*{part}"):
        train(settings, tmp_path / "run")
