"""The checkpoint bundle: a folder with `model.safetensors` and `model.json`.

`model.json` holds the architecture, the contract, where the weights come from, and the SHA-256 of
the weights file; docs/formats.md is the specification. A bundle is written beside its place and
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

from sceneloom import __version__
from sceneloom.artefacts import file_hash, replace_folder
from sceneloom.contract import Contract
from sceneloom.errors import CheckpointError, SchemaError
from sceneloom_training.networks import Generator, GeneratorArchitecture, load_weights

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded bundle."""

    generator: Generator
    """With the bundle's weights, float32, in eval mode, on the CPU."""
    contract: Contract
    """What the model takes and gives."""
    provenance: dict[str, Any]
    """Where the weights come from, as it was given when the bundle was written."""
    weights_hash: str
    """SHA-256 of `model.safetensors`, hexadecimal."""


def save_checkpoint(
    folder: Path, generator: Generator, contract: Contract, provenance: dict[str, Any]
) -> None:
    """Write a bundle; an existing bundle in its place is replaced, anything else there is refused.

    Args:
        folder: the bundle's folder.
        generator: its weights are written as they are.
        contract: what the model takes and gives.
        provenance: where the weights come from: anything JSON can hold.

    Raises:
        CheckpointError: `folder` exists and is no bundle, or it cannot be written.
    """
    with replace_folder(
        folder,
        marker=DESCRIPTION,
        files=frozenset({DESCRIPTION, WEIGHTS}),
        kind="a checkpoint bundle",
        error=CheckpointError,
    ) as fresh:
        weights = {name: tensor.contiguous() for name, tensor in generator.state_dict().items()}
        safetensors.torch.save_file(weights, fresh / WEIGHTS)
        description = {
            "format": FORMAT,
            "sceneloom": __version__,
            "architecture": generator.architecture.to_json(),
            "contract": contract.to_json(),
            "provenance": provenance,
            "sha256": {WEIGHTS: file_hash(fresh / WEIGHTS)},
        }
        (fresh / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", "utf-8")


def load_checkpoint(folder: Path) -> Checkpoint:
    """Load a bundle and check its weights against the recorded hash.

    Raises:
        CheckpointError: not a bundle, a file is damaged, or the weights are not those that were
            saved.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text("utf-8"))
        weights_hash = file_hash(folder / WEIGHTS)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: not a checkpoint bundle ({error})") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise CheckpointError(f"{folder / DESCRIPTION}: not a checkpoint bundle of format {FORMAT}")
    try:
        recorded, contract_json = description["sha256"][WEIGHTS], description["contract"]
        architecture_json, provenance = description["architecture"], dict(description["provenance"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / DESCRIPTION}: {error} is missing or of the wrong kind"
        ) from None
    if recorded != weights_hash:
        raise CheckpointError(
            f"{folder / WEIGHTS}: changed or damaged, its SHA-256 is not the one in {DESCRIPTION}"
        )
    source = str(folder / DESCRIPTION)
    architecture = GeneratorArchitecture.from_json(architecture_json, source=source)
    try:
        contract = Contract.from_json(contract_json, source=source)
        generator = load_weights(architecture, safetensors.torch.load_file(folder / WEIGHTS))
    except (SchemaError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder}: weights and description do not fit ({str(error)[:300]})"
        ) from None
    _check_fit(generator, contract, source)
    return Checkpoint(
        generator=generator.eval().requires_grad_(False),
        contract=contract,
        provenance=provenance,
        weights_hash=weights_hash,
    )


def _check_fit(generator: Generator, contract: Contract, source: str) -> None:
    architecture = generator.architecture
    channels = contract.schema.channels + contract.boundaries + contract.style_channels
    if architecture.input_channels != channels:
        raise CheckpointError(
            f"{source}: the contract adds up to {channels} input channels, "
            f"the generator has {architecture.input_channels}"
        )
    if architecture.size_multiple != contract.size_multiple:
        raise CheckpointError(
            f"{source}: the contract's size_multiple is {contract.size_multiple}, "
            f"the generator's is {architecture.size_multiple}"
        )
    for name, tensor in generator.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{source}: the weights {name} hold values that are not finite")
