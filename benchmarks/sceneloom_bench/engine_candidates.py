"""The candidates of an engine benchmark, the plainest first: PyTorch as published, faster PyTorch,
engines; each is loaded in a process of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from sceneloom import TritonSynthesizer, progress
from sceneloom.errors import EngineError, InputError, SceneLoomError
from sceneloom.request import Request
from sceneloom.synthesizer import Synthesizer
from sceneloom_bench.engine_case import Bundle, load_model
from sceneloom_bench.harness import ServedSettings, served
from sceneloom_bench.peaks import Device
from sceneloom_bench.reports.headline import THROUGH_TRITON
from sceneloom_bench.turns import EngineProcess, EngineRunner, Runner
from sceneloom_export.settings import ExportPrecision
from sceneloom_serving.bundle import CPU_FILE, PACKAGE_FILE, PLAN_FILE
from sceneloom_serving.engines import ENGINES, open_engine, peak_memory_mib, unavailable
from sceneloom_serving.onnx_runtime import usable_cpus
from sceneloom_serving.parity import Precision

EAGER = "torch-fp32"
"""The baseline: PyTorch eager, float32, NCHW, as published."""
ALL_CLASSES = "openvino-fp32, all classes"
"""OpenVINO without the rewriting that leaves out absent classes."""
SERVED = THROUGH_TRITON


@dataclasses.dataclass(frozen=True, kw_only=True)
class TorchVariant:
    """PyTorch in one precision and memory order, eager or compiled, with or without a graph."""

    precision: Literal["fp32", "fp16"] = "fp32"
    channels_last: bool = False
    """Memory order; NCHW, the published one, if false."""
    compiled: bool = False
    graphed: bool = False
    """Upload, network and download in one CUDA graph."""

    def __str__(self) -> str:
        order = "channels last" if self.channels_last else "NCHW"
        graph = ", a CUDA graph" if self.graphed else ""
        how = "torch.compile" if self.compiled else "eager"
        return f"{self.precision}, {order}, {how}{graph}"


TORCH_VARIANTS: dict[Device, dict[str, TorchVariant]] = {
    "cpu": {EAGER: TorchVariant(), "torch-fp32-compiled": TorchVariant(compiled=True)},
    "cuda": {
        EAGER: TorchVariant(),
        "torch-fp32-compiled": TorchVariant(compiled=True),
        "torch-fp16": TorchVariant(precision="fp16", channels_last=True),
        "torch-graph-fp16": TorchVariant(precision="fp16", channels_last=True, graphed=True),
        "torch-fp16-compiled": TorchVariant(precision="fp16", channels_last=True, compiled=True),
    },
}
"""Device -> name -> variant, the plainest first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """An engine or PyTorch variant to measure."""

    name: str
    precision: Precision
    """Precision whose parity limits apply."""
    how: str
    open: Callable[[], Synthesizer]
    """Opener, picklable, called in a child process."""


def known_names(device: Device | None = None) -> list[str]:
    """Names of all candidates of a device, or of both, in the table's order."""
    if device is None:
        return list(dict.fromkeys([*known_names("cpu"), *known_names("cuda")]))
    names = list(TORCH_VARIANTS[device])
    for engine in ENGINES.values():
        if engine.gpu == (device == "cuda"):
            names += [ALL_CLASSES] if engine.name == "openvino-fp32" else []
            names.append(engine.name)
    return names


def check_names(names: Sequence[str]) -> None:
    """Raise InputError, with the nearest known name, for an unknown one."""
    for name in names:
        if name not in known_names():
            near = difflib.get_close_matches(name, known_names(), 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known_names())}"
            raise InputError(f"no engine {name!r} to measure; {hint}")


def choose(names: Sequence[str], device: Device) -> tuple[list[str], dict[str, str]]:
    """Names that can run here, in the table's order, and the reason against each other one."""
    wanted = [n for n in known_names() if n in {EAGER, *names}] if names else known_names()
    tried, cannot = [], {}
    for name in wanted:
        engine = ENGINES.get("openvino-fp32" if name == ALL_CLASSES else name)
        reason = None if engine is None else unavailable(engine)
        if reason is None and name not in known_names(device):
            other = "a GPU" if device == "cpu" else "the CPU, with --device cpu,"
            reason = f"is measured on {other} only"
        if reason is None:
            tried.append(name)
        else:
            cannot[name] = reason
    return tried, cannot


def needed_precisions(names: Sequence[str]) -> list[ExportPrecision]:
    """Precisions to export for these candidates; empty if none needs a bundle."""
    later, built = (PLAN_FILE, PACKAGE_FILE), built_later(names)
    used = {
        ENGINES[name].precision
        for name in names
        if name in ENGINES and (ENGINES[name].file not in later or name in built)
    }
    if any(map(needs_bundle, names)):
        used.add("fp32")
    order: tuple[ExportPrecision, ...] = ("fp32", "fp16", "bf16", "int8", "fp8")
    return [precision for precision in order if precision in used]


def needs_bundle(name: str) -> bool:
    """Whether a candidate runs an exported model."""
    return name in ENGINES or name == ALL_CLASSES


