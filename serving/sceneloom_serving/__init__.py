"""Serving: engines as Synthesizers, the Triton model, and the embedded Triton server."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Runtimes report their use to their publishers unless this is set before their import. ONNX
# Runtime's wheels, since 1.29, report every session, with names and hashes of the model.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# OpenVINO heeds a file in the user's home only; without this package it uses a stub of its own.
# A process that has imported the package before keeps it.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def templates() -> Path:
    """Folder of the Triton templates: the wheel's copy, or else the checkout's `triton_models/`."""
    package = Path(__file__).resolve().parent
    installed = package / "triton_models"
    return installed if installed.is_dir() else package.parents[1] / "triton_models"
