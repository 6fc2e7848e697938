"""The export bundle: a Triton model repository that is served as it is, with the report of how it
was proven.

    DIR/report.json                 parity, sizes, versions, hashes
    DIR/golden.npz                  the golden probe
    DIR/references.npz              maps, and PyTorch's pictures of them
    DIR/synthesis/config.pbtxt      with the contract in its parameters
    DIR/synthesis/configs/*.pbtxt   variants for production
    DIR/synthesis/1/model.py        shim over sceneloom_serving
    DIR/synthesis/1/model.onnx      the served graph, float32: what other engines are built from
    DIR/synthesis/1/onnxruntime.onnx  the same with accurate norms, for engines on the CPU
    DIR/synthesis/1/group_norms.onnx  the same for TensorRT 8.6
    DIR/synthesis/1/weights.bin     the weights of all three
    DIR/synthesis/1/fp16.onnx, weights-fp16.bin   in half, for engines on GPUs
    DIR/synthesis/1/int8.onnx, weights-int8.bin   quantised, if asked for
    DIR/synthesis_*/                the encoded path around it, for clients across a network

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

from sceneloom.contract import DIFFERENCE_PARAMETER, FAST_PARAMETER, MODEL_NAME, Contract
from sceneloom.errors import ExportError, ParityError, SizeError
from sceneloom.files import file_hash, replace_folder
from sceneloom.request import Request
from sceneloom.text import counted
from sceneloom.triton.encoded import ENCODED_MODELS
from sceneloom.version import __version__
from sceneloom_export.accurate_norms import write_accurate_norms
from sceneloom_export.encoded_models import write_encoded_models
from sceneloom_export.graph import WEIGHTS_FP16, export_onnx
from sceneloom_export.group_norms import write_group_norms
from sceneloom_export.probe_maps import draw_probe, golden_size, probe_sizes
from sceneloom_export.proof import (
    Judged,
    check_graph,
    judge_quantised,
    judge_rounded,
    make_references,
)
from sceneloom_export.proof_maps import (
    OwnMaps,
    calibration_maps,
    read_own_maps,
    reference_maps,
)
from sceneloom_export.quantise import WEIGHTS_INT8, quantise
from sceneloom_export.recognition import Recognition
from sceneloom_export.repository import write_configs
from sceneloom_export.rules import OPSET, check_rules
from sceneloom_export.settings import ExportSettings, ServingSettings
from sceneloom_export.tensorrt_settings import GROUP_NORMS
from sceneloom_serving import templates
from sceneloom_serving.choice import (
    Known,
    Measured,
    fastest,
    known_of,
    measure_engines,
    remember,
)
from sceneloom_serving.engines import ENGINES, FP16_FILE, GRAPH_FILE, INT8_FILE
from sceneloom_serving.golden import GOLDEN_FILE, make_golden, save_golden
from sceneloom_serving.machine import engine_machine
from sceneloom_serving.onnx_runtime import MODEL_FILE
from sceneloom_serving.parity import Parity, Precision, PrecisionClass
from sceneloom_serving.references import REFERENCES_FILE, References, save_references
from sceneloom_training.checkpoint import Checkpoint, load_checkpoint
from sceneloom_training.networks import HalfGenerator, ServedGenerator
from sceneloom_training.torch_synthesizer import TorchSynthesizer

REPORT = "report.json"
FORMAT = 1
GRAPH_ENGINE = "exported graph in ONNX Runtime"
_FILES = frozenset({REPORT, GOLDEN_FILE, REFERENCES_FILE, MODEL_NAME, *ENCODED_MODELS})
_MOST_OWN_MAPS = 8
GOLDEN_CLASSES = 16
"""Most classes of the golden map: as many as streets have, so that it runs what they run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export wrote."""

    repository: Path
    """The bundle."""
    contract: Contract
    """As it is served, with sizes and the bundle's hash."""
    engine: str
    """The engine that serves by default: of those that passed the fastest on this machine."""
    judged: list[Judged]
    """The precisions other than float32."""
    measured: list[Measured]
    """Every engine, as it did on this machine."""
    own_maps: OwnMaps | None
    """The user's maps that it was proven on."""
    known: Known
    """What is known of the engine that serves, in words."""

    @property
    def parity(self) -> Parity:
        """Of the engine that serves by default."""
        parity = next(m.parity for m in self.measured if m.engine == self.engine)
        assert parity is not None
        return parity


