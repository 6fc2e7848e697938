"""`sceneloom import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from sceneloom.errors import require
from sceneloom.files import file_hash
from sceneloom.schema import load_schema
from sceneloom.text import counted, printable


def main(
    checkpoint: Annotated[Path, Positional, arg(metavar="CHECKPOINT")],
    *,
    labels: str,
    out: Path,
    style_channels: int | None = None,
) -> int:
    """Turn a published pix2pixHD generator (latest_net_G.pth) into a checkpoint bundle.

    Args:
        checkpoint: the .pth file; only its tensors are read, nothing in it runs.
        labels: label schema of its training: a built-in name (sceneloom schemas lists them) or the
            path of a JSON file.
        out: folder of the checkpoint bundle to write.
        style_channels: number of style features, if the number of input channels leaves it open.
    """
    require(["torch", "safetensors"], extra="train", purpose="importing a checkpoint")
    from sceneloom_training.checkpoint import save_checkpoint
    from sceneloom_training.published import import_published

    imported = import_published(checkpoint, load_schema(labels), style_channels=style_channels)
    notes, source_hash = list(imported.notes), file_hash(checkpoint)
    provenance = {"imported_from": checkpoint.name, "sha256": source_hash, "notes": notes}
    save_checkpoint(out, imported.generator, imported.contract, provenance)
    a, contract = imported.generator.architecture, imported.contract
    parameters = sum(p.numel() for p in imported.generator.parameters())
    blocks = f", enhancers: {a.enhancers}, of {counted(a.enhancer_blocks, 'block')}"
    print(
        f"generator: {parameters / 1e6:.1f} M parameters, ngf {a.ngf}, "
        f"{counted(a.global_downsamplings, 'downsampling')}, "
        f"{counted(a.global_blocks, 'block')}{blocks if a.enhancers else ''}"
    )
    print(
        f"inputs: {counted(contract.schema.channels, 'label')} "
        f"({printable(contract.schema.name)}), "
        f"{'boundaries' if contract.boundaries else 'no boundaries'}, "
        f"{counted(contract.style_channels, 'style feature')}; "
        f"sizes are multiples of {contract.size_multiple}"
    )
    for note in imported.notes:
        print(f"note: {printable(note)}")
    print(f"wrote {printable(out)}")
    return 0
