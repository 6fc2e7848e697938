"""Serving: engines behind the Synthesizer interface, the Triton model, and the embedded Triton
server.
"""

from __future__ import annotations

import os
from pathlib import Path

# Since 1.29 ONNX Runtime's wheels report every session that is opened, with names and hashes of the
# model, unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def templates() -> Path:
    """Folder of the Triton model repository's templates: the wheel's copy, or else the checkout's
    `triton_models/`.
    """
    package = Path(__file__).resolve().parent
    installed = package / "triton_models"
    return installed if installed.is_dir() else package.parents[1] / "triton_models"
