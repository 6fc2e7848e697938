"""The export bundle on disk: its files, its maps and pictures, its verification, and the folder
that a server sees of it.

    DIR/report.json                 parity, sizes, versions, hashes
    DIR/golden.npz                  a map, and the block means of PyTorch's picture of it
    DIR/references.npz              maps, and PyTorch's pictures of them
    DIR/synthesis/config.pbtxt      with the contract in its parameters
    DIR/synthesis/configs/*.pbtxt   variants for production
    DIR/synthesis/1/model.py        shim over sceneloom_serving
    DIR/synthesis/1/model.onnx      the served graph, float32: the source of other engines
    DIR/synthesis/1/onnxruntime.onnx  the same with accurate norms, for engines on the CPU
    DIR/synthesis/1/weights.bin     the weights of both
    DIR/synthesis/1/fp16.onnx, weights-fp16.bin   in half, for engines on GPUs
    DIR/synthesis/1/int8.onnx, weights-int8.bin   quantised, if requested
    DIR/synthesis/1/fp8.onnx, weights-fp8.bin     in half with blocks in FP8, if requested by name
    DIR/synthesis/aoti/config.pbtxt   the model behind the variant `aoti`

Every file that a server reads decides what it runs: weights, configurations, the Python model and
TensorRT plans and packages of AOTInductor. `report.json` holds the SHA-256 of every exported file,
`model.plan.json` that of a plan built later, on the serving machine, `model.pt2.json` that of a
package. Needs NumPy, and for configurations tritonclient.

    sceneloom verify build/streets --variant tensorrt
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from sceneloom import contract
from sceneloom.contract import MODEL_NAME, Contract
from sceneloom.errors import PlanRefusedError, ServerStartError
from sceneloom.files import file_hash
from sceneloom.maps import Image
from sceneloom.request import Padding, Request, stack, tensors
from sceneloom.text import parse_json
from sceneloom_serving.plan_record import read_record, record_path

REPORT_FILE, GOLDEN_FILE, REFERENCES_FILE = "report.json", "golden.npz", "references.npz"
VERSION = f"{MODEL_NAME}/1"  # the folder of the files below
GRAPH_FILE, FP16_FILE = "model.onnx", "fp16.onnx"  # the served graph, and in half: for GPUs
FP8_FILE = "fp8.onnx"  # in half, with blocks in 8 bit floats: for TensorRT alone
CPU_FILE, INT8_FILE = "onnxruntime.onnx", "int8.onnx"  # with accurate norms: for CPUs
PLAN_FILE = "model.plan"
"""The TensorRT plan of `sceneloom engine`; Triton's tensorrt backend expects this name."""
PACKAGE_FILE = "model.pt2"
"""The package of `sceneloom engine --runtime aoti`; Triton's PyTorch backend expects this name."""
AOTI_MODEL = f"{MODEL_NAME}_aoti"
"""Triton's name of the model behind the variant `aoti`."""
AOTI_CONFIG = f"{MODEL_NAME}/aoti/config.pbtxt"
WEIGHTS = {
    GRAPH_FILE: "weights.bin",
    CPU_FILE: "weights.bin",
    FP16_FILE: "weights-fp16.bin",
    INT8_FILE: "weights-int8.bin",
    FP8_FILE: "weights-fp8.bin",
}
"""Graph -> file of its weights, beside it."""
BLOCK = 16  # side of a block of the golden picture, in pixels
Config = Any  # a `ModelConfig` of Triton's protobuf schema, which has no types
_NO_EXPORT = "; this is not a folder that sceneloom export wrote"
_INPUTS = {
    contract.INPUT_LABELS: "label_map",
    contract.INPUT_PICTURE: "source",
    contract.INPUT_INSTANCES: "instance_map",
    contract.INPUT_STYLE: "style",
}
"""Input -> its array in the files, where ``picture`` is the model's own."""
_PLAN_SUFFIXES = tuple(PurePosixPath(name).suffix for name in (PLAN_FILE, PACKAGE_FILE))
_HASH = re.compile(r"[0-9a-f]{64}")
_VARIANT = re.compile(r"[\w.-]+", re.ASCII)
_UNFINISHED = re.compile(r"\.[^/]*\.(plan|pt2)\..+|\.sceneloom-.+\.part")
"""Working folder, or part of a record, of a killed build. A server opens no such name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Golden:
    """A map, and the block means of its picture."""

    request: Request
    """The map at network size."""
    block_means: npt.NDArray[np.float32]
    """float32 [H // 16, W // 16, 3], grey levels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class References:
    """Maps and their pictures: the measure of engines without torch."""

    requests: list[Request]
    """The maps at network size, from small to large."""
    pictures: list[Image]
    """PyTorch's in float32: uint8 [1, H, W, 3] each."""

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """The (height, width) of each map."""
        return [request.size for request in self.requests]


def block_means(image: Image) -> npt.NDArray[np.float32]:
    """Mean of each whole 16x16 block: uint8 [H, W, 3] -> float32 [H // 16, W // 16, 3].

    A picture that is smaller than a block on one side has blocks of that side.
    """
    height, width = min(BLOCK, image.shape[0]), min(BLOCK, image.shape[1])
    rows, columns = image.shape[0] // height, image.shape[1] // width
    blocks = image[: rows * height, : columns * width].reshape(rows, height, columns, width, 3)
    means: npt.NDArray[np.float32] = blocks.mean(axis=(1, 3), dtype=np.float64).astype(np.float32)
    return means


def save_golden(golden: Golden, folder: Path) -> None:
    """Write `golden.npz` into an export bundle."""
    arrays = _arrays(golden.request)
    np.savez_compressed(folder / GOLDEN_FILE, **arrays, block_means=golden.block_means)


def load_golden(folder: Path) -> Golden:
    """Read `golden.npz` of a bundle; raises ServerStartError if it is missing or damaged."""
    path = folder / GOLDEN_FILE
    arrays = _load_arrays(path)
    means = arrays.pop("block_means", None)
    request = _request(arrays, "") if arrays.keys() <= {*_INPUTS.values()} else None
    if request is not None and means is not None and means.dtype == np.float32:
        expected = block_means(np.zeros((*request.size, 3), np.uint8))
        if means.shape == expected.shape:
            return Golden(request=request, block_means=means)
    raise ServerStartError(f"{path}: damaged (its arrays are not those that export writes)")


def save_references(references: References, folder: Path) -> None:
    """Write `references.npz` into an export bundle."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for number, request in enumerate(references.requests):
        named = {**_arrays(request), "picture": references.pictures[number]}
        arrays |= {f"{name}_{number}": array for name, array in named.items()}
    np.savez_compressed(folder / REFERENCES_FILE, **arrays)


def load_references(folder: Path) -> References:
    """Read `references.npz` of a bundle; raises ServerStartError if it is missing or damaged."""
    path = folder / REFERENCES_FILE
    arrays = _load_arrays(path)
    references = References(requests=[], pictures=[])
    for number in range(sum(name.startswith("picture_") for name in arrays)):
        request, picture = _request(arrays, f"_{number}"), arrays.get(f"picture_{number}")
        if request is None or picture is None or picture.dtype != np.uint8:
            break
        if picture.shape != (1, *request.size, 3):
            break
        references.requests.append(request)
        references.pictures.append(picture)
    else:
        if references.requests:
            return references
    raise ServerStartError(f"{path}: damaged (its arrays are not those that export writes)")


def _arrays(request: Request) -> dict[str, npt.NDArray[Any]]:
    batch = tensors(*stack([request]))
    return {_INPUTS[name]: array[0] for name, array in batch.items()}


def _load_arrays(path: Path) -> dict[str, Any]:
    with _reading(path, _NO_EXPORT), path.open("rb") as stream:
        try:
            with np.load(stream, allow_pickle=False) as data:
                return {name: data[name] for name in data.files}
        except OSError:
            raise
        except Exception as error:  # zip, zlib and header errors of a damaged file
            raise ServerStartError(f"{path}: damaged ({error})") from None


@contextlib.contextmanager
def _reading(path: Path, if_missing: str = "") -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ServerStartError(f"{path}: missing{if_missing}") from None
    except OSError as error:
        raise ServerStartError(f"{path}: cannot be read ({error.strerror or error})") from None


def _request(arrays: dict[str, Any], suffix: str) -> Request | None:
    """The request in arrays of a file, or None for other types or shapes than the network's."""
    labels, source, instances, style = (arrays.get(f"{n}{suffix}") for n in _INPUTS.values())
    main, channels = (labels, ()) if source is None else (source, (3,))
    if main is None or main.dtype != np.uint8 or not main.size:
        return None
    if main.ndim != 2 + len(channels) or main.shape[2:] != channels:
        return None
    if instances is not None and (instances.dtype != np.int32 or instances.shape != main.shape[:2]):
        return None
    if style is not None and (style.dtype != np.float32 or style.ndim != 2):
        return None
    return Request(label_map=main, instance_map=instances, style=style, padding=Padding())


def read_config(path: Path) -> Config:
    """Read a config.pbtxt as protobuf."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse(path.read_text("utf-8"), model_config_pb2.ModelConfig())


def write_config(config: Config, path: Path) -> None:
    """Write a config.pbtxt."""
    from google.protobuf import text_format

    path.parent.mkdir(exist_ok=True)
    path.write_text(text_format.MessageToString(config), "utf-8")


def read_report(repository: Path) -> dict[str, Any]:
    """Read `report.json` of a bundle; raises ServerStartError if it is missing or damaged."""
    path = repository / REPORT_FILE
    try:
        with _reading(path, _NO_EXPORT):
            _check_kind(path)
            data = parse_json(path.read_text("utf-8"))
    except ValueError as error:
        raise ServerStartError(f"{path}: damaged ({error})") from None
    if not isinstance(data, dict):
        raise ServerStartError(f"{path}: damaged (it is not a JSON object)")
    return data


def bundle_hash(repository: Path) -> str:
    """The hash of the export; raises ServerStartError without a readable report."""
    found = str(read_report(repository).get("bundle_hash"))
    if not _HASH.fullmatch(found):
        raise ServerStartError(f"{repository / REPORT_FILE}: damaged (its bundle_hash is no hash)")
    return found


def verify_repository(repository: Path, variant: str | None = None) -> int:
    """Check every file and plan against its hash, and a variant's files. Returns the files' count.

    Raises ServerStartError, or PlanRefusedError, with the first missing, unknown or changed file.
    """
    if not repository.is_dir():
        raise ServerStartError(f"{repository}: no such folder; sceneloom export writes one")
    report = repository / REPORT_FILE
    hashes = read_report(repository).get("sha256")
    if not isinstance(hashes, dict) or not all(
        (path := PurePosixPath(name)).parts
        and not path.is_absolute()
        and ".." not in path.parts
        and isinstance(recorded, str)
        and _HASH.fullmatch(recorded)
        for name, recorded in hashes.items()
    ):
        raise ServerStartError(f"{report}: damaged (its sha256 is not a table of files and hashes)")
    for name in (GOLDEN_FILE, f"{MODEL_NAME}/config.pbtxt"):
        if name not in hashes:
            raise ServerStartError(
                f"{report}: has no hash of {name}; an older version wrote it, export again"
            )
    _refuse_unknown(repository, hashes)
    for name, recorded in hashes.items():
        if _hash(repository / name) != recorded:
            raise ServerStartError(
                f"{repository / name}: is not the file that was exported (its SHA-256 is not the "
                f"one in {REPORT_FILE}); export again"
            )
    load_golden(repository)
    again = "build it again with sceneloom engine"
    files = sorted((repository / MODEL_NAME).glob("*/*"))
    plans = [path for path in files if path.suffix in _PLAN_SUFFIXES]
    for plan in plans:
        record = read_record(plan)
        if record.plan_sha256 != _hash(plan):
            raise PlanRefusedError(f"{plan}: is not the plan of {record_path(plan).name}; {again}")
        sources = {v for v in record.graph.values() if isinstance(v, str) and _HASH.fullmatch(v)}
        if not sources or not sources <= set(hashes.values()):
            raise PlanRefusedError(f"{plan}: was built from a graph of another export; {again}")
    if variant is not None:
        _check_variant(repository, variant, hashes)
    return len(hashes) + len(plans)


def _hash(path: Path) -> str:
    with _reading(path):
        _check_kind(path)
        return file_hash(path)


def _check_kind(path: Path) -> None:
    """Refuse a pipe, a device or a folder: reading one may never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ServerStartError(f"{path}: is not a regular file; export again")


def _refuse_unknown(repository: Path, hashes: Mapping[str, str]) -> None:
    """Refuse foreign files. In a model's folder any is: Python imports files beside model.py, and
    Triton prefers a stub and shared libraries. Elsewhere those are that make a folder a model.
    """
    files = {PurePosixPath(name).parts for name in hashes}
    known = {parts[:depth] for parts in files for depth in range(1, len(parts) + 1)}
    models = {parts[0] for parts in files if len(parts) > 1}

    def belongs_to_a_plan(path: Path, model: str) -> bool:
        if model != MODEL_NAME or not path.parent.name.isdecimal():
            return False
        plan = path.with_suffix("")
        is_record = path.suffix == ".json" and plan.suffix in _PLAN_SUFFIXES and plan.is_file()
        return path.suffix in _PLAN_SUFFIXES or is_record

    for folder in sorted(path for path in repository.iterdir() if path.is_dir()):
        is_model = folder.name in models
        for path in _entries(folder) if is_model else folder.iterdir():
            if not is_model:
                foreign = path.name == "config.pbtxt" or path.name.isdecimal()
            elif path.is_symlink() and path.is_dir():
                raise ServerStartError(
                    f"{path}: is a link to a folder, which a server would follow; remove it"
                )
            else:
                foreign = path.relative_to(repository).parts not in known
                foreign &= not belongs_to_a_plan(path, folder.name)
            if foreign:
                raise ServerStartError(
                    f"{path}: was not exported, and a server may load it; remove it or move it "
                    "elsewhere"
                )
            if is_model and path.exists() and not path.is_dir():
                _check_kind(path)


def _entries(folder: Path) -> Iterator[Path]:
    """Content of a folder, to the bottom, each folder before its content."""
    for path in sorted(folder.iterdir()):
        if not _UNFINISHED.fullmatch(path.name):
            yield path
            if path.is_dir():
                yield from _entries(path)


def _check_variant(repository: Path, variant: str, hashes: Mapping[str, str]) -> None:
    """Check a configuration and its file: without it, a server takes config.pbtxt silently. A plan
    must have the variant's precision, and an optimisation profile for each of its sizes, in their
    order.
    """
    name = f"{MODEL_NAME}/configs/{variant}.pbtxt"
    if not _VARIANT.fullmatch(variant) or name not in hashes:
        folder = f"{MODEL_NAME}/configs/"
        there = [PurePosixPath(file).stem for file in hashes if file.startswith(folder)]
        raise ServerStartError(
            f"{repository}: has no variant {variant!r}; it has {', '.join(sorted(there))}"
        )
    config = read_config(repository / name)
    is_aoti = config.platform == "ensemble"
    loaded = read_config(repository / AOTI_CONFIG) if is_aoti else config
    file = repository / VERSION / (loaded.default_model_filename or "model.py")
    build = f"sceneloom engine{' --runtime aoti' if is_aoti else ''}"
    if not file.is_file():
        hint = f"; {build} builds it" if file.suffix in _PLAN_SUFFIXES else ""
        raise ServerStartError(f"{file}: missing, and variant {variant!r} loads it{hint}")
    if file.suffix not in _PLAN_SUFFIXES:
        return
    record = read_record(file)
    engine = config.parameters[contract.ENGINE_PARAMETER].string_value
    if engine and (wanted := contract.precision_of(engine)) != record.precision:
        raise PlanRefusedError(
            f"{file}: is of {record.precision}, and variant {variant!r} says {engine}: build it "
            f"with {build} --precision {wanted}, or export again with --precision "
            f"{'exact' if record.precision == 'fp16' else record.precision}"
        )
    text = config.parameters[contract.PARAMETER].string_value
    sizes = Contract.loads(text, source=variant).sizes or ()
    profiles, batch = record.profiles, config.max_batch_size
    if is_aoti:
        if not record.machine.gpu:
            raise PlanRefusedError(f"{file}: is for a CPU, and variant {variant!r} runs on a GPU")
        if not all(profiles[0].takes(batch, *size) for size in sizes):
            raise PlanRefusedError(
                f"{file}: is for {profiles[0]}, and variant {variant!r} needs another size: "
                f"{build} --profiles {sizes[0][1]}x{sizes[0][0]}"
            )
        return
    for index, size in zip(map(int, config.instance_group[0].profile), sizes, strict=True):
        if index >= len(profiles) or not profiles[index].takes(batch, *size):
            flags = [f"{width}x{height}" for height, width in sizes]
            flags += [f"1:{batch}:{batch}@{flag}" for flag in flags] if batch > 1 else []
            raise PlanRefusedError(
                f"{file}: its optimisation profiles are {', '.join(map(str, profiles))}, and "
                f"variant {variant!r} needs others: sceneloom engine --profiles {' '.join(flags)}"
            )


def check_files(repository: Path) -> None:
    """Check the files that a server loads: Triton waits for ever for a missing model.py."""
    for name in ("config.pbtxt", "1/model.py", f"1/{CPU_FILE}", f"1/{WEIGHTS[CPU_FILE]}"):
        path = repository / MODEL_NAME / name
        with _reading(path), path.open("rb"):
            pass


def lay_out(repository: Path, folder: Path, *, parameters: Mapping[str, str]) -> None:
    """Make the folder that the embedded server sees: the model under a plain name only.
    `parameters` replace those of its configuration.
    """
    # Each file alone: Triton's Python backend writes bytecode beside model.py, which would stay in
    # the bundle, and runs bytecode that lies there.
    (folder / MODEL_NAME / "1").mkdir(parents=True)
    source = (repository / MODEL_NAME).resolve()
    for name in ("config.pbtxt", *(f"1/{file.name}" for file in (source / "1").iterdir())):
        if (source / name).is_file() and not name.endswith(".pyc"):
            (folder / MODEL_NAME / name).symlink_to(source / name)
    if parameters:
        path = folder / MODEL_NAME / "config.pbtxt"
        config = read_config(path)
        for key, value in parameters.items():
            config.parameters[key].string_value = value
        path.unlink()  # the link, not the bundle's file
        write_config(config, path)
