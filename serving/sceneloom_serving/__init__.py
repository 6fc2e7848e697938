"""Serving: engines behind the Synthesizer interface, the Triton model, and the embedded Triton
server.
"""

from __future__ import annotations

from pathlib import Path


def templates() -> Path:
    """Folder of the Triton model repository's templates: the wheel's copy, or else the checkout's
    `triton_models/`.
    """
    package = Path(__file__).resolve().parent
    installed = package / "triton_models"
    return installed if installed.is_dir() else package.parents[1] / "triton_models"