def export_bundle(
    checkpoint_folder: Path,
    repository: Path,
    settings: ServingSettings | None = None,
    *,
    sizes: tuple[tuple[int, int], ...] | None = None,
    largest: tuple[int, int] = (1024, 2048),
    export: ExportSettings | None = None,
) -> Exported:
    """Export a checkpoint bundle to a Triton repository; nothing is written unless float32 passes,
    and of the other precisions only what does.

    Args:
        checkpoint_folder: a checkpoint bundle.
        repository: the folder to write; an export bundle in its place is replaced, anything else is
            refused.
        settings: batching, queue, warm-up and instances.
        sizes: the (height, width) pairs to serve, or None for any multiple.
        largest: without `sizes`, the (height, width) that parity is proven at beside small maps,
            multiples of the model's. The norms sum over the whole picture, so that small
            maps alone prove little.
        export: precisions, and maps to prove them on.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        GraphRuleError: the graph breaks a rule of the engines.
        ParityError: a float32 engine's pictures differ from PyTorch's.
        InputError: the maps cannot be read.
        SizeError: `largest` is no multiple.
        ExportError: the place is taken by something else or cannot be written.
    """
    checkpoint, trained = _load(checkpoint_folder)
    contract = dataclasses.replace(trained, sizes=sizes)
    settings, export = settings or ServingSettings(), export or ExportSettings()
    own_maps = None
    if export.maps is not None:
        own_maps = read_own_maps(contract, export.maps, _MOST_OWN_MAPS, unknown=export.unknown)
    own = [] if own_maps is None else own_maps.requests
    _check_sizes(contract, settings, largest, own)
    proves_fast = bool({"bf16", "int8"} & set(export.precisions))
    maps = reference_maps(contract, largest, own, kinds=proves_fast)
    recognition = _recognition(export, contract, maps[-len(own) - 1 :])
    with replace_folder(
        repository, marker=REPORT, files=_FILES, kind="an export bundle", error=ExportError
    ) as folder:
        template = templates() / MODEL_NAME
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(template, folder / MODEL_NAME, ignore=ignore)
        version = folder / MODEL_NAME / "1"
        references = make_references(checkpoint.generator, contract, maps)
        save_references(references, folder)
        graph_parity = _write_float32(version, checkpoint, contract, references)
        judged = _write_others(version, checkpoint, contract, references, export, own, recognition)
        left_out = _left_out(judged, export)
        golden = draw_probe(contract, *golden_size(contract), seed=1000, classes=GOLDEN_CLASSES)
        save_golden(make_golden(TorchSynthesizer(checkpoint.generator, contract), golden), folder)
        measured = measure_engines(
            version, references, max_batch_size=settings.max_batch_size, without=left_out
        )
        _check_measured(measured)
        engine = fastest(measured, export.served)
        known = known_of(engine, measured, version, left_out)
        proof = _Proof(graph_parity, references, judged, measured, engine, known, left_out)
        served = _describe(folder, checkpoint, contract, settings, proof, largest)
    classes: tuple[PrecisionClass, ...] = ("exact", "fast") if proves_fast else ("exact",)
    for kind in classes:
        remember(served.bundle_hash, measured, repository / MODEL_NAME / "1", precision=kind)
    return Exported(
        repository=repository,
        contract=served,
        engine=proof.engine,
        judged=judged,
        measured=measured,
        own_maps=own_maps,
        known=known,
    )


def _load(folder: Path) -> tuple[Checkpoint, Contract]:
    checkpoint = load_checkpoint(folder)
    if checkpoint.contract is None:
        raise ExportError(
            f"{folder}: turns pictures into pictures (label count 0); such a model can be trained "
            "and evaluated, not served"
        )
    outputs = checkpoint.generator.architecture.output_channels
    if outputs != 3:
        raise ExportError(f"{folder}: gives {counted(outputs, 'channel')}; pictures are RGB")
    return checkpoint, checkpoint.contract


def _check_sizes(
    contract: Contract, settings: ServingSettings, largest: tuple[int, int], own: list[Request]
) -> None:
    """Before the work, not after it."""
    sizes = contract.sizes or ()
    if len(set(sizes)) < len(sizes):
        raise ExportError("the same size is named twice")
    for size in settings.warmup_sizes:
        contract.check_exact_size(*size)
    proven = [] if sizes else [_whole_size(contract, largest)]
    proven += [(m.label_map.shape[0], m.label_map.shape[1]) for m in own]
    for height, width in [*sizes, *proven, *settings.warmup_sizes, golden_size(contract)]:
        if height * width > settings.max_pixels:
            raise ExportError(f"{width}x{height} is above max_pixels, {settings.max_pixels:,}")


def _whole_size(contract: Contract, largest: tuple[int, int]) -> tuple[int, int]:
    """The size to prove the model at, refused where the network would see another one."""
    height, width = contract.network_size(*largest)
    if (height, width) != largest:
        raise SizeError(
            f"largest is {largest[1]}x{largest[0]} (width x height); each side is a multiple of "
            f"{contract.size_multiple} for this model, the next is {width}x{height}"
        )
    return height, width


