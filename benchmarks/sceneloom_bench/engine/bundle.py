"""The export bundle that engines are measured with, made by the product's own code.

Functions here load torch, onnx and TensorRT: they are called in a process of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from sceneloom.artefacts import file_hash
from sceneloom.contract import MODEL_NAME
from sceneloom.extras import require
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bundle:
    """What an export wrote."""

    repository: Path
    """The bundle."""
    engine: str
    """The engine that serves."""
    sha256: str
    """Of all its engines' files."""
    left_out: dict[Precision, str]
    """Precisions that export refuses to serve, and why."""
    refused: Path | None = None
    """Folder of what is measured all the same; it is no part of the bundle."""

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
        """SHA-256 of every file that an engine reads, by name."""
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
    """Export a checkpoint, and quantise it even where that is not fit to serve: its speed is of
    interest all the same.

    Args:
        checkpoint: the checkpoint bundle.
        repository: the export bundle to write.
        size: (height, width) that it is proven at.
        precisions: to export.
        largest_batch: most pictures at once.
        refused: folder for a quantised graph that the bundle may not have.
        only_size: serve no other size, as a TensorRT plan of that size wants it: one that cannot
            render the small maps of a bundle for any size is never chosen to serve.

    Raises:
        MissingDependencyError: what export needs is not installed.
        SceneLoomError: the export failed; the text says why.
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
    """Build the TensorRT plan of a bundle, with a profile for each batch.

    Args:
        version: the folder of the bundle's graphs.
        size: (height, width).
        batches: pictures at once.
        timed_runs: pictures that the choice between its norms is made on.

    Raises:
        SceneLoomError: it cannot be built here; the text says why.
    """
    from sceneloom_export.engine import build_engine

    profiles = tuple(f"{batch}@{size[1]}x{size[0]}" for batch in batches)
    settings = EngineSettings(profiles=profiles, timed_runs=timed_runs)
    build_engine(version / GRAPH_FILE, settings, show=say)


def choose_served(bundle: Bundle) -> Bundle:
    """The bundle with the engine that serves now: a plan that was built after the export is one
    more to choose from.

    Raises:
        SceneLoomError: no engine can serve here; the text says why.
    """
    from sceneloom_serving.choice import choose_engine

    engine = choose_engine(bundle.repository, bundle.sha256, say=say)
    return dataclasses.replace(bundle, engine=engine)
