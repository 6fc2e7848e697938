"""The networks of pix2pixHD (Wang et al., CVPR 2018) and of pix2pix (Isola et al., CVPR 2017)."""

from sceneloom_training.networks.architecture import (
    Architecture,
    GeneratorArchitecture,
    UNetArchitecture,
    architecture_from_json,
)
from sceneloom_training.networks.discriminator import MultiscaleDiscriminator
from sceneloom_training.networks.generator import (
    FeatureEncoder,
    Generator,
    SynthesisNetwork,
    UNet,
    balance_phases,
    build_generator,
    initialise,
    load_weights,
)
from sceneloom_training.networks.segmenting import SegmentingDiscriminator
from sceneloom_training.networks.served import HalfGenerator, ServedGenerator, drop_dead_biases

__all__ = [
    "Architecture",
    "FeatureEncoder",
    "Generator",
    "GeneratorArchitecture",
    "HalfGenerator",
    "MultiscaleDiscriminator",
    "SegmentingDiscriminator",
    "ServedGenerator",
    "SynthesisNetwork",
    "UNet",
    "UNetArchitecture",
    "architecture_from_json",
    "balance_phases",
    "build_generator",
    "drop_dead_biases",
    "initialise",
    "load_weights",
]
