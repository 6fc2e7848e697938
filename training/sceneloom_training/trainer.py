"""The training loop: steps, validation, checkpoints, stop signals, and the record of the run.

A killed run loses the steps since its last checkpoint and nothing else; the same command resumes
it. On the CPU, a resumed run gives the same bits as one that was never stopped.

    sceneloom train training/configs/demo.toml --out runs/demo
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import itertools
import platform
from collections.abc import Iterator
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
    is_out_of_memory,
    said,
)
from sceneloom.text import counted, reason
from sceneloom_training.assembly import Model, assemble
from sceneloom_training.batches import Batch, StepSampler, TrainingSet, load_batches
from sceneloom_training.checkpoint import save_checkpoint
from sceneloom_training.data import examine, open_data_set
from sceneloom_training.process import (
    StopSignals,
    World,
    choose_device,
    join_world,
    saved_error,
    seed_random_states,
)
from sceneloom_training.run_folder import TRAINING, RunFolder
from sceneloom_training.run_log import RunLog
from sceneloom_training.schedule import Schedule
from sceneloom_training.settings import TrainSettings
from sceneloom_training.train_step import TrainStep
from sceneloom_training.validation import Validation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    step: int
    last: int
    model: Path
    stopped_by: int | None
    """Number of the signal that stopped it, in whichever process it came, or None."""
    is_main: bool


def train(settings: TrainSettings, out: Path) -> Outcome:
    """Train, or resume training from the newest checkpoint in the run's folder.

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
            if world.is_main:
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
            validation, o = trainer and trainer.validation, settings.optimizer
            size = f"at {validation.size[1]}x{validation.size[0]} " if validation else ""
            steps = run.steps()
            left = (
                f"the checkpoint of step {steps[-1]} is as it was"
                if steps
                else "nothing was saved yet"
            )
            raise TrainingError(
                f"memory was not enough {size}with optimizer.batch {o.batch} and generator.ngf "
                f"{settings.generator.ngf} ({said(error)}); less is needed at a smaller size "
                "([geometry]), with smaller values of these, with --compute.recompute and with "
                f"--compute.precision bfloat16; {left}"
            ) from None


