"""The training step beside the published recipe: pictures per second, peak memory, loss curves.

Every variant of the step has a process of its own, with the same initial weights and the same
streets in the same order, all prepared before. On the CPU the processes take turns, a few steps
each, so that a drifting machine meets them all; the first turn is warm-up and not counted. A ratio
is the median over the turns of one variant's speed to another's in the same turn. On a GPU the
processes run one after the other, because together they would not fit.

The published recipe is the step as NVIDIA/pix2pixHD's train.py and pix2pixHD_model.py write it:
eager float32 in contiguous memory, three passes of the discriminators over labels, boundaries and
picture concatenated, two backward passes and two Adam optimizers, one after the other. The
generator's loss also reaches the discriminators' weights, where it is thrown away. The networks are
SceneLoom's with PyTorch's own layers: they agree with the published ones. There is no VGG loss,
because its weights cannot be had everywhere, and no image pool, as published. Beside it stands the
step of `sceneloom train`, switch by switch.

Loss curves agree if, for each loss, the means over every WINDOW steps of the two runs differ by at
most LIMIT of the published run's, or by as much as published runs do that only see the samples in
another order, up to MOST. A fixed limit of 5 % alone is no fair judge: adversarial training
magnifies rounding, and in this benchmark's first run float32 in this trainer, whose losses and
gradients are the recipe's to 1e-9 in float64, was 7.5 % off after 50 steps, another order 8.7 %.
So this finds a wrong recipe, not a wrong digit; tests/benchmarks/test_training_step.py finds those.
Exit code 1 if the curves do not agree.

    python benchmarks/experiments/training_step.py --out docs/results
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional

from sceneloom_bench.child_process import ChildProcess
from sceneloom_bench.turns import rounds_in_turn
from sceneloom_serving.engines import describe_machine, peak_memory_mib
from sceneloom_training import settings as s
from sceneloom_training.assembly import assemble
from sceneloom_training.batches import Batch, stack, to_tensors
from sceneloom_training.data import DataSettings, open_data_set
from sceneloom_training.networks import MultiscaleDiscriminator, SynthesisNetwork
from sceneloom_training.networks.generator import InstanceNorm, ReflectionPad
from sceneloom_training.process import World
from sceneloom_training.schedule import Schedule
from sceneloom_training.train_step import TrainStep

WINDOW = 20
"""Steps of a running mean of a loss."""
LIMIT = 0.05
"""Relative difference of the running means that is always allowed."""
MOST = 0.10
"""Largest difference allowed if runs in another order differ as much."""
SMALL_GPU_MIB = 16 * 1024
"""GPU memory for training the 2048x1024 network."""

Arrays = list[dict[str, Any]]
"""Batches as NumPy arrays."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A network and its streets."""

    height: int
    width: int
    ngf: int
    """Filters of the generator's first convolution."""
    ndf: int
    """Filters of the discriminators' first convolution."""
    scales: int
    """Discriminators."""
    enhancers: int = 0
    """Local enhancers."""
    downsamplings: int = 4
    """Downsamplings of the global generator."""
    blocks: int = 9
    """Residual blocks of the global generator."""
    samples: int = 12
    """Streets to train on, prepared before anything is timed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepVariant:
    """Variant of a step. Precision, memory order and recomputing are as in `ComputeSettings`."""

    published: bool = False
    """Use the published recipe in place of this trainer."""
    precision: str = "float32"
    channels_last: bool = False
    recompute: bool = False
    order: int = 0
    """Seed of the samples' order."""
    learning_rate: float = 2e-4
    """Learning rate of all networks."""


PUBLISHED = "published recipe"
OTHER_ORDERS = tuple(f"published recipe, {x} order of samples" for x in ("second", "third"))
OURS = "this trainer: + bfloat16"

CPU_VARIANTS = {
    PUBLISHED: StepVariant(published=True),
    "this trainer, float32, contiguous": StepVariant(),
    "this trainer: + channels_last": StepVariant(channels_last=True),
    OURS: StepVariant(channels_last=True, precision="bfloat16"),
    **{name: StepVariant(published=True, order=i) for i, name in enumerate(OTHER_ORDERS, 1)},
}

