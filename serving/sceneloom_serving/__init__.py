"""Serving: engines as Synthesizers, the Triton model, and the embedded Triton server.

engines.py          the table of engines, and the machine; begin here
choice.py           the fastest engine within the limits
parity.py           differences from PyTorch, and every limit
onnx_runtime.py openvino_runtime.py tensorrt_runtime.py    an engine each
present_classes.py gpu.py                                  parts of engines
bundle.py plan_record.py                                   an export and a plan on disk
triton_model.py                                            the model inside Triton
embedded.py         the server as a child process; bundled_server.py finds it and reads its log
*_command.py        `sceneloom runtimes`, `serve`, `verify` and `probe`
"""

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