class Trainer:
    """One process of a run."""

    def __init__(self, settings: TrainSettings, run: RunFolder, world: World, device: str) -> None:
        """Read the data's names, build the networks, load the newest checkpoint if there is one."""
        self.settings, self.run, self.world = settings, run, world
        self.device = torch.device(f"cuda:{world.local_rank}" if device == "cuda" else "cpu")
        data = open_data_set(settings.data)
        # What is wrong with the files is told before a network is built, by the main process.
        self.notes = examine(data, settings.data.root) if world.is_main else []
        held_out = settings.record.held_out
        self.images_per_step = settings.optimizer.batch * settings.optimizer.accumulate * world.size
        count = len(data) - held_out
        if count < self.images_per_step:
            raise InputError(
                f"{counted(len(data), 'sample')}, {held_out} of them held out, are too few for "
                f"steps of {self.images_per_step} (optimizer.batch x accumulate x processes)"
            )
        self.steps_per_epoch = count // self.images_per_step
        self.schedule = Schedule.of(settings.schedule, self.steps_per_epoch)
        steps = run.steps()
        fresh = settings
        if steps:  # the weights to start from are not needed again
            fresh = dataclasses.replace(
                settings,
                generator=dataclasses.replace(settings.generator, start_from=None),
                discriminator=dataclasses.replace(settings.discriminator, start_from=None),
            )
        self.model = assemble(fresh, data.schema, has_instances=data.has_instances)
        objective = self.model.objective
        self.train_step = TrainStep(settings, objective, self.schedule, world, self.device)
        limits = {
            "multiple": objective.size_multiple,
            "smallest": max(
                objective.generator.architecture.smallest_side,
                objective.discriminator.smallest_side,
            ),
            "seed": settings.compute.seed,
        }
        settings.geometry.check_multiple(objective.size_multiple)
        self.samples = TrainingSet(
            data, settings.geometry, count=count, cache=settings.compute.cache, **limits
        )
        self.validation: Validation | None = None
        if world.is_main:
            self.validation = Validation(data, settings.geometry, held_out=held_out, **limits)
        self.record = make_record(
            settings, self.model, world, self.device, samples=len(data), trained=count
        )
        self._unchecked: list[Tensor] = []
        self.saved = self.step = steps[-1] if steps else 0
        self._begin(steps[-1] if steps else None)

    def _begin(self, newest: int | None) -> None:
        """Load the newest checkpoint, or seed a new run."""
        if newest is None:
            seed_random_states(self.settings.compute.seed + self.world.rank)
        else:
            check_same_run(self.run.read_record(), self.record, self.run.root)
            state = self.run.load(newest)
            try:
                self.train_step.load_state(state)
            except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                if is_out_of_memory(error):
                    raise
                folder = self.run.folder(newest)
                raise CheckpointError(
                    f"{folder / TRAINING}: does not hold what this run needs ({reason(error)}); "
                    f"remove {folder} to go on from an older checkpoint"
                ) from None
        if self.world.is_main:
            self.run.write_record(self.record)
            self.run.forget_after(-1 if newest is None else newest)
        self.world.wait()

    def train(self) -> Outcome:
        """Run the steps that are left."""
        torch.backends.cudnn.benchmark = True
        done, last, o = self.step, self.schedule.last, self.settings.optimizer
        sampler = StepSampler(
            self.samples.count,
            seed=self.settings.compute.seed,
            world=self.world,
            batch=o.batch,
            accumulate=o.accumulate,
            steps=range(done, last),
        )
        number = None
        with contextlib.ExitStack() as stack:
            stopped = stack.enter_context(StopSignals())
            # Loading processes are started before the threads of the log.
            batches = stack.enter_context(
                load_batches(self.samples, sampler, workers=self.settings.compute.workers)
            )
            log = None
            if self.world.is_main:
                images = self.images_per_step
                log = RunLog(self.run.root, done=done, last=last, images_per_step=images)
                stack.enter_context(log)
                self._log_start(log)
            for step in range(done, last):
                ready, failed = self._wait_for_batches(batches, stopped)
                told = self.world.gather((stopped.number, failed and str(failed)))
                number = next((number for number, _ in told if number is not None), None)
                problem = next((text for _, text in told if text is not None), None)
                if problem is not None:
                    raise self._saved_before(failed or TrainingError(problem), log)
                if number is not None:
                    break
                self._run_step(step, ready, log)
            if self.saved != self.step or not self.run.steps():
                self._save(log)
        return Outcome(
            step=self.step,
            last=last,
            model=self.run.model,
            stopped_by=number if self.step < last else None,
            is_main=self.world.is_main,
        )

    def _wait_for_batches(
        self, batches: Iterator[Batch], stopped: StopSignals
    ) -> tuple[list[Batch], Exception | None]:
        """The batches of a step, or why there are none; neither if a signal came first."""
        wanted = self.settings.optimizer.accumulate
        try:
            ready = stopped.unless_stopped(lambda: list(itertools.islice(batches, wanted)))
        except Exception as error:  # all processes have to hear of it, whatever it is
            return [], error
        return ready or [], None

    def _saved_before(self, error: Exception, log: RunLog | None) -> Exception:
        """The error that ends the run, after a checkpoint of the steps that were done."""
        if self.saved != self.step:
            self._save(log)
        if not isinstance(error, SceneLoomError) or not self.step:
            return error
        return saved_error(error, self.step)

    def _log_start(self, log: RunLog) -> None:
        for note in self.notes:
            log.say(note)
        if self.step:
            log.say(f"going on from step {self.step} of {self.schedule.last}")
        if self.model.perceptual.startswith("off"):
            log.say(f"perceptual loss {self.model.perceptual}")
        assert self.validation is not None
        height, width = self.validation.size
        mode = self.settings.geometry.mode
        log.say(f"training at {width}x{height} (geometry.mode {mode})")
        if not self.step:
            self._validate(log)  # what the untrained network gives, to compare with

    def _run_step(self, step: int, batches: list[Batch], log: RunLog | None) -> None:
        """Do a step, counted from 0, and write what is due after it."""
        losses = self.train_step.step(step, iter(batches))
        self.step = step + 1
        record, final = self.settings.record, self.step == self.schedule.last
        write = self.step % record.log_every == 0
        save = self.step % record.checkpoint_every == 0
        self._unchecked.append(torch.stack([x.float() for x in losses.values()]).sum())
        if write or save or self.device.type == "cpu":  # a GPU is not waited for at every step
            finite = bool(torch.isfinite(torch.stack(self._unchecked)).all())
            self._unchecked = []
            if self.world.any(not finite):
                values = ", ".join(f"{name} {float(value):g}" for name, value in losses.items())
                raise DivergedError(
                    f"step {self.step}: a loss is not a finite number ({values}); "
                    f"{self._last_good()}"
                )
        if log:
            log.count(self.step, losses)
            if write or final:
                epoch = self.step / self.steps_per_epoch
                log.write(self.step, epoch, self.train_step.learning_rate(step))
            if self.step % record.picture_every == 0 or final:
                self._validate(log)
        if save:
            self._save(log)

    def _last_good(self) -> str:
        steps = self.run.steps()
        if not steps:
            return "nothing was saved yet"
        return f"the checkpoint of step {steps[-1]} is as it was: {self.run.folder(steps[-1])}"

    def _validate(self, log: RunLog) -> None:
        assert self.validation is not None
        with log.paused():
            result = self.validation.validate(
                self.train_step.objective, self.train_step.best, self.device
            )
            for key, strip in result.strips.items():
                log.picture(self.step, key.replace("/", "_"), strip)
            if result.colour_error is not None:
                log.entry(self.step, {"colour_error": result.colour_error})

    def _save(self, log: RunLog | None) -> None:
        """Write a checkpoint; weights that are not finite are never written."""
        if not self.train_step.is_finite():
            raise DivergedError(
                f"step {self.step}: weights are not finite numbers; {self._last_good()}"
            )
        with log.paused() if log else contextlib.nullcontext():
            state = self.train_step.state()
            if log:
                log.flush()
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
                        self.train_step.best,
                        self.model.contract,
                        provenance,
                        encoder=self.train_step.objective.encoder,
                    ),
                )
                record = self.settings.record
                self.run.drop_older(keep=record.keep, keep_every=record.keep_every)
            self.world.wait()
        self.saved = self.step


