"""The full-size network at 2048x1024 on the CPU: through Triton, beside the bare runtime.

The published 2048x1024 generator (ngf 32, one enhancer, 182.9 M parameters) with random weights is
written as a published checkpoint, imported, exported, served and rendered by the product's own
commands, each in a process of its own whose peak memory is kept. Then the same maps go through the
bare runtime (ONNX Runtime in a process of its own) and through Triton in turn, one of each at a
time: the overhead is the median of the paired differences, so that a drifting machine does not
decide. Every request is another map; the first one of each side is warm-up and not counted. One
picture is compared with PyTorch's.

    python -m sceneloom_bench.full_size --out docs/results
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from sceneloom import TritonSynthesizer, load_schema
from sceneloom_bench.engine_process import EngineProcess, timed
from sceneloom_serving.embedded import EmbeddedServer, ServerSettings
from sceneloom_serving.machine import describe_machine, peak_memory_mib
from sceneloom_serving.onnx_runtime import MODEL_FILE, OnnxRuntimeSynthesizer

SCHEMA = "cityscapes"
ENGINE = "onnxruntime-fp32"
"""What runs on both sides, whichever engine would be the fastest."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FullSizeSettings:
    """What to measure."""

    height: int = 1024
    """Pixels, a multiple of 32."""
    width: int = 2048
    """Pixels, a multiple of 32."""
    pairs: int = 5
    """Measured pairs of one bare and one served picture."""
    ngf: int = 32
    """Filters of the enhancer's first convolution; 32 is the published network."""
    blocks: int = 9
    """Residual blocks of the global generator; 9 is the published network."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if (
            self.pairs < 1
            or min(self.height, self.width) < 64
            or self.height % 32
            or self.width % 32
        ):
            raise ValueError("pairs is at least 1; height and width are multiples of 32 from 64 on")


def main(
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    settings: Annotated[FullSizeSettings, tyro.conf.OmitArgPrefixes] = FullSizeSettings(),
) -> int:
    """Measure, write DIR/full-size-cpu-DATE.json and .md, and print the JSON as the last line.

    Args:
        out: folder for the result.
        settings: what to measure.
    """
    machine = describe_machine()
    memory: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="sceneloom-full-size-") as name:
        folder = Path(name)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as elsewhere:
            written = elsewhere.submit(
                write_random_checkpoint, folder / "latest_net_G.pth", settings
            )
            parameters = written.result()
        weights, checkpoint = str(folder / "latest_net_G.pth"), str(folder / "checkpoint")
        repository, size = str(folder / "repository"), f"{settings.width}x{settings.height}"
        commands = {
            "import": ["import", weights, "--labels", SCHEMA, "--out", checkpoint],
            "export": [
                *("export", checkpoint, "--repository", repository),
                *("--largest", size, "--precision", "fp32"),
            ],
        }
        seconds = {name: run(command, name, memory) for name, command in commands.items()}
        report = json.loads((folder / "repository" / "report.json").read_text())
        result = measure(folder, settings, memory)
    result = {
        "benchmark": "full-size network on the CPU",
        "date": datetime.date.today().isoformat(),
        "machine": machine,
        "settings": dataclasses.asdict(settings),
        "parameters": parameters,
        "bundle_hash": report["bundle_hash"],
        "seconds": {**seconds, **result.pop("seconds")},
        "export_parity": report["proof"]["engines"][ENGINE]["parity"],
        **result,
        "peak_memory_mib": memory,
    }
    out.mkdir(parents=True, exist_ok=True)
    stem = f"full-size-cpu-{result['date']}"
    (out / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / f"{stem}.md").write_text(table(result))
    print(table(result))
    print(json.dumps(result))
    return 0


def write_random_checkpoint(path: Path, settings: FullSizeSettings) -> int:
    """Write a random generator as pix2pixHD does; the number of its parameters."""
    import torch

    from sceneloom_training.networks import GeneratorArchitecture, build_generator
    from sceneloom_training.published import published_names

    channels = load_schema(SCHEMA).channels + 1
    architecture = GeneratorArchitecture(
        input_channels=channels, ngf=settings.ngf, global_blocks=settings.blocks, enhancers=1
    )
    state = build_generator(architecture, seed=0).state_dict()
    torch.save({theirs: state[ours] for ours, theirs in published_names(architecture)}, path)
    return sum(tensor.numel() for tensor in state.values())


def run(command: Sequence[str], name: str, memory: dict[str, int]) -> float:
    """Run `sceneloom` to its end; its seconds, and its peak memory under `name`."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "sceneloom.cli", *command])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{name} failed with exit code {process.returncode}")
    memory[name] = usage.ru_maxrss // 1024
    return round(time.perf_counter() - start, 1)


