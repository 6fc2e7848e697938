"""Verification: whether a repository still is what export wrote, before a server loads it.

Everything that a server reads decides what it runs: weights, configurations, the Python model, and
TensorRT plans, which are executable code. `report.json` holds the SHA-256 of every file that export
wrote; a plan, which is built later on the machine that serves it, has its own beside it, in
`model.plan.json`. Light: it needs the base install only, and runs inside NVIDIA's images.

    sceneloom verify build/streets --variant tensorrt
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from sceneloom.contract import (
    ENGINE_PARAMETER,
    MODEL_NAME,
    PARAMETER,
    Contract,
    precision_of,
)
from sceneloom.errors import PlanRefusedError, ServerStartError
from sceneloom.files import file_hash
from sceneloom.text import parse_json
from sceneloom_serving.golden import GOLDEN_FILE, load_golden
from sceneloom_serving.plan_record import read_record, record_path

REPORT_FILE = "report.json"
PLAN_SUFFIX = ".plan"
_HASH = re.compile(r"[0-9a-f]{64}")
_VARIANT = re.compile(r"[\w.-]+", re.ASCII)
_UNFINISHED = re.compile(r"\.[^/]*\.plan\..+")
"""What a build of a plan works in, and leaves where it is killed. A server opens no such name."""


def verify_repository(repository: Path, variant: str | None = None) -> int:
    """Check every file of an export bundle against its recorded hash.

    Args:
        repository: an export bundle, as `sceneloom export` writes it, and perhaps with plans that
            `sceneloom engine` has built since.
        variant: name of a configuration in `synthesis/configs/` that is to be served; the file it
            loads must be there too.

    Returns:
        how many files were hashed.

    Raises:
        ServerStartError: one sentence that names the first file that is missing, unknown or
            changed.
        PlanRefusedError: the same for a plan.
    """
    if not repository.is_dir():
        raise ServerStartError(f"{repository}: no such folder; sceneloom export writes one")
    hashes = _recorded_hashes(repository)
    _refuse_unknown(repository, hashes)
    for name, recorded in hashes.items():
        if _hash(repository / name) != recorded:
            raise ServerStartError(
                f"{repository / name}: is not the file that was exported (its SHA-256 is not the "
                f"one in {REPORT_FILE}); export again"
            )
    load_golden(repository)
    plans = sorted((repository / MODEL_NAME).glob(f"*/*{PLAN_SUFFIX}"))
    for plan in plans:
        _check_plan(plan, hashes)
    if variant is not None:
        _check_variant(repository, variant, hashes)
    return len(hashes) + len(plans)


def bundle_hash(repository: Path) -> str:
    """The hash by which a served model's contract names the export it belongs to.

    Raises:
        ServerStartError: there is no readable report.
    """
    path = repository / REPORT_FILE
    found = str(_read_object(path).get("bundle_hash"))
    if not _HASH.fullmatch(found):
        raise ServerStartError(f"{path}: damaged (its bundle_hash is no hash)")
    return found


def _recorded_hashes(repository: Path) -> dict[str, str]:
    path = repository / REPORT_FILE
    hashes = _read_object(path).get("sha256")
    if not isinstance(hashes, dict) or not all(map(_is_entry, hashes.items())):
        raise ServerStartError(f"{path}: damaged (its sha256 is not a table of files and hashes)")
    for name in (GOLDEN_FILE, f"{MODEL_NAME}/config.pbtxt"):
        if name not in hashes:
            raise ServerStartError(
                f"{path}: has no hash of {name}; an older version wrote it, export again"
            )
    return hashes


def _read_object(path: Path) -> dict[str, Any]:
    try:
        _check_kind(path)
        data = parse_json(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ServerStartError(
            f"{path}: missing; {path.parent} is not a folder that sceneloom export wrote"
        ) from None
    except OSError as error:
        raise ServerStartError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise ServerStartError(f"{path}: damaged ({error})") from None
    if not isinstance(data, dict):
        raise ServerStartError(f"{path}: damaged (it is not a JSON object)")
    return data


def _is_entry(entry: tuple[str, Any]) -> bool:
    name, recorded = entry
    path = PurePosixPath(name)
    inside = bool(path.parts) and not path.is_absolute() and ".." not in path.parts
    return inside and isinstance(recorded, str) and _HASH.fullmatch(recorded) is not None


def _hash(path: Path) -> str:
    try:
        _check_kind(path)
        return file_hash(path)
    except FileNotFoundError:
        raise ServerStartError(f"{path}: missing") from None
    except OSError as error:
        raise ServerStartError(f"{path}: cannot be read ({error.strerror or error})") from None


def _check_kind(path: Path) -> None:
    """Refuse a pipe, a device or a folder: reading one may never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ServerStartError(f"{path}: is not a regular file; export again")


