"""The training step beside the published recipe: pictures per second, peak memory, loss curves.

Every way of doing the step has a process of its own, with the same initial weights and the same
streets in the same order, all prepared before. On the CPU the processes take turns, a few steps
each, so that a drifting machine meets them all; the first turn is warm-up and not counted. A ratio
is the median over the turns of one way's speed to another's in the same turn. On a GPU the
processes run one after the other, because together they would not fit.

The published recipe is in `sceneloom_bench.published_recipe`. What is compared with it is what
`sceneloom train` does, added up switch by switch.

Loss curves agree if, for each loss, the means over every WINDOW steps of the two runs differ by at
most LIMIT of the published run's, or by as much as published runs do that only see the samples in
another order, up to MOST. A fixed limit of 5 % alone is no fair judge: adversarial training
magnifies rounding, and in this benchmark's first run float32 in this trainer, whose losses and
gradients are the recipe's to 1e-9 in float64, was 7.5 % off after 50 steps, another order 8.7 %.
So this finds a wrong recipe, not a wrong digit; tests/benchmarks/test_training_step.py finds those.
Exit code 1 if the curves do not agree.

    python -m sceneloom_bench.training_step --out docs/results
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from sceneloom_bench.step_process import Arrays, Case, StepProcess, Way, draw_batches
from sceneloom_serving.engines import describe_machine

WINDOW = 20
"""Steps of a running mean of a loss."""
LIMIT = 0.05
"""Relative difference of the running means that is always allowed."""
MOST = 0.10
"""Largest one that is allowed when runs in another order differ by as much."""
SMALL_GPU_MIB = 16 * 1024
"""Memory of the GPU that the 2048x1024 network should train on."""

PUBLISHED = "published recipe"
OTHER_ORDERS = tuple(f"published recipe, {x} order of samples" for x in ("second", "third"))
OURS = "this trainer: + bfloat16"

CPU_WAYS = {
    PUBLISHED: Way(published=True),
    "this trainer, float32, contiguous": Way(),
    "this trainer: + channels_last": Way(channels_last=True),
    OURS: Way(channels_last=True, precision="bfloat16"),
    **{name: Way(published=True, order=i) for i, name in enumerate(OTHER_ORDERS, 1)},
}

GPU_CASES = {
    "1024x512": Case(height=512, width=1024, ngf=64, ndf=64, scales=2),
    "2048x1024": Case(height=1024, width=2048, ngf=32, ndf=64, scales=3, enhancers=1),
}
GPU_WAYS = {
    PUBLISHED: Way(published=True),
    **{name: Way(published=True, order=i) for i, name in enumerate(OTHER_ORDERS, 1)},
    **{
        f"this trainer: {precision}{', recompute' if recompute else ''}": Way(
            channels_last=True, precision=precision, recompute=recompute
        )
        for precision in ("bfloat16", "float16")
        for recompute in (False, True)
    },
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingStepSettings:
    """What to measure; sizes and widths are for the CPU, on a GPU they are the published ones."""

    height: int = 256
    """Pixels."""
    width: int = 512
    """Pixels."""
    ngf: int = 16
    """Filters of the generator's first convolution."""
    ndf: int = 16
    """Filters of the discriminators' first convolution."""
    downsamplings: int = 4
    """Of the generator; 4 is published."""
    blocks: int = 9
    """Residual blocks of the generator; 9 is published."""
    samples: int = 12
    """Streets to train on."""
    turns: int = 12
    """Turns of every process after the warm-up."""
    steps: int = 5
    """Steps of a turn."""

    def __post_init__(self) -> None:
        """Check the ranges."""
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
        settings: what to measure.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    result = report(settings, device, CPU_WAYS if device == "cpu" else GPU_WAYS)
    out.mkdir(parents=True, exist_ok=True)
    stem = f"training-step-{'gpu' if device == 'cuda' else 'cpu'}-{result['date']}"
    (out / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / f"{stem}.md").write_text(table(result))
    print(table(result))
    print(json.dumps(result))
    return 0 if all(case["curves_agree"] for case in result["cases"].values()) else 1


def report(settings: TrainingStepSettings, device: str, ways: dict[str, Way]) -> dict[str, Any]:
    """Measure every case of the device.

    Args:
        settings: what to measure.
        device: cpu or cuda.
        ways: to do the step, by name.
    """
    import torch

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
        "cases": {name: measure_case(case, settings, ways, device) for name, case in sizes.items()},
    }


def cpu_cases(settings: TrainingStepSettings) -> dict[str, Case]:
    """What is trained on the CPU."""
    s = settings
    return {
        f"{s.width}x{s.height}": Case(
            height=s.height,
            width=s.width,
            ngf=s.ngf,
            ndf=s.ndf,
            scales=2,
            downsamplings=s.downsamplings,
            blocks=s.blocks,
            samples=s.samples,
        )
    }


def measure_case(
    case: Case, settings: TrainingStepSettings, ways: dict[str, Way], device: str
) -> dict[str, Any]:
    """Run every way and compare the runs."""
    batches = draw_batches(case)
    run = in_turn if device == "cpu" else one_after_another
    runs = run(case, ways, batches, settings, device)
    return {"case": dataclasses.asdict(case), "device": device, **compare(runs)}


def in_turn(
    case: Case, ways: dict[str, Way], batches: Arrays, settings: TrainingStepSettings, device: str
) -> dict[str, Any]:
    """All processes at once, one of them working; who begins changes with the turn."""
    processes = {name: StepProcess(case, way, batches, device) for name, way in ways.items()}
    for process in processes.values():
        process.wait()
    turns: dict[str, list[Any]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(settings.turns + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            turns[name].append(processes[name].run(settings.steps))
    return {
        name: summary(turns[name], settings.steps, process.close())
        for name, process in processes.items()
    }


def one_after_another(
    case: Case, ways: dict[str, Way], batches: Arrays, settings: TrainingStepSettings, device: str
) -> dict[str, Any]:
    """One process at a time; one that runs out of memory has no turns."""
    runs = {}
    for name, way in ways.items():
        process = StepProcess(case, way, batches, device)
        process.wait()
        turns: list[Any] = []
        while len(turns) <= settings.turns:
            if (turn := process.run(settings.steps)) is None:
                break
            turns.append(turn)
        complete = turns if len(turns) > settings.turns else []
        runs[name] = summary(complete, settings.steps, process.close())
    return runs


def summary(turns: list[Any], steps: int, peak: int) -> dict[str, Any]:
    """Of one process; without turns, that it ran out of memory."""
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
    """How much faster, turn by turn: median, lower and upper quartile."""
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
    """The result for people, in Markdown."""
    machine, settings = result["machine"], result["settings"]
    lines = [
        f"# The training step beside the published recipe, {result['date']}",
        "",
        "Made by `make train-speed`; every turn's speed and every step's losses are in the JSON "
        "file, the method in `benchmarks/sceneloom_bench/training_step.py`. "
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
    """One size's rows."""
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
    """One way's row; on a GPU it says whether 16 GB would be enough."""
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


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
