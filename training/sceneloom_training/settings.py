"""Settings of `sceneloom train`, `sceneloom styles` and `sceneloom train-segmenter`.

In `TrainSettings`, a section is a table of the TOML file and a prefix of the flags: `ngf` of
`[generator]` is `--generator.ngf`. This module imports no torch.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, TypeAlias

from sceneloom.errors import InputError
from sceneloom.maps import DEFAULT_MAX_PIXELS, parse_size
from sceneloom_training.data import DataSettings, Geometry

GanMode: TypeAlias = Literal["least_squares", "vanilla", "hinge"]
"""The GAN loss: ``least_squares`` (Mao et al., 2017; as published), ``vanilla`` or ``hinge``."""

PaddingMode: TypeAlias = Literal["reflect", "replicate", "zeros"]
"""What convolutions see beyond the edge: ``reflect`` as published, or what costs engines less."""

Precision: TypeAlias = Literal["float32", "bfloat16", "float16", "float64"]
"""What convolutions compute in while training."""

Device: TypeAlias = Literal["cpu", "cuda"]

DeviceChoice: TypeAlias = Literal["auto", "cpu", "cuda"]
"""``auto`` takes a GPU if there is one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorSettings:
    """The generator."""

    network: Literal["pix2pixhd", "unet"] = "pix2pixhd"
    """pix2pixHD's coarse-to-fine generator, or pix2pix's U-Net."""
    ngf: int = 64
    """Filters of the first convolution; published: 64 for 1024x512, 32 with one enhancer."""
    global_downsamplings: int = 4
    """Stride-2 convolutions of the global generator."""
    global_blocks: int = 9
    """Residual blocks of the global generator."""
    enhancers: int = 0
    """Local enhancers around it; each doubles the resolution."""
    enhancer_blocks: int = 3
    """Residual blocks of each enhancer."""
    padding: PaddingMode = "reflect"
    """Of convolutions that are not strided: reflect as published; zeros and replicate make cheaper
    engines.
    """
    balanced_upsampling: bool = False
    """Keep the transposed convolutions free of checkerboards, from the first step on; the network
    that is exported is no other for it.
    """
    unet_downsamplings: int = 8
    """Levels of the U-Net."""
    dropout: bool = True
    """Dropout of the U-Net while training."""
    boundaries: bool = True
    """Give it the instance boundaries; the data must have instance maps then."""
    start_from: Path | None = None
    """Checkpoint bundle whose generator this one starts from: an equal one, or the 1024x512
    generator inside a 2048x1024 one. Its encoder comes along.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class StyleSettings:
    """Instance-wise style (pix2pixHD, section 3.4)."""

    features: int = 0
    """Numbers per instance that an encoder finds in the photograph; 0 trains without style."""
    nef: int = 16
    """Filters of the encoder's first convolution."""
    downsamplings: int = 4
    """Stride-2 convolutions of the encoder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscriminatorSettings:
    """The discriminators."""

    scales: int = 2
    """PatchGANs on the picture, its half, its quarter, ...; published: 2 at 1024x512, 3 at
    2048x1024; pix2pix has 1.
    """
    ndf: int = 64
    """Filters of the first convolution."""
    layers: int = 3
    """Convolutions with stride 2."""
    padding: int = 2
    """Of every convolution: pix2pixHD 2, pix2pix 1."""
    affine_norm: bool = False
    """Norms with learnt scale and shift, as in pix2pix."""
    spectral_norm: bool = False
    """Normalise weights by their spectral norm instead of features by InstanceNorm."""
    start_from: Path | None = None
    """Training run whose discriminators these start from, the coarsest from the coarsest."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossSettings:
    """The losses and their weights."""

    gan: GanMode = "least_squares"
    """least_squares (published), hinge, or vanilla (pix2pix)."""
    feature_matching: float = 10.0
    """Weight of the feature matching loss; 0 is off."""
    perceptual: float = 10.0
    """Weight of the VGG19 perceptual loss, which is on only where vgg names its weights."""
    vgg: Path | None = None
    """torchvision's vgg19 weights file; without it the perceptual loss is off, and the run's record
    says so.
    """
    l1: float = 0.0
    """Weight of the plain L1 loss; pix2pix has 100."""
    pool: int = 0
    """Earlier pictures that the discriminators are shown again; published: 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Adam, batches and averaging."""

    learning_rate: float = 2e-4
    """Of generator, encoder and discriminators."""
    beta1: float = 0.5
    """Adam's first momentum."""
    beta2: float = 0.999
    """Adam's second momentum."""
    batch: int = 1
    """Pictures per process and forward pass."""
    accumulate: int = 1
    """Forward passes whose gradients are averaged for one step."""
    ema: float = 0.0
    """Decay of the generator's moving average, which is what is exported then; 0.999 is proven, 0
    is off. It is less in the first steps: (1 + step) / (10 + step).
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """How long, and how the learning rate falls."""

    epochs: int = 100
    """With the full learning rate."""
    decay_epochs: int = 100
    """After them, with the learning rate falling to zero in a straight line."""
    enhancer_only_epochs: int = 0
    """At the start, with the global generator fixed; published: 10 with enhancers=1."""
    max_steps: int = 0
    """End after this many steps even so; 0 is no limit. The learning rate does not follow it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeSettings:
    """How it is computed."""

    device: DeviceChoice = "auto"
    """auto takes a GPU if there is one."""
    precision: Precision = "float32"
    """Of convolutions: bfloat16 and float16 by autocast (float16 with loss scaling), weights stay
    float32; float64 computes everything in double, for proofs.
    """
    channels_last: bool = True
    """Keep tensors in the memory order that convolutions prefer."""
    compile: bool = False
    """Compile generator and discriminators with torch.compile."""
    recompute: bool = False
    """Compute the generator's activations again in the backward pass instead of keeping them: less
    memory, more time.
    """
    workers: int = 2
    """Processes that load samples; 0 loads in the training process."""
    cache: int = 0
    """Samples that each loading process keeps in memory as they were read."""
    seed: int = 0
    """Of weights, order of samples, crops and flips."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordSettings:
    """What is kept of a run."""

    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    keep: int = 3
    """Checkpoints that are kept, the newest."""
    keep_every: int = 0
    """Checkpoints at multiples of this many steps are kept for good; 0 is none."""
    log_every: int = 20
    """Steps between entries in log.jsonl and TensorBoard."""
    picture_every: int = 500
    """Steps between pictures in TensorBoard and, with held_out, judgements on unseen samples."""
    held_out: int = 0
    """Samples, the last by name, that are not trained on but judged by colour."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """A whole training run."""

    data: DataSettings
    geometry: Geometry = dataclasses.field(default_factory=Geometry)
    generator: GeneratorSettings = GeneratorSettings()
    style: StyleSettings = StyleSettings()
    discriminator: DiscriminatorSettings = DiscriminatorSettings()
    loss: LossSettings = LossSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    compute: ComputeSettings = ComputeSettings()
    record: RecordSettings = RecordSettings()

    def __post_init__(self) -> None:
        """Check the ranges, and what the sections mean together."""
        for name, low, high in _RANGES:
            section, field = name.split(".")
            value = getattr(getattr(self, section), field)
            if not low <= value <= high:  # also refuses nan
                raise InputError(f"{name} is {value}; it is from {low:g} to {high:g}")
        if not self.schedule.epochs + self.schedule.decay_epochs:
            raise InputError("schedule.epochs and schedule.decay_epochs are both 0")
        if self.schedule.enhancer_only_epochs and not self.generator.enhancers:
            raise InputError(
                "schedule.enhancer_only_epochs needs generator.enhancers of at least 1"
            )
        if self.generator.network == "unet":
            for name, on in {
                "compute.recompute": self.compute.recompute,
                "generator.enhancers": self.generator.enhancers,
                "generator.start_from": self.generator.start_from,
            }.items():
                if on:
                    raise InputError(
                        f"{name} is for the pix2pixhd network; a U-Net has no such thing"
                    )

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object, paths as strings."""
        return {
            section: {k: str(v) if isinstance(v, Path) else v for k, v in fields.items()}
            for section, fields in dataclasses.asdict(self).items()
        }


