"""`sceneloom engine`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from sceneloom import progress
from sceneloom_export.engine import build_engine
from sceneloom_export.settings import PlanSettings


def main(
    model: Annotated[Path, Positional, arg(metavar="MODEL.onnx")],
    *,
    plan: Path | None = None,
    unproven: bool = False,
    keep: bool = False,
    settings: Annotated[PlanSettings, arg(name="plan"), OmitArgPrefixes] = PlanSettings(),  # noqa: B008 - frozen
) -> int:
    """Build a TensorRT plan on the GPU of this machine, if its pictures match PyTorch's.

    Uses TensorRT's Python bindings (8.6, 10.12 or newer, 11). With --runtime aoti PyTorch's
    compiler makes a package of AOTInductor instead, on a GPU or a CPU. Both are executable code:
    the record beside them has their hash and the machines that may load them.

    Args:
        model: model.onnx of an export bundle (DIR/synthesis/1/model.onnx); this TensorRT's graph is
            taken from beside it.
        plan: file to write; by default model.plan beside the model, with --runtime aoti model.pt2.
        unproven: build although no reference picture has a size that the plan takes.
        keep: build nothing if the existing plan still fits: same graph, same settings, and a
            machine that may load it.
        settings: precision, profiles and the builder's.
    """
    with progress.shown():
        build_engine(model, settings, plan=plan, unproven=unproven, keep=keep)
    return 0
