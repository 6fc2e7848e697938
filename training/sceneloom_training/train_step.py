"""One optimiser step: networks, moving average, optimizers, and their state."""

from __future__ import annotations

import contextlib
import copy
import gc
from collections.abc import Iterator
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sceneloom_training.batches import Batch
from sceneloom_training.networks import Generator, SynthesisNetwork, balance_phases
from sceneloom_training.objective import Objective
from sceneloom_training.process import World, choose_precision, random_states, set_random_states
from sceneloom_training.schedule import Schedule, enclosed_parameters
from sceneloom_training.settings import TrainSettings

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class TrainStep:
    """One process's part in the training of an objective."""

    def __init__(
        self,
        settings: TrainSettings,
        objective: Objective,
        schedule: Schedule,
        world: World,
        device: torch.device,
    ) -> None:
        self.settings, self.schedule, self.world, self.device = settings, schedule, world, device
        compute = settings.compute
        self.precision = choose_precision(compute.precision, device)
        """Precision of convolutions, never auto."""
        if self.precision == "float64":
            objective.double()
            objective.dtype = torch.float64
        objective.to(device)
        if compute.channels_last:
            objective.memory_format = torch.channels_last
            objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        objective.place_perceptual(device)
        if isinstance(objective.generator, Generator):
            objective.generator.recompute = compute.recompute
        if compute.compile:
            objective.generator.compile()
            objective.discriminator.compile()
        self.objective = objective
        o = settings.optimizer
        self.average: SynthesisNetwork | None = None
        if o.ema:
            self.average = copy.deepcopy(objective.generator).requires_grad_(False)
        groups = [objective.generator_parameters(), objective.discriminator.parameters()]
        self.optimizers = [
            torch.optim.Adam(group, lr=o.learning_rate, betas=(o.beta1, o.beta2), fused=True)
            for group in map(list, groups)
        ]
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "float16")
        self._model: nn.Module = objective

    @property
    def best(self) -> SynthesisNetwork:
        """The generator to validate and to export: the average, if any."""
        return self.average or self.objective.generator

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        return self.settings.optimizer.learning_rate * self.schedule.factor(step)

    def step(self, step: int, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """Step both optimizers, `step` counted from 0. Return this process's mean losses."""
        self.enter_stage(step)
        losses = self.differentiate(batches)
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = self.learning_rate(step)
            self.scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        self.scaler.update()
        if self.settings.generator.balanced_upsampling:
            balance_phases(self.objective.generator)
        if self.average is not None:
            ours, theirs = self.average.parameters(), self.objective.generator.parameters()
            decay = average_decay(self.settings.optimizer.ema, step)
            with torch.no_grad():
                torch._foreach_lerp_(list(ours), list(theirs), 1 - decay)
        return losses

    def enter_stage(self, step: int) -> None:
        """Fix or free the networks inside the outermost enhancer. Wrap for several processes."""
        generator = self.objective.generator
        fixed = self.schedule.is_enhancer_only(step)
        changed = False
        if isinstance(generator, Generator) and self.schedule.enhancer_only:
            inner = enclosed_parameters(generator)
            changed = inner[0].requires_grad == fixed
            for parameter in inner:
                parameter.requires_grad_(not fixed)
        if self.world.size > 1 and (changed or self._model is self.objective):
            ids = [self.world.local_rank] if self.device.type == "cuda" else None
            # Buffers (of spectral norm) are equal in all processes without being sent. torch 2.13
            # renames the flag and warns of its older name.
            renamed = "forward_sync_buffers" in signature(DistributedDataParallel).parameters
            flag: dict[str, Any] = {
                "forward_sync_buffers" if renamed else "broadcast_buffers": False
            }
            self._model = DistributedDataParallel(self.objective, device_ids=ids, **flag)

    def leave_world(self) -> None:
        """Let go of the other processes, before their process group ends.

        `DistributedDataParallel` holds the group. If it is its last holder, its end waits for the
        group's threads while it holds Python's lock, and a thread that wants the lock, to free a
        tensor of Python's, waits for ever.
        """
        self._model = self.objective
        gc.collect()  # its parts refer to each other

    def differentiate(self, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """Compute a step's gradients, averaged over passes and processes. Return mean losses."""
        accumulate = self.settings.optimizer.accumulate
        dtype = _AUTOCAST.get(self.precision)
        sums: dict[str, Tensor] = {}
        for number in range(accumulate):
            batch = {k: x.to(self.device, non_blocking=True) for k, x in next(batches).items()}
            unfinished = number < accumulate - 1
            waits = unfinished and isinstance(self._model, DistributedDataParallel)
            with self._model.no_sync() if waits else contextlib.nullcontext():  # type: ignore[operator]
                with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
                    total, losses, _ = self._model(batch)
                self.scaler.scale(total / accumulate).backward()
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0) + loss / accumulate
        return sums

    def is_finite(self) -> bool:
        """Whether every weight and every moment of the optimizers is finite."""
        networks = [self.objective] + ([self.average] if self.average else [])
        values = [x for network in networks for x in network.state_dict().values()]
        for optimizer in self.optimizers:
            values += [x for state in optimizer.state.values() for x in state.values()]
        return all(bool(torch.isfinite(x).all()) for x in values if x.is_floating_point())

    def state(self) -> dict[str, Any]:
        """Gather what `load_state` restores. All processes call it at the same place."""
        mine = random_states() | {"pool": self.objective.pool.state_dict()}
        return {
            "networks": self.objective.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(),
            "ranks": self.world.gather(mine),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore `state`."""
        self.objective.load_state_dict(state["networks"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.scaler.load_state_dict(state["scaler"])
        mine = state["ranks"][self.world.rank]
        self.objective.pool.load_state_dict(mine["pool"], self.device)
        set_random_states(mine)


def average_decay(ema: float, step: int) -> float:
    """Decay of the moving average in a step, counted from 0. It grows from a tenth, to forget the
    initial weights, as TensorFlow's ExponentialMovingAverage does with num_updates.
    """
    return min(ema, (1 + step) / (10 + step))
