"""`sceneloom styles`."""

from __future__ import annotations

import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.progress import track
from tyro.conf import OmitArgPrefixes, Positional, arg

from sceneloom.errors import require
from sceneloom.text import printable
from sceneloom_training.data import DataSettings, examine, open_data_set
from sceneloom_training.settings import ClusterSettings

if TYPE_CHECKING:
    pass


def main(
    checkpoint: Annotated[Path, Positional, arg(metavar="CHECKPOINT")],
    *,
    data: Annotated[DataSettings, OmitArgPrefixes],
    out: Annotated[Path | None, arg(metavar="DIR")] = None,
    settings: Annotated[ClusterSettings, OmitArgPrefixes] = ClusterSettings(),  # noqa: B008 - frozen
) -> int:
    """Cluster what a checkpoint's encoder sees in photographs, and put the styles to choose from
    into its contract.

    Args:
        checkpoint: folder of a checkpoint bundle that was trained with style features.
        data: the photographs, with label and instance maps.
        out: folder of the checkpoint bundle to write; without it, the checkpoint itself is
            replaced.
        settings: how styles are encoded and clustered.
    """
    require(["torch", "safetensors", "sklearn"], extra="train", purpose="clustering styles")
    from sceneloom_training.checkpoint import load_checkpoint, save_checkpoint
    from sceneloom_training.styles import (
        cluster_styles,
        encode_photographs,
        style_parts,
        with_styles,
    )

    loaded = load_checkpoint(checkpoint)
    encoder, contract = style_parts(loaded, checkpoint)
    photographs = open_data_set(data)
    for note in examine(photographs, data.root):
        print(note, file=sys.stderr)
    console = Console(stderr=True)
    progress = partial(track, description="encoding", console=console)
    encoded = encode_photographs(encoder, contract, photographs, settings, track=progress)
    styles = cluster_styles(contract, encoded, settings)
    record = {
        "photographs": len(photographs),
        "data": _json(data),
        "settings": _json(settings),
    }
    save_checkpoint(
        out or checkpoint,
        loaded.generator,
        with_styles(contract, styles),
        {**loaded.provenance, "styles": record},
        encoder=encoder.cpu(),
    )
    print(f"{'class':24}{'instances':>10}{'clusters':>10}")
    for found in styles:
        print(f"{printable(found.name):24}{found.instances:>10}{len(found.clusters):>10}")
    print(f"wrote {printable(out or checkpoint)}")
    print(f"next: sceneloom export {printable(out or checkpoint)} --repository DIR")
    return 0


def _json(settings: Any) -> dict[str, Any]:
    fields = dataclasses.asdict(settings)
    return {k: str(v) if isinstance(v, Path) else v for k, v in fields.items()}
