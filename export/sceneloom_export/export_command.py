"""`sceneloom export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from sceneloom import progress
from sceneloom.contract import precision_of
from sceneloom.errors import require
from sceneloom.files import describe
from sceneloom.maps import parse_size
from sceneloom.text import printable
from sceneloom_export.settings import ExportSettings, TritonSettings


def main(
    checkpoint: Annotated[Path, Positional, arg(metavar="CHECKPOINT")],
    *,
    repository: Path,
    sizes: tuple[str, ...] = (),
    largest: str = "2048x1024",
    export: Annotated[ExportSettings, arg(name="proof"), OmitArgPrefixes] = ExportSettings(),  # noqa: B008 - frozen
    settings: Annotated[TritonSettings, arg(name="serving"), OmitArgPrefixes] = TritonSettings(),  # noqa: B008 - frozen
) -> int:
    """Export a checkpoint bundle to a Triton model repository, if its pictures match PyTorch's.

    Args:
        checkpoint: folder of a checkpoint bundle.
        repository: folder of the Triton repository to write; replaces an older export.
        sizes: sizes to serve as WIDTHxHEIGHT; none means any multiple of the model's.
        largest: without --sizes, the size of the parity proof beside small maps.
        export: precisions, and maps of the proof.
        settings: how the model is served.
    """
    require(
        ["torch", "safetensors", "onnx", "onnxscript", "onnxruntime"],
        extra="export",
        purpose="exporting a model",
    )
    if "int8" in export.precisions:
        require(["openvino"], extra="serve", purpose="proving int8")
    with progress.shown():
        with progress.stage("load PyTorch and ONNX"):
            from sceneloom_export.bundle import export_bundle
            from sceneloom_serving.choice import preferred_to

        exported = export_bundle(
            checkpoint,
            repository,
            settings,
            sizes=tuple(parse_size(text) for text in sizes) or None,
            largest=parse_size(largest),
            export=export,
        )
    if exported.own_maps is not None:
        own = exported.own_maps
        print(f"proven on {len(own.requests)} of {own.found} maps of {printable(export.maps)}")
        for line in describe(own.left_out):
            print(line)
    print("differences from PyTorch in float32, in grey levels, rounded as the precision rounds:")
    for verdict in exported.verdicts:
        print(f"  {verdict}")
    print("engines on this machine:")
    for measured in exported.measured:
        if measured.parity is not None:
            print(f"  {measured}")
    known = exported.known
    why = ""
    if quicker := preferred_to(exported.engine, exported.measured, export.served):
        others = " and ".join(quicker)
        why = f"; preferred to {others}, not faster by over 5 per cent in nine of ten rounds"
    print(
        f"serves by default: {exported.engine} ({precision_of(exported.engine)}), differs from "
        f"PyTorch by {known.difference}{why}"
    )
    print(f"--precision fast: {known.fast}")
    print(f"wrote {printable(exported.repository)} (bundle {exported.contract.bundle_hash[:12]})")
    print(f"next: sceneloom serve {printable(exported.repository)}")
    return 0