_PACKAGES = ("torch", "numpy", "pillow", "opencv-python-headless", "safetensors")
_MAY_CHANGE = {
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
"""Settings that may change on resume: networks and samples do not depend on them."""


def make_record(
    settings: TrainSettings,
    model: Model,
    world: World,
    device: torch.device,
    *,
    samples: int,
    trained: int,
) -> dict[str, Any]:
    """The contents of run.json and of a bundle's provenance; `trained` samples are not held out."""
    objective = model.objective
    networks = {
        "generator": objective.generator,
        "discriminator": objective.discriminator,
        **({"encoder": objective.encoder} if objective.encoder else {}),
    }
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "sceneloom": __version__,
        "settings": settings.to_json(),
        "samples": samples,
        "trained_on": trained,
        "perceptual_loss": model.perceptual,
        "parameters": {
            name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()
        },
        "processes": world.size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "versions": versions,
    }


def check_same_run(before: dict[str, Any] | None, now: dict[str, Any], root: Path) -> None:
    """Check that the record of a resumed run is that of its beginning.

    Raises:
        TrainingError: there is no record, or networks or samples differ by it.
    """
    if before is None:
        raise TrainingError(f"{root}: has checkpoints and no run.json; choose another place")
    try:
        old, new = _flat(before["settings"]), _flat(now["settings"])
    except (KeyError, AttributeError):
        raise TrainingError(f"{root / 'run.json'}: not the record of a training run") from None
    old |= {k: before.get(k) for k in ("processes", "samples", "perceptual_loss")}
    new |= {k: now[k] for k in ("processes", "samples", "perceptual_loss")}
    # A run of an older version was begun with the defaults of later settings.
    defaults = {
        f"{section}.{field.name}": field.default
        for section, kind in get_type_hints(TrainSettings).items()
        for field in dataclasses.fields(kind)
        if field.default is not dataclasses.MISSING
    }
    old = defaults | old
    differ = [
        f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
        for name in sorted(set(old) | set(new))
        if old.get(name) != new.get(name) and name not in _MAY_CHANGE
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
