"""SceneLoom: semantic label maps in, photographs out, served through Triton.

The light package: the contract, the readers, the error family, the `Synthesizer` interface, the
Triton client, dataset rendering and the `sceneloom` command. It never imports torch. A name is
loaded at its first use: machines that build and run TensorRT plans may lack OpenCV and Pillow.
"""

import importlib
from typing import TYPE_CHECKING, Any

from sceneloom.version import __version__

if TYPE_CHECKING:
    from sceneloom.contract import Contract
    from sceneloom.errors import InputError, SceneLoomError, ServingError
    from sceneloom.maps import boundary_map, read_instance_map, read_label_map
    from sceneloom.photographs import read_picture
    from sceneloom.schema import LabelSchema, load_schema
    from sceneloom.style import (
        clusters_by_seed,
        default_styles,
        list_instances,
        styles_by_cluster,
        styles_by_seed,
    )
    from sceneloom.synthesizer import Synthesizer
    from sceneloom.triton.client import TritonSynthesizer, connect

_MODULES = {
    "contract": ["Contract"],
    "errors": ["InputError", "SceneLoomError", "ServingError"],
    "maps": ["boundary_map", "read_instance_map", "read_label_map"],
    "photographs": ["read_picture"],
    "schema": ["LabelSchema", "load_schema"],
    "style": [
        "clusters_by_seed",
        "default_styles",
        "list_instances",
        "styles_by_cluster",
        "styles_by_seed",
    ],
    "synthesizer": ["Synthesizer"],
    "triton.client": ["TritonSynthesizer", "connect"],
}
"""Module -> its public names."""

__all__ = [
    "Contract",
    "InputError",
    "LabelSchema",
    "SceneLoomError",
    "ServingError",
    "Synthesizer",
    "TritonSynthesizer",
    "__version__",
    "boundary_map",
    "clusters_by_seed",
    "connect",
    "default_styles",
    "list_instances",
    "load_schema",
    "read_instance_map",
    "read_label_map",
    "read_picture",
    "styles_by_cluster",
    "styles_by_seed",
]


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
