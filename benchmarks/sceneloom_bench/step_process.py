"""One way to do the training step, in a process of its own that is told when to work.

A process of its own has a peak memory and an allocator of its own; being told when to work, several
can take turns on one machine.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from sceneloom_serving.engines import peak_memory_mib

Arrays = list[dict[str, Any]]
"""Batches as NumPy arrays."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained."""

    height: int
    """Pixels."""
    width: int
    """Pixels."""
    ngf: int
    """Filters of the generator's first convolution."""
    ndf: int
    """Filters of the discriminators' first convolution."""
    scales: int
    """Discriminators."""
    enhancers: int = 0
    """Local enhancers."""
    downsamplings: int = 4
    """Of the global generator."""
    blocks: int = 9
    """Residual blocks of the global generator."""
    samples: int = 12
    """Streets to train on, prepared before anything is timed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """How a step is done."""

    published: bool = False
    """By the published recipe instead of this trainer."""
    precision: str = "float32"
    """As for `ComputeSettings`."""
    channels_last: bool = False
    """As for `ComputeSettings`."""
    recompute: bool = False
    """As for `ComputeSettings`."""
    order: int = 0
    """Seed of the samples' order."""
    learning_rate: float = 2e-4
    """Of all networks."""


def draw_batches(case: Case) -> Arrays:
    """Streets with their photographs, one to a batch."""
    from sceneloom_training.batches import stack, to_tensors
    from sceneloom_training.data import DataSettings, open_data_set

    size = f"{case.width}x{case.height}"
    data = open_data_set(
        DataSettings(layout="streets", streets_size=size, streets_count=case.samples)
    )
    batches = [stack([to_tensors(data.read(i))]) for i in range(case.samples)]
    return [{name: x.numpy() for name, x in batch.items()} for batch in batches]


def make_step(case: Case, way: Way, device: str) -> Callable[[Iterator[Any]], dict[str, Any]]:
    """A function that does the next step on the next batch and gives its losses."""
    import torch

    from sceneloom_training.assembly import assemble
    from sceneloom_training.data import open_data_set
    from sceneloom_training.distributed import World
    from sceneloom_training.learner import Learner
    from sceneloom_training.schedule import Schedule

    settings = train_settings(case, way, device)
    schema = open_data_set(settings.data).schema
    assert schema is not None
    objective = assemble(settings, schema, has_instances=True).objective
    if way.published:
        from sceneloom_bench.published_recipe import PublishedRecipe

        recipe = PublishedRecipe(
            objective.generator.to(device),
            objective.discriminator.to(device),
            labels=schema.channels,
            learning_rate=way.learning_rate,
        )
        return lambda batches: recipe.step({k: x.to(device) for k, x in next(batches).items()})
    schedule = Schedule.of(settings.schedule, steps_per_epoch=10**6)
    learner = Learner(settings, objective, schedule, World(), torch.device(device))
    return lambda batches: learner.step(0, batches)


def train_settings(case: Case, way: Way, device: str) -> Any:
    """The trainer's settings; everything that is not named is as published."""
    from sceneloom_training import settings as s
    from sceneloom_training.data import DataSettings

    return s.TrainSettings(
        data=DataSettings(layout="streets", streets_size=f"{case.width}x{case.height}"),
        generator=s.GeneratorSettings(
            ngf=case.ngf,
            global_downsamplings=case.downsamplings,
            global_blocks=case.blocks,
            enhancers=case.enhancers,
        ),
        discriminator=s.DiscriminatorSettings(ndf=case.ndf, scales=case.scales),
        optimizer=s.OptimizerSettings(learning_rate=way.learning_rate),
        compute=s.ComputeSettings(
            device="cuda" if device == "cuda" else "cpu",
            precision=way.precision,  # type: ignore[arg-type]
            channels_last=way.channels_last,
            recompute=way.recompute,
        ),
    )


class StepProcess:
    """A process that does steps when it is told to."""

    def __init__(self, case: Case, way: Way, batches: Arrays, device: str) -> None:
        """Start it; it builds its networks at once."""
        self._pipe, theirs = Pipe()
        self._process = get_context("spawn").Process(
            target=_serve, args=(case, way, batches, device, theirs)
        )
        self._process.start()
        theirs.close()  # so that a process that dies is an EOFError here and no waiting for ever

    def wait(self) -> None:
        """Until its networks are there."""
        self._pipe.recv()

    def run(self, steps: int) -> tuple[float, dict[str, list[float]]] | None:
        """Seconds that the next steps took, measured inside the process, and the losses of each; or
        None if the GPU's memory was not enough.
        """
        self._pipe.send(steps)
        answer: tuple[float, dict[str, list[float]]] | None = self._pipe.recv()
        return answer

    def close(self) -> int:
        """End the process; its peak memory in MiB: of the GPU if it used one."""
        self._pipe.send(None)
        peak: int = self._pipe.recv()
        self._process.join()
        return peak


def _serve(case: Case, way: Way, arrays: Arrays, device: str, pipe: Connection) -> None:
    import torch

    torch.backends.cudnn.benchmark = True
    step = make_step(case, way, device)
    batches = _endless(
        [{k: torch.from_numpy(x) for k, x in batch.items()} for batch in arrays], way.order
    )
    pipe.send("ready")
    while (count := pipe.recv()) is not None:
        pipe.send(_timed(step, batches, count, device))
    if device == "cuda":
        pipe.send(torch.cuda.max_memory_allocated() // 2**20)
    else:
        pipe.send(peak_memory_mib(os.getpid()))


def _timed(
    step: Callable[[Iterator[Any]], dict[str, Any]], batches: Iterator[Any], count: int, device: str
) -> tuple[float, dict[str, list[float]]] | None:
    import torch

    try:
        start = time.perf_counter()
        losses = [step(batches) for _ in range(count)]
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    except torch.cuda.OutOfMemoryError:
        return None
    return seconds, {name: [float(each[name]) for each in losses] for name in losses[0]}


def _endless(batches: list[Any], seed: int) -> Iterator[Any]:
    """The batches again and again, in another order each time."""
    random = np.random.default_rng(seed)
    while True:
        for i in random.permutation(len(batches)):
            yield batches[i]
