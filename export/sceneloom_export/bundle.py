"""The export bundle: a Triton model repository that is served as it is, with the report of how it
was proven.

    DIR/report.json                 parity, sizes, versions, hashes
    DIR/golden.npz                  the golden probe
    DIR/synthesis/config.pbtxt      with the contract in its parameters
    DIR/synthesis/configs/*.pbtxt   variants for production
    DIR/synthesis/1/model.py        shim over sceneloom_serving
    DIR/synthesis/1/model.onnx      the served graph, float32: what other engines are built from
    DIR/synthesis/1/onnxruntime.onnx  the same for ONNX Runtime, with accurate norms
    DIR/synthesis/1/weights.bin     the weights of both

The bundle is written beside its place and renamed into it once everything has passed.

    sceneloom export checkpoints/streets --repository build/streets
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import platform
import shutil
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from sceneloom import __version__
from sceneloom.artefacts import file_hash, replace_folder
from sceneloom.contract import MODEL_NAME, Contract
from sceneloom.errors import ExportError
from sceneloom.synthesizer import Request
from sceneloom_export.accurate_norms import write_accurate_norms
from sceneloom_export.graph import WEIGHTS, export_onnx
from sceneloom_export.probe_maps import draw_probe, golden_size, probe_sizes
from sceneloom_export.repository import write_configs
from sceneloom_export.rules import OPSET, check_rules
from sceneloom_export.settings import ServingSettings
from sceneloom_serving import templates
from sceneloom_serving.golden import GOLDEN_FILE, make_golden, save_golden
from sceneloom_serving.onnx_runtime import MODEL_FILE, OnnxRuntimeSynthesizer
from sceneloom_serving.parity import Parity, check_parity, reference_pictures, run_parity
from sceneloom_serving.torch_runtime import TorchSynthesizer
from sceneloom_training.checkpoint import Checkpoint, load_checkpoint
from sceneloom_training.networks import ServedGenerator

REPORT = "report.json"
FORMAT = 1
GRAPH = "model.onnx"
GRAPH_ENGINE = "exported graph in onnxruntime-cpu-fp32"
SERVED_ENGINE = "onnxruntime-cpu-fp32"
_FILES = frozenset({REPORT, GOLDEN_FILE, MODEL_NAME})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export wrote."""

    repository: Path
    """The bundle."""
    contract: Contract
    """As it is served, with sizes and the bundle's hash."""
    parity: Parity
    """ONNX Runtime, as it is served, against PyTorch."""


def export_bundle(
    checkpoint_folder: Path,
    repository: Path,
    settings: ServingSettings | None = None,
    *,
    sizes: tuple[tuple[int, int], ...] | None = None,
    largest: tuple[int, int] = (1024, 2048),
) -> Exported:
    """Export a checkpoint bundle to a Triton repository; nothing is written unless everything
    passes.

    Args:
        checkpoint_folder: a checkpoint bundle.
        repository: the folder to write; an export bundle in its place is replaced, anything else is
            refused.
        settings: batching, queue, warm-up and instances.
        sizes: the (height, width) pairs to serve, or None for any multiple.
        largest: without `sizes`, the (height, width) that parity is proven at beside small maps,
            rounded up to the model's multiple. The norms sum over the whole picture, so that small
            maps alone prove little.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        GraphRuleError: the graph breaks a rule of the engines.
        ParityError: ONNX Runtime's pictures differ from PyTorch's.
        ExportError: the place is taken by something else or cannot be written.
    """
    checkpoint = load_checkpoint(checkpoint_folder)
    if checkpoint.contract is None:
        raise ExportError(
            f"{checkpoint_folder}: turns pictures into pictures (label count 0); such a model can "
            "be trained and evaluated, not served"
        )
    outputs = checkpoint.generator.architecture.output_channels
    if outputs != 3:
        raise ExportError(f"{checkpoint_folder}: gives {outputs} channels; pictures are RGB")
    contract = dataclasses.replace(checkpoint.contract, sizes=sizes)
    settings = settings or ServingSettings()
    _check_sizes(contract, settings)
    with replace_folder(
        repository, marker=REPORT, files=_FILES, kind="an export bundle", error=ExportError
    ) as folder:
        template = templates() / MODEL_NAME
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(template, folder / MODEL_NAME, ignore=ignore)
        engines = _write_engines(folder / MODEL_NAME / "1", checkpoint, contract)
        proof = _prove(folder, checkpoint, contract, settings, largest)
        served = _describe(folder, checkpoint, contract, settings, proof, engines, largest)
    return Exported(repository=repository, contract=served, parity=proof[SERVED_ENGINE].parity)


