"""Export: from a checkpoint bundle to a Triton repository, whose files `sceneloom_serving.bundle`
describes. It is written beside its place and renamed into it after every check has passed.

    sceneloom export checkpoints/streets --repository build/streets
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from sceneloom import progress
from sceneloom.contract import DIFFERENCE_PARAMETER, FAST_PARAMETER, MODEL_NAME, Contract
from sceneloom.errors import ExportError, ParityError, SizeError
from sceneloom.files import file_hash, replace_folder
from sceneloom.map_reading import MapReader, check_boundaries
from sceneloom.request import Request
from sceneloom.text import counted
from sceneloom.version import __version__
from sceneloom_export import proof
from sceneloom_export.fp8 import write_fp8
from sceneloom_export.graph import OPSET, check_rules, export_onnx
from sceneloom_export.norms import write_accurate_norms
from sceneloom_export.precision import Recognition, quantise
from sceneloom_export.proof import OwnMaps, PrecisionVerdict
from sceneloom_export.repository import copy_template, write_configs
from sceneloom_export.settings import ExportSettings, TritonSettings
from sceneloom_serving import bundle
from sceneloom_serving.bundle import (
    FP8_FILE,
    FP16_FILE,
    GRAPH_FILE,
    INT8_FILE,
    VERSION,
    WEIGHTS,
    References,
)
from sceneloom_serving.choice import Known, Measured, fastest, known_of, measure_engines, remember
from sceneloom_serving.engines import ENGINES, engine_facts, package_version
from sceneloom_serving.parity import Parity, Precision
from sceneloom_training.checkpoint import Checkpoint, load_checkpoint
from sceneloom_training.networks import HalfGenerator, ServedGenerator, SynthesisNetwork

FORMAT = 1
_FILES = frozenset(
    {bundle.REPORT_FILE, bundle.GOLDEN_FILE, bundle.REFERENCES_FILE, MODEL_NAME}
    | {f"{MODEL_NAME}_{step}" for step in ("encoded", "decode", "encode")}  # of older versions
)
_MAX_OWN_MAPS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """The result of an export."""

    repository: Path
    contract: Contract
    engine: str
    """The engine that serves by default: the fastest on this machine that passed."""
    known: Known
    verdicts: list[PrecisionVerdict]
    measured: list[Measured]
    own_maps: OwnMaps | None

    @property
    def parity(self) -> Parity:
        """Parity of the engine that serves by default."""
        parity = next(m.parity for m in self.measured if m.engine == self.engine)
        assert parity is not None
        return parity


def export_bundle(
    checkpoint_folder: Path,
    repository: Path,
    settings: TritonSettings | None = None,
    *,
    sizes: tuple[tuple[int, int], ...] | None = None,
    largest: tuple[int, int] = (1024, 2048),
    export: ExportSettings | None = None,
) -> Exported:
    """Export a checkpoint bundle to a Triton repository. Nothing is written unless float32 passes,
    and only those of the other precisions that pass.

    `repository` replaces an export bundle and refuses anything else. `sizes` are (height, width)
    pairs to serve, or None for any multiple. `largest`, without `sizes`, is the (height, width) of
    the parity proof beside small maps, which prove little: the norms sum over the whole picture.

    Raises CheckpointError, InputError for unreadable maps, SizeError if `largest` is no multiple,
    GraphRuleError if the graph breaks an engine's rule, ParityError if a float32 engine differs
    from PyTorch, ExportError if the place is taken or cannot be written.
    """
    settings, export = settings or TritonSettings(), export or ExportSettings()
    precisions = export.precisions
    proves_fast = bool({"bf16", "int8", "fp8"} & set(precisions))

    with progress.stage("read the checkpoint"):
        checkpoint, contract = load_model(checkpoint_folder, sizes)
    generator = checkpoint.generator

    own_maps, own = None, list[Request]()
    if export.maps is not None:
        reader = MapReader(contract.schema, export, unknown=export.unknown)
        check_boundaries(export, contract)
        own_maps = proof.read_own_maps(contract, export.maps, _MAX_OWN_MAPS, reader)
        own = own_maps.requests
    check_sizes(contract, settings, largest, own)
    with progress.stage("draw the maps of the proof"):
        maps = proof.reference_maps(contract, largest, own, kinds=proves_fast)
    small = 0 if contract.sizes else len(proof.probe_sizes(contract))
    recognition = None
    if export.segmenter is not None:  # a damaged segmenter ends the export here
        if not proves_fast:
            raise ExportError("a segmenter checks bf16 and int8, and neither is requested")
        if contract.schema is None:
            raise ExportError("a segmenter compares with label maps, and this model takes pictures")
        with progress.stage("load the segmenter"):
            recognition = Recognition(export.segmenter, contract.schema, maps[-len(own) - 1 :])

    kind = "an export bundle"
    with replace_folder(
        repository, marker=bundle.REPORT_FILE, files=_FILES, kind=kind, error=ExportError
    ) as folder:
        copy_template(MODEL_NAME, folder)
        version = folder / VERSION
        references = proof.make_references(generator, contract, maps)
        bundle.save_references(references, folder)
        bundle.save_golden(proof.make_golden(generator, contract), folder)

        write_graphs(version, generator, contract, precisions, own)
        with progress.stage("check the graph"):
            graph = proof.check_graph(version / GRAPH_FILE, "fp32", references, small)

        verdicts = judge(version, generator, contract, references, small, precisions, recognition)
        # bfloat16 has no file of its own that could be missing.
        unproven = "not proven: sceneloom export --precision fast"
        left_out: dict[Precision, str] = {} if "bf16" in precisions else {"bf16": unproven}
        left_out |= {v.precision: v.reason for v in verdicts if v.reason is not None}

        batch = settings.max_batch_size
        measured = measure_engines(version, references, max_batch_size=batch, without=left_out)
        for one in measured:  # a float32 engine that differs is a broken graph, whatever others say
            if ENGINES[one.engine].precision == "fp32" and one.parity is not None and one.reason:
                raise ParityError(one.reason)

        engine = fastest(measured, export.served)
        known = known_of(engine, measured, version, left_out)

        proven = {
            "engine": engine,
            "maps": [f"{width}x{height}" for height, width in references.sizes],
            "graph": {"exported graph in ONNX Runtime": None if graph is None else graph.to_json()},
            "engines": {m.engine: m.to_json() for m in measured},
            "precisions": {v.precision: v.to_json() for v in verdicts},
            "left_out": left_out,
        }
        with progress.stage(f"write {repository}"):
            served = describe(
                folder, checkpoint, contract, settings, largest, engine, known, proven
            )

    remember(served.bundle_hash, measured, repository / VERSION, precision="exact")
    if proves_fast:
        remember(served.bundle_hash, measured, repository / VERSION, precision="fast")
    return Exported(
        repository=repository,
        contract=served,
        engine=engine,
        known=known,
        verdicts=verdicts,
        measured=measured,
        own_maps=own_maps,
    )


def load_model(
    folder: Path, sizes: tuple[tuple[int, int], ...] | None
) -> tuple[Checkpoint, Contract]:
    """Load a checkpoint that can be served, and its contract with the served sizes."""
    checkpoint = load_checkpoint(folder)
    outputs = checkpoint.generator.architecture.output_channels
    if outputs != 3:
        raise ExportError(f"{folder}: gives {counted(outputs, 'channel')}; pictures are RGB")
    return checkpoint, dataclasses.replace(checkpoint.contract, sizes=sizes)


def check_sizes(
    contract: Contract, settings: TritonSettings, largest: tuple[int, int], own: list[Request]
) -> None:
    """Refuse sizes outside the limits of the model or its server, before the work."""
    sizes = contract.sizes or ()
    if len(set(sizes)) < len(sizes):
        raise ExportError("the same size is named twice")
    for size in settings.warmup_sizes:
        contract.check_exact_size(*size)
    if not sizes and contract.network_size(*largest) != largest:
        height, width = contract.network_size(*largest)
        raise SizeError(
            f"largest is {largest[1]}x{largest[0]} (width x height); each side is a multiple of "
            f"{contract.size_multiple} for this model, the next is {width}x{height}"
        )
    proven = [] if sizes else [largest]
    proven += [request.size for request in own]
    for height, width in [*sizes, *proven, *settings.warmup_sizes, proof.golden_size(contract)]:
        if height * width > settings.max_pixels:
            raise ExportError(f"{width}x{height} is above max_pixels, {settings.max_pixels:,}")


def write_graphs(
    version: Path,
    generator: SynthesisNetwork,
    contract: Contract,
    precisions: Sequence[Precision],
    own: list[Request],
) -> None:
    """Write the graphs into a version's folder, with int8's ranges from own or else drawn maps."""
    graph, model = version / GRAPH_FILE, version / bundle.CPU_FILE
    with progress.stage(f"write {GRAPH_FILE}"):
        export_onnx(ServedGenerator(generator, contract).eval(), graph)
    norms = sum(isinstance(module, nn.InstanceNorm2d) for module in generator.modules())
    check_rules(onnx.load(graph, load_external_data=False), instance_norms=norms)
    write_accurate_norms(graph, model)
    if "fp16" in precisions:
        half = ServedGenerator(HalfGenerator(generator).eval(), contract).eval()
        with progress.stage(f"write {FP16_FILE}"):
            export_onnx(half, version / FP16_FILE, weights=WEIGHTS[FP16_FILE])
    if "fp8" in precisions:
        with progress.stage(f"write {FP8_FILE}"):
            write_fp8(version / FP16_FILE, version / FP8_FILE)
    if "int8" in precisions:
        with progress.stage(f"write {INT8_FILE}, with ranges from {proof.CALIBRATION_MAPS} maps"):
            quantise(model, version / INT8_FILE, proof.calibration_maps(contract, own))


def judge(
    version: Path,
    generator: SynthesisNetwork,
    contract: Contract,
    references: References,
    small: int,
    precisions: Sequence[Precision],
    recognition: Recognition | None,
) -> list[PrecisionVerdict]:
    """Judge every precision but float32, and remove the graph of each refused one. Raises
    ParityError if the half graph of a model that passes differs.
    """
    verdicts = [
        proof.judge_rounded(generator, contract, precision, references, recognition)
        for precision in precisions
        if precision in ("fp16", "bf16", "fp8")
    ]
    if "int8" in precisions:
        verdicts.append(proof.judge_quantised(version / INT8_FILE, references, recognition))
    for verdict in verdicts:
        file = {"fp16": FP16_FILE, "int8": INT8_FILE, "fp8": FP8_FILE}.get(verdict.precision)
        if file is not None and verdict.reason is not None:
            (version / file).unlink()
            (version / WEIGHTS[file]).unlink(missing_ok=True)  # small graphs hold their own
        elif verdict.precision == "fp16":
            proof.check_graph(version / FP16_FILE, "fp16", references, small)
    return verdicts


def describe(
    folder: Path,
    checkpoint: Checkpoint,
    contract: Contract,
    settings: TritonSettings,
    largest: tuple[int, int],
    engine: str,
    known: Known,
    proven: dict[str, Any],
) -> Contract:
    """Write the configurations and report.json. Returns the served contract."""
    version = folder / VERSION
    engines = sorted(path for path in version.iterdir() if path.suffix in (".onnx", ".bin"))
    hashes = {path.relative_to(folder).as_posix(): file_hash(path) for path in engines}
    bundle_hash = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
    served = dataclasses.replace(contract, bundle_hash=bundle_hash)
    words = {DIFFERENCE_PARAMETER: known.difference, FAST_PARAMETER: known.fast}
    write_configs(
        folder / MODEL_NAME, served, settings, largest=largest, engine=engine, known=words
    )
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path not in engines:
            hashes[path.relative_to(folder).as_posix()] = file_hash(path)
    packages = ("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy")
    report = {
        "format": FORMAT,
        "sceneloom": __version__,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "bundle_hash": bundle_hash,
        "sha256": hashes,
        "bytes": {path.relative_to(folder).as_posix(): path.stat().st_size for path in engines},
        "checkpoint": {"sha256": checkpoint.weights_hash, "provenance": checkpoint.provenance},
        "architecture": dataclasses.asdict(checkpoint.generator.architecture),
        "parameters": sum(p.numel() for p in checkpoint.generator.parameters()),
        "contract": served.to_json(),
        "serving": dataclasses.asdict(settings),
        "opset": OPSET,
        "proof": proven,
        "machine": engine_facts(),
        "versions": {
            "sceneloom": __version__,
            "python": platform.python_version(),
            **{name: found for name in packages if (found := package_version(name))},
        },
    }
    (folder / bundle.REPORT_FILE).write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return served