_RANGES = (
    ("generator.ngf", 1, 4096),
    ("style.features", 0, 256),
    ("style.nef", 1, 1024),
    ("style.downsamplings", 0, 8),
    ("discriminator.scales", 1, 8),
    ("discriminator.ndf", 1, 4096),
    ("discriminator.layers", 1, 8),
    ("discriminator.padding", 1, 2),
    ("loss.feature_matching", 0, 1e6),
    ("loss.perceptual", 0, 1e6),
    ("loss.l1", 0, 1e6),
    ("loss.pool", 0, 100_000),
    ("optimizer.learning_rate", 0, 1),
    ("optimizer.beta1", 0, 0.999999),
    ("optimizer.beta2", 0, 0.999999),
    ("optimizer.batch", 1, 4096),
    ("optimizer.accumulate", 1, 4096),
    ("optimizer.ema", 0, 0.999999),
    ("schedule.epochs", 0, 1_000_000),
    ("schedule.decay_epochs", 0, 1_000_000),
    ("schedule.enhancer_only_epochs", 0, 1_000_000),
    ("schedule.max_steps", 0, 10**12),
    ("compute.workers", 0, 256),
    ("compute.cache", 0, 10**9),
    ("compute.seed", 0, 2**63 - 1),
    ("record.checkpoint_every", 1, 10**12),
    ("record.keep", 1, 10**6),
    ("record.keep_every", 0, 10**12),
    ("record.log_every", 1, 10**12),
    ("record.picture_every", 1, 10**12),
    ("record.held_out", 0, 10**9),
)
"""Section and field, least and greatest value."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """How styles are encoded and clustered."""

    clusters: int = 10
    """Most clusters of a class."""
    smallest_share: float = 1 / 64
    """Instances that take up less of their picture are left out, as published; a class that has
    none so large keeps all of its instances.
    """
    width: int | None = None
    """Scale photographs to this width first, the one the model was trained at; without it, they are
    encoded at their own size.
    """
    seed: int = 0
    """Of k-means: equal seeds give equal clusters."""
    device: DeviceChoice = "auto"
    """Where the encoder runs; auto takes a GPU if there is one."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 1 <= self.clusters <= 1000:
            raise InputError(f"clusters is {self.clusters}; it is from 1 to 1000")
        if not 0 <= self.smallest_share <= 1:
            raise InputError(f"smallest_share is {self.smallest_share}; it is from 0 to 1")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed is {self.seed}; it is from 0 to {2**32 - 1}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmenterSettings:
    """A segmentation network from random weights, and its training."""

    network: Literal["segformer", "unet"] = "segformer"
    """SegFormer (Xie et al., NeurIPS 2021; from transformers), for many photographs and long
    training, or a convolutional U-Net (Ronneberger et al., MICCAI 2015; from MONAI), which learns
    small things in small pictures from few.
    """
    size: str = "512x256"
    """WIDTHxHEIGHT that photographs are resized to, in training and when it judges."""
    width: int = 32
    """Channels of the first stage; 32 gives SegFormer's B0 and MONAI's usual U-Net."""
    epochs: int = 160
    """Passes over the photographs."""
    batch: int = 8
    """Pictures per step."""
    learning_rate: float = 6e-4
    """Of AdamW after warm-up; it falls to zero in a straight line."""
    weight_decay: float = 0.01
    """Of AdamW."""
    warm_up: float = 0.05
    """Share of the steps in which the learning rate rises from zero."""
    balance: float = 0.0
    """Weight of a class in the loss: its share of the pixels to the power of minus this. 0 weighs
    all pixels alike, 0.5 lets rare classes be learnt in a short training.
    """
    precision: Precision = "float32"
    """bfloat16 is faster where the processor has it; float16 and float64 are not for this."""
    flip: bool = True
    """Mirror left to right, with a chance of one half."""
    photometric: bool = True
    """Vary light, colours, grain and sharpness at random: a judge is to see what a picture shows,
    however it is drawn.
    """
    workers: int = 2
    """Processes that load photographs."""
    cache: int = 0
    """Photographs that each loading process keeps in memory."""
    checkpoint_every: int = 500
    """Steps between checkpoints, from which the same command goes on."""
    half: bool = False
    """Write the weights as float16, in half the space; they are loaded as float32."""
    seed: int = 0
    """Of weights, order and flips."""
    device: DeviceChoice = "auto"
    """auto takes a GPU if there is one."""

    def __post_init__(self) -> None:
        """Check the ranges, and what the fields mean together."""
        height, width = parse_size(self.size, of="size")
        if height * width > DEFAULT_MAX_PIXELS:
            raise InputError(f"size is {self.size}; it is at most {DEFAULT_MAX_PIXELS:,} pixels")
        if height % 32 or width % 32:
            raise InputError(f"size is {self.size}; both sides are multiples of 32")
        for name, low, high in _SEGMENTER_RANGES:
            value = getattr(self, name)
            if not low <= value <= high:  # also refuses nan
                raise InputError(f"{name} is {value}; it is from {low:g} to {high:g}")
        if self.network not in ("segformer", "unet"):
            raise InputError(f"network is {self.network}; it is segformer or unet")
        if self.network == "segformer" and self.width % 8:
            raise InputError(f"width is {self.width}; a SegFormer takes multiples of 8")
        if self.precision not in ("float32", "bfloat16"):
            raise InputError(f"precision is {self.precision}; it is float32 or bfloat16")

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object."""
        return dataclasses.asdict(self)


_SEGMENTER_RANGES = (
    ("width", 1, 1024),
    ("epochs", 1, 1_000_000),
    ("batch", 1, 4096),
    ("learning_rate", 0, 1),
    ("weight_decay", 0, 1),
    ("warm_up", 0, 0.99),
    ("balance", 0, 1),
    ("workers", 0, 256),
    ("cache", 0, 10**9),
    ("checkpoint_every", 1, 10**12),
    ("seed", 0, 2**63 - 1),
)
"""Field, least and greatest value."""
