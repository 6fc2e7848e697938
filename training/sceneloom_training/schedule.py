"""End of a run, learning rate and trained weights, by the step alone. The published code never
reaches the second stage of its schedule (everything after the enhancer): it keeps stepping the
first optimizer.
"""

from __future__ import annotations

import dataclasses

from torch import nn

from sceneloom_training.networks import Generator
from sceneloom_training.settings import ScheduleSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """The settings in steps."""

    flat: int
    """Steps with the full learning rate."""
    decay: int
    """Steps after them, with the learning rate falling to zero."""
    enhancer_only: int
    """Steps at the start with everything that the outermost enhancer encloses fixed."""
    last: int

    @classmethod
    def of(cls, settings: ScheduleSettings, steps_per_epoch: int) -> Schedule:
        """Turn epochs into steps."""
        flat, decay = settings.epochs * steps_per_epoch, settings.decay_epochs * steps_per_epoch
        return cls(
            flat=flat,
            decay=decay,
            enhancer_only=settings.enhancer_only_epochs * steps_per_epoch,
            last=min(flat + decay, settings.max_steps or flat + decay),
        )

    def factor(self, step: int) -> float:
        """Factor of the learning rate in a step, counted from 0."""
        if step < self.flat:
            return 1.0
        return max(0.0, 1.0 - (step - self.flat) / max(self.decay, 1))

    def is_enhancer_only(self, step: int) -> bool:
        """Whether only the outermost enhancer is trained in a step, counted from 0."""
        return step < self.enhancer_only


def enclosed_parameters(generator: Generator) -> list[nn.Parameter]:
    """Weights of everything that the outermost enhancer encloses."""
    inner = [generator.global_generator, *generator.enhancers[:-1]]
    return [parameter for module in inner for parameter in module.parameters()]
