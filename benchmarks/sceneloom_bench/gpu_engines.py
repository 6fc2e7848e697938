"""Every engine that an NVIDIA GPU can run, at 2048x1024, on the same card in one run.

The published 2048x1024 generator (ngf 32, one enhancer, 182.9 M parameters) with random weights, or
any checkpoint, is exported, and its TensorRT plan is built here. Each engine is loaded in a process
of its own; then they take turns: a block of pictures each, another map every time, in an order that
rotates, after a warm-up of their own. A time is from maps on the host to the picture on the host.
Beside it stands the share of the card's arithmetic that it reaches: the network's 1.5 TFLOP over
the time, divided by what a large matrix product reaches in the same run.

    python -m sceneloom_bench.gpu_engines --out docs/results
    make gpu-engines
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from sceneloom.contract import MODEL_NAME
from sceneloom.errors import SceneLoomError
from sceneloom.synthesizer import Synthesizer
from sceneloom_bench.cpu_engines import CpuEnginesSettings, random_checkpoint
from sceneloom_bench.engine_process import EngineProcess
from sceneloom_serving.engines import ENGINES, open_engine, unavailable
from sceneloom_serving.gpu_machine import this_machine
from sceneloom_serving.machine import describe_machine
from sceneloom_serving.parity import compare

EAGER = "torch-fp32"
"""What every engine is compared with: PyTorch eager, float32 (TF32 off), NCHW, as published."""
TERAFLOP = 1.5
"""Of one picture at 2048x1024: 748 G multiplications, each with an addition."""
Runner = Callable[..., tuple[float, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuEnginesSettings:
    """What is measured."""

    checkpoint: Path | None = None
    """Checkpoint bundle of a model of Cityscapes' labels; without one, the published network with
    random weights.
    """
    height: int = 1024
    """Pixels, a multiple of the model's."""
    width: int = 2048
    """Pixels, a multiple of the model's."""
    blocks: int = 10
    """Turns of each engine."""
    pictures: int = 50
    """Pictures in a turn; 459 and more in all make an honest p99."""
    maps: int = 16
    """Different maps, which the pictures take in turn."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("blocks", "pictures", "maps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least 1")


def main(
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    settings: Annotated[GpuEnginesSettings, tyro.conf.OmitArgPrefixes] = GpuEnginesSettings(),
) -> int:
    """Measure, write DIR/gpu-engines-GPU-DATE.json and .md, and print the JSON as the last line.

    Args:
        out: folder for the result.
        settings: what is measured.
    """
    gpu = this_machine()
    with tempfile.TemporaryDirectory(prefix="sceneloom-gpu-engines-") as name:
        result = measure(Path(name), settings)
    result = {
        "benchmark": "engines on a GPU",
        "date": datetime.date.today().isoformat(),
        "gpu": dataclasses.asdict(gpu),
        "machine": describe_machine(),
        "settings": {**dataclasses.asdict(settings), "checkpoint": result.pop("weights")},
        **result,
    }
    out.mkdir(parents=True, exist_ok=True)
    card = "-".join(gpu.gpu.lower().split())
    stem = f"gpu-engines-{card}-{result['date']}"
    (out / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    (out / f"{stem}.md").write_text(describe(result), "utf-8")
    print(describe(result))
    print(json.dumps(result))
    return 0


def measure(folder: Path, settings: GpuEnginesSettings) -> dict[str, Any]:
    """Export, build the plan, load every engine, and let them take turns."""
    from sceneloom_export.bundle import export_bundle
    from sceneloom_export.engine import build_engine
    from sceneloom_export.settings import ExportSettings
    from sceneloom_training.scenes import draw_street

    checkpoint = settings.checkpoint or random_checkpoint(folder, CpuEnginesSettings())
    repository, size = folder / "repository", (settings.height, settings.width)
    precisions = ExportSettings(precision=("fp32", "fp16"))
    export_bundle(checkpoint, repository, largest=size, export=precisions)
    version = repository / MODEL_NAME / "1"
    record = build_engine(version / "model.onnx")
    streets = [draw_street(number, *size) for number in range(settings.maps)]
    maps = [(street.label_map, street.instance_map) for street in streets]
    with contextlib.ExitStack() as stack:
        runners: dict[str, Runner] = {}
        for name, opened in engines(checkpoint, version).items():
            runners[name] = stack.enter_context(EngineProcess(opened)).run
        seconds, pictures = take_turns(
            runners, maps, blocks=settings.blocks, pictures=settings.pictures
        )
    plain = [name for name, engine in ENGINES.items() if engine.gpu]
    return {
        "weights": "random" if settings.checkpoint is None else settings.checkpoint.name,
        "seconds": seconds,
        "parity": {n: compare([pictures[EAGER]], [p]).to_json() for n, p in pictures.items()},
        "plan": record.to_json(),
        "teraflops": matrix_product(),
        "cannot_run": {n: unavailable(ENGINES[n], version) for n in plain if n not in runners},
    }


def engines(checkpoint: Path, version: Path) -> dict[str, Callable[[], Synthesizer]]:
    """What is measured: PyTorch's ways, and every engine of the bundle that runs on this GPU."""
    opened: dict[str, Callable[[], Synthesizer]] = {
        EAGER: functools.partial(open_torch, checkpoint, "fp32"),
        "torch-fp16": functools.partial(open_torch, checkpoint, "fp16", channels_last=True),
        "torch-fp16-compiled": functools.partial(
            open_torch, checkpoint, "fp16", channels_last=True, compiled=True
        ),
    }
    for name, engine in ENGINES.items():
        if engine.gpu and unavailable(engine, version) is None:
            opened[name] = functools.partial(open_engine, name, version)
    return opened


