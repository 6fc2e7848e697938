"""The folder of a run: what is kept, what appears whole, and what happens when it cannot."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
from training_runs import (
    Command,
    Forked,
    command,
    newest_state,
    resolved,
    small,
    write_toml,
)

from sceneloom.contract import Contract
from sceneloom.errors import CheckpointError, TrainingError
from sceneloom_training.checkpoint import load_checkpoint, save_checkpoint
from sceneloom_training.networks import GeneratorArchitecture, build_generator
from sceneloom_training.run_folder import RunFolder
from sceneloom_training.trainer import train

pytestmark = pytest.mark.usefixtures("one_thread")

GENERATOR = build_generator(
    GeneratorArchitecture(input_channels=3, ngf=2, global_downsamplings=1, global_blocks=1), seed=1
)
CONTRACT = Contract(kind="picture", boundaries=False, size_multiple=2)


def save(run: RunFolder, step: int) -> None:
    state = {"step": torch.tensor(step)}
    provenance = {"steps": step}
    run.save(step, state, lambda folder: save_checkpoint(folder, GENERATOR, CONTRACT, provenance))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    with folder.claimed():
        folder.write_record({"settings": {}})
    return folder


@pytest.mark.parametrize(
    ("keep", "keep_every", "left"),
    [
        (1, 0, [6]),
        (2, 0, [5, 6]),
        (10, 0, [1, 2, 3, 4, 5, 6]),
        (1, 2, [2, 4, 6]),
        (2, 4, [4, 5, 6]),
    ],
)
def test_the_last_ones_are_kept_and_those_at_multiples(
    run: RunFolder, keep: int, keep_every: int, left: list[int]
) -> None:
    for step in range(1, 7):
        save(run, step)
        run.drop_older(keep=keep, keep_every=keep_every)
    assert run.steps() == left
    assert sorted(path.name for path in run.checkpoints.iterdir()) == [
        f"step-{step:09d}" for step in left
    ]
    for step in left:
        assert run.load(step)["step"] == step


def test_the_link_leads_to_the_newest_bundle_also_where_the_folder_is_moved(run: RunFolder) -> None:
    for step in (1, 2):
        save(run, step)
        assert load_checkpoint(run.model).provenance == {"steps": step}
    moved = run.root.rename(run.root.with_name("moved"))
    assert load_checkpoint(moved / "model").provenance == {"steps": 2}


def test_a_folder_that_is_moved_while_its_run_is_on_gets_no_twin(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with run.claimed():
        run.write_record({"settings": {}})
        save(run, 1)
        moved = run.root.rename(tmp_path / "moved")
        with pytest.raises(TrainingError, match="run: was removed or moved while the run was on"):
            save(run, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]
    assert RunFolder(moved).steps() == [1]


def test_everything_is_on_the_disk_before_its_name_is_there(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: dict[str, bool] = {}
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        flushed[path] = run.folder(3).exists()
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    save(run, 3)
    written = [path for path in run.folder(3).rglob("*") if path.is_file()]
    assert len(written) == 4
    for path in written:
        beside = [
            there
            for name, there in flushed.items()
            if name.endswith(f".new/{path.relative_to(run.folder(3))}")
        ]
        assert beside == [False], path


def test_what_killed_runs_left_is_swept_and_nothing_else(run: RunFolder) -> None:
    save(run, 1)
    for name in (".step-000000002.99999999.new", ".step-000000001.gone"):
        (run.checkpoints / name / "model").mkdir(parents=True)
    mine = run.checkpoints / ".ipynb_checkpoints"
    mine.mkdir()
    (run.root / ".run.json.new").write_text('{"sce')
    (run.root / "model").unlink()
    with run.claimed():
        assert sorted(path.name for path in run.checkpoints.iterdir()) == [
            ".ipynb_checkpoints",
            "step-000000001",
        ]
        assert not (run.root / ".run.json.new").exists()
        assert load_checkpoint(run.model).provenance == {"steps": 1}


def test_a_run_killed_between_checkpoint_and_link_is_linked_again(run: RunFolder) -> None:
    save(run, 1)
    before = (run.root / "model").readlink()
    save(run, 2)
    (run.root / "model").unlink()
    (run.root / "model").symlink_to(before)
    with run.claimed():
        assert load_checkpoint(run.model).provenance == {"steps": 2}


@pytest.mark.parametrize("names", [["thesis.tex"], ["checkpoints", "thesis.tex"], [".git"]])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / "taken" / name).mkdir(parents=True)
    with (
        pytest.raises(TrainingError, match="exists and is not a training run"),
        RunFolder(tmp_path / "taken").claimed(),
    ):
        pass
    assert sorted(path.name for path in (tmp_path / "taken").iterdir()) == sorted(names)


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(TrainingError, match="taken"), RunFolder(tmp_path / "taken").claimed():
        pass
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_second_process_in_the_same_folder_is_refused(samples: Path, tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run").claimed():
        toml = write_toml(tmp_path / "run.toml", small(samples))
        second = Command("train", toml, "--out", tmp_path / "run", said=tmp_path / "said")
        assert second.wait() == 1
    assert "another process is training in it" in second.errors
    assert RunFolder(tmp_path / "run").steps() == []


@pytest.fixture(scope="module")
def begun(
    samples: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None
) -> tuple[Path, Path]:
    """A configuration file, and a run with its checkpoint of step 2."""
    folder = tmp_path_factory.mktemp("begun")
    settings = small(samples, record={"checkpoint_every": 2})
    settings["schedule"] = {"epochs": 1, "decay_epochs": 0, "max_steps": 2}
    train(resolved(settings), folder / "run")
    settings["schedule"].pop("max_steps")
    return write_toml(folder / "run.toml", settings), folder / "run"


def limited_files(arguments: list[str], largest: int) -> int:
    """Run the command where no file can be larger, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    return command(arguments)


