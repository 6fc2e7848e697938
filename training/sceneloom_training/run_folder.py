"""A training run on disk, of a model or of a segmenter: lock, record, checkpoints.

    RUN/run.json                        settings, versions, switched-off parts and the reasons
    RUN/log.jsonl                       one line per entry of the log
    RUN/checkpoints/step-000001000/     training.pt (state of a resumed run), state.json (hash,
                                        step), model/ (the bundle; not of a segmenter)
    RUN/model                           link to the newest checkpoint's bundle
    RUN/tensorboard/, RUN/pictures/     for people

A checkpoint appears whole or not at all. Older ones are removed once the new one is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from sceneloom import __version__
from sceneloom.errors import CheckpointError, TrainingError
from sceneloom.files import HeldLocation, file_hash, publish, replace_folder
from sceneloom.text import parse_json, reason
from sceneloom_training.checkpoint import load_tensors

FORMAT = 1
STATE, TRAINING, BUNDLE = "state.json", "training.pt", "model"
RECORD, LOG, PICTURES = "run.json", "log.jsonl", "pictures"
_LOCK = ".lock"
_NAME = re.compile(r"step-(\d{9,})")
_LEFTOVER = re.compile(r"\.step-\d{9,}\.(\d+\.new|\d+\.old|gone)")
_OLD_SEGMENTER = re.compile(r"\.lock|log\.jsonl|\.training\.pt\.new|\.segmenter\..*")


class RunFolder:
    """A run's folder."""

    def __init__(self, root: Path, *, makes: Literal["model", "segmenter"] = "model") -> None:
        self.root = root
        self.checkpoints = root / "checkpoints"
        self.model = root / makes
        """The newest checkpoint's bundle, a link; of a segmenter, the finished one."""
        self._foreign = {"model", "segmenter"} - {makes}
        self._held: HeldLocation | None = None

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder, keep other processes out during the block, and sweep after a killed run.
        Raises TrainingError if it is in use, holds something else, or cannot be written.
        """
        try:
            if self.root.exists() and not self._is_ours():
                raise TrainingError(
                    f"{self.root}: exists and is not a training run; choose another place"
                )
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            lock = (self.root / _LOCK).open("w")
        except OSError as error:
            raise TrainingError(f"{self.root}: cannot be written ({error.strerror})") from None
        with lock:
            try:
                # Not flock: loading processes would inherit that and outlive a killed run.
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise TrainingError(f"{self.root}: another process is training in it") from None
            for path in self.checkpoints.iterdir():
                if _LEFTOVER.fullmatch(path.name):
                    shutil.rmtree(path, ignore_errors=True)
            for name in (RECORD, LOG, BUNDLE):
                (self.root / f".{name}.new").unlink(missing_ok=True)
            if steps := self.steps():  # a run may be killed before it
                self._point_to(steps[-1])
            self._held = HeldLocation(self.root)
            try:
                yield
            finally:
                self._held.close()
                if not (self.root / RECORD).exists():  # refused before it began
                    with contextlib.suppress(OSError):
                        self.checkpoints.rmdir()
                        (self.root / _LOCK).unlink()
                        self.root.rmdir()

    def _is_ours(self) -> bool:
        if not self.root.is_dir():
            return False
        names = {path.name for path in self.root.iterdir()}
        if names & self._foreign:
            return False
        if RECORD in names or names <= {_LOCK, "checkpoints", f".{RECORD}.new"}:
            return True
        # Segmenter runs of older versions have no record, and their checkpoint here.
        killed = _LOCK in names and all(map(_OLD_SEGMENTER.fullmatch, names))
        return "model" in self._foreign and (TRAINING in names or killed)

    def steps(self) -> list[int]:
        """Steps of the checkpoints, in order."""
        if not self.checkpoints.is_dir():
            return []
        matches = (_NAME.fullmatch(path.name) for path in self.checkpoints.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def folder(self, step: int) -> Path:
        """The checkpoint of a step."""
        return self.checkpoints / f"step-{step:09d}"

    def save(
        self, step: int, state: dict[str, Any], write_model: Callable[[Path], None] | None = None
    ) -> None:
        """Write the state for a resumed run, and the bundle, if any. Raises CheckpointError if it
        cannot be written (the older ones are intact), and TrainingError if the run's folder is
        gone.
        """
        self._check()  # else this makes a folder without record and log
        files, kind = frozenset({STATE, TRAINING, BUNDLE}), "a checkpoint of a training run"
        with replace_folder(
            self.folder(step), marker=STATE, files=files, kind=kind, error=CheckpointError
        ) as fresh:
            try:
                torch.save(state, fresh / TRAINING)
            except RuntimeError as error:  # torch's zip writer hides the system's reason
                raise OSError(f"disk full, or not writable ({reason(error)})") from None
            if write_model is not None:
                write_model(fresh / BUNDLE)
            description = {
                "format": FORMAT,
                "sceneloom": __version__,
                "step": step,
                "sha256": {TRAINING: file_hash(fresh / TRAINING)},
            }
            (fresh / STATE).write_text(json.dumps(description, indent=1) + "\n", "utf-8")
        self._check()
        self._point_to(step)

    def _check(self) -> None:
        if self._held is None:
            return
        try:
            self._held.check()
        except OSError as error:
            raise TrainingError(f"{error}; the steps since are lost") from None

    def _point_to(self, step: int) -> None:
        if not (self.folder(step) / BUNDLE).is_dir():
            return
        link = self.root / f".{BUNDLE}.new"
        link.unlink(missing_ok=True)
        link.symlink_to(Path("checkpoints") / self.folder(step).name / BUNDLE)
        link.replace(self.model)

    def drop_older(self, *, keep: int, keep_every: int) -> None:
        """Remove checkpoints except the newest `keep` and multiples of `keep_every`, if not 0."""
        steps = self.steps()
        for step in steps[: max(0, len(steps) - keep)]:
            if not keep_every or step % keep_every:
                # Renamed first: half a folder must not look like a checkpoint.
                gone = self.folder(step).with_name(f".{self.folder(step).name}.gone")
                self.folder(step).rename(gone)
                shutil.rmtree(gone, ignore_errors=True)

    def load(self, step: int) -> dict[str, Any]:
        """Read the state of a checkpoint, on the CPU. Raises CheckpointError."""
        folder = self.folder(step)
        older = f"remove {folder} to resume from an older checkpoint"
        path = folder / STATE
        try:
            description = parse_json(path.read_text("utf-8"))
            recorded, written_as = description["sha256"][TRAINING], description["format"]
            if written_as != FORMAT:
                raise CheckpointError(f"{path}: not a checkpoint of format {FORMAT}")
            path = folder / TRAINING
            if file_hash(path) != recorded:
                raise CheckpointError(
                    f"{path}: changed or damaged, its SHA-256 is not the one in {STATE}; {older}"
                )
            state = load_tensors(path)
        except CheckpointError:
            raise
        except Exception as error:  # pickle and zip raise nearly anything
            raise CheckpointError(f"{path}: not readable ({reason(error)}); {older}") from None
        if not isinstance(state, dict):
            raise CheckpointError(f"{path}: not the state of a training run; {older}")
        return state

    def write_record(self, record: dict[str, Any]) -> None:
        """Write run.json in one step."""
        self._write(RECORD, json.dumps(record, indent=1) + "\n")

    def read_record(self) -> dict[str, Any] | None:
        """Read run.json, None without one. Raises TrainingError if it is not readable."""
        try:
            record = parse_json((self.root / RECORD).read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise TrainingError(f"{self.root / RECORD}: not readable ({error})") from None
        if not isinstance(record, dict):
            raise TrainingError(f"{self.root / RECORD}: not the record of a training run")
        return record

    def forget_after(self, step: int) -> None:
        """Drop log entries and pictures of steps that will run again, and a cut line."""
        path = self.root / LOG
        if path.is_file():
            kept = []
            for line in path.read_text("utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    if parse_json(line)["step"] <= step:
                        kept.append(line)
            self._write(LOG, "".join(f"{line}\n" for line in kept))
        for picture in (self.root / PICTURES).glob("step-*"):
            match = re.match(r"step-(\d+)-", picture.name)
            if match and int(match[1]) > step:
                picture.unlink()

    def left_out(self) -> dict[str, str]:
        """Samples that the log names as left out: name -> why."""
        found: dict[str, str] = {}
        path = self.root / LOG
        for line in (
            path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else ()
        ):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = parse_json(line)
                found[entry["left_out"]] = entry["why"]
        return found

    def _write(self, name: str, text: str) -> None:
        part, path = self.root / f".{name}.new", self.root / name
        try:
            part.write_text(text, "utf-8")
            publish(part, path)
        except OSError as error:
            raise TrainingError(f"{path}: cannot be written ({error.strerror})") from None
