"""`sceneloom engine`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from sceneloom_export.engine import build_engine
from sceneloom_export.settings import EngineSettings


def main(
    model: Annotated[Path, Positional, arg(metavar="MODEL.onnx")],
    *,
    plan: Path | None = None,
    unproven: bool = False,
    keep: bool = False,
    settings: Annotated[EngineSettings, OmitArgPrefixes] = EngineSettings(),  # noqa: B008 - frozen
) -> int:
    """Build a TensorRT plan on the GPU of this machine; what differs from PyTorch is not kept.

    Uses TensorRT's Python bindings (8.6, 10.12 or newer, 11). A plan is executable code: its
    record, written beside it, has its hash and says where it may be loaded.

    Args:
        model: model.onnx of an export bundle (DIR/synthesis/1/model.onnx); the graph that this
            TensorRT needs is taken from beside it.
        plan: file to write; model.plan beside the model unless given.
        unproven: build although no reference picture has a size that the plan takes.
        keep: build nothing where the plan that is there still fits: same graph, same settings, and
            a machine that may load it.
        settings: precision, profiles and the builder's.
    """
    build_engine(model, settings, plan=plan, unproven=unproven, keep=keep)
    return 0
