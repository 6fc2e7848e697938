"""The model of an engine benchmark: a checkpoint, or the published network with random weights; its
arithmetic; its export bundle.

Functions here load torch, onnx and TensorRT, so they run in a child process.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sceneloom import progress
from sceneloom.contract import MODEL_NAME, Contract
from sceneloom.errors import require
from sceneloom.files import file_hash
from sceneloom_export.settings import (
    ExportPrecision,
    ExportSettings,
    PlanSettings,
    TritonSettings,
)
from sceneloom_serving.bundle import CPU_FILE, GRAPH_FILE, INT8_FILE
from sceneloom_serving.engines import EngineSpec
from sceneloom_serving.parity import Precision

if TYPE_CHECKING:
    from sceneloom_training.checkpoint import Checkpoint
    from sceneloom_training.networks import Architecture


_ENGINE_FILES = (".onnx", ".bin", ".plan", ".pt2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A model, without its weights."""

    contract: Contract
    parameters: int
    weights: str
    """``random``, or the SHA-256 of the checkpoint's weights."""
    architecture: dict[str, Any]
    """Architecture of the generator, as in `model.json`."""
    gflop: float
    """10^9 operations of one picture; see `picture_gflop`."""


def random_checkpoint(folder: Path, ngf: int, blocks: int) -> Path:
    """Write the network with random weights to FOLDER/checkpoint; 32 and 9 are as published."""
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
    """Describe a checkpoint that renders pictures of (height, width)."""
    trained, contract = load_model(checkpoint)
    contract.check_exact_size(*size)
    architecture = trained.generator.architecture
    return Case(
        contract=contract,
        parameters=sum(p.numel() for p in trained.generator.parameters()),
        weights="random" if random else trained.weights_hash,
        architecture=dataclasses.asdict(architecture),
        gflop=picture_gflop(architecture, size),
    )


def load_model(checkpoint: Path) -> tuple[Checkpoint, Contract]:
    """Load a bundle and its contract."""
    from sceneloom_training.checkpoint import load_checkpoint

    trained = load_checkpoint(checkpoint)
    return trained, trained.contract


def picture_gflop(architecture: Architecture, size: tuple[int, int]) -> float:
    """10^9 operations of the convolutions for one picture of (height, width).

    A multiplication and an addition are two operations. The count is the published model's, not an
    engine's. Nothing is computed: PyTorch's counter sees tensors with shapes only.
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
    """Whether PyTorch can use a GPU."""
    import torch

    return torch.cuda.is_available()


def gpu_used_mib() -> float:
    """Memory of the GPU in use by all processes, in MiB."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return (total - free) / (1 << 20)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bundle:
    """An export bundle, its engine and its refusals."""

    repository: Path
    engine: str
    sha256: str
    left_out: dict[Precision, str]
    """Precision that export refuses to serve -> reason."""
    refused: Path | None = None
    """Folder of a refused graph, measured outside the bundle."""

    @property
    def version(self) -> Path:
        """Folder of the engines' files."""
        return self.repository / MODEL_NAME / "1"

    def folder_of(self, engine: EngineSpec) -> Path:
        """Folder of an engine's file."""
        if self.refused is not None and (self.refused / engine.file).is_file():
            return self.refused
        return self.version

    def file_hashes(self) -> dict[str, str]:
        """Name of every engine's file -> SHA-256."""
        folders = [self.version, *([self.refused] if self.refused is not None else [])]
        files = [file for folder in folders for file in sorted(folder.iterdir())]
        return {f.name: file_hash(f) for f in files if f.suffix in _ENGINE_FILES}


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
    """Export a checkpoint, proven at (height, width).

    An int8 graph that export refuses is written into the new folder `refused`, for its speed. With
    `only_size` the bundle serves no other size: a plan of one size cannot render the small maps of
    a bundle for any size, and would never be chosen.
    """
    packages = ("torch", "safetensors", "onnx", "onnxscript", "onnxruntime")
    require(packages, extra="export", purpose="exporting a model")
    from sceneloom_export.bundle import export_bundle
    from sceneloom_export.precision import quantise
    from sceneloom_export.proof import calibration_maps

    exported = export_bundle(
        checkpoint,
        repository,
        TritonSettings(max_batch_size=largest_batch),
        sizes=(size,) if only_size else None,
        largest=size,
        export=ExportSettings(precision=tuple(precisions)),
    )
    bundle = Bundle(
        repository=repository,
        engine=exported.engine,
        sha256=exported.contract.bundle_hash,
        left_out={v.precision: v.reason for v in exported.verdicts if v.reason},
    )
    if "int8" not in bundle.left_out:
        return bundle
    refused.mkdir()
    maps = calibration_maps(exported.contract, [])
    quantise(bundle.version / CPU_FILE, refused / INT8_FILE, maps)
    return dataclasses.replace(bundle, refused=refused)


def build_plan(
    version: Path,
    size: tuple[int, int],
    batches: Sequence[int],
    *,
    precision: Literal["fp16", "fp8"] = "fp16",
    timed_runs: int = 100,
) -> None:
    """Build the TensorRT plan, a profile a batch; times `timed_runs` pictures to choose norms."""
    from sceneloom_export.engine import build_engine

    profiles = tuple(f"{batch}@{size[1]}x{size[0]}" for batch in batches)
    settings = PlanSettings(precision=precision, profiles=profiles, timed_runs=timed_runs)
    build_engine(version / GRAPH_FILE, settings, show=progress.say)


def build_package(version: Path, size: tuple[int, int], *, half: bool) -> None:
    """Build the package of AOTInductor, for single pictures, in half or in float32."""
    from sceneloom_export.engine import build_engine

    profiles = (f"{size[1]}x{size[0]}",)
    settings = PlanSettings(
        runtime="aoti", precision="fp16" if half else "fp32", profiles=profiles, timed_runs=1
    )
    build_engine(version / GRAPH_FILE, settings, show=progress.say)


def choose_served(bundle: Bundle) -> Bundle:
    """Choose the bundle's engine again, after a plan or a package was built."""
    from sceneloom_serving.choice import choose_engine

    engine = choose_engine(bundle.repository, bundle.sha256, say=progress.say)
    return dataclasses.replace(bundle, engine=engine)