GPU_CASES = {
    "1024x512": Case(height=512, width=1024, ngf=64, ndf=64, scales=2),
    "2048x1024": Case(height=1024, width=2048, ngf=32, ndf=64, scales=3, enhancers=1),
}
GPU_VARIANTS = {
    PUBLISHED: StepVariant(published=True),
    **{name: StepVariant(published=True, order=i) for i, name in enumerate(OTHER_ORDERS, 1)},
    **{
        f"this trainer: {precision}{', recompute' if recompute else ''}": StepVariant(
            channels_last=True, precision=precision, recompute=recompute
        )
        for precision in ("bfloat16", "float16")
        for recompute in (False, True)
    },
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingStepSettings:
    """Sizes and widths are for the CPU; on a GPU they are the published ones."""

    height: int = 256
    """Pixels."""
    width: int = 512
    """Pixels."""
    ngf: int = 16
    """Filters of the generator's first convolution."""
    ndf: int = 16
    """Filters of the discriminators' first convolution."""
    downsamplings: int = 4
    """Downsamplings of the generator; 4 is published."""
    blocks: int = 9
    """Residual blocks of the generator; 9 is published."""
    samples: int = 12
    """Streets to train on."""
    turns: int = 12
    """Turns of every process after the warm-up."""
    steps: int = 5
    """Steps of a turn."""

    def __post_init__(self) -> None:
        if min(self.turns, self.steps, self.samples) < 1:
            raise ValueError("turns, steps and samples are at least 1")


def main(
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    settings: Annotated[TrainingStepSettings, tyro.conf.OmitArgPrefixes] = TrainingStepSettings(),
) -> int:
    """Measure, write DIR/training-step-DEVICE-DATE.json and .md, and print the JSON as the last
    line.

    Args:
        out: folder for the result.
        settings: sizes, widths and turns.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    result = report(settings, device, CPU_VARIANTS if device == "cpu" else GPU_VARIANTS)
    out.mkdir(parents=True, exist_ok=True)
    stem = f"training-step-{'gpu' if device == 'cuda' else 'cpu'}-{result['date']}"
    (out / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / f"{stem}.md").write_text(table(result))
    print(table(result))
    print(json.dumps(result))
    return 0 if all(case["curves_agree"] for case in result["cases"].values()) else 1


def report(
    settings: TrainingStepSettings, device: str, variants: dict[str, StepVariant]
) -> dict[str, Any]:
    """Measure every case of the device."""
    machine = describe_machine()  # before the load is our own
    sizes = cpu_cases(settings) if device == "cpu" else GPU_CASES
    return {
        "benchmark": "training step beside the published recipe",
        "date": datetime.date.today().isoformat(),
        "device": device,
        "machine": machine,
        "threads": torch.get_num_threads(),
        "settings": dataclasses.asdict(settings),
        "window": WINDOW,
        "limit": LIMIT,
        "most": MOST,
        "cases": {
            name: measure_case(case, settings, variants, device) for name, case in sizes.items()
        },
    }


def cpu_cases(settings: TrainingStepSettings) -> dict[str, Case]:
    """Networks of the CPU."""
    own = {field.name for field in dataclasses.fields(Case)}
    chosen = {k: v for k, v in dataclasses.asdict(settings).items() if k in own}
    return {f"{settings.width}x{settings.height}": Case(scales=2, **chosen)}


def measure_case(
    case: Case, settings: TrainingStepSettings, variants: dict[str, StepVariant], device: str
) -> dict[str, Any]:
    """Run every variant and compare the runs."""
    batches = draw_batches(case)
    run = in_turn if device == "cpu" else one_after_another
    runs = run(case, variants, batches, settings, device)
    return {"case": dataclasses.asdict(case), "device": device, **compare(runs)}


def in_turn(
    case: Case,
    variants: dict[str, StepVariant],
    batches: Arrays,
    settings: TrainingStepSettings,
    device: str,
) -> dict[str, Any]:
    """Run all processes in turn."""
    turns: dict[str, list[Any]] = {name: [] for name in variants}
    with contextlib.ExitStack() as running:
        processes = {
            name: running.enter_context(
                ChildProcess(functools.partial(StepRunner, case, variant, batches, device))
            )
            for name, variant in variants.items()
        }
        for process in processes.values():
            process.ready()
        for _, names in rounds_in_turn(turns, settings.turns + 1):
            for name in names:
                turns[name].append(processes[name].ask("run", settings.steps))
        return {
            name: summary(turns[name], settings.steps, process.ask("peak_memory_mib"))
            for name, process in processes.items()
        }


def one_after_another(
    case: Case,
    variants: dict[str, StepVariant],
    batches: Arrays,
    settings: TrainingStepSettings,
    device: str,
) -> dict[str, Any]:
    """Run one process after the other. One that runs out of memory has no turns."""
    runs = {}
    for name, variant in variants.items():
        turns: list[Any] = []
        with ChildProcess(functools.partial(StepRunner, case, variant, batches, device)) as process:
            while len(turns) <= settings.turns:
                if (turn := process.ask("run", settings.steps)) is None:
                    turns = []
                    break
                turns.append(turn)
            runs[name] = summary(turns, settings.steps, process.ask("peak_memory_mib"))
    return runs


def summary(turns: list[Any], steps: int, peak: int) -> dict[str, Any]:
    """Results of one process; no turns if it ran out of memory."""
    if not turns:
        return {"out_of_memory": True, "peak_memory_mib": peak}
    speeds = [steps / seconds for seconds, _ in turns[1:]]
    return {
        "images_per_second": round(statistics.median(speeds), 4),
        "images_per_second_each_turn": [round(speed, 4) for speed in speeds],
        "peak_memory_mib": peak,
        "losses": {
            name: [
                round(x, 6) if math.isfinite(x) else None
                for _, losses in turns
                for x in losses[name]
            ]
            for name in turns[0][1]
        },
    }


def compare(runs: dict[str, Any]) -> dict[str, Any]:
    """Ratios and curves of the runs against the published recipe's."""
    done = {name: run for name, run in runs.items() if "losses" in run}
    if PUBLISHED not in done:  # nothing to compare with, which is no agreement either
        return {"runs": runs, "ratios": {}, "curves": {}, "curves_agree": False}
    base = done[PUBLISHED]
    others = {name: run for name, run in done.items() if name != PUBLISHED}
    ratios = {name: ratio(run, base) for name, run in others.items()}
    curves = {name: distances(run, base) for name, run in others.items()}
    ours = [curves[name] for name in others if name.startswith("this trainer")]
    usual = [curves[name] for name in OTHER_ORDERS if name in curves]
    allowed = {
        loss: min(MOST, max(LIMIT, *(apart[loss] for apart in usual), 0)) for loss in base["losses"]
    }
    agree = bool(ours) and all(apart[loss] <= allowed[loss] for apart in ours for loss in allowed)
    return {
        "runs": runs,
        "ratios": ratios,
        "curves": curves,
        "curves_allowed": allowed,
        "curves_agree": agree,
    }


def ratio(run: dict[str, Any], base: dict[str, Any]) -> dict[str, float]:
    """Speed ratio by turn: median, lower and upper quartile."""
    key = "images_per_second_each_turn"
    each = np.array(run[key]) / np.array(base[key])
    low, median, high = np.percentile(each, [25, 50, 75])
    return {"median": round(median, 3), "low": round(low, 3), "high": round(high, 3)}


def distances(run: dict[str, Any], base: dict[str, Any]) -> dict[str, float]:
    """For each loss, the largest relative difference of the running means; 1e6 if a loss is not a
    finite number.
    """
    apart = {}
    for name, expected in base["losses"].items():
        ours, theirs = running_means(run["losses"][name]), running_means(expected)
        furthest = np.max(np.abs(ours - theirs) / np.abs(theirs))
        apart[name] = round(float(np.nan_to_num(furthest, nan=1e6, posinf=1e6)), 5)
    return apart


def running_means(losses: list[float | None]) -> Any:
    """Means over every WINDOW losses in a row; over all if there are fewer."""
    window = min(WINDOW, len(losses))
    return np.convolve(np.array(losses, float), np.ones(window) / window, mode="valid")


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    machine, settings = result["machine"], result["settings"]
    lines = [
        f"# The training step beside the published recipe, {result['date']}",
        "",
        "Made by `make train-speed`; every turn's speed and every step's losses are in the JSON "
        "file, the method in `benchmarks/experiments/training_step.py`. "
        f"{settings['turns']} turns of {settings['steps']} steps after one for warm-up, batch 1.",
        "",
        f"Machine: {machine['cores']} cores of {machine['cpu']} "
        f"({', '.join(machine['cpu_flags'])}), {machine['memory_gib']} GiB, {machine['system']}, "
        f"Python {machine['python']}, torch {machine['versions']['torch']}, "
        f"{result['threads']} threads, GPUs: {', '.join(machine['gpus']) or 'none'}; load average "
        f"before the run {machine['load_average']}. Compare the rows of this run with each other, "
        "not with another machine's.",
    ]
    for name, case in result["cases"].items():
        lines += ["", *case_table(name, case)]
    return "\n".join([*lines, ""])


def case_table(name: str, measured: dict[str, Any]) -> list[str]:
    """Rows of one size."""
    case = measured["case"]
    lines = [
        f"## {name}, ngf {case['ngf']}, ndf {case['ndf']}, {case['enhancers']} enhancers, "
        f"{case['scales']} scales",
        "",
        "| way | images/s | ratio (quartiles) | peak memory, MiB | losses apart, at most |",
        "|---|---|---|---|---|",
    ]
    lines += [row(way, measured) for way in measured["runs"]]
    lines += ["", "Ratios are to the published recipe."]
    says = "agree" if measured["curves_agree"] else "DO NOT AGREE"
    lines += [
        f"The loss curves {says}: running means over {WINDOW} steps may differ by {LIMIT:.0%}, or "
        "by as much as those of the published recipe do with its samples in other orders, up to "
        f"{MOST:.0%}."
    ]
    return lines


def row(way: str, measured: dict[str, Any]) -> str:
    """Row of one variant; on a GPU with whether 16 GB are enough."""
    run = measured["runs"][way]
    peak = f"{run['peak_memory_mib']}"
    if measured["device"] == "cuda":
        peak += " (under 16 GiB)" if run["peak_memory_mib"] < SMALL_GPU_MIB else " (over 16 GiB)"
    if "losses" not in run:
        return f"| {way} | out of memory | | {peak} | |"
    ratio, apart = measured["ratios"].get(way), measured["curves"].get(way)
    quartiles = (
        f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else "1"
    )
    furthest = f"{max(apart.values()):.2%}" if apart else ""
    return f"| {way} | {run['images_per_second']:.3f} | {quartiles} | {peak} | {furthest} |"


def draw_batches(case: Case) -> Arrays:
    """Streets with their photographs, one to a batch."""
    size = f"{case.width}x{case.height}"
    data = open_data_set(
        DataSettings(layout="streets", streets_size=size, streets_count=case.samples)
    )
    batches = [stack([to_tensors(data.read(i))]) for i in range(case.samples)]
    return [{name: x.numpy() for name, x in batch.items()} for batch in batches]


def make_step(
    case: Case, variant: StepVariant, device: str
) -> Callable[[Iterator[Any]], dict[str, Any]]:
    """A function that does the next step on the next batch and gives its losses."""
    settings = train_settings(case, variant, device)
    schema = open_data_set(settings.data).schema
    assert schema is not None
    objective = assemble(settings, schema, has_instances=True).objective
    if variant.published:
        discriminator = objective.discriminator.to(device)
        assert isinstance(discriminator, MultiscaleDiscriminator)
        recipe = PublishedRecipe(
            objective.generator.to(device),
            discriminator,
            labels=schema.channels,
            learning_rate=variant.learning_rate,
        )
        return lambda batches: recipe.step({k: x.to(device) for k, x in next(batches).items()})
    schedule = Schedule.of(settings.schedule, steps_per_epoch=10**6)
    train_step = TrainStep(settings, objective, schedule, World(), torch.device(device))
    return lambda batches: train_step.step(0, batches)


def train_settings(case: Case, variant: StepVariant, device: str) -> Any:
    """The trainer's settings, as published unless named."""
    return s.TrainSettings(
        data=DataSettings(layout="streets", streets_size=f"{case.width}x{case.height}"),
        generator=s.GeneratorSettings(
            ngf=case.ngf,
            global_downsamplings=case.downsamplings,
            global_blocks=case.blocks,
            enhancers=case.enhancers,
        ),
        discriminator=s.DiscriminatorSettings(ndf=case.ndf, scales=case.scales),
        optimizer=s.OptimizerSettings(learning_rate=variant.learning_rate),
        compute=s.ComputeSettings(
            device="cuda" if device == "cuda" else "cpu",
            precision=variant.precision,  # type: ignore[arg-type]
            channels_last=variant.channels_last,
            recompute=variant.recompute,
        ),
    )


class StepRunner:
    """Run steps on request, in a process of its own."""

    def __init__(self, case: Case, variant: StepVariant, batches: Arrays, device: str) -> None:
        torch.backends.cudnn.benchmark = True
        self._step, self._device = make_step(case, variant, device), device
        tensors = [{k: torch.from_numpy(x) for k, x in batch.items()} for batch in batches]
        self._batches = _endless(tensors, variant.order)

    def __enter__(self) -> StepRunner:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, steps: int) -> tuple[float, dict[str, list[float]]] | None:
        """Seconds and losses of the next steps; None if the GPU's memory is too small."""
        try:
            start = time.perf_counter()
            losses = [self._step(self._batches) for _ in range(steps)]
            if self._device == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
        except torch.cuda.OutOfMemoryError:
            return None
        return seconds, {name: [float(each[name]) for each in losses] for name in losses[0]}

    def peak_memory_mib(self) -> int:
        """Peak memory of the GPU in use, otherwise of the process, in MiB."""
        if self._device == "cuda":
            return int(torch.cuda.max_memory_allocated() // 2**20)
        return peak_memory_mib(os.getpid())


def _endless(batches: list[Any], seed: int) -> Iterator[Any]:
    random = np.random.default_rng(seed)
    while True:
        for i in random.permutation(len(batches)):
            yield batches[i]


class PublishedRecipe:
    """Generator and discriminators, their optimizers, and the published step."""

    def __init__(
        self,
        generator: SynthesisNetwork,
        discriminator: MultiscaleDiscriminator,
        *,
        labels: int,
        learning_rate: float = 2e-4,
        feature_matching: float = 10.0,
    ) -> None:
        """Take the networks over: a generator of `labels` and a boundary channel, and
        discriminators of those and three image channels.
        """
        self.generator, self.discriminator = generator, discriminator
        for network in (generator, discriminator):
            with_plain_layers(network)
        self._labels, self._weight = labels, feature_matching
        self._optimizers = [
            torch.optim.Adam(network.parameters(), lr=learning_rate, betas=(0.5, 0.999))
            for network in (generator, discriminator)
        ]

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Do one step; returns its losses, detached."""
        losses = self.losses(batch)
        generator_optimizer, discriminator_optimizer = self._optimizers
        generator_optimizer.zero_grad()
        torch.autograd.backward(losses["generator_gan"] + losses["feature_matching"])
        generator_optimizer.step()
        discriminator_optimizer.zero_grad()
        torch.autograd.backward(losses["discriminator"])
        discriminator_optimizer.step()
        return {name: loss.detach() for name, loss in losses.items()}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch on the networks' device."""
        dtype = next(self.generator.parameters()).dtype
        condition = encode(batch, self._labels, dtype)
        real = (batch["photo"].permute(0, 3, 1, 2).to(dtype) / 127.5 - 1).contiguous()
        fake = self.generator(condition)
        judged_pool = self.discriminator(torch.cat([condition, fake.detach()], 1))
        judged_real = self.discriminator(torch.cat([condition, real], 1))
        judged_fake = self.discriminator(torch.cat([condition, fake], 1))
        loss_fake, loss_real = least_squares(judged_pool, 0.0), least_squares(judged_real, 1.0)
        return {
            "discriminator": (loss_fake + loss_real) * 0.5,
            "generator_gan": least_squares(judged_fake, 1.0),
            "feature_matching": self._feature_matching(judged_fake, judged_real),
        }

    def _feature_matching(self, fake: list[list[Tensor]], real: list[list[Tensor]]) -> Tensor:
        scales, stages = len(fake), len(fake[0]) - 1  # published: 4 / (n_layers_D + 1)
        loss = torch.zeros((), dtype=fake[0][0].dtype, device=fake[0][0].device)
        for i in range(scales):
            for j in range(stages):
                difference = functional.l1_loss(fake[i][j], real[i][j].detach())
                loss = loss + 1 / scales * 4 / stages * difference * self._weight
        return loss


def encode(batch: Batch, labels: int, dtype: torch.dtype) -> Tensor:
    """One-hot labels and boundaries, [N, labels + 1, H, W], as published: scatter and compare."""
    ids = batch["label_map"].long().unsqueeze(1)
    n, _, height, width = ids.shape
    planes = torch.zeros(n, labels, height, width, dtype=dtype, device=ids.device)
    planes.scatter_(1, ids, 1.0)
    t = batch["instance_map"].unsqueeze(1)
    edge = torch.zeros(t.shape, dtype=torch.bool, device=t.device)
    across, down = t[..., 1:] != t[..., :-1], t[..., 1:, :] != t[..., :-1, :]
    edge[..., 1:] |= across
    edge[..., :-1] |= across
    edge[..., 1:, :] |= down
    edge[..., :-1, :] |= down
    return torch.cat([planes, edge.to(dtype)], 1)


def least_squares(judged: list[list[Tensor]], target: float) -> Tensor:
    """LSGAN, summed over the scales."""
    losses = [functional.mse_loss(s[-1], torch.full_like(s[-1], target)) for s in judged]
    return torch.stack(losses).sum()


def with_plain_layers(network: nn.Module) -> None:
    """Put PyTorch's own layers where SceneLoom has quicker ones; neither has weights."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, InstanceNorm):
                setattr(parent, name, nn.InstanceNorm2d(child.num_features))
            elif isinstance(child, ReflectionPad):
                setattr(parent, name, nn.ReflectionPad2d(child.padding))


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
