"""The checkpoint bundle: a folder with `model.safetensors` and `model.json`, and with
`encoder.safetensors` for a model with instance-wise style.

`model.json` holds the architecture, the contract, where the weights come from, and the SHA-256 of
the weights files; docs/formats.md is the specification. A bundle is written beside its place and
renamed into it, so that a reader never sees half of one.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from sceneloom import __version__
from sceneloom.artefacts import file_hash, replace_folder
from sceneloom.contract import Contract
from sceneloom.errors import CheckpointError, SchemaError
from sceneloom.json_text import parse_json
from sceneloom.text import counted, one_line
from sceneloom_training.networks import (
    Architecture,
    FeatureEncoder,
    SynthesisNetwork,
    architecture_from_json,
    load_weights,
)

WEIGHTS = "model.safetensors"
ENCODER_WEIGHTS = "encoder.safetensors"
DESCRIPTION = "model.json"
FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded bundle."""

    generator: SynthesisNetwork
    """With the bundle's weights, float32, in eval mode, on the CPU."""
    contract: Contract | None
    """What the model takes and gives; None where it takes pictures instead of label maps: such a
    model is trained and evaluated, not served.
    """
    encoder: FeatureEncoder | None
    """The feature encoder it was trained with, likewise, or None."""
    provenance: dict[str, Any]
    """Where the weights come from, as it was given when the bundle was written."""
    weights_hash: str
    """SHA-256 of `model.safetensors`, hexadecimal."""


def save_checkpoint(
    folder: Path,
    generator: SynthesisNetwork,
    contract: Contract | None,
    provenance: dict[str, Any],
    *,
    encoder: FeatureEncoder | None = None,
    half: bool = False,
) -> None:
    """Write a bundle; an existing bundle in its place is replaced, anything else there is refused.

    Args:
        folder: the bundle's folder.
        generator: its weights are written as they are.
        contract: what the model takes and gives; None for a model that takes pictures.
        provenance: where the weights come from: anything JSON can hold.
        encoder: the feature encoder of a model with style.
        half: write float16, in half the space; it is loaded as float32.

    Raises:
        CheckpointError: `folder` exists and is no bundle, or it cannot be written.
    """
    with replace_folder(
        folder,
        marker=DESCRIPTION,
        files=frozenset({DESCRIPTION, WEIGHTS, ENCODER_WEIGHTS}),
        kind="a checkpoint bundle",
        error=CheckpointError,
    ) as fresh:
        networks = {WEIGHTS: generator} | ({ENCODER_WEIGHTS: encoder} if encoder else {})
        for file, network in networks.items():
            _save_weights(network, fresh / file, half=half)
        description = {
            "format": FORMAT,
            "sceneloom": __version__,
            "architecture": generator.architecture.to_json(),
            "contract": contract.to_json() if contract else None,
            **({"encoder": encoder.settings} if encoder else {}),
            "provenance": provenance,
            "sha256": {file: file_hash(fresh / file) for file in networks},
        }
        (fresh / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", "utf-8")


def _save_weights(network: nn.Module, path: Path, *, half: bool) -> None:
    weights = {
        name: (tensor.half() if half and tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in network.state_dict().items()
    }
    try:
        safetensors.torch.save_file(weights, path)
    except SafetensorError as error:  # its writer has errors of its own for a full disk
        raise OSError(str(error)) from None


def load_checkpoint(folder: Path) -> Checkpoint:
    """Load a bundle and check its weights against the recorded hash.

    Raises:
        CheckpointError: not a bundle, a file is damaged, or the weights are not those that were
            saved.
    """
    source = str(folder / DESCRIPTION)
    description = _read_description(folder)
    try:
        files = dict(description["sha256"])
        architecture = architecture_from_json(description["architecture"], source=source)
        contract_json, provenance = description["contract"], dict(description["provenance"])
        encoder_json = description.get("encoder")
        encoder_settings = None if encoder_json is None else dict(encoder_json)
    except KeyError as error:
        raise CheckpointError(f"{source}: {error} is missing") from None
    except (TypeError, ValueError):
        raise CheckpointError(
            f"{source}: sha256, provenance or encoder is of the wrong kind; each is a JSON object"
        ) from None
    weights = _load_weights(folder, WEIGHTS, files)
    try:
        contract = (
            None if contract_json is None else Contract.from_json(contract_json, source=source)
        )
        generator = load_weights(architecture, weights)
        encoder = None
        if encoder_settings is not None:
            encoder = FeatureEncoder(**encoder_settings)
            encoder.load_state_dict(_load_weights(folder, ENCODER_WEIGHTS, files))
    except (SchemaError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"{folder}: weights and description do not fit ({one_line(str(error))})"
        ) from None
    _check_fit(generator, contract, encoder, source)
    return Checkpoint(
        generator=generator.eval().requires_grad_(False),
        contract=contract,
        encoder=encoder.eval().requires_grad_(False) if encoder else None,
        provenance=provenance,
        weights_hash=str(files[WEIGHTS]),
    )


def _read_description(folder: Path) -> dict[str, Any]:
    try:
        description = parse_json((folder / DESCRIPTION).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(_not_a_bundle(folder, error)) from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise CheckpointError(f"{folder / DESCRIPTION}: not a checkpoint bundle of format {FORMAT}")
    return description


def _not_a_bundle(folder: Path, error: Exception) -> str:
    """The sentence for anything else than a bundle, with what to do instead."""
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
    inside = folder / "model"
    near = f"; did you mean {inside}?" if (inside / DESCRIPTION).is_file() else ""
    return f"{folder}: not a checkpoint bundle ({error}){near}"


def _load_weights(folder: Path, file: str, hashes: dict[str, Any]) -> dict[str, Tensor]:
    try:
        if hashes.get(file) != file_hash(folder / file):
            raise CheckpointError(
                f"{folder / file}: changed or damaged, its SHA-256 is not the one in {DESCRIPTION}"
            )
        weights = safetensors.torch.load_file(folder / file)
    except OSError as error:
        raise CheckpointError(f"{folder}: not a checkpoint bundle ({error})") from None
    except SafetensorError as error:
        raise CheckpointError(f"{folder / file}: not readable as weights ({error})") from None
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"{folder / file}: {name} is {tensor.dtype}, not a float")
    return weights


def _check_fit(
    generator: SynthesisNetwork,
    contract: Contract | None,
    encoder: FeatureEncoder | None,
    source: str,
) -> None:
    architecture = generator.architecture
    if contract is not None:
        _check_contract(architecture, contract, encoder, source)
    elif architecture.input_channels != 3:
        raise CheckpointError(
            f"{source}: a bundle without contract takes pictures, three channels; its generator "
            f"takes {architecture.input_channels}"
        )
    for name, tensor in generator.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{source}: the weights {name} hold values that are not finite")


def _check_contract(
    architecture: Architecture,
    contract: Contract,
    encoder: FeatureEncoder | None,
    source: str,
) -> None:
    channels = contract.schema.channels + contract.boundaries + contract.style_channels
    if architecture.input_channels != channels:
        raise CheckpointError(
            f"{source}: the contract adds up to {counted(channels, 'input channel')}, "
            f"the generator has {architecture.input_channels}"
        )
    if architecture.size_multiple != contract.size_multiple:
        raise CheckpointError(
            f"{source}: the contract's size_multiple is {contract.size_multiple}, "
            f"the generator's is {architecture.size_multiple}"
        )
    if encoder and encoder.settings["features"] != contract.style_channels:
        raise CheckpointError(
            f"{source}: the encoder gives {counted(encoder.settings['features'], 'feature')}, "
            f"the contract has {contract.style_channels}"
        )
