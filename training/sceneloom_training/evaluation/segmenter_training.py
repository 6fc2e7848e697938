"""Training of a segmenter on a data set's photographs, from random weights: cross entropy, AdamW
with warm-up and a straight fall. RUN/segmenter is written at the end (`run_folder`).
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from sceneloom import errors, progress
from sceneloom.errors import InputError, TrainingError
from sceneloom.schema import NO_CHANNEL
from sceneloom.text import counted, printable
from sceneloom_training import process
from sceneloom_training.batches import (
    Batch,
    Loaded,
    TrainingSet,
    load_batches,
    loading_processes,
    step_items,
)
from sceneloom_training.checkpoint import load_tensors
from sceneloom_training.data import (
    DataSet,
    DataSettings,
    Geometry,
    examine,
    find_samples,
    open_data_set,
)
from sceneloom_training.data.opening import examine_headers
from sceneloom_training.evaluation import segmenter
from sceneloom_training.evaluation.segmenter import logits_of
from sceneloom_training.process import Outcome, StopSignals, World
from sceneloom_training.progress_bar import track
from sceneloom_training.run_folder import LOG, TRAINING, RunFolder
from sceneloom_training.settings import SegmenterSettings, to_json

_LOG_EVERY = 20
_LEAST_SHARE = 1e-4
"""Share of the pixels. Rarer classes weigh no more than a class of this share."""


def train_segmenter(data: DataSettings, settings: SegmenterSettings, out: Path) -> Outcome:
    """Train a segmenter in the folder `out`, or resume. Raises as `trainer.train`."""
    sizes = f"at {settings.size} with batch {settings.batch} and width {settings.width}"
    advice = "smaller ones need less, and the last checkpoint is intact"
    with process.training_errors(out, lambda: (sizes, advice)):
        run = _Run(data, settings, RunFolder(out, makes="segmenter"))
        if (run.folder.model / segmenter.MARKER).is_file():
            raise TrainingError(f"{run.folder.model}: is finished; choose another place")
        with run.folder.claimed():
            return run.train()


class _Run:
    def __init__(self, data: DataSettings, settings: SegmenterSettings, folder: RunFolder) -> None:
        self.settings, self.folder = settings, folder
        opened = find_samples(data) if data.skip_broken else open_data_set(data)
        if opened.schema is None:
            raise InputError("a paired data set has no label maps to train a segmenter on")
        if len(opened) < settings.batch:
            raise InputError(
                f"{counted(len(opened), 'photograph')}, fewer than a batch: {settings.batch}"
            )
        self.skip_broken = data.skip_broken
        self.broken: dict[str, str] = {}
        """Samples left out so far: name -> why it cannot be used."""
        if data.skip_broken:
            found, notes = examine_headers(opened, data.root)
            self._leave_out({**opened.incomplete, **found})
        else:
            notes = examine(opened, data.root)
        for note in notes:
            print(printable(note), file=sys.stderr)
        with progress.stage("look for a class in the label maps"):
            if not any(map(_holds_classes, self._label_maps(opened))):
                raise InputError(
                    "the label maps hold ignored pixels only; name their schema with --data.labels"
                )
        self.schema = opened.schema
        self.device = torch.device(process.choose_device(settings.device, "device"))
        self.last = settings.epochs * (len(opened) // settings.batch)
        geometry = Geometry(mode="resize", size=settings.size, flip=settings.flip)
        self.samples = TrainingSet(
            opened,
            geometry,
            count=len(opened),
            multiple=32,
            smallest=32,
            seed=settings.seed,
            cache=settings.cache,
            skip_broken=data.skip_broken,
        )
        data_json, settings_json = to_json(data), to_json(settings)
        self.record = {"data": data_json, "photographs": len(opened), "settings": settings_json}
        self.precision = process.choose_precision(settings.precision, self.device)
        process.seed_random_states(settings.seed)
        network = segmenter.build_network(settings.network, self.schema, width=settings.width)
        self.network = network.to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.class_weights: Tensor | None = None
        """Weight of each channel, mean 1 over the pixels. None weighs all pixels alike."""
        if settings.balance:
            with progress.stage("count the pixels of each class"):
                label_maps = self._label_maps(opened)
                of_each = (np.bincount(x.ravel(), minlength=256) for x in label_maps)
                counts = sum(of_each, np.zeros(256))
            share = counts[: self.schema.channels] / counts[: self.schema.channels].sum()
            weights = np.where(share > 0, np.maximum(share, _LEAST_SHARE) ** -settings.balance, 0)
            weights /= (weights * share).sum()
            self.class_weights = torch.tensor(weights, dtype=torch.float32, device=self.device)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.step = 0

    def _label_maps(self, opened: DataSet) -> Iterator[npt.NDArray[np.uint8]]:
        for index, key in enumerate(opened.keys):
            try:
                label_map = opened.read(index).label_map
            except InputError as error:
                if not self.skip_broken:
                    raise
                self._leave_out({key: str(error)})
                continue
            assert label_map is not None  # paired data sets were refused
            yield label_map

    def _leave_out(self, found: Mapping[str, str]) -> None:
        """Note broken samples, and name each once."""
        for name, why in found.items():
            if name not in self.broken:
                print(printable(f"left out: {name}, a broken sample ({why})"), file=sys.stderr)
            self.broken.setdefault(name, why)

    def train(self) -> Outcome:
        """Run the steps that are left, and write the segmenter."""
        with progress.stage("load the newest checkpoint, if any"):
            self._load()
        steps = range(self.step, self.last)
        count, seed, size = self.samples.count, self.settings.seed, self.settings.batch
        items = step_items(count, seed=seed, world=World(), batch=size, accumulate=1, steps=steps)
        workers = loading_processes(self.settings.workers, self.device)
        with (
            StopSignals() as stopped,
            load_batches(self.samples, items, workers=workers) as batches,
            (self.folder.root / LOG).open("a", encoding="utf-8") as log,
        ):
            for _ in track(steps, "training the segmenter", done=self.step):
                batch = self._wait_for_batch(batches, stopped)
                if batch is None:
                    break
                loss, accuracy = self._learn(batch)
                self.step += 1
                if self.step % _LOG_EVERY == 0 or self.step == self.last:
                    value = float(loss)
                    if not torch.isfinite(loss):
                        raise errors.DivergedError(
                            f"step {self.step}: the loss is {value}; try a lower learning rate"
                        )
                    entry = {"step": self.step, "loss": value, "accuracy": float(accuracy)}
                    entry["rate"] = self.optimizer.param_groups[0]["lr"]
                    print(json.dumps(entry), file=log, flush=True)
                if self.step % self.settings.checkpoint_every == 0 and self.step < self.last:
                    self._save()
        number = None
        if self.step < self.last:
            self._save()
            number = stopped.number
        else:
            provenance = {**self.record, "steps": self.step, "torch": torch.__version__}
            with progress.stage("write the segmenter"):
                segmenter.save_segmenter(
                    self.folder.model, self.network, self.schema, self.settings, provenance
                )
            self._drop_checkpoints(keep=0)
        return Outcome(
            step=self.step,
            last=self.last,
            model=self.folder.model,
            stopped_by=number,
            left_out=len(self.broken),
        )

    def _wait_for_batch(self, batches: Iterator[Loaded], stopped: StopSignals) -> Batch | None:
        """Wait for a step's batch; None after a signal. An error is raised after a checkpoint."""
        try:
            loaded = stopped.unless_stopped(lambda: next(batches))
        except Exception as error:
            if not self.step:
                raise
            self._save()
            if not isinstance(error, errors.SceneLoomError):
                raise
            raise process.saved_error(error, self.step) from None
        if loaded is None:
            return None
        self._leave_out(loaded.broken)
        return loaded.batch

    def _learn(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Run a step; return loss and share of right pixels. Without classes nothing changes."""
        warm = max(1, round(self.settings.warm_up * self.last))
        factor = (self.last - self.step) / max(1, self.last - warm)
        if self.step < warm:
            factor = (self.step + 1) / warm
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor
        if not _holds_classes(batch["label_map"].numpy()):
            return torch.zeros(()), torch.ones(())
        truth = batch["label_map"].to(self.device).long()
        photos = batch["photo"].to(self.device).permute(0, 3, 1, 2).float() / 255
        pixels = segmenter.normalise(distort(photos) if self.settings.photometric else photos)
        half = self.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            logits = logits_of(self.network, pixels)
        loss = functional.cross_entropy(
            logits, truth, weight=self.class_weights, ignore_index=NO_CHANNEL
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        known = truth != NO_CHANNEL
        right = (logits.detach().argmax(1) == truth)[known]
        return loss.detach(), right.float().mean()

    def _save(self) -> None:
        state = {
            "record": json.dumps(self.record),
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": process.random_states(),
        }
        self.folder.save(self.step, state)
        self._drop_checkpoints(keep=1)

    def _drop_checkpoints(self, *, keep: int) -> None:
        self.folder.drop_older(keep=keep, keep_every=0)
        (self.folder.root / TRAINING).unlink(missing_ok=True)  # of an older version

    def _load(self) -> None:
        steps = self.folder.steps()
        path = self.folder.root / TRAINING  # the checkpoint of an older version
        if steps:
            state = self.folder.load(steps[-1])
            path = self.folder.folder(steps[-1]) / TRAINING
        elif not path.is_file():
            self.folder.write_record(self.record)
            self.folder.forget_after(-1)
            return
        try:
            if not steps:
                state = load_tensors(path)
            same = _comparable(json.loads(state["record"])) == _comparable(self.record)
            if same:
                self.network.load_state_dict(state["network"])
                self.optimizer.load_state_dict(state["optimizer"])
                process.set_random_states(state["random"])
                self.step = int(state["step"])
        except Exception as error:  # torch raises nearly anything on damaged files
            raise errors.CheckpointError(
                f"{path}: cannot be read ({type(error).__name__}); remove it to begin again"
            ) from None
        if not same:
            raise TrainingError(
                f"{self.folder.root}: has other data or settings; choose another place"
            )
        self.folder.write_record(self.record)
        self.folder.forget_after(self.step)


def _comparable(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record to compare on resume. An older one has the defaults of later settings."""
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(DataSettings)
        if field.default is not dataclasses.MISSING
    }
    return {**record, "data": {**defaults, **record["data"], "skip_broken": None}}


