"""`sceneloom import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from sceneloom.errors import InputError, require
from sceneloom.files import file_hash
from sceneloom.schema import load_schema
from sceneloom.text import counted, printable


def main(
    checkpoint: Annotated[Path, Positional, arg(metavar="CHECKPOINT")],
    *,
    out: Path,
    labels: str | None = None,
    pictures: bool = False,
    style_channels: int | None = None,
    encoder: Path | None = None,
    clusters: Path | None = None,
) -> int:
    """Turn a published pix2pixHD generator (latest_net_G.pth) into a checkpoint bundle.

    Args:
        checkpoint: the .pth file; only its tensors are read, nothing in it runs.
        out: folder of the checkpoint bundle to write.
        labels: label schema of its training: a built-in name (sceneloom schemas lists them) or the
            path of a JSON file.
        pictures: it was trained with pictures instead of label maps (label_nc 0).
        style_channels: number of style features, if the number of input channels leaves it open.
        encoder: feature encoder of a model with style features (latest_net_E.pth).
        clusters: its clusters (features_clustered_010.npy), which become the styles to choose from.
    """
    require(["torch", "safetensors"], extra="train", purpose="importing a checkpoint")
    from sceneloom_training.checkpoint import save_checkpoint
    from sceneloom_training.published import import_published
    from sceneloom_training.published_styles import import_encoder, with_published_clusters

    if pictures and labels is not None:
        raise InputError(
            "choose one of --labels and --pictures: a model takes label maps, or pictures instead"
        )
    if not pictures and labels is None:
        raise InputError(
            "name the label schema of its training with --labels, or say --pictures where it was "
            "trained with pictures instead of label maps"
        )
    schema = None if labels is None else load_schema(labels)
    imported = import_published(checkpoint, schema, style_channels=style_channels)
    contract, notes = imported.contract, list(imported.notes)
    for path in (encoder, clusters):
        if path is not None and not contract.style_channels:
            raise InputError(f"{path}: the generator takes no style features")
    network = None if encoder is None else import_encoder(encoder, contract.style_channels)
    if clusters is not None:
        contract, more = with_published_clusters(contract, clusters)
        notes += more
    elif contract.style_channels:
        notes.append(
            f"{counted(contract.style_channels, 'style feature')} per instance are zero without a "
            "style: --clusters features_clustered_010.npy brings the published ones"
        )
    files = [path for path in (checkpoint, encoder, clusters) if path is not None]
    provenance = {
        "imported_from": checkpoint.name,
        "sha256": file_hash(checkpoint),
        **({"files": {path.name: file_hash(path) for path in files}} if files[1:] else {}),
        "notes": notes,
    }
    save_checkpoint(out, imported.generator, contract, provenance, encoder=network)
    a = imported.generator.architecture
    parameters = sum(p.numel() for p in imported.generator.parameters())
    blocks = f", enhancers: {a.enhancers}, of {counted(a.enhancer_blocks, 'block')}"
    print(
        f"generator: {parameters / 1e6:.1f} M parameters, ngf {a.ngf}, "
        f"{counted(a.global_downsamplings, 'downsampling')}, "
        f"{counted(a.global_blocks, 'block')}{blocks if a.enhancers else ''}"
    )
    inputs = "pictures"
    if contract.schema is not None:
        name = printable(contract.schema.name)
        inputs = f"{counted(contract.schema.channels, 'label')} ({name})"
    print(
        f"inputs: {inputs}, {'boundaries' if contract.boundaries else 'no boundaries'}, "
        f"{counted(contract.style_channels, 'style feature')}; "
        f"sizes are multiples of {contract.size_multiple}"
    )
    for note in notes:
        print(f"note: {printable(note)}")
    print(f"wrote {printable(out)}")
    return 0
