"""Every engine that this CPU can run, at 2048x1024, beside PyTorch eager in the published layout.

The published 2048x1024 generator (ngf 32, one enhancer, 182.9 M parameters) with random weights, or
any checkpoint, is exported by the product's own code. Each engine is loaded in a process of its
own; then all render the same streets in turn, another street each round, in an order that rotates.
A figure is the median over the rounds of the ratio within a round, so that a machine that drifts
does not decide; the first round is warm-up and not counted. The engine that serves by default runs
inside the embedded Triton beside them. An engine whose pictures are outside its limits is timed all
the same and marked: it is never served.

    python -m sceneloom_bench.cpu_engines --out docs/results
    make cpu-engines
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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from sceneloom import TritonSynthesizer
from sceneloom.contract import MODEL_NAME
from sceneloom.errors import ParityError, SceneLoomError
from sceneloom.synthesizer import Synthesizer
from sceneloom_bench.engine_process import EngineProcess, timed
from sceneloom_bench.full_size import FullSizeSettings, write_random_checkpoint
from sceneloom_serving.embedded import EmbeddedServer, ServerSettings
from sceneloom_serving.engines import ENGINES, INT8_FILE, open_engine, unavailable
from sceneloom_serving.machine import describe_machine, peak_memory_mib
from sceneloom_serving.onnx_runtime import MODEL_FILE
from sceneloom_serving.parity import Parity, Precision, check_parity, compare

EAGER = "torch-fp32"
"""What every engine is compared with: PyTorch eager, float32, NCHW, as published."""
BASELINE = "onnxruntime-fp32"
SERVED = "through Triton"
ALL_CLASSES = "openvino-fp32, all classes"
"""Without the rewriting that leaves out the classes that do not occur: the bar beside it."""
Runner = Callable[..., tuple[float, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CpuEnginesSettings:
    """What is measured."""

    checkpoint: Path | None = None
    """Checkpoint bundle of a model of Cityscapes' labels; without one, the published network with
    random weights.
    """
    height: int = 1024
    """Pixels, a multiple of the model's."""
    width: int = 2048
    """Pixels, a multiple of the model's."""
    rounds: int = 5
    """Measured rounds, after one of warm-up."""
    precision: tuple[Literal["fp32", "fp16", "bf16", "int8"], ...] = ("fp32", "bf16", "int8")
    """Precisions to export."""
    ngf: int = 32
    """Filters of the first convolution, without a checkpoint; 32 is the published network."""
    blocks: int = 9
    """Residual blocks of its global generator; 9 is the published network."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds}; it is at least 1")


def main(
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    settings: Annotated[CpuEnginesSettings, tyro.conf.OmitArgPrefixes] = CpuEnginesSettings(),
) -> int:
    """Measure, write DIR/cpu-engines-DATE.json and .md, and print the JSON as the last line.

    Args:
        out: folder for the result.
        settings: what is measured.
    """
    machine = describe_machine()
    with tempfile.TemporaryDirectory(prefix="sceneloom-cpu-engines-") as name:
        result = measure(Path(name), settings)
    result = {
        "benchmark": "engines on the CPU",
        "date": datetime.date.today().isoformat(),
        "machine": machine,
        "height": settings.height,
        "width": settings.width,
        **result,
    }
    out.mkdir(parents=True, exist_ok=True)
    stem = f"cpu-engines-{result['date']}"
    (out / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    (out / f"{stem}.md").write_text(describe(result), "utf-8")
    print(describe(result))
    print(json.dumps(result))
    return 0


def measure(folder: Path, settings: CpuEnginesSettings) -> dict[str, Any]:
    """Export, load every engine, and run the rounds."""
    from sceneloom_export.bundle import export_bundle
    from sceneloom_export.proof_maps import calibration_maps
    from sceneloom_export.quantise import quantise
    from sceneloom_export.settings import ExportSettings
    from sceneloom_training.checkpoint import load_checkpoint
    from sceneloom_training.scenes import draw_street

    checkpoint = settings.checkpoint or random_checkpoint(folder, settings)
    repository = folder / "repository"
    exported = export_bundle(
        checkpoint,
        repository,
        largest=(settings.height, settings.width),
        export=ExportSettings(precision=settings.precision),
    )
    left_out = {j.precision: j.reason for j in exported.judged if j.reason}
    version = repository / MODEL_NAME / "1"
    if "int8" in left_out:  # export has removed it; its speed is of interest all the same
        quantise(version / MODEL_FILE, version / INT8_FILE, calibration_maps(exported.contract, []))
    names = [n for n, engine in ENGINES.items() if unavailable(engine, version) is None]
    streets = [draw_street(n, settings.height, settings.width) for n in range(settings.rounds + 1)]
    maps = [(street.label_map, street.instance_map) for street in streets]
    ports = ServerSettings(http_port=0, grpc_port=0, metrics_port=0, start_timeout=600)
    with contextlib.ExitStack() as stack:
        processes = {
            EAGER: stack.enter_context(EngineProcess(functools.partial(open_torch, checkpoint)))
        }
        for name in names:
            opened = functools.partial(open_engine, name, version)
            processes[name] = stack.enter_context(EngineProcess(opened))
        if "openvino-fp32" in names:
            opened = functools.partial(open_all_classes, version / MODEL_FILE)
            processes[ALL_CLASSES] = stack.enter_context(EngineProcess(opened))
        server = stack.enter_context(EmbeddedServer(repository, ports, engine=exported.engine))
        client = stack.enter_context(TritonSynthesizer(server.grpc))
        runners: dict[str, Runner] = {name: one.run for name, one in processes.items()}
        runners[SERVED] = functools.partial(timed, client)
        rounds, parities = run_rounds(runners, maps)
        memory = {name: one.peak_memory_mib for name, one in processes.items()}
        memory["model process in Triton"] = peak_memory_mib(server.model_processes[0])
    trained = load_checkpoint(checkpoint)
    return {
        "parameters": sum(p.numel() for p in trained.generator.parameters()),
        "weights": "random" if settings.checkpoint is None else trained.weights_hash,
        "served_engine": exported.engine,
        "left_out": {n: why for n, why in _reasons(left_out, parities).items() if n in runners},
        "cannot_run": {n: unavailable(e, version) for n, e in ENGINES.items() if n not in names},
        "seconds": {name: [round(r[name], 3) for r in rounds] for name in runners},
        "parity": {name: parity.to_json() for name, parity in parities.items()},
        "peak_memory_mib": memory,
    }


def random_checkpoint(folder: Path, settings: CpuEnginesSettings) -> Path:
    """The published network with random weights, as a checkpoint bundle."""
    from sceneloom.schema import load_schema
    from sceneloom_training.checkpoint import save_checkpoint
    from sceneloom_training.published import import_published

    network = FullSizeSettings(ngf=settings.ngf, blocks=settings.blocks)
    write_random_checkpoint(folder / "latest_net_G.pth", network)
    imported = import_published(folder / "latest_net_G.pth", load_schema("cityscapes"))
    save_checkpoint(
        folder / "checkpoint", imported.generator, imported.contract, {"weights": "random"}
    )
    return folder / "checkpoint"


def open_torch(checkpoint: Path) -> Synthesizer:
    """PyTorch eager as published."""
    from sceneloom_serving.torch_runtime import TorchSynthesizer
    from sceneloom_training.checkpoint import load_checkpoint

    trained = load_checkpoint(checkpoint)
    assert trained.contract is not None
    return TorchSynthesizer(trained.generator, trained.contract)


def open_all_classes(graph: Path) -> Synthesizer:
    """OpenVINO over the planes of all classes, whether they occur or not."""
    from sceneloom_serving.openvino_runtime import OpenVinoSynthesizer

    return OpenVinoSynthesizer(graph, absent_classes=True)


def run_rounds(
    runners: Mapping[str, Runner], maps: list[tuple[Any, Any]]
) -> tuple[list[dict[str, float]], dict[str, Parity]]:
    """Run everything in turn.

    Args:
        runners: name -> function of the maps that returns seconds and picture; `EAGER` is one.
        maps: one pair for each round, the first for warm-up.

    Returns:
        seconds by name of every round but the first, and the differences from `EAGER` over all.
    """
    names, rounds = list(runners), []
    pictures: dict[str, list[Any]] = {name: [] for name in names}
    for number, pair in enumerate(maps):
        seconds = {}
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds[name], picture = runners[name](*pair)
            pictures[name].append(picture)
        rounds.append(seconds)
    parities = {n: compare(pictures[EAGER], pictures[n]) for n in names if n != EAGER}
    return rounds[1:], parities


def _reasons(left_out: Mapping[Precision, str], parities: Mapping[str, Parity]) -> dict[str, str]:
    reasons = {n: left_out[e.precision] for n, e in ENGINES.items() if e.precision in left_out}
    for name, parity in parities.items():
        if name in ENGINES:
            try:
                check_parity(parity, ENGINES[name].precision, name)
            except ParityError as error:
                reasons[name] = str(error)
    return reasons


def ratio(result: Mapping[str, Any], slower: str, faster: str) -> tuple[float, float, float]:
    """How many times faster: the median over the rounds, the least and the greatest."""
    pairs = zip(result["seconds"][slower], result["seconds"][faster], strict=True)
    ratios = [a / b for a, b in pairs]
    return statistics.median(ratios), min(ratios), max(ratios)


def describe(result: Mapping[str, Any]) -> str:
    """The result for people, in Markdown."""
    machine, served = result["machine"], result["served_engine"]
    rows = [_row(result, name) for name in result["seconds"]]
    pairs = zip(result["seconds"][SERVED], result["seconds"][served], strict=True)
    overhead = statistics.median(a - b for a, b in pairs)
    cannot = [f"- {name}: {why}" for name, why in result["cannot_run"].items()]
    out = [f"- {name}: {why}" for name, why in result["left_out"].items()]
    size, rounds = f"{result['width']}x{result['height']}", len(result["seconds"][EAGER])
    return f"""# Engines on a CPU, {result["date"]}