def _refuse_unknown(repository: Path, hashes: Mapping[str, str]) -> None:
    """Refuse what export did not write: in a model's folder everything, because Python imports what
    lies beside model.py, bytecode included, and Triton prefers a stub and shared libraries that lie
    there; elsewhere what makes a folder a model.
    """
    files = {PurePosixPath(name).parts for name in hashes}
    known = {parts[:depth] for parts in files for depth in range(1, len(parts) + 1)}
    models = {parts[0] for parts in files if len(parts) > 1}
    for folder in sorted(path for path in repository.iterdir() if path.is_dir()):
        if folder.name not in models:
            for path in folder.iterdir():
                if path.name == "config.pbtxt" or path.name.isdecimal():
                    raise _unknown(path)
            continue
        for path in _entries(folder):
            parts = path.relative_to(repository).parts
            if path.is_symlink() and path.is_dir():
                raise ServerStartError(
                    f"{path}: is a link to a folder, which a server would follow; remove it"
                )
            if parts not in known and not _belongs_to_a_plan(path, folder.name):
                raise _unknown(path)
            if path.exists() and not path.is_dir():
                _check_kind(path)


def _entries(folder: Path) -> Iterator[Path]:
    """What is in a folder, to the bottom; each folder comes before what is in it."""
    for path in sorted(folder.iterdir()):
        if not _UNFINISHED.fullmatch(path.name):
            yield path
            if path.is_dir():
                yield from _entries(path)


def _belongs_to_a_plan(path: Path, model: str) -> bool:
    if model != MODEL_NAME or not path.parent.name.isdecimal():
        return False
    if path.suffix == PLAN_SUFFIX:
        return True
    plan = path.with_suffix("")
    return path.suffix == ".json" and plan.suffix == PLAN_SUFFIX and plan.is_file()


def _unknown(path: Path) -> ServerStartError:
    return ServerStartError(
        f"{path}: was not exported, and a server may load it; remove it or move it elsewhere"
    )


def _check_plan(plan: Path, hashes: Mapping[str, str]) -> None:
    record = read_record(plan)
    if record.plan_sha256 != _hash(plan):
        raise PlanRefusedError(
            f"{plan}: is not the plan that {record_path(plan).name} describes; build it again with "
            "sceneloom engine"
        )
    sources = _hashes_in(record.graph)
    if not sources or not sources <= set(hashes.values()):
        raise PlanRefusedError(
            f"{plan}: was built from another graph than those of this export; build it again with "
            "sceneloom engine"
        )


def _hashes_in(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set().union(*map(_hashes_in, value.values()))
    return {value} if isinstance(value, str) and _HASH.fullmatch(value) else set()


def _check_variant(repository: Path, variant: str, hashes: Mapping[str, str]) -> None:
    """A server that does not find the configuration silently takes config.pbtxt instead."""
    name = f"{MODEL_NAME}/configs/{variant}.pbtxt"
    if not _VARIANT.fullmatch(variant) or name not in hashes:
        folder = f"{MODEL_NAME}/configs/"
        there = [PurePosixPath(file).stem for file in hashes if file.startswith(folder)]
        raise ServerStartError(
            f"{repository}: has no variant {variant!r}; it has {', '.join(sorted(there))}"
        )
    config = text_format.Parse(
        (repository / name).read_text("utf-8"), model_config_pb2.ModelConfig()
    )
    file = repository / MODEL_NAME / "1" / (config.default_model_filename or "model.py")
    if not file.is_file():
        hint = "; sceneloom engine builds it" if file.suffix == PLAN_SUFFIX else ""
        raise ServerStartError(f"{file}: missing, and variant {variant!r} loads it{hint}")
    if file.suffix == PLAN_SUFFIX:
        _check_plan_of_variant(file, config, variant)


def _check_plan_of_variant(plan: Path, config: Any, variant: str) -> None:
    """A plan must be of its variant's precision, so that its pictures are called what they are. The
    variant's optimisation profiles, one for each of its sizes in their order, must be in it and
    take its batches.
    """
    record = read_record(plan)
    profiles = record.profiles
    engine = config.parameters[ENGINE_PARAMETER].string_value
    if engine and precision_of(engine) != record.precision:
        raise PlanRefusedError(
            f"{plan}: is of {record.precision}, and variant {variant!r} says {engine}: build it "
            f"with sceneloom engine --precision {precision_of(engine)}, or export again with "
            f"--precision {'exact' if record.precision == 'fp16' else record.precision}"
        )
    contract = Contract.loads(config.parameters[PARAMETER].string_value, source=variant)
    sizes = contract.sizes or ()
    for index, size in zip(config.instance_group[0].profile, sizes, strict=True):
        number = int(index)
        if number >= len(profiles) or not profiles[number].takes(config.max_batch_size, *size):
            single = [f"{width}x{height}" for height, width in sizes]
            batches = [f"1:{config.max_batch_size}:{config.max_batch_size}@{s}" for s in single]
            wanted = single if config.max_batch_size == 1 else single + batches
            raise PlanRefusedError(
                f"{plan}: its optimisation profiles are {', '.join(map(str, profiles))}, and "
                f"variant {variant!r} needs others: sceneloom engine --profiles {' '.join(wanted)}"
            )