def built_later(names: Sequence[str]) -> list[str]:
    """The engines among these names whose file is built from the export: the plan, and the last of
    the engines that run the package, which has one precision.
    """
    files = {engine.file: name for name, engine in ENGINES.items() if name in names}
    return [files[file] for file in (PLAN_FILE, PACKAGE_FILE) if file in files]


def candidates(
    names: Sequence[str],
    device: Device,
    checkpoint: Path,
    bundle: Bundle | None,
    largest_batch: int,
) -> tuple[list[Candidate], dict[str, str]]:
    """Candidates of `choose`'s names, as far as the bundle goes, and reasons against others."""
    found, cannot = [], {}
    for name in names:
        if name in TORCH_VARIANTS[device]:
            variant = TORCH_VARIANTS[device][name]
            found.append(
                Candidate(
                    name=name,
                    precision=variant.precision,
                    how=f"PyTorch, {variant}",
                    open=functools.partial(open_torch, checkpoint, variant, device, largest_batch),
                )
            )
        elif bundle is not None:
            engine = ENGINES["openvino-fp32" if name == ALL_CLASSES else name]
            folder = bundle.folder_of(engine)
            reason = unavailable(engine, folder)
            if reason is not None:
                cannot[name] = bundle.left_out.get(engine.precision, reason)
                continue
            opened: Callable[[], Synthesizer] = functools.partial(
                open_engine, name, folder, max_batch_size=largest_batch
            )
            if name == ALL_CLASSES:
                from sceneloom_serving.openvino_runtime import OpenVinoSynthesizer

                opened = functools.partial(
                    OpenVinoSynthesizer,
                    folder / CPU_FILE,
                    max_batch_size=largest_batch,
                    absent_classes=True,
                )
            how = f"{engine.file} in {name}"
            found.append(Candidate(name=name, precision=engine.precision, how=how, open=opened))
    return found, cannot


def open_torch(
    checkpoint: Path, variant: TorchVariant, device: Device, largest: int
) -> Synthesizer:
    """Load a checkpoint into PyTorch, with the engines' number of threads and without TF32."""
    import torch

    from sceneloom_training.torch_synthesizer import TorchSynthesizer

    torch.set_num_threads(usable_cpus())
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True  # as in the published test script
    trained, contract = load_model(checkpoint)
    return TorchSynthesizer(
        trained.generator,
        contract,
        max_batch_size=largest,
        device=device,
        precision=variant.precision,
        channels_last=variant.channels_last,
        compiled=variant.compiled,
        graphed=variant.graphed,
    )


@dataclasses.dataclass(kw_only=True)
class Loaded:
    """A candidate ready to take turns."""

    precision: Precision
    how: str
    runner: Runner
    largest: int
    """Largest batch."""
    peak_memory: Callable[[], float]
    """Largest memory of the process so far, in MiB."""
    bare: str | None = None
    """The engine that a server runs, measured beside it."""
    gpu_mib: float = 0.0


def load_all(
    wanted: Sequence[Candidate],
    maps: Sequence[Request],
    stack: contextlib.ExitStack,
    gpu_used: Callable[[], float],
) -> tuple[dict[str, Loaded], dict[str, str]]:
    """Start a process for each; returns the ready ones, and the reason against each other one."""
    loaded, cannot = {}, {}
    loading = progress.Steps(len(wanted))
    for candidate in wanted:
        before = gpu_used()
        process = stack.enter_context(EngineProcess(candidate.open))
        try:
            with loading.step(f"load {candidate.name}"):
                largest = process.largest()
                process.hold(maps)
        except SceneLoomError as error:
            cannot[candidate.name] = str(error)
            continue
        loaded[candidate.name] = Loaded(
            precision=candidate.precision,
            how=candidate.how,
            runner=process,
            largest=largest,
            peak_memory=functools.partial(getattr, process, "peak_memory_mib"),
            gpu_mib=gpu_used() - before,
        )
    return loaded, cannot


def load_served(
    bundle: Bundle,
    bare: Sequence[str],
    maps: Sequence[Request],
    stack: contextlib.ExitStack,
    gpu_used: Callable[[], float],
) -> Loaded:
    """Serve the bundle's default engine with the bundled Triton, beside the `bare` engines. Raises
    EngineError if it is not among them.
    """
    if bundle.engine not in bare:
        raise EngineError(f"the default engine, {bundle.engine}, is not measured beside it")
    before = gpu_used()
    settings = ServedSettings(repository=bundle.repository, engine=bundle.engine)
    running = stack.enter_context(served(settings))
    client = stack.enter_context(TritonSynthesizer(running.grpc))
    runner = EngineRunner(client)
    runner.hold(maps)
    assert running.embedded is not None
    return Loaded(
        precision=ENGINES[bundle.engine].precision,
        how=f"{bundle.engine} in the bundled Triton, over gRPC; memory is of the model's process",
        runner=runner,
        largest=client.max_batch_size,
        peak_memory=functools.partial(peak_memory_mib, running.embedded.model_processes[0]),
        bare=bundle.engine,
        gpu_mib=gpu_used() - before,
    )
