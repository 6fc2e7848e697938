"""The export bundle: a Triton model repository that is served as it is, with the report of how it
was proven.

    DIR/report.json                 parity, sizes, versions, hashes
    DIR/golden.npz                  the golden probe
    DIR/synthesis/config.pbtxt      with the contract in its parameters
    DIR/synthesis/1/model.py        shim over sceneloom_serving
    DIR/synthesis/1/model.onnx      the served graph, float32

The bundle is written beside its place and renamed into it once everything has passed.

    sceneloom export checkpoints/streets --repository build/streets
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from sceneloom import __version__
from sceneloom.contract import MODEL_NAME, Contract
from sceneloom.errors import ExportError, SceneLoomError
from sceneloom.hashing import file_hash
from sceneloom_export.graph import OPSET, export_onnx
from sceneloom_export.parity import Parity, check_fp32, run_parity
from sceneloom_export.probe_maps import draw_probe, golden_size, probe_sizes
from sceneloom_export.repository import write_config
from sceneloom_export.rules import check_rules
from sceneloom_export.settings import ServingSettings
from sceneloom_serving import templates
from sceneloom_serving.golden import make_golden, save_golden
from sceneloom_serving.onnx_runtime import OnnxRuntimeSynthesizer
from sceneloom_serving.torch_runtime import TorchSynthesizer
from sceneloom_training.checkpoint import Checkpoint, load_checkpoint
from sceneloom_training.networks import ServedGenerator

REPORT = "report.json"
FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export wrote."""

    repository: Path
    """The bundle."""
    contract: Contract
    """As it is served, with sizes and the bundle's hash."""
    parity: Parity
    """ONNX Runtime against PyTorch."""


def export_bundle(
    checkpoint_folder: Path,
    repository: Path,
    settings: ServingSettings | None = None,
    *,
    sizes: tuple[tuple[int, int], ...] | None = None,
) -> Exported:
    """Export a checkpoint bundle to a Triton repository; nothing is written unless everything
    passes.

    Args:
        checkpoint_folder: a checkpoint bundle.
        repository: the folder to write; an export bundle in its place is replaced, anything else is
            refused.
        settings: batching, queue, warm-up and instances.
        sizes: the (height, width) pairs to serve, or None for any multiple.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        GraphRuleError: the graph breaks a rule of the engines.
        ParityError: ONNX Runtime's pictures differ from PyTorch's.
        ExportError: the place is taken by something else or cannot be written.
    """
    if (
        repository.exists()
        and not (repository / REPORT).is_file()
        and (not repository.is_dir() or any(repository.iterdir()))
    ):
        raise ExportError(f"{repository}: exists and is not an export bundle; choose another place")
    checkpoint = load_checkpoint(checkpoint_folder)
    outputs = checkpoint.generator.architecture.output_channels
    if outputs != 3:
        raise ExportError(f"{checkpoint_folder}: gives {outputs} channels; pictures are RGB")
    contract = dataclasses.replace(checkpoint.contract, sizes=sizes)
    fresh = repository.with_name(f".{repository.name}.{os.getpid()}.new")
    old = repository.with_name(f".{repository.name}.{os.getpid()}.old")
    try:
        fresh.mkdir(parents=True)
        exported = _write(fresh, checkpoint, contract, settings or ServingSettings())
        if repository.exists():
            repository.rename(old)
        fresh.rename(repository)
    except OSError as error:
        if isinstance(error, SceneLoomError):
            raise
        raise ExportError(f"{repository}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return dataclasses.replace(exported, repository=repository)


def _write(
    folder: Path, checkpoint: Checkpoint, contract: Contract, settings: ServingSettings
) -> Exported:
    shutil.copytree(
        templates() / MODEL_NAME, folder / MODEL_NAME, ignore=shutil.ignore_patterns("__pycache__")
    )
    model = folder / MODEL_NAME / "1" / "model.onnx"
    export_onnx(ServedGenerator(checkpoint.generator, contract).eval(), model)
    norms = sum(isinstance(module, nn.InstanceNorm2d) for module in checkpoint.generator.modules())
    check_rules(onnx.load(model), instance_norms=norms)

    reference = TorchSynthesizer(checkpoint.generator, contract)
    engine = OnnxRuntimeSynthesizer(model, max_batch_size=settings.max_batch_size)
    maps = [
        draw_probe(contract, height, width, seed)
        for seed, (height, width) in enumerate(probe_sizes(contract))
    ]
    parity = run_parity(reference, engine, maps)
    check_fp32(parity, "ONNX Runtime")
    save_golden(
        make_golden(reference, draw_probe(contract, *golden_size(contract), seed=1000)), folder
    )

    hashes = {f"{MODEL_NAME}/1/model.onnx": file_hash(model)}
    bundle_hash = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
    served = dataclasses.replace(contract, bundle_hash=bundle_hash)
    config = folder / MODEL_NAME / "config.pbtxt"
    write_config(config, config, served, settings)
    report = {
        "format": FORMAT,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "bundle_hash": bundle_hash,
        "sha256": hashes,
        "checkpoint": {"sha256": checkpoint.weights_hash, "provenance": checkpoint.provenance},
        "architecture": checkpoint.generator.architecture.to_json(),
        "parameters": sum(p.numel() for p in checkpoint.generator.parameters()),
        "contract": served.to_json(),
        "serving": dataclasses.asdict(settings),
        "opset": OPSET,
        "bytes": {f"{MODEL_NAME}/1/model.onnx": model.stat().st_size},
        "parity": {
            "onnxruntime-cpu-fp32": {
                **parity.to_json(),
                "maps": [f"{r.label_map.shape[1]}x{r.label_map.shape[0]}" for r in maps],
            }
        },
        "versions": _versions(),
    }
    (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return Exported(repository=folder, contract=served, parity=parity)


def _versions() -> dict[str, Any]:
    packages = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")
    return {
        "sceneloom": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }
