"""The networks of pix2pixHD (Wang et al., CVPR 2018), as published."""

from sceneloom_training.networks.architecture import GeneratorArchitecture
from sceneloom_training.networks.generator import Generator, build_generator, load_weights
from sceneloom_training.networks.served import ServedGenerator

__all__ = [
    "Generator",
    "GeneratorArchitecture",
    "ServedGenerator",
    "build_generator",
    "load_weights",
]