def _holds_classes(label_maps: npt.NDArray[np.uint8]) -> bool:
    return bool((label_maps != NO_CHANNEL).any())


_CHANCE = 0.5
_BRIGHTNESS, _FACTOR = 32 / 255, (0.5, 1.5)
_STRONGEST_GRAIN = 0.12
_GRAINS = (1, 2, 4)
_GREY = (0.299, 0.587, 0.114)


def distort(pictures: Tensor) -> Tensor:
    """Distort each picture, float32 [N, 3, H, W] from 0 to 1, by the process's random state."""
    return torch.stack([_distort_one(picture) for picture in pictures])


def _distort_one(picture: Tensor) -> Tensor:
    def happens() -> bool:
        return float(torch.rand(())) < _CHANCE

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(()))

    if happens():
        picture = picture + between(-_BRIGHTNESS, _BRIGHTNESS)
    if happens():
        picture = picture.mean() + (picture - picture.mean()) * between(*_FACTOR)
    if happens():
        grey = (picture * picture.new_tensor(_GREY).view(3, 1, 1)).sum(0, keepdim=True)
        picture = grey + (picture - grey) * between(*_FACTOR)
    if happens():
        # As if taken at between half and the whole of its size.
        factor = between(0.5, 1.0)
        smaller = functional.interpolate(
            picture[None], scale_factor=factor, mode="bilinear", antialias=True
        )
        size = (picture.shape[1], picture.shape[2])
        picture = functional.interpolate(smaller, size=size, mode="bilinear")[0]
    if happens():
        # Noise of one to four pixels' grain, of each colour on its own.
        _, height, width = picture.shape
        side = _GRAINS[int(torch.randint(len(_GRAINS), ()))]
        noise = torch.randn(1, 3, -(-height // side), -(-width // side), device=picture.device)
        larger = functional.interpolate(noise, scale_factor=side, mode="nearest")
        picture = picture + larger[0, :, :height, :width] * between(0, _STRONGEST_GRAIN)
    return picture.clamp(0, 1)
