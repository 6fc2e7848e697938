"""The checkpoint bundle: a folder with `model.safetensors`, `model.json` (architecture, contract,
provenance, SHA-256 of the weights) and, for a model with instance-wise style,
`encoder.safetensors`; docs/formats.md is the specification.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from sceneloom.contract import Contract
from sceneloom.errors import CheckpointError, SchemaError
from sceneloom.files import file_hash, replace_folder
from sceneloom.text import counted, one_line, parse_json, reason
from sceneloom.version import __version__
from sceneloom_training import networks
from sceneloom_training.networks import FeatureEncoder, SynthesisNetwork

WEIGHTS = "model.safetensors"
ENCODER_WEIGHTS = "encoder.safetensors"
DESCRIPTION = "model.json"
FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded bundle."""

    generator: SynthesisNetwork
    """float32, in eval mode, on the CPU."""
    contract: Contract
    encoder: FeatureEncoder | None
    """The feature encoder of its training, likewise, or None."""
    provenance: dict[str, Any]
    """Origin of the weights, as given to `save_checkpoint`."""
    weights_hash: str


def save_checkpoint(
    folder: Path,
    generator: SynthesisNetwork,
    contract: Contract,
    provenance: dict[str, Any],
    *,
    encoder: FeatureEncoder | None = None,
    half: bool = False,
) -> None:
    """Write a bundle, or replace one, in float16 if `half`. Raises CheckpointError."""
    files, kind = frozenset({DESCRIPTION, WEIGHTS, ENCODER_WEIGHTS}), "a checkpoint bundle"
    with replace_folder(
        folder, marker=DESCRIPTION, files=files, kind=kind, error=CheckpointError
    ) as fresh:
        written = {WEIGHTS: generator} | ({ENCODER_WEIGHTS: encoder} if encoder else {})
        for file, network in written.items():
            save_weights(network, fresh / file, half=half)
        description = {
            "format": FORMAT,
            "sceneloom": __version__,
            "architecture": dataclasses.asdict(generator.architecture),
            "contract": contract.to_json(),
            **({"encoder": encoder.settings} if encoder else {}),
            "provenance": provenance,
            "sha256": {file: file_hash(fresh / file) for file in written},
        }
        (fresh / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", "utf-8")


def save_weights(network: nn.Module, path: Path, *, half: bool = False) -> None:
    """Write a network's weights as safetensors, in float16 if `half`. Raises OSError."""
    weights = {
        name: (x.half() if half and x.is_floating_point() else x).cpu().contiguous()
        for name, x in network.state_dict().items()
    }
    try:
        safetensors.torch.save_file(weights, path)
    except SafetensorError as error:  # a full disk, too
        raise OSError(str(error)) from None


def load_checkpoint(folder: Path) -> Checkpoint:
    """Load a bundle. Raises CheckpointError if it is none, damaged, or of another hash."""
    source = str(folder / DESCRIPTION)
    try:
        description = parse_json((folder / DESCRIPTION).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(_not_a_bundle(folder, error)) from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise CheckpointError(f"{source}: not a checkpoint bundle of format {FORMAT}")
    try:
        files = dict(description["sha256"])
        architecture = networks.architecture_from_json(description["architecture"], source=source)
        contract_json, provenance = description["contract"], dict(description["provenance"])
        encoder_settings = dict(description.get("encoder") or {})
    except KeyError as error:
        raise CheckpointError(f"{source}: {error} is missing") from None
    except (TypeError, ValueError):
        raise CheckpointError(
            f"{source}: sha256, provenance or encoder is of the wrong kind; each is a JSON object"
        ) from None
    weights = _load_weights(folder, WEIGHTS, files)
    encoder = None
    try:
        if contract_json is None:  # a model of pictures, of a version that did not serve them
            contract = Contract(
                kind="picture",
                boundaries=False,
                size_multiple=architecture.size_multiple,
                smallest_side=architecture.smallest_side,
            )
        else:
            contract = Contract.from_json(contract_json, source=source)
        generator = networks.load_weights(architecture, weights)
        if encoder_settings:
            encoder = FeatureEncoder(**encoder_settings)
            encoder.load_state_dict(_load_weights(folder, ENCODER_WEIGHTS, files))
    except (SchemaError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"{folder}: weights and description do not fit ({one_line(str(error))})"
        ) from None
    if architecture.input_channels != contract.input_channels:
        raise CheckpointError(
            f"{source}: the contract has {counted(contract.input_channels, 'input channel')}, the "
            f"generator {architecture.input_channels}"
        )
    if architecture.size_multiple != contract.size_multiple:
        raise CheckpointError(
            f"{source}: the contract's size_multiple is not {architecture.size_multiple}"
        )
    if encoder and (features := encoder.settings["features"]) != contract.style_channels:
        raise CheckpointError(
            f"{source}: the encoder has {features} features, not {contract.style_channels}"
        )
    for name, tensor in generator.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{source}: the weights {name} hold values that are not finite")
    return Checkpoint(
        generator=generator.eval().requires_grad_(False),
        contract=contract,
        encoder=encoder.eval().requires_grad_(False) if encoder else None,
        provenance=provenance,
        weights_hash=str(files[WEIGHTS]),
    )


def _not_a_bundle(folder: Path, error: Exception) -> str:
    published = sorted(folder.glob("*net_G.pth")) if folder.is_dir() else []
    if folder.is_file() and folder.name in (WEIGHTS, ENCODER_WEIGHTS, DESCRIPTION):
        return f"{folder}: a part of a checkpoint bundle; name its folder, {folder.parent}"
    if folder.is_file() or published:
        file = folder if folder.is_file() else published[-1]
        return (
            f"{folder}: not a checkpoint bundle; a published generator is imported first: "
            f"sceneloom import {file} --labels NAME --out DIR, and DIR is the bundle"
        )
    if (folder / "report.json").is_file():
        return f"{folder}: the repository of an export; name the checkpoint bundle it was made from"
    fault = reason(error)
    if isinstance(error, FileNotFoundError):
        fault = f"it has no {DESCRIPTION}" if folder.is_dir() else "no such folder"
    inside = folder / "model"
    found = (inside / DESCRIPTION).is_file()
    near = f"did you mean {inside}?" if found else "name the folder of one, such as RUN/model"
    return f"{folder}: not a checkpoint bundle ({fault}); {near}"


def _load_weights(folder: Path, file: str, hashes: dict[str, Any]) -> dict[str, Tensor]:
    try:
        if hashes.get(file) != file_hash(folder / file):
            raise CheckpointError(
                f"{folder / file}: changed or damaged, its SHA-256 is not in {DESCRIPTION}"
            )
        weights = safetensors.torch.load_file(folder / file)
    except OSError as error:
        raise CheckpointError(
            f"{folder}: not a checkpoint bundle ({file}: {reason(error)})"
        ) from None
    except SafetensorError as error:
        raise CheckpointError(f"{folder / file}: not readable as weights ({error})") from None
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"{folder / file}: {name} is {tensor.dtype}, not a float")
    return weights


def load_tensors(path: Path) -> Any:
    """Load a file of `torch.save` on the CPU; nothing in it runs. Raises ValueError for a
    compressed file and for tensors that repeat its values (a few bytes would become gigabytes).
    torch, pickle and zip raise nearly anything on other files.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("its parts are compressed, which torch.save never does")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of pickle protocols that it then refuses
        found = torch.load(path, map_location="cpu", weights_only=True)
    pending, seen = [("", found)], set()
    while pending:
        name, value = pending.pop()
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.is_quantized:
                continue
            held = value.untyped_storage().nbytes() // value.element_size()
            if held < value.numel():
                raise ValueError(
                    f"{name!r} is {list(value.shape)} and only {held} of its values are in the "
                    "file; save tensor.contiguous() instead"
                )
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            parts = value.items() if isinstance(value, dict) else enumerate(value)
            pending += [(f"{name}.{key}" if name else str(key), part) for key, part in parts]
    return found