def open_torch(
    checkpoint: Path,
    precision: Literal["fp32", "fp16"],
    *,
    channels_last: bool = False,
    compiled: bool = False,
) -> Synthesizer:
    """PyTorch on the GPU; what is float32 is float32."""
    import torch

    from sceneloom_serving.torch_runtime import TorchSynthesizer
    from sceneloom_training.checkpoint import load_checkpoint

    torch.backends.cudnn.allow_tf32 = False
    trained = load_checkpoint(checkpoint)
    assert trained.contract is not None
    return TorchSynthesizer(
        trained.generator,
        trained.contract,
        device="cuda",
        precision=precision,
        channels_last=channels_last,
        compiled=compiled,
    )


def take_turns(
    runners: Mapping[str, Runner], maps: list[tuple[Any, Any]], *, blocks: int, pictures: int
) -> tuple[dict[str, list[list[float]]], dict[str, Any]]:
    """Let every engine warm up, then run blocks of pictures in turn.

    Args:
        runners: name -> function of the maps that returns seconds and picture.
        maps: label and instance map of each; the pictures take them in turn.
        blocks: turns of each engine.
        pictures: in a turn.

    Returns:
        seconds of every picture by name and block, and each one's picture of the first map.
    """
    names, number = list(runners), 0
    shown = {name: runners[name](*maps[0])[1] for name in names}
    for name in names:
        for pair in maps[: min(len(maps), 5)]:
            runners[name](*pair)
    seconds: dict[str, list[list[float]]] = {name: [] for name in names}
    for block in range(blocks):
        for name in names[block % len(names) :] + names[: block % len(names)]:
            taken = []
            for _ in range(pictures):
                taken.append(runners[name](*maps[number % len(maps)])[0])
                number += 1
            seconds[name].append(taken)
    return seconds, shown


def matrix_product(size: int = 8192, runs: int = 20) -> dict[str, float]:
    """TFLOP/s of a large matrix product on this GPU, float16 and float32 (TF32 off)."""
    import torch

    reached = {}
    for name, dtype in (("fp16", torch.float16), ("fp32", torch.float32)):
        a = torch.randn(size, size, device="cuda", dtype=dtype)
        for _ in range(3):
            a @ a
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(runs):
            a @ a
        torch.cuda.synchronize()
        reached[name] = 2 * size**3 * runs / (time.perf_counter() - start) / 1e12
    return reached


def describe(result: Mapping[str, Any]) -> str:
    """The result for people, in Markdown."""
    gpu, settings, plan = result["gpu"], result["settings"], result["plan"]
    peak = result["teraflops"]
    cannot = [f"- {name}: {why}" for name, why in result["cannot_run"].items()]
    size, rows = f"{settings['width']}x{settings['height']}", list(result["seconds"])
    return f"""# Engines on {gpu["gpu"]}, {result["date"]}

{size}, batch 1, weights: {settings["checkpoint"]}. TensorRT {gpu["tensorrt"]}, CUDA
{gpu["cuda_runtime"]}, driver {gpu["driver"]}; norms of the plan: {plan["norms"]}.
{settings["blocks"]} blocks of {settings["pictures"]} pictures in turn, from maps on the host to
pictures on the host. The card reaches {peak["fp16"]:.0f} TFLOP/s in a float16 matrix product and
{peak["fp32"]:.0f} in a float32 one, measured after the run.

| engine | p50 ms | p99 ms | times faster than PyTorch eager | share of float16 | difference |
|---|---|---|---|---|---|
{chr(10).join(_row(result, name) for name in rows)}

Made by `make gpu-engines`. Not measured:

{chr(10).join(cannot) or "- nothing is missing"}
"""


def _row(result: Mapping[str, Any], name: str) -> str:
    taken = np.concatenate(result["seconds"][name])
    p50, p99 = np.percentile(taken, (50, 99))
    pairs = zip(result["seconds"][EAGER], result["seconds"][name], strict=True)
    faster = statistics.median(statistics.median(a) / statistics.median(b) for a, b in pairs)
    pixels = result["settings"]["height"] * result["settings"]["width"]
    share = TERAFLOP * pixels / 2**21 / p50 / result["teraflops"]["fp16"]
    parity = result["parity"][name]
    psnr = "equal" if parity["psnr"] is None else f"{parity['psnr']:.1f} dB"
    differs = "reference" if name == EAGER else f"max {parity['max']}, {psnr}"
    return (
        f"| {name} | {1e3 * p50:.2f} | {1e3 * p99:.2f} | {faster:.2f} | {share:.0%} | {differs} |"
    )


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main))
    except SceneLoomError as error:
        sys.exit(f"gpu engines: {error}")
