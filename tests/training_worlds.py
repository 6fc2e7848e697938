"""What the processes of a distributed test run: module functions, so that they can be sent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training_runs import resolved


def save_gradients(settings: Mapping[str, Mapping[str, Any]], out: str) -> int:
    """Compute one step's gradients as the trainer does; each process writes OUT-RANK. Return how
    many holders of the process group outlive it: its end can wait for ever then.
    """
    import gc

    import torch
    from torch.nn.parallel import DistributedDataParallel

    from sceneloom_training.assembly import assemble
    from sceneloom_training.batches import TrainingSet, load_batches, step_items
    from sceneloom_training.data import open_data_set
    from sceneloom_training.process import join_world
    from sceneloom_training.schedule import Schedule
    from sceneloom_training.train_step import TrainStep

    told = resolved(settings)
    data, o = open_data_set(told.data), told.optimizer
    with join_world("cpu") as world:
        train_step = TrainStep(
            told,
            assemble(told, data.schema, has_instances=data.has_instances).objective,
            Schedule.of(told.schedule, 1),
            world,
            torch.device("cpu"),
        )
        samples = TrainingSet(data, told.geometry, count=len(data), multiple=2, smallest=4, seed=0)
        sampler = step_items(
            len(data),
            seed=0,
            world=world,
            batch=o.batch,
            accumulate=o.accumulate,
            steps=range(1),
        )
        train_step.enter_stage(0)
        with load_batches(samples, sampler, workers=0) as batches:
            train_step.differentiate(loaded.batch for loaded in batches)
        gradients = {
            name: parameter.grad
            for name, parameter in train_step.objective.named_parameters()
            if parameter.grad is not None
        }
        torch.save(gradients, f"{out}-{world.rank}")
        train_step.leave_world()
    return sum(type(one) is DistributedDataParallel for one in gc.get_objects())


def load_gradients(path: Path) -> dict[str, Any]:
    """What `save_gradients` wrote."""
    import torch

    gradients: dict[str, Any] = torch.load(path)
    return gradients