{result["parameters"] / 1e6:.1f} M parameters, weights: {result["weights"]}; {size}, batch 1.
{machine["cores"]} cores of {machine["cpu"]} ({", ".join(machine["cpu_flags"])}),
{machine["memory_gib"]} GiB, {machine["system"]}; load average before the run
{machine["load_average"]}. Made by `make cpu-engines`.

Medians over {rounds} rounds of the ratio within a round (least to greatest): all engines render the
same street in turn, another one each round. Compare ratios; the seconds are this machine's at that
hour.

| engine | seconds | times faster than PyTorch eager | than ONNX Runtime | difference | peak MiB |
|---|---|---|---|---|---|
{chr(10).join(rows)}

{served} serves by default. Through Triton it takes {overhead:+.3f} s beside the bare engine (median
of paired differences), {1 / ratio(result, served, SERVED)[0]:.3f} times as long.

Outside their limits, and so never served:

{chr(10).join(out) or "- none"}

Not on this machine:

{chr(10).join(cannot) or "- none"}
"""


def _row(result: Mapping[str, Any], name: str) -> str:
    seconds = statistics.median(result["seconds"][name])
    cells = [_cell(result, EAGER, name), _cell(result, BASELINE, name)]
    parity = result["parity"].get(name)
    differs = "reference"
    if parity is not None:
        psnr = "equal" if parity["psnr"] is None else f"{parity['psnr']:.1f} dB"
        differs = f"max {parity['max']}, {psnr}"
    mark = " (not served)" if name in result["left_out"] else ""
    memory = result["peak_memory_mib"].get(
        name, result["peak_memory_mib"]["model process in Triton"]
    )
    return f"| {name}{mark} | {seconds:.2f} | {' | '.join(cells)} | {differs} | {memory} |"


def _cell(result: Mapping[str, Any], slower: str, faster: str) -> str:
    middle, low, high = ratio(result, slower, faster)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main))
    except SceneLoomError as error:
        sys.exit(f"cpu engines: {error}")
