"""SceneLoom: semantic label maps in, photographs out, served through Triton.

This package is the light one: the contract, the readers, the error family, the `Synthesizer`
interface, the Triton client, dataset rendering and the `sceneloom` command. It never imports torch.
"""

__version__ = "0.1.0"

from sceneloom.contract import Contract
from sceneloom.errors import InputError, SceneLoomError, ServingError
from sceneloom.instances import boundary_map
from sceneloom.maps import read_instance_map, read_label_map
from sceneloom.schema import LabelSchema, load_schema
from sceneloom.synthesizer import Synthesizer
from sceneloom.triton_client import TritonSynthesizer

__all__ = [
    "Contract",
    "InputError",
    "LabelSchema",
    "SceneLoomError",
    "ServingError",
    "Synthesizer",
    "TritonSynthesizer",
    "boundary_map",
    "load_schema",
    "read_instance_map",
    "read_label_map",
]
