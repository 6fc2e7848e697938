"""Export: from a checkpoint bundle to a Triton model repository that is served as it is, with the
report of how it was proven. `sceneloom_serving.bundle` describes its files.

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
from collections.abc import Sequence
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
from sceneloom_export.graph import OPSET, check_rules, export_onnx
from sceneloom_export.norms import write_accurate_norms
from sceneloom_export.precision import Recognition, quantise
from sceneloom_export.proof import (
    Judged,
    OwnMaps,
    calibration_maps,
    check_graph,
    draw_probe,
    golden_size,
    judge_quantised,
    judge_rounded,
    make_references,
    probe_sizes,
    read_own_maps,
    reference_maps,
)
from sceneloom_export.repository import write_configs, write_encoded_models
from sceneloom_export.settings import ExportSettings, ServingSettings
from sceneloom_serving import templates
from sceneloom_serving.bundle import (
    FP16_FILE,
    GOLDEN_FILE,
    GRAPH_FILE,
    INT8_FILE,
    MODEL_FILE,
    REFERENCES_FILE,
    REPORT_FILE,
    VERSION,
    WEIGHTS,
    References,
    save_golden,
    save_references,
)
from sceneloom_serving.choice import Known, Measured, fastest, known_of, measure_engines, remember
from sceneloom_serving.engines import ENGINES, engine_machine
from sceneloom_serving.parity import (
    Parity,
    Precision,
    PrecisionClass,
    make_golden,
)
from sceneloom_training.checkpoint import Checkpoint, load_checkpoint
from sceneloom_training.networks import HalfGenerator, ServedGenerator, SynthesisNetwork
from sceneloom_training.torch_synthesizer import TorchSynthesizer

FORMAT = 1
GOLDEN_CLASSES = 16
"""Most classes of the golden map: as many as streets have, so that it runs what they run."""
_FILES = frozenset({REPORT_FILE, GOLDEN_FILE, REFERENCES_FILE, MODEL_NAME, *ENCODED_MODELS})
_MOST_OWN_MAPS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export wrote."""

    repository: Path
    """The bundle."""
    contract: Contract
    """As it is served, with sizes and the bundle's hash."""
    engine: str
    """The engine that serves by default: of those that passed the fastest on this machine."""
    known: Known
    """What is known of it, in words."""
    judged: list[Judged]
    """The precisions other than float32."""
    measured: list[Measured]
    """Every engine, as it did on this machine."""
    own_maps: OwnMaps | None
    """The user's maps that it was proven on."""

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
    settings, export = settings or ServingSettings(), export or ExportSettings()
    precisions = export.precisions
    proves_fast = bool({"bf16", "int8"} & set(precisions))

    checkpoint, contract = load_model(checkpoint_folder, sizes)
    generator = checkpoint.generator
    own_maps = None
    if export.maps is not None:
        own_maps = read_own_maps(contract, export.maps, _MOST_OWN_MAPS, unknown=export.unknown)
    own = [] if own_maps is None else own_maps.requests
    check_sizes(contract, settings, largest, own)

    maps = reference_maps(contract, largest, own, kinds=proves_fast)
    golden = draw_probe(contract, *golden_size(contract), seed=1000, classes=GOLDEN_CLASSES)
    small = 0 if contract.sizes else len(probe_sizes(contract))
    recognition = None
    if export.segmenter is not None:  # one that cannot be loaded ends the export here
        if not proves_fast:
            raise ExportError(
                "a segmenter looks at bf16 and int8, and neither is among the precisions"
            )
        recognition = Recognition(export.segmenter, contract.schema, maps[-len(own) - 1 :])

    with replace_folder(
        repository, marker=REPORT_FILE, files=_FILES, kind="an export bundle", error=ExportError
    ) as folder:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(templates() / MODEL_NAME, folder / MODEL_NAME, ignore=ignore)
        version = folder / VERSION
        references = make_references(generator, contract, maps)
        save_references(references, folder)
        save_golden(make_golden(TorchSynthesizer(generator, contract), golden), folder)

        write_graphs(version, generator, contract, precisions, own)
        graph = check_graph(version / GRAPH_FILE, "fp32", references, small)

        judged = judge(version, generator, contract, references, small, precisions, recognition)
        # bfloat16 has no file of its own that could be missing.
        unproven = "not proven: sceneloom export --precision fast"
        left_out: dict[Precision, str] = {} if "bf16" in precisions else {"bf16": unproven}
        left_out |= {j.precision: j.reason for j in judged if j.reason is not None}

        batch = settings.max_batch_size
        measured = measure_engines(version, references, max_batch_size=batch, without=left_out)
        for one in measured:  # a float32 engine that differs is a broken graph, whatever others say
            if ENGINES[one.engine].precision == "fp32" and one.parity is not None and one.reason:
                raise ParityError(one.reason)

        engine = fastest(measured, export.served)
        known = known_of(engine, measured, version, left_out)

        proof = {
            "engine": engine,
            "maps": [f"{width}x{height}" for height, width in references.sizes],
            "graph": {"exported graph in ONNX Runtime": None if graph is None else graph.to_json()},
            "engines": {m.engine: m.to_json() for m in measured},
            "precisions": {j.precision: j.to_json() for j in judged},
            "left_out": left_out,
        }
        served = describe(folder, checkpoint, contract, settings, largest, engine, known, proof)

    classes: tuple[PrecisionClass, ...] = ("exact", "fast") if proves_fast else ("exact",)
    for kind in classes:
        remember(served.bundle_hash, measured, repository / VERSION, precision=kind)
    return Exported(
        repository=repository,
        contract=served,
        engine=engine,
        known=known,
        judged=judged,
        measured=measured,
        own_maps=own_maps,
    )


