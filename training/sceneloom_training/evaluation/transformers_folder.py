"""Models of transformers from a local folder: nothing downloaded, nothing printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def load_quietly(kind: Any, folder: Path) -> tuple[Any, dict[str, Any]]:
    """Load a model as float32.

    Args:
        kind: class of transformers, such as ``Dinov2Model``.
        folder: ``config.json`` and ``model.safetensors``.

    Returns:
        the model, and what transformers says of the weights: those under ``missing_keys`` and
        ``mismatched_keys`` are random, and it is the caller's to refuse them by name.

    Raises:
        Exception: nearly anything, on damaged folders.
    """
    from transformers.utils import logging

    logger: Any = logging  # its functions are not annotated
    logger.disable_progress_bar()
    before = logger.get_verbosity()
    logger.set_verbosity_error()  # it reports such weights as a table
    try:
        model, loading = kind.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    finally:
        logger.set_verbosity(before)
    return model, loading
