"""The training loop: steps, validation, checkpoints, stop signals, and the record of the run.

A killed run loses the steps since its last checkpoint alone, and the same command resumes it. On
the CPU, a resumed run gives the same bits as an uninterrupted one.

    sceneloom train training/configs/demo.toml --out runs/demo
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import itertools
import math
import platform
import shlex
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor

from sceneloom import __version__, errors, progress
from sceneloom.errors import DivergedError, SceneLoomError, TrainingError
from sceneloom.text import counted, reason
from sceneloom_training import process
from sceneloom_training.assembly import Model, assemble, size_limits
from sceneloom_training.batches import (
    Batch,
    Loaded,
    TrainingSet,
    load_batches,
    loading_processes,
    step_items,
)
from sceneloom_training.checkpoint import save_checkpoint
from sceneloom_training.data import examine, find_samples, open_data_set
from sceneloom_training.data.opening import examine_headers
from sceneloom_training.process import Outcome, StopSignals, World
from sceneloom_training.run_folder import TRAINING, RunFolder
from sceneloom_training.run_log import RunLog
from sceneloom_training.schedule import Schedule
from sceneloom_training.settings import RecordSettings, TrainSettings, to_json
from sceneloom_training.train_step import TrainStep
from sceneloom_training.validation import Validation


def train(settings: TrainSettings, out: Path) -> Outcome:
    """Train, or resume from the newest checkpoint. Raises InputError if settings and data do not
    fit, TrainingError if the folder does not or a process is lost, DivergedError, and
    CheckpointError.
    """
    device = process.choose_device(settings.compute.device, "compute.device")
    run = RunFolder(out)
    trainer: Trainer | None = None

    def memory() -> tuple[str, str]:
        validation, o = trainer and trainer.validation, settings.optimizer
        size = f"at {validation.size[1]}x{validation.size[0]} " if validation else ""
        return (
            f"{size}with optimizer.batch {o.batch} and generator.ngf {settings.generator.ngf}",
            "less is needed at a smaller size ([geometry]), with smaller values of these, with "
            "--compute.recompute and with --compute.precision bfloat16; " + last_good(run),
        )

    with process.join_world(device) as world, contextlib.ExitStack() as stack:
        stack.enter_context(process.training_errors(out, memory))
        if world.is_main:
            stack.enter_context(run.claimed())
        else:
            stack.enter_context(progress.shown(lambda line: None))
        world.wait()
        trainer = Trainer(settings, run, world, device)
        try:
            return trainer.train()
        finally:
            trainer.train_step.leave_world()


def last_good(run: RunFolder) -> str:
    """The newest checkpoint, for an error after it."""
    steps = run.steps()
    if not steps:
        return "nothing was saved yet"
    return f"the checkpoint of step {steps[-1]} is intact: {run.folder(steps[-1])}"


class Trainer:
    """One process of a run."""

    def __init__(self, settings: TrainSettings, run: RunFolder, world: World, device: str) -> None:
        """Build the networks and load the newest checkpoint, if any."""
        self.settings, self.run, self.world = settings, run, world
        self.device = torch.device(f"cuda:{world.local_rank}" if device == "cuda" else "cpu")
        root, skip_broken = settings.data.root, settings.data.skip_broken
        data = find_samples(settings.data) if skip_broken else open_data_set(settings.data)
        self.notes: list[str] = []
        self.broken: dict[str, str] = {}
        """Samples left out so far: name -> why it cannot be used."""
        found: dict[str, str] = {}
        if world.is_main and skip_broken:
            found, self.notes = examine_headers(data, root)
            found |= data.incomplete
        elif world.is_main:
            # Faults of files end the run before a network is built, in the main process.
            self.notes = examine(data, root)
        held_out = settings.record.held_out
        count = settings.trained_on(len(data), processes=world.size)
        self.images_per_step = settings.optimizer.batch * settings.optimizer.accumulate * world.size
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
        with progress.stage("build the networks"):
            self.model = assemble(fresh, data.schema, has_instances=data.has_instances)
        objective = self.model.objective
        self.train_step = TrainStep(settings, objective, self.schedule, world, self.device)
        multiple, smallest = size_limits(settings)
        limits = {"multiple": multiple, "smallest": smallest, "seed": settings.compute.seed}
        geometry = settings.geometry
        geometry.check_multiple(multiple)
        self.samples = TrainingSet(
            data,
            geometry,
            count=count,
            cache=settings.compute.cache,
            skip_broken=skip_broken,
            **limits,
        )
        self.validation: Validation | None = None
        if world.is_main:
            with progress.stage("read the samples of the validation"):
                self.validation = Validation(
                    data, geometry, held_out=held_out, skip_broken=skip_broken, **limits
                )
            found |= self.validation.broken
        self.found = found
        """Broken samples that are not said yet."""
        counts = {"samples": len(data), "trained_on": count}
        self.record = make_record(settings, self.model, world, self.device, counts)
        self._unchecked: list[Tensor] = []
        self.saved = self.step = steps[-1] if steps else 0
        if steps:
            check_same_run(run.read_record(), self.record, run.root)
            with progress.stage("load the checkpoint"):
                state = run.load(steps[-1])
            try:
                self.train_step.load_state(state)
            except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                if errors.is_out_of_memory(error):
                    raise
                folder = run.folder(steps[-1])
                raise errors.CheckpointError(
                    f"{folder / TRAINING}: does not hold what this run needs ({reason(error)}); "
                    f"remove {folder} to resume from an older checkpoint"
                ) from None
        else:
            process.seed_random_states(settings.compute.seed + world.rank)
        if world.is_main:
            run.write_record(self.record)
            run.forget_after(steps[-1] if steps else -1)
            self.broken = run.left_out() if skip_broken else {}
        world.wait()

    def train(self) -> Outcome:
        """Run the remaining steps."""
        torch.backends.cudnn.benchmark = True
        done, last, o = self.step, self.schedule.last, self.settings.optimizer
        shape = {"batch": o.batch, "accumulate": o.accumulate}
        count, seed, steps = self.samples.count, self.settings.compute.seed, range(done, last)
        items = step_items(count, seed=seed, world=self.world, steps=steps, **shape)
        number = None
        with contextlib.ExitStack() as stack:
            stopped = stack.enter_context(StopSignals())
            # Loading processes are started before the threads of the log.
            workers = loading_processes(
                self.settings.compute.workers, self.device, trainings=self.world.local_size
            )
            batches = stack.enter_context(load_batches(self.samples, items, workers=workers))
            log = None
            if self.world.is_main:
                images = self.images_per_step
                log = RunLog(self.run.root, done=done, last=last, images_per_step=images)
                stack.enter_context(log)
                self._log_start(log)
            seconds = self.settings.schedule.max_seconds
            until = time.monotonic() + seconds if seconds else math.inf
            for step in range(done, last):
                ready, failed = self._wait_for_batches(batches, stopped)
                broken = {name: why for each in ready for name, why in each.broken.items()}
                over = time.monotonic() >= until
                told = self.world.gather((stopped.number, failed and str(failed), over, broken))
                number = next((number for number, *_ in told if number is not None), None)
                problem = next((text for _, text, *_ in told if text is not None), None)
                for *_, found in told:
                    self._leave_out(found, log)
                if problem is not None:
                    error = failed or TrainingError(problem)
                    if self.saved != self.step:
                        self._save(log)
                    if not isinstance(error, SceneLoomError) or not self.step:
                        raise error
                    raise process.saved_error(error, self.step)
                if number is not None or any(over for _, _, over, _ in told):
                    break
                self._run_step(step, [each.batch for each in ready], log)
            if self.saved != self.step or not self.run.steps():
                self._save(log)
        number, is_main = number if self.step < last else None, self.world.is_main
        return Outcome(
            step=self.step,
            last=last,
            model=self.run.model,
            stopped_by=number,
            is_main=is_main,
            left_out=len(self.broken),
        )

    def _leave_out(self, found: dict[str, str], log: RunLog | None) -> None:
        """Note broken samples, and name each once."""
        for name, why in found.items():
            if name not in self.broken and log:
                log.left_out(self.step, name, why)
            self.broken.setdefault(name, why)

    def _wait_for_batches(
        self, batches: Iterator[Loaded], stopped: StopSignals
    ) -> tuple[list[Loaded], Exception | None]:
        """Wait for a step's batches, or the error of their loading. After a signal, neither."""
        wanted = self.settings.optimizer.accumulate
        try:
            ready = stopped.unless_stopped(lambda: list(itertools.islice(batches, wanted)))
        except Exception as error:  # any: all processes end with it
            return [], error
        return ready or [], None

    def _log_start(self, log: RunLog) -> None:
        log.say(f"watch it with: tensorboard --logdir {shlex.quote(str(self.run.root))}")
        for note in self.notes:
            log.say(note)
        if self.broken:
            before = counted(len(self.broken), "broken sample")
            log.say(f"left out before: {before} ({', '.join(self.broken)})")
        self._leave_out(self.found, log)
        if self.step:
            log.say(f"resuming from step {self.step} of {self.schedule.last}")
        if self.model.perceptual.startswith("off"):
            log.say(f"perceptual loss {self.model.perceptual}")
        if self.settings.discriminator.kind == "segmenting" and self.settings.loss.feature_matching:
            log.say("feature matching off: discriminator.kind is segmenting")
        assert self.validation is not None
        height, width = self.validation.size
        mode = self.settings.geometry.mode
        log.say(f"training at {width}x{height} (geometry.mode {mode})")
        if not self.step:
            self._validate(log)  # the untrained network, to compare with

    def _run_step(self, step: int, batches: list[Batch], log: RunLog | None) -> None:
        """Run a step, counted from 0, and write what is due after it."""
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
                    f"{last_good(self.run)}"
                )
        if log:
            log.count(self.step, losses)
            if write or final:
                epoch = self.step / self.steps_per_epoch
                rate = self.train_step.learning_rate(step)
                log.write(self.step, epoch, rate, left_out=len(self.broken))
            if self.step % record.picture_every == 0 or final:
                self._validate(log)
        if save:
            self._save(log)

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
        """Write a checkpoint. Raises DivergedError for weights that are not finite."""
        if not self.train_step.is_finite():
            raise DivergedError(
                f"step {self.step}: weights are not finite numbers; {last_good(self.run)}"
            )
        with log.paused() if log else contextlib.nullcontext():
            state = self.train_step.state()
            if log:
                log.flush()
                epochs = round(self.step / self.steps_per_epoch, 4)
                write_model = partial(
                    save_checkpoint,
                    generator=self.train_step.best,
                    contract=self.model.contract,
                    provenance={
                        **self.record,
                        "steps": self.step,
                        "epochs": epochs,
                        **({"samples_left_out": len(self.broken)} if self.broken else {}),
                    },
                    encoder=self.train_step.objective.encoder,
                )
                self.run.save(self.step, state, write_model)
                record = self.settings.record
                self.run.drop_older(keep=record.keep, keep_every=record.keep_every)
            self.world.wait()
        self.saved = self.step


