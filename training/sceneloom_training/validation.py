"""Validation during training: pictures of fixed samples, and colour error of held-out ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sceneloom.errors import InputError
from sceneloom.schema import NO_CHANNEL
from sceneloom_training.batches import Batch, check_large_enough, stack, to_tensors
from sceneloom_training.data import DataSet, Geometry
from sceneloom_training.objective import Objective, levels

_SHOWN = 4
_STREAM = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """Pictures and colour error after a step."""

    strips: dict[str, npt.NDArray[np.uint8]]
    """Sample's key -> input, picture and photograph side by side, uint8 [H, 3 W, 3]."""
    colour_error: float | None
    """Mean over the held-out samples, in grey levels; None without held-out samples or labels."""


class Validation:
    """Fixed samples: the held-out ones, else the first ones that are trained on."""

    def __init__(
        self,
        data: DataSet,
        geometry: Geometry,
        *,
        held_out: int,
        multiple: int,
        smallest: int,
        seed: int,
        skip_broken: bool = False,
    ) -> None:
        """Read and cut the samples once, without flips. Raises InputError if one does not fit, with
        `skip_broken` if none does.
        """
        indices = range(len(data))[-held_out:] if held_out else range(len(data))
        wanted = held_out or _SHOWN
        still = dataclasses.replace(geometry, flip=False)
        self._schema = data.schema
        self._held_out = held_out > 0
        self.broken: dict[str, str] = {}
        """Samples left out: name -> why it cannot be used."""
        self._samples: dict[str, Batch] = {}
        for i in indices:
            if len(self._samples) == wanted:
                break
            rng = np.random.default_rng((_STREAM, seed, i))
            try:
                sample = still.apply(data.read(i), rng, multiple=multiple)
                check_large_enough(sample.photo.shape, smallest, data.keys[i])
            except InputError as error:
                if not skip_broken:
                    raise
                self.broken[data.keys[i]] = str(error)
                continue
            self._samples[data.keys[i]] = to_tensors(sample)
        if not self._samples:
            raise InputError(
                f"no sample of the validation can be used: {'; '.join(self.broken.values())}"
            )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the first sample."""
        height, width = next(iter(self._samples.values()))["photo"].shape[:2]
        return height, width

    def validate(
        self, objective: Objective, generator: nn.Module, device: torch.device
    ) -> ValidationResult:
        """Synthesize the samples. The generator (trained, or its moving average) keeps its mode."""
        was_training = generator.training
        strips: dict[str, npt.NDArray[np.uint8]] = {}
        errors = []
        generator.eval()
        try:
            for key, sample in self._samples.items():
                batch = {name: tensor.to(device) for name, tensor in stack([sample]).items()}
                with torch.no_grad():
                    picture = levels(objective.synthesize(generator, batch))[0].cpu().numpy()
                photo = sample["photo"].numpy()
                if len(strips) < _SHOWN:
                    if self._schema is not None:
                        given = self._schema.colourise(sample["label_map"].numpy())
                    else:
                        given = sample["source"].numpy()
                    strips[key] = np.concatenate([given, picture, photo], 1)
                if self._held_out and self._schema is not None:
                    errors.append(mean_colour_error(picture, photo, sample["label_map"].numpy()))
        finally:
            generator.train(was_training)
        colour_error = float(np.mean(errors)) if errors else None
        return ValidationResult(strips=strips, colour_error=colour_error)


_LEAST_PIXELS = 64


def mean_colour_error(
    picture: npt.NDArray[np.uint8], photo: npt.NDArray[np.uint8], label_map: npt.NDArray[np.uint8]
) -> float:
    """Difference of the mean colours in grey levels, whatever the detail, averaged over the classes
    from 64 pixels; 0 without one. Pictures are uint8 [H, W, 3], the label map is [H, W].
    """
    assert picture.shape == photo.shape == (*label_map.shape, 3)
    counts = np.bincount(label_map.ravel(), minlength=256)
    sums = np.zeros((256, 3))
    for colour in range(3):
        difference = picture[..., colour].astype(np.float64) - photo[..., colour]
        sums[:, colour] = np.bincount(label_map.ravel(), difference.ravel(), minlength=256)
    classes = [c for c in np.flatnonzero(counts >= _LEAST_PIXELS) if c != NO_CHANNEL]
    errors = [float(np.abs(sums[c] / counts[c]).mean()) for c in classes]
    return float(np.mean(errors)) if errors else 0.0
