"""The record of a run, written beside its checkpoints and into them: with what it was made."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from pathlib import Path
from typing import Any, get_type_hints

import torch

from sceneloom.errors import TrainingError
from sceneloom.version import __version__
from sceneloom_training.assembly import Assembled
from sceneloom_training.distributed import World
from sceneloom_training.settings import TrainSettings

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
