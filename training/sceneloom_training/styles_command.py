"""`sceneloom styles`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from sceneloom import progress
from sceneloom.errors import require
from sceneloom.text import printable
from sceneloom_training.data import DataSettings, open_examined
from sceneloom_training.progress_bar import track
from sceneloom_training.settings import ClusterSettings, to_json


@progress.shown()
def main(
    checkpoint: Annotated[Path, Positional, arg(metavar="CHECKPOINT")],
    *,
    data: Annotated[DataSettings, OmitArgPrefixes],
    out: Annotated[Path | None, arg(metavar="DIR")] = None,
    settings: Annotated[ClusterSettings, OmitArgPrefixes, arg(name="clusters")] = ClusterSettings(),  # noqa: B008 - frozen
) -> int:
    """Cluster the styles in photographs by a checkpoint's encoder, and add the clusters to its
    contract. `sceneloom styles show` lists them.

    Args:
        checkpoint: folder of a checkpoint bundle trained with style features.
        data: the photographs, with label and instance maps.
        out: folder of the checkpoint bundle to write; without it, the checkpoint itself changes.
        settings: encoding and clustering.
    """
    require(["torch", "safetensors", "sklearn"], extra="train", purpose="clustering styles")
    from sceneloom_training import styles
    from sceneloom_training.checkpoint import load_checkpoint, save_checkpoint

    out = out or checkpoint
    with progress.stage("load the checkpoint"):
        loaded = load_checkpoint(checkpoint)
    encoder, contract = styles.style_parts(loaded, checkpoint)
    photographs, notes = open_examined(data)
    for note in notes:
        print(printable(note), file=sys.stderr)
    show = partial(track, description="encoding")
    encoded = styles.encode_photographs(encoder, contract, photographs, settings, track=show)
    clusters = styles.cluster_styles(contract, encoded, settings)
    record = {"photographs": len(photographs), "data": to_json(data), "settings": to_json(settings)}
    contract = styles.with_styles(contract, clusters)
    provenance = {**loaded.provenance, "styles": record}
    with progress.stage("write the checkpoint"):
        save_checkpoint(out, loaded.generator, contract, provenance, encoder=encoder.cpu())
    print(f"{'class':24}{'instances':>10}{'clusters':>10}")
    for found in clusters:
        print(f"{printable(found.name):24}{found.instances:>10}{len(found.clusters):>10}")
    print(f"wrote {printable(out)}")
    print(f"next: sceneloom export {printable(out)} --repository DIR")
    return 0
