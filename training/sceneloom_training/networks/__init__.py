"""The networks of pix2pixHD (Wang et al., CVPR 2018) and of pix2pix (Isola et al., CVPR 2017)."""

from sceneloom_training.networks.architecture import (
    Architecture,
    GeneratorArchitecture,
    UNetArchitecture,
    architecture_from_json,
)
from sceneloom_training.networks.build import (
    SynthesisNetwork,
    build_generator,
    initialise,
    load_weights,
)
from sceneloom_training.networks.discriminator import MultiscaleDiscriminator
from sceneloom_training.networks.encoder import FeatureEncoder
from sceneloom_training.networks.generator import Generator
from sceneloom_training.networks.half import HalfGenerator
from sceneloom_training.networks.phases import balance_phases
from sceneloom_training.networks.served import ServedGenerator
from sceneloom_training.networks.unet import UNet

__all__ = [
    "Architecture",
    "FeatureEncoder",
    "Generator",
    "GeneratorArchitecture",
    "HalfGenerator",
    "MultiscaleDiscriminator",
    "ServedGenerator",
    "SynthesisNetwork",
    "UNet",
    "UNetArchitecture",
    "architecture_from_json",
    "balance_phases",
    "build_generator",
    "initialise",
    "load_weights",
]