_PACKAGES = ("torch", "numpy", "pillow", "opencv-python-headless", "safetensors")
_MAY_CHANGE = {
    "schedule.epochs",
    "schedule.decay_epochs",
    "schedule.max_steps",
    "schedule.max_seconds",
    "compute.device",
    "compute.compile",
    "compute.recompute",
    "compute.workers",
    "compute.cache",
    "data.root",
    "data.skip_broken",
    "generator.start_from",
    "discriminator.start_from",
    "loss.vgg",
    *(f"record.{field.name}" for field in dataclasses.fields(RecordSettings)),
} - {"record.held_out"}
"""Settings that may change on resume: networks and samples do not depend on them."""


def make_record(
    settings: TrainSettings, model: Model, world: World, device: torch.device, data: dict[str, int]
) -> dict[str, Any]:
    """Make the contents of run.json and of a bundle's provenance. `data` counts samples."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "sceneloom": __version__,
        "settings": to_json(settings),
        **data,
        "perceptual_loss": model.perceptual,
        "parameters": {
            name: sum(p.numel() for p in network.parameters())
            for name, network in model.objective.named_children()
        },
        "processes": world.size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "precision": process.choose_precision(settings.compute.precision, device),
        "versions": versions,
    }


def check_same_run(before: dict[str, Any] | None, now: dict[str, Any], root: Path) -> None:
    """Raise TrainingError if a resumed run has no record, or other networks or samples."""
    if before is None:
        raise TrainingError(f"{root}: has checkpoints and no run.json; choose another place")
    try:
        old, new = (
            {
                f"{section}.{name}": value
                for section, fields in record["settings"].items()
                for name, value in fields.items()
            }
            for record in (before, now)
        )
    except (KeyError, AttributeError):
        raise TrainingError(f"{root / 'run.json'}: not the record of a training run") from None
    old |= {k: before.get(k) for k in ("processes", "samples", "perceptual_loss")}
    new |= {k: now[k] for k in ("processes", "samples", "perceptual_loss")}
    # A run of an older version has the defaults of later settings.
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
            f"{root}: is another run ({'; '.join(differ)}); resume it with its own settings, or "
            "choose another place"
        )