def measure(folder: Path, settings: FullSizeSettings, memory: dict[str, int]) -> dict[str, Any]:
    """Bare and served pictures in turn, and one picture beside PyTorch's."""
    from sceneloom_training.scenes import draw_street

    streets = [
        draw_street(seed, settings.height, settings.width) for seed in range(settings.pairs + 1)
    ]
    maps = [(street.label_map, street.instance_map) for street in streets]
    ports = ServerSettings(http_port=0, grpc_port=0, metrics_port=0, start_timeout=600)
    model = folder / "repository" / "synthesis" / "1" / MODEL_FILE
    start = time.perf_counter()
    with EmbeddedServer(folder / "repository", ports, engine=ENGINE) as server:
        ready = time.perf_counter() - start
        with (
            TritonSynthesizer(server.grpc) as client,
            EngineProcess(functools.partial(OnnxRuntimeSynthesizer, model)) as bare,
        ):
            bare.run(*maps[0])
            timed(client, *maps[0])
            pairs, same = [], 0
            for number, pair in enumerate(maps[1:]):
                if number % 2:  # each side goes first in turn
                    served_seconds, served_image = timed(client, *pair)
                bare_seconds, bare_image = bare.run(*pair)
                if not number % 2:
                    served_seconds, served_image = timed(client, *pair)
                pairs.append((bare_seconds, served_seconds))
                same = max(same, int(np.abs(bare_image.astype(int) - served_image).max()))
            memory["tritonserver"] = peak_memory_mib(server.pid)
            memory["model process in Triton"] = peak_memory_mib(server.model_processes[0])
            memory["bare runtime"] = bare.peak_memory_mib
            memory["client"] = peak_memory_mib(os.getpid())
    reference = torch_picture(folder / "checkpoint", *maps[-1])
    difference = np.abs(reference.astype(int) - served_image)
    overheads = [served - bare for bare, served in pairs]
    return {
        "seconds": {
            "start until the golden probe was answered": round(ready, 1),
            "bare runtime, each": [round(bare, 3) for bare, _ in pairs],
            "through Triton, each": [round(served, 3) for _, served in pairs],
            "bare runtime, median": round(statistics.median(b for b, _ in pairs), 3),
            "through Triton, median": round(statistics.median(s for _, s in pairs), 3),
            "overhead, median of paired differences": round(statistics.median(overheads), 3),
        },
        "overhead_ratio": round(statistics.median(s / b for b, s in pairs), 4),
        "served_against_bare_max": same,
        "served_against_pytorch": {
            "max": int(difference.max()),
            "mean": round(float(difference.mean()), 6),
            "picture_std": round(float(served_image.std()), 1),
        },
    }


def torch_picture(checkpoint_folder: Path, *maps: Any) -> Any:
    """The picture that PyTorch gives."""
    from sceneloom_serving.torch_runtime import TorchSynthesizer
    from sceneloom_training.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(checkpoint_folder)
    assert checkpoint.contract is not None
    return TorchSynthesizer(checkpoint.generator, checkpoint.contract).synthesize(*maps)


def table(result: dict[str, Any]) -> str:
    """The result for people, in Markdown."""
    machine, settings, parity = (
        result["machine"],
        result["settings"],
        result["served_against_pytorch"],
    )
    seconds = {k: v for k, v in result["seconds"].items() if not isinstance(v, list)}
    return "\n".join(
        [
            f"# The full-size network on a CPU, {result['date']}",
            "",
            f"{result['parameters'] / 1e6:.1f} M parameters (ngf {settings['ngf']}, one enhancer, "
            "random "
            f"weights) at {settings['width']}x{settings['height']}, float32, batch 1, ONNX "
            "Runtime inside the "
            "embedded Triton. Made by `make full-size`; the figures of every pair are in the JSON "
            "file.",
            "",
            f"Machine: {machine['cores']} cores of {machine['cpu']} "
            f"({', '.join(machine['cpu_flags'])}), "
            f"{machine['memory_gib']} GiB, {machine['system']}, Python {machine['python']}, "
            f"GPUs: {', '.join(machine['gpus']) or 'none'}; load average before the run "
            f"{machine['load_average']}. Compare the two sides of this run with each other, not "
            "these seconds with another machine's.",
            "",
            "| | seconds |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in seconds.items()),
            "",
            f"Through Triton takes {result['overhead_ratio']:.3f} times as long as the bare "
            "runtime (median of "
            f"{settings['pairs']} pairs, run in turn, another map each).",
            "",
            f"Served picture against PyTorch's: largest difference {parity['max']} grey levels, "
            "mean "
            f"{parity['mean']}, on a picture with a standard deviation of {parity['picture_std']} "
            "levels; "
            f"against the bare runtime's: {result['served_against_bare_max']}.",
            "",
            "| process | peak memory, MiB |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in result["peak_memory_mib"].items()),
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