def test_a_file_that_cannot_be_written_leaves_the_last_checkpoint_as_it_was(
    begun: tuple[Path, Path], tmp_path: Path
) -> None:
    toml, before = begun
    run = shutil.copytree(before, tmp_path / "run", symlinks=True)
    sizes = {p: p.stat().st_size for p in (run / "checkpoints").rglob("*") if p.is_file()}
    limit = max(sizes.values()) - 1
    process = Forked(
        limited_files, ["train", str(toml), "--out", str(run)], limit, said=tmp_path / "said"
    )
    assert process.wait() == 1
    assert "step-000000004: cannot be written" in process.errors
    assert "Traceback" not in process.errors
    assert {p: p.stat().st_size for p in (run / "checkpoints").rglob("*") if p.is_file()} == sizes
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000000002"]
    assert newest_state(run)["networks"]
    again = Command("train", toml, "--out", run, said=tmp_path / "again")
    assert again.wait() == 0  # with room it resumes
    assert RunFolder(run).steps()[-1] == 6


def on_a_small_disk(arguments: list[str], run: str, spare: int) -> int:
    """Run the command with the run's folder on a file system of its own that has little room; what
    is there in the end is copied to RUN-after.
    """
    new_namespace = 0x00020000
    if ctypes.CDLL(None).unshare(new_namespace):
        return 99
    size = sum(p.stat().st_blocks * 512 for p in Path(run).rglob("*")) + spare
    copy = shutil.copytree(run, f"{run}-copy", symlinks=True)
    mount = (
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "t", run],
    )
    if any(subprocess.run(line, check=False, capture_output=True).returncode for line in mount):
        return 99
    shutil.copytree(copy, run, symlinks=True, dirs_exist_ok=True)
    code = command(arguments)
    shutil.copytree(run, f"{run}-after", symlinks=True)
    return code


def test_a_full_disk_leaves_the_last_checkpoint_as_it_was(
    begun: tuple[Path, Path], tmp_path: Path
) -> None:
    toml, before = begun
    run = shutil.copytree(before, tmp_path / "run", symlinks=True)
    process = Forked(
        on_a_small_disk,
        ["train", str(toml), "--out", str(run)],
        str(run),
        60_000,
        said=tmp_path / "said",
    )
    code = process.wait()
    if code == 99:
        pytest.skip("needs the right to mount a file system")
    assert code == 1, process.errors
    assert "No space left on device" in process.errors or "disk full" in process.errors
    assert "Traceback" not in process.errors
    after = RunFolder(tmp_path / "run-after")
    assert after.steps() == [2]
    assert after.load(2)["networks"]
    assert load_checkpoint(after.model).provenance["steps"] == 2


def as_nobody(arguments: list[str]) -> int:
    """Run the command without the rights of root."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    return command(arguments)


@pytest.mark.parametrize("there", [True, False], ids=["a run", "its parent"])
def test_a_folder_that_cannot_be_written_is_said(begun: tuple[Path, Path], there: bool) -> None:
    toml, before = begun
    # Not in tmp_path, which is closed to others than its owner.
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        run = place / "run"
        if there:
            shutil.copytree(before, run, symlinks=True)
        shutil.copy(toml, place)
        for path in (*run.rglob("*"), *([run] if there else []), place):
            if not path.is_symlink():
                path.chmod(0o555 if path.is_dir() else 0o444)
        process = Forked(
            as_nobody,
            ["train", str(place / toml.name), "--out", str(run)],
            said=toml.parent / "said",
        )
        code = process.wait()
        for path in (place, *place.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        steps = RunFolder(run).steps()
    assert code == 1
    assert f"{run}: cannot be written (Permission denied)" in process.errors
    assert steps == ([2] if there else [])


def test_an_error_of_writing_names_the_checkpoint(run: RunFolder) -> None:
    run.folder(1).mkdir()
    (run.folder(1) / "thesis.tex").write_text("mine")
    with pytest.raises(CheckpointError, match="exists and is not a checkpoint"):
        save(run, 1)
    assert (run.folder(1) / "thesis.tex").read_text() == "mine"