def _recognition(
    export: ExportSettings, contract: Contract, scenes: list[Request]
) -> Recognition | None:
    """Before the work: a segmenter that cannot be loaded is said at once."""
    if export.segmenter is None:
        return None
    if not {"bf16", "int8"} & set(export.precisions):
        raise ExportError("a segmenter looks at bf16 and int8, and neither is among the precisions")
    return Recognition(export.segmenter, contract.schema, scenes)


@dataclasses.dataclass(frozen=True)
class _Proof:
    """What an export has shown."""

    graph_parity: Parity | None
    references: References
    judged: list[Judged]
    measured: list[Measured]
    engine: str
    known: Known
    left_out: dict[Precision, str]

    def to_json(self) -> dict[str, Any]:
        graph = None if self.graph_parity is None else self.graph_parity.to_json()
        return {
            "engine": self.engine,
            "maps": [f"{width}x{height}" for height, width in self.references.sizes],
            "graph": {GRAPH_ENGINE: graph},
            "engines": {m.engine: m.to_json() for m in self.measured},
            "precisions": {j.precision: j.to_json() for j in self.judged},
            "left_out": self.left_out,
        }


def _write_float32(
    version: Path, checkpoint: Checkpoint, contract: Contract, references: References
) -> Parity | None:
    model = version / GRAPH_FILE
    export_onnx(ServedGenerator(checkpoint.generator, contract).eval(), model)
    norms = sum(isinstance(module, nn.InstanceNorm2d) for module in checkpoint.generator.modules())
    check_rules(onnx.load(model, load_external_data=False), instance_norms=norms)
    write_accurate_norms(model, version / MODEL_FILE)
    write_group_norms(model, version / GROUP_NORMS)
    small = len(probe_sizes(contract)) if contract.sizes is None else 0
    return check_graph(model, "fp32", references, small)


def _write_others(
    version: Path,
    checkpoint: Checkpoint,
    contract: Contract,
    references: References,
    export: ExportSettings,
    own: list[Request],
    recognition: Recognition | None,
) -> list[Judged]:
    """The other precisions: judged first, written if they pass."""
    generator, judged = checkpoint.generator, []
    for precision in ("fp16", "bf16"):
        if precision in export.precisions:
            judged.append(judge_rounded(generator, contract, precision, references, recognition))
    if any(j.precision == "fp16" and j.reason is None for j in judged):
        half = version / FP16_FILE
        served = ServedGenerator(HalfGenerator(generator).eval(), contract).eval()
        export_onnx(served, half, weights=WEIGHTS_FP16)
        small = len(probe_sizes(contract)) if contract.sizes is None else 0
        check_graph(half, "fp16", references, small)
    if "int8" in export.precisions:
        quantise(version / MODEL_FILE, version / INT8_FILE, calibration_maps(contract, own))
        found = judge_quantised(version / INT8_FILE, references, recognition)
        judged.append(found)
        if found.reason is not None:
            (version / INT8_FILE).unlink()
            (version / WEIGHTS_INT8).unlink(missing_ok=True)  # small graphs hold their own
    return judged


def _left_out(judged: list[Judged], export: ExportSettings) -> dict[Precision, str]:
    """What may not serve: what was refused, and bfloat16 unless it was asked for, because it has no
    file of its own that could be missing.
    """
    refused = {j.precision: j.reason for j in judged if j.reason is not None}
    unasked = "not proven: sceneloom export --precision fast"
    return refused if "bf16" in export.precisions else {"bf16": unasked, **refused}


def _check_measured(measured: list[Measured]) -> None:
    """A float32 engine that ran here and differs is a broken graph, whatever the others say."""
    for one in measured:
        if ENGINES[one.engine].precision == "fp32" and one.parity is not None and one.reason:
            raise ParityError(one.reason)


def _describe(
    folder: Path,
    checkpoint: Checkpoint,
    contract: Contract,
    settings: ServingSettings,
    proof: _Proof,
    largest: tuple[int, int],
) -> Contract:
    """Write the configurations and report.json; the contract as it is served."""
    version = folder / MODEL_NAME / "1"
    engines = sorted(path for path in version.iterdir() if path.suffix in (".onnx", ".bin"))
    hashes = {path.relative_to(folder).as_posix(): file_hash(path) for path in engines}
    bundle_hash = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
    served = dataclasses.replace(contract, bundle_hash=bundle_hash)
    write_configs(
        folder / MODEL_NAME,
        served,
        settings,
        largest=largest,
        engine=proof.engine,
        known={DIFFERENCE_PARAMETER: proof.known.difference, FAST_PARAMETER: proof.known.fast},
    )
    write_encoded_models(folder, settings)
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
        "proof": proof.to_json(),
        "machine": engine_machine(),
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