def load_model(
    folder: Path, sizes: tuple[tuple[int, int], ...] | None
) -> tuple[Checkpoint, Contract]:
    """Load a checkpoint that can be served, and its contract with the sizes it is served at."""
    checkpoint = load_checkpoint(folder)
    if checkpoint.contract is None:
        raise ExportError(
            f"{folder}: turns pictures into pictures (label count 0); such a model can be trained "
            "and evaluated, not served"
        )
    outputs = checkpoint.generator.architecture.output_channels
    if outputs != 3:
        raise ExportError(f"{folder}: gives {counted(outputs, 'channel')}; pictures are RGB")
    return checkpoint, dataclasses.replace(checkpoint.contract, sizes=sizes)


def check_sizes(
    contract: Contract, settings: ServingSettings, largest: tuple[int, int], own: list[Request]
) -> None:
    """Refuse sizes that the model or its server does not take, before the work."""
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
    proven += [(m.label_map.shape[0], m.label_map.shape[1]) for m in own]
    for height, width in [*sizes, *proven, *settings.warmup_sizes, golden_size(contract)]:
        if height * width > settings.max_pixels:
            raise ExportError(f"{width}x{height} is above max_pixels, {settings.max_pixels:,}")


def write_graphs(
    version: Path,
    generator: SynthesisNetwork,
    contract: Contract,
    precisions: Sequence[Precision],
    own: list[Request],
) -> None:
    """Write the graphs: float32, the same with accurate norms, half, and int8.

    Args:
        version: a version's folder.
        generator: float32.
        contract: goes into the graphs.
        precisions: half and int8 are written where they are among them.
        own: the user's maps; ranges of int8 are found on them, or else on drawn ones.
    """
    graph = version / GRAPH_FILE
    export_onnx(ServedGenerator(generator, contract).eval(), graph)
    norms = sum(isinstance(module, nn.InstanceNorm2d) for module in generator.modules())
    check_rules(onnx.load(graph, load_external_data=False), instance_norms=norms)
    write_accurate_norms(graph, version / MODEL_FILE)
    if "fp16" in precisions:
        half = ServedGenerator(HalfGenerator(generator).eval(), contract).eval()
        export_onnx(half, version / FP16_FILE, weights=WEIGHTS[FP16_FILE])
    if "int8" in precisions:
        quantise(version / MODEL_FILE, version / INT8_FILE, calibration_maps(contract, own))


def judge(
    version: Path,
    generator: SynthesisNetwork,
    contract: Contract,
    references: References,
    small: int,
    precisions: Sequence[Precision],
    recognition: Recognition | None,
) -> list[Judged]:
    """Judge every precision but float32, and remove the graph of each that is refused.

    Args:
        version: a version's folder with the graphs.
        generator: float32.
        contract: of the model.
        references: maps, and the pictures they must give.
        small: how many of them are small; the half graph itself is proven on those.
        precisions: what is judged.
        recognition: a segmenter that looks at bf16 and int8 too.

    Raises:
        ParityError: the half graph differs from a model that passes in half.
    """
    judged = [
        judge_rounded(generator, contract, precision, references, recognition)
        for precision in precisions
        if precision in ("fp16", "bf16")
    ]
    if "int8" in precisions:
        judged.append(judge_quantised(version / INT8_FILE, references, recognition))
    for one in judged:
        file = {"fp16": FP16_FILE, "int8": INT8_FILE}.get(one.precision)
        if file is not None and one.reason is not None:
            (version / file).unlink()
            (version / WEIGHTS[file]).unlink(missing_ok=True)  # small graphs hold their own
        elif one.precision == "fp16":
            check_graph(version / FP16_FILE, "fp16", references, small)
    return judged


def describe(
    folder: Path,
    checkpoint: Checkpoint,
    contract: Contract,
    settings: ServingSettings,
    largest: tuple[int, int],
    engine: str,
    known: Known,
    proof: dict[str, Any],
) -> Contract:
    """Write the configurations and report.json; the contract as it is served."""
    version = folder / VERSION
    engines = sorted(path for path in version.iterdir() if path.suffix in (".onnx", ".bin"))
    hashes = {path.relative_to(folder).as_posix(): file_hash(path) for path in engines}
    bundle_hash = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
    served = dataclasses.replace(contract, bundle_hash=bundle_hash)
    words = {DIFFERENCE_PARAMETER: known.difference, FAST_PARAMETER: known.fast}
    write_configs(
        folder / MODEL_NAME, served, settings, largest=largest, engine=engine, known=words
    )
    write_encoded_models(folder, settings)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path not in engines:
            hashes[path.relative_to(folder).as_posix()] = file_hash(path)
    packages = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")
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
        "proof": proof,
        "machine": engine_machine(),
        "versions": {
            "sceneloom": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
    }
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return served
