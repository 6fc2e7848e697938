"""Reading PyTorch files: tensors and plain values alone, and none that is larger in memory than in
the file.
"""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def load_tensors(path: Path) -> Any:
    """What `torch.save` wrote, on the CPU; nothing in the file runs.

    Raises:
        ValueError: the file is compressed, or a tensor repeats what the file holds of it: a few
            bytes that would become gigabytes.
        Exception: whatever torch, pickle and zip raise on damaged and forbidden files.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("its parts are compressed, which torch.save never does")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of pickle protocols that it then refuses
        found = torch.load(path, map_location="cpu", weights_only=True)
    pending = [("", found)]
    seen = set()
    while pending:
        name, value = pending.pop()
        if isinstance(value, Tensor):
            _check_stored(name, value)
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            parts = value.items() if isinstance(value, dict) else enumerate(value)
            pending += [(f"{name}.{key}" if name else str(key), part) for key, part in parts]
    return found


def _check_stored(name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_quantized:
        return
    held = tensor.untyped_storage().nbytes() // tensor.element_size()
    if held < tensor.numel():
        raise ValueError(
            f"{name!r} is {list(tensor.shape)}, and only {held} of its values are in the file, to "
            "be repeated; save tensor.contiguous() instead"
        )