def _check_sizes(contract: Contract, settings: ServingSettings) -> None:
    """Before the work, not after it."""
    sizes = contract.sizes or ()
    if len(set(sizes)) < len(sizes):
        raise ExportError("the same size is named twice")
    for size in settings.warmup_sizes:
        contract.check_exact_size(*size)
    for height, width in [*sizes, *settings.warmup_sizes, golden_size(contract)]:
        if height * width > settings.max_pixels:
            raise ExportError(f"{width}x{height} is above max_pixels, {settings.max_pixels:,}")


@dataclasses.dataclass(frozen=True)
class _Proof:
    """Parity of one engine, and the maps it was proven on."""

    parity: Parity
    maps: list[Request]

    def to_json(self) -> dict[str, Any]:
        sizes = [f"{m.label_map.shape[1]}x{m.label_map.shape[0]}" for m in self.maps]
        return {**self.parity.to_json(), "maps": sizes}


def _write_engines(version: Path, checkpoint: Checkpoint, contract: Contract) -> list[Path]:
    model = version / GRAPH
    export_onnx(ServedGenerator(checkpoint.generator, contract).eval(), model)
    norms = sum(isinstance(module, nn.InstanceNorm2d) for module in checkpoint.generator.modules())
    check_rules(onnx.load(model, load_external_data=False), instance_norms=norms)
    write_accurate_norms(model, version / MODEL_FILE)
    return [model, version / MODEL_FILE, version / WEIGHTS]


def _prove(
    folder: Path,
    checkpoint: Checkpoint,
    contract: Contract,
    settings: ServingSettings,
    largest: tuple[int, int],
) -> dict[str, _Proof]:
    """Parity of the exported graph (on small maps, where ONNX Runtime's norms are accurate) and of
    the engine that is served (on all), and the golden probe.
    """
    reference = TorchSynthesizer(checkpoint.generator, contract)
    small, all_sizes = probe_sizes(contract), probe_sizes(contract)
    if contract.sizes is None:
        all_sizes.append(contract.network_size(*largest))
    maps = [draw_probe(contract, *size, seed) for seed, size in enumerate(all_sizes)]
    pictures = reference_pictures(reference, maps)
    version = folder / MODEL_NAME / "1"
    proof = {}
    for engine, file, count in (
        (GRAPH_ENGINE, GRAPH, len(small) if contract.sizes is None else 0),
        (SERVED_ENGINE, MODEL_FILE, len(maps)),
    ):
        if count:
            runtime = OnnxRuntimeSynthesizer(version / file, max_batch_size=settings.max_batch_size)
            parity = run_parity(pictures[:count], runtime, maps[:count])
            check_parity(parity, "fp32", engine)
            proof[engine] = _Proof(parity, maps[:count])
    golden = make_golden(reference, draw_probe(contract, *golden_size(contract), seed=1000))
    save_golden(golden, folder)
    return proof


def _describe(
    folder: Path,
    checkpoint: Checkpoint,
    contract: Contract,
    settings: ServingSettings,
    proof: dict[str, _Proof],
    engines: list[Path],
    largest: tuple[int, int],
) -> Contract:
    """Write the configurations and report.json; the contract as it is served."""
    hashes = {path.relative_to(folder).as_posix(): file_hash(path) for path in engines}
    bundle_hash = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
    served = dataclasses.replace(contract, bundle_hash=bundle_hash)
    write_configs(folder / MODEL_NAME, served, settings, largest=largest)
    report = {
        "format": FORMAT,
        "sceneloom": __version__,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "bundle_hash": bundle_hash,
        "sha256": {**hashes, **_other_hashes(folder, set(hashes))},
        "bytes": {path.relative_to(folder).as_posix(): path.stat().st_size for path in engines},
        "checkpoint": {"sha256": checkpoint.weights_hash, "provenance": checkpoint.provenance},
        "architecture": checkpoint.generator.architecture.to_json(),
        "parameters": sum(p.numel() for p in checkpoint.generator.parameters()),
        "contract": served.to_json(),
        "serving": dataclasses.asdict(settings),
        "opset": OPSET,
        "parity": {engine: entry.to_json() for engine, entry in proof.items()},
        "versions": _versions(),
    }
    (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return served


def _other_hashes(folder: Path, known: set[str]) -> dict[str, str]:
    """Of everything else that is served: configurations, model.py, the golden probe."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: file_hash(path) for name, path in names.items() if name not in known}


def _versions() -> dict[str, Any]:
    packages = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")
    return {
        "sceneloom": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }
