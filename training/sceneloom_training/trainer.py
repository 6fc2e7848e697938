"""The training loop: steps, checkpoints, and leaving in good order.

A run can be killed at any moment: what was done since its last checkpoint is lost and nothing else,
and the same command goes on from there. A resumed run on the CPU gives the same bits as one that
was never stopped.

    sceneloom train training/configs/demo.toml --out runs/demo
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import itertools
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor

from sceneloom import __version__
from sceneloom.errors import (
    CheckpointError,
    DivergedError,
    InputError,
    SceneLoomError,
    TrainingError,
)
from sceneloom.machine_limits import is_out_of_memory, said
from sceneloom.text import counted, reason
from sceneloom_training.assembly import Assembled, assemble
from sceneloom_training.batches import Batch, StepSampler, TrainingSet, load_batches
from sceneloom_training.checkpoint import save_checkpoint
from sceneloom_training.data import DataSet, examine, open_data_set
from sceneloom_training.process import (
    StopSignals,
    World,
    choose_device,
    join_world,
    seed_random_states,
)
from sceneloom_training.run_folder import TRAINING, RunFolder
from sceneloom_training.run_log import Journal
from sceneloom_training.schedule import Schedule
from sceneloom_training.settings import TrainSettings
from sceneloom_training.train_step import Learner
from sceneloom_training.validation import Judge


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    step: int
    """Steps done in all."""
    last: int
    """Steps that the schedule has."""
    model: Path
    """The newest checkpoint bundle."""
    stopped_by: int | None
    """Number of the signal that stopped it, in whichever process it came, or None."""
    first: bool
    """Whether this is the first process of the run, which is the one to tell of it."""


def train(settings: TrainSettings, out: Path) -> Outcome:
    """Train, or go on training.

    Args:
        settings: of the run.
        out: the run's folder; checkpoints in it are gone on from.

    Raises:
        InputError: settings and data do not fit.
        CheckpointError: a checkpoint cannot be read or written.
        DivergedError: a loss or a weight is not finite.
        TrainingError: the folder is taken, belongs to another run, or cannot be written; or another
            process of the run was lost.
    """
    device = choose_device(settings.compute.device, "compute.device")
    with join_world(device) as world, contextlib.ExitStack() as stack:
        run, trainer = RunFolder(out), None
        try:
            if world.first:
                stack.enter_context(run.claimed())
            world.wait()
            trainer = Trainer(settings, run, world, device)
            return trainer.train()
        except OSError as error:
            where = error.filename or out
            raise TrainingError(f"{where}: {error.strerror or error}") from None
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(_not_enough_memory(error, settings, run, trainer)) from None


class Trainer:
    """One process of a run."""

    def __init__(self, settings: TrainSettings, run: RunFolder, world: World, device: str) -> None:
        """Read the data's names, build the networks, and load the newest checkpoint if there is
        one.
        """
        self.settings, self.run, self.world = settings, run, world
        self.device = torch.device(f"cuda:{world.local_rank}" if device == "cuda" else "cpu")
        data = open_data_set(settings.data)
        # What is wrong with the files is told before a network is built, by the first process.
        self.notes = examine(data, settings.data.root) if world.first else []
        self.images_per_step = settings.optimizer.batch * settings.optimizer.accumulate * world.size
        count = _count(data, settings, self.images_per_step)
        self.steps_per_epoch = count // self.images_per_step
        self.schedule = Schedule.of(settings.schedule, self.steps_per_epoch)
        steps = run.steps()
        self.assembled = assemble(
            _going_on(settings) if steps else settings,
            data.schema,
            has_instances=data.has_instances,
        )
        self.learner = Learner(
            settings, self.assembled.objective, self.schedule, world, self.device
        )
        self.samples, self.judge = self._samples(data, count)
        self.record = make_record(
            settings, self.assembled, world, self.device, samples=len(data), trained=count
        )
        self._unchecked: list[Tensor] = []
        self.saved = self.step = self._begin(steps[-1] if steps else None)

    def _samples(self, data: DataSet, count: int) -> tuple[TrainingSet, Judge | None]:
        s, objective = self.settings, self.learner.objective
        multiple, seed = objective.size_multiple, s.compute.seed
        smallest = max(
            objective.generator.architecture.smallest_side, objective.discriminator.smallest_side
        )
        s.geometry.check_multiple(multiple)
        samples = TrainingSet(
            data,
            s.geometry,
            count=count,
            multiple=multiple,
            smallest=smallest,
            seed=seed,
            cache=s.compute.cache,
        )
        if not self.world.first:
            return samples, None
        judge = Judge(
            data,
            s.geometry,
            held_out=s.record.held_out,
            multiple=multiple,
            smallest=smallest,
            seed=seed,
        )
        return samples, judge

    def _begin(self, newest: int | None) -> int:
        """Load the newest checkpoint, or seed a new run; the steps that were done."""
        if newest is None:
            seed_random_states(self.settings.compute.seed + self.world.rank)
        else:
            check_same_run(self.run.read_record(), self.record, self.run.root)
            state = self.run.load(newest)
            try:
                self.learner.load_state(state)
            except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                if is_out_of_memory(error):
                    raise
                folder = self.run.folder(newest)
                raise CheckpointError(
                    f"{folder / TRAINING}: does not hold what this run needs ({reason(error)}); "
                    f"remove {folder} to go on from an older checkpoint"
                ) from None
        if self.world.first:
            self.run.write_record(self.record)
            self.run.forget_after(-1 if newest is None else newest)
        self.world.wait()
        return newest or 0

    def train(self) -> Outcome:
        """Run the steps that are left."""
        torch.backends.cudnn.benchmark = True
        done, last = self.step, self.schedule.last
        number = None
        with contextlib.ExitStack() as stack:
            stopped = stack.enter_context(StopSignals())
            # Loading processes are started before the threads of the journal.
            batches = stack.enter_context(self._batches(range(done, last)))
            journal = None
            if self.world.first:
                journal = stack.enter_context(
                    Journal(
                        self.run.root,
                        done=done,
                        last=last,
                        images_per_step=self.images_per_step,
                    )
                )
                self._greet(journal)
            for step in range(done, last):
                ready, failed = self._wait_for_batches(batches, stopped)
                told = self.world.gather((stopped.number, failed and str(failed)))
                number = next((number for number, _ in told if number is not None), None)
                problem = next((text for _, text in told if text is not None), None)
                if problem is not None:
                    raise self._saved_before(failed or TrainingError(problem), journal)
                if number is not None:
                    break
                self._do(step, ready, journal)
            if self.saved != self.step or not self.run.steps():
                self._save(journal)
        return Outcome(
            step=self.step,
            last=last,
            model=self.run.model,
            stopped_by=number if self.step < last else None,
            first=self.world.first,
        )

    def _wait_for_batches(
        self, batches: Iterator[Batch], stopped: StopSignals
    ) -> tuple[list[Batch], Exception | None]:
        """The batches of a step, or why there are none; neither where a signal came first."""
        wanted = self.settings.optimizer.accumulate
        try:
            ready = stopped.unless_stopped(lambda: list(itertools.islice(batches, wanted)))
        except Exception as error:  # all processes have to hear of it, whatever it is
            return [], error
        return ready or [], None

    def _saved_before(self, error: Exception, journal: Journal | None) -> Exception:
        """The error that ends the run, after a checkpoint of the steps that were done."""
        if self.saved != self.step:
            self._save(journal)
        if not isinstance(error, SceneLoomError) or not self.step:
            return error
        kind = InputError if isinstance(error, InputError) else TrainingError
        return kind(
            f"{error}; the run is saved at step {self.step}, and the same command goes on from "
            "there"
        )

    def _greet(self, journal: Journal) -> None:
        """Say what is to be known at the start."""
        for note in self.notes:
            journal.say(note)
        if self.step:
            journal.say(f"going on from step {self.step} of {self.schedule.last}")
        if self.assembled.perceptual.startswith("off"):
            journal.say(f"perceptual loss {self.assembled.perceptual}")
        assert self.judge is not None
        height, width = self.judge.size
        mode = self.settings.geometry.mode
        journal.say(f"training at {width}x{height} (geometry.mode {mode})")
        if not self.step:
            self._look(journal)  # what the untrained network gives, to compare with

    def _batches(self, steps: range) -> AbstractContextManager[Iterator[Batch]]:
        o = self.settings.optimizer
        sampler = StepSampler(
            self.samples.count,
            seed=self.settings.compute.seed,
            world=self.world,
            batch=o.batch,
            accumulate=o.accumulate,
            steps=steps,
        )
        return load_batches(self.samples, sampler, workers=self.settings.compute.workers)

    def _do(self, step: int, batches: list[Batch], journal: Journal | None) -> None:
        """Do a step, counted from 0, and write what is due after it."""
        record = self.settings.record
        losses = self.learner.step(step, iter(batches))
        self.step = step + 1
        log, save = self._due(record.log_every), self._due(record.checkpoint_every)
        self._unchecked.append(torch.stack([x.float() for x in losses.values()]).sum())
        if log or save or self.device.type == "cpu":  # a GPU is not waited for at every step
            self._check_losses(losses)
        if journal:
            journal.count(self.step, losses)
            if log or self.step == self.schedule.last:
                epoch = self.step / self.steps_per_epoch
                journal.write(self.step, epoch, self.learner.learning_rate(step))
            if self._due(record.picture_every) or self.step == self.schedule.last:
                self._look(journal)
        if save:
            self._save(journal)

    def _due(self, every: int) -> bool:
        return self.step % every == 0

    def _check_losses(self, losses: dict[str, Tensor]) -> None:
        finite = bool(torch.isfinite(torch.stack(self._unchecked)).all())
        self._unchecked = []
        if self.world.any(not finite):
            values = ", ".join(f"{name} {float(value):g}" for name, value in losses.items())
            raise DivergedError(
                f"step {self.step}: a loss is not a finite number ({values}); {self._last_good()}"
            )

    def _last_good(self) -> str:
        steps = self.run.steps()
        if not steps:
            return "nothing was saved yet"
        return f"the checkpoint of step {steps[-1]} is as it was: {self.run.folder(steps[-1])}"

    def _look(self, journal: Journal) -> None:
        assert self.judge is not None
        with journal.paused():
            judged = self.judge.look(self.learner.objective, self.learner.best, self.device)
            for key, strip in judged.strips.items():
                journal.picture(self.step, key.replace("/", "_"), strip)
            if judged.colour_error is not None:
                journal.entry(self.step, {"colour_error": judged.colour_error})

    def _save(self, journal: Journal | None) -> None:
        """Write a checkpoint; weights that are not finite are never written."""
        if not self.learner.is_finite():
            raise DivergedError(
                f"step {self.step}: weights are not finite numbers; {self._last_good()}"
            )
        with journal.paused() if journal else contextlib.nullcontext():
            state = self.learner.state()
            if journal:
                journal.flush()
                self._write_checkpoint(state)
            self.world.wait()
        self.saved = self.step

    def _write_checkpoint(self, state: dict[str, Any]) -> None:
        provenance = {
            **self.record,
            "steps": self.step,
            "epochs": round(self.step / self.steps_per_epoch, 4),
        }
        self.run.save(
            self.step,
            state,
            lambda folder: save_checkpoint(
                folder,
                self.learner.best,
                self.assembled.contract,
                provenance,
                encoder=self.learner.objective.encoder,
            ),
        )
        record = self.settings.record
        self.run.drop_older(keep=record.keep, keep_every=record.keep_every)


def _count(data: DataSet, settings: TrainSettings, per_step: int) -> int:
    """Samples that are trained on."""
    count = len(data) - settings.record.held_out
    if count < per_step:
        raise InputError(
            f"{counted(len(data), 'sample')}, {settings.record.held_out} of them held out, are "
            f"too few for steps of {per_step} (optimizer.batch x accumulate x processes)"
        )
    return count


def _not_enough_memory(
    error: Exception, settings: TrainSettings, run: RunFolder, trainer: Trainer | None
) -> str:
    s, steps, judge = settings, run.steps(), trainer and trainer.judge
    size = f"at {judge.size[1]}x{judge.size[0]} " if judge else ""
    left = f"the checkpoint of step {steps[-1]} is as it was" if steps else "nothing was saved yet"
    return (
        f"memory was not enough {size}with optimizer.batch {s.optimizer.batch} and generator.ngf "
        f"{s.generator.ngf} ({said(error)}); less is needed at a smaller size ([geometry]), with "
        "smaller values of these, with --compute.recompute and with --compute.precision bfloat16; "
        f"{left}"
    )


def _going_on(settings: TrainSettings) -> TrainSettings:
    """The settings without the weights to start from, which are not needed again."""
    return dataclasses.replace(
        settings,
        generator=dataclasses.replace(settings.generator, start_from=None),
        discriminator=dataclasses.replace(settings.discriminator, start_from=None),
    )


_PACKAGES = ("torch", "numpy", "pillow", "opencv-python-headless", "safetensors")
_FREE = {
    "schedule.epochs",
    "schedule.decay_epochs",
    "schedule.max_steps",
    "compute.device",
    "compute.compile",
    "compute.recompute",
    "compute.workers",
    "compute.cache",
    "data.root",
    "generator.start_from",
    "discriminator.start_from",
    "loss.vgg",
    *(f"record.{x}" for x in ("checkpoint_every", "keep", "keep_every", "log_every")),
    "record.picture_every",
}
"""Settings that a run may be gone on with otherwise: they change neither networks nor samples."""


def make_record(
    settings: TrainSettings,
    assembled: Assembled,
    world: World,
    device: torch.device,
    *,
    samples: int,
    trained: int,
) -> dict[str, Any]:
    """What run.json and a bundle's provenance say.

    Args:
        settings: as they were resolved from file and flags.
        assembled: the networks.
        world: the processes.
        device: where it is computed.
        samples: of the data set.
        trained: samples that are trained on; the others are held out.
    """
    objective = assembled.objective
    networks = {
        "generator": objective.generator,
        "discriminator": objective.discriminator,
        **({"encoder": objective.encoder} if objective.encoder else {}),
    }
    cuda = device.type == "cuda"
    return {
        "sceneloom": __version__,
        "settings": settings.to_json(),
        "samples": samples,
        "trained_on": trained,
        "perceptual_loss": assembled.perceptual,
        "parameters": {
            name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()
        },
        "processes": world.size,
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
        },
    }


def check_same_run(before: dict[str, Any] | None, now: dict[str, Any], root: Path) -> None:
    """Check that a run that is gone on with is the one that was begun.

    Raises:
        TrainingError: there is no record, or what decides networks and samples differs.
    """
    if before is None:
        raise TrainingError(f"{root}: has checkpoints and no run.json; choose another place")
    try:
        old, new = _flat(before["settings"]), _flat(now["settings"])
    except (KeyError, AttributeError):
        raise TrainingError(f"{root / 'run.json'}: not the record of a training run") from None
    old |= {k: before.get(k) for k in ("processes", "samples", "perceptual_loss")}
    new |= {k: now[k] for k in ("processes", "samples", "perceptual_loss")}
    # A run of an older version was begun with what is the default of a setting that came later.
    old = _defaults() | old
    differ = [
        f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
        for name in sorted(set(old) | set(new))
        if old.get(name) != new.get(name) and name not in _FREE
    ]
    if differ:
        raise TrainingError(
            f"{root}: is another run ({'; '.join(differ)}); go on with its own settings, or choose "
            "another place"
        )


def _flat(settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        f"{section}.{name}": value
        for section, fields in settings.items()
        for name, value in fields.items()
    }


def _defaults() -> dict[str, Any]:
    return {
        f"{section}.{field.name}": field.default
        for section, kind in get_type_hints(TrainSettings).items()
        for field in dataclasses.fields(kind)
        if field.default is not dataclasses.MISSING
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
