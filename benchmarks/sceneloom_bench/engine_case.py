"""The model that engines are measured with: a checkpoint, or the published network with random
weights; its arithmetic; and its export bundle, made by the product's own code.

Functions here load torch, onnx and TensorRT: they are called in a process of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sceneloom.contract import MODEL_NAME, Contract
from sceneloom.errors import InputError, require
from sceneloom.files import file_hash
from sceneloom_bench.reports.report import say
from sceneloom_export.settings import (
    EngineSettings,
    ExportPrecision,
    ExportSettings,
    ServingSettings,
)
from sceneloom_serving.bundle import GRAPH_FILE, INT8_FILE, MODEL_FILE
from sceneloom_serving.engines import Engine
from sceneloom_serving.parity import Precision

if TYPE_CHECKING:
    from sceneloom_training.networks import Architecture


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A model, without its weights."""

    contract: Contract
    parameters: int
    weights: str
    """``random``, or the SHA-256 of the checkpoint's weights."""
    architecture: dict[str, Any]
    """Of its generator, as `model.json` has it."""
    gflop: float
    """Of one picture, in 10^9 operations; see `picture_gflop`."""


def random_checkpoint(folder: Path, ngf: int, blocks: int) -> Path:
    """Write the published 2048x1024 network with random weights as FOLDER/checkpoint.

    32 filters (ngf) and 9 residual blocks are published.
    """
    from sceneloom.schema import load_schema
    from sceneloom_training.checkpoint import save_checkpoint
    from sceneloom_training.networks import GeneratorArchitecture, build_generator

    schema = load_schema("cityscapes")
    architecture = GeneratorArchitecture(
        input_channels=schema.channels + 1, ngf=ngf, global_blocks=blocks, enhancers=1
    )
    contract = Contract(schema=schema, boundaries=True, size_multiple=architecture.size_multiple)
    generator = build_generator(architecture, seed=0)
    save_checkpoint(folder / "checkpoint", generator, contract, {"weights": "random"})
    return folder / "checkpoint"


def read_case(checkpoint: Path, size: tuple[int, int], *, random: bool) -> Case:
    """Describe a checkpoint bundle that renders pictures of (height, width).

    Raises:
        InputError: its model takes no label maps.
        CheckpointError: it cannot be read.
    """
    from sceneloom_training.checkpoint import load_checkpoint

    trained = load_checkpoint(checkpoint)
    if trained.contract is None:
        raise InputError(f"{checkpoint}: its model takes pictures, not label maps")
    trained.contract.check_exact_size(*size)
    architecture = trained.generator.architecture
    return Case(
        contract=trained.contract,
        parameters=sum(p.numel() for p in trained.generator.parameters()),
        weights="random" if random else trained.weights_hash,
        architecture=dataclasses.asdict(architecture),
        gflop=picture_gflop(architecture, size),
    )


def picture_gflop(architecture: Architecture, size: tuple[int, int]) -> float:
    """Operations of one picture of (height, width), in 10^9: a multiplication and an addition of a
    convolution are two; norms, activations and the one-hot planes are not counted.

    They are the published model's, whatever an engine leaves out or adds. Nothing is computed:
    PyTorch's counter sees tensors that have shapes only.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    from sceneloom_training.networks import build_generator

    counter = FlopCounterMode(display=False)
    with FakeTensorMode():
        generator = build_generator(architecture).eval()
        with torch.inference_mode(), counter:
            generator(torch.empty(1, architecture.input_channels, *size))
    return float(counter.get_total_flops()) / 1e9


def sees_gpu() -> bool:
    """Whether PyTorch can use a GPU here."""
    import torch

    return torch.cuda.is_available()


def gpu_used_mib() -> float:
    """Memory of the GPU in use, by all processes, in MiB."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return (total - free) / (1 << 20)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bundle:
    """An export bundle, with its engine and refusals."""

    repository: Path
    engine: str
    sha256: str
    left_out: dict[Precision, str]
    """Precision that export refuses to serve -> reason."""
    refused: Path | None = None
    """Folder of a refused graph that is measured all the same; no part of the bundle."""

    @property
    def version(self) -> Path:
        """The folder of the engines' files."""
        return self.repository / MODEL_NAME / "1"

    def folder_of(self, engine: Engine) -> Path:
        """The folder of an engine's file."""
        if self.refused is not None and (self.refused / engine.file).is_file():
            return self.refused
        return self.version

    def file_hashes(self) -> dict[str, str]:
        """Name of every file that an engine reads -> SHA-256."""
        folders = [self.version, *([self.refused] if self.refused is not None else [])]
        files = [file for folder in folders for file in sorted(folder.iterdir())]
        return {f.name: file_hash(f) for f in files if f.suffix in (".onnx", ".bin", ".plan")}


def make_bundle(
    checkpoint: Path,
    repository: Path,
    *,
    size: tuple[int, int],
    precisions: Sequence[ExportPrecision],
    largest_batch: int,
    refused: Path,
    only_size: bool = False,
) -> Bundle:
    """Export a checkpoint, proven at (height, width), and quantise it into the new folder `refused`
    if export refuses int8: its speed is of interest all the same.

    With `only_size` it serves no other size, as a TensorRT plan of that size wants it: one that
    cannot render the small maps of a bundle for any size is never chosen to serve.

    Raises:
        SceneLoomError: the export failed, or what it needs is not installed.
    """
    packages = ("torch", "safetensors", "onnx", "onnxscript", "onnxruntime")
    require(packages, extra="export", purpose="exporting a model")
    from sceneloom_export.bundle import export_bundle
    from sceneloom_export.precision import quantise
    from sceneloom_export.proof import calibration_maps

    exported = export_bundle(
        checkpoint,
        repository,
        ServingSettings(max_batch_size=largest_batch),
        sizes=(size,) if only_size else None,
        largest=size,
        export=ExportSettings(precision=tuple(precisions)),
    )
    bundle = Bundle(
        repository=repository,
        engine=exported.engine,
        sha256=exported.contract.bundle_hash,
        left_out={j.precision: j.reason for j in exported.judged if j.reason},
    )
    if "int8" not in bundle.left_out:
        return bundle
    refused.mkdir()
    maps = calibration_maps(exported.contract, [])
    quantise(bundle.version / MODEL_FILE, refused / INT8_FILE, maps)
    return dataclasses.replace(bundle, refused=refused)


def build_plan(
    version: Path, size: tuple[int, int], batches: Sequence[int], *, timed_runs: int = 100
) -> None:
    """Build the TensorRT plan of a bundle, with a profile for each batch of (height, width).

    `timed_runs` pictures decide between its norms.

    Raises:
        SceneLoomError: it cannot be built here; the text says why.
    """
    from sceneloom_export.engine import build_engine

    profiles = tuple(f"{batch}@{size[1]}x{size[0]}" for batch in batches)
    settings = EngineSettings(profiles=profiles, timed_runs=timed_runs)
    build_engine(version / GRAPH_FILE, settings, show=say)


def choose_served(bundle: Bundle) -> Bundle:
    """The bundle with the engine that serves now: a plan built after the export may be chosen.

    Raises:
        SceneLoomError: no engine can serve here; the text says why.
    """
    from sceneloom_serving.choice import choose_engine

    engine = choose_engine(bundle.repository, bundle.sha256, say=say)
    return dataclasses.replace(bundle, engine=engine)
