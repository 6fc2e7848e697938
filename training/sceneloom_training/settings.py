"""Settings of `sceneloom train`, `styles` and `train-segmenter`, without torch. A section of
`TrainSettings` is a TOML table and a prefix of flags: `ngf` of `[generator]` is `--generator.ngf`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Interval

from sceneloom.errors import InputError
from sceneloom.text import counted
from sceneloom.validation import checked
from sceneloom_training.data import DataSettings, Geometry
from sceneloom_training.data.settings import check_size

GanMode: TypeAlias = Literal["least_squares", "vanilla", "hinge"]
"""The GAN loss: ``least_squares`` (Mao et al., 2017; as published), ``vanilla`` or ``hinge``."""

PaddingMode: TypeAlias = Literal["reflect", "replicate", "zeros"]
"""Values beyond the edge: ``reflect`` as published; the others cost engines less."""

Precision: TypeAlias = Literal["auto", "float32", "bfloat16", "float16", "float64"]
"""Type of convolutions while training."""

Device: TypeAlias = Literal["cpu", "cuda"]
DeviceChoice: TypeAlias = Literal["auto", "cpu", "cuda"]
"""``auto`` takes a GPU if one exists."""

_Filters: TypeAlias = Annotated[int, Interval(ge=1, le=4096)]
_Weight: TypeAlias = Annotated[float, Interval(ge=0, le=1e6)]
_Decay: TypeAlias = Annotated[float, Interval(ge=0, le=0.999999)]
_Share: TypeAlias = Annotated[float, Interval(ge=0, le=1)]
_Batch: TypeAlias = Annotated[int, Interval(ge=1, le=4096)]
_Epochs: TypeAlias = Annotated[int, Interval(ge=0, le=1_000_000)]
_Every: TypeAlias = Annotated[int, Interval(ge=1, le=10**12)]
_Limit: TypeAlias = Annotated[int, Interval(ge=0, le=10**12)]
_Workers: TypeAlias = Annotated[int, Interval(ge=0, le=256)] | None
_Samples: TypeAlias = Annotated[int, Interval(ge=0, le=10**9)]
_Seed: TypeAlias = Annotated[int, Interval(ge=0, le=2**63 - 1)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorSettings:
    """The generator."""

    network: Literal["pix2pixhd", "unet"] = "pix2pixhd"
    """pix2pixHD's coarse-to-fine generator, or pix2pix's U-Net."""
    ngf: _Filters = 64
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
    """Padding of convolutions without stride; zeros and replicate make cheaper engines."""
    balanced_upsampling: bool = False
    """Keep transposed convolutions free of checkerboards from the first step on."""
    unet_downsamplings: int = 8
    """Levels of the U-Net."""
    dropout: bool = True
    """Dropout of the U-Net while training."""
    boundaries: bool = True
    """Instance boundaries as input; needs instance maps, or data.boundaries of labels."""
    start_from: Path | None = None
    """Checkpoint bundle to start from: an equal generator, or that inside an enhancer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StyleSettings:
    """Instance-wise style (pix2pixHD, section 3.4)."""

    features: Annotated[int, Interval(ge=0, le=256)] = 0
    """Style features per instance, encoded from the photograph; 0 trains without style."""
    nef: Annotated[int, Interval(ge=1, le=1024)] = 16
    """Filters of the encoder's first convolution."""
    downsamplings: Annotated[int, Interval(ge=0, le=8)] = 4
    """Stride-2 convolutions of the encoder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscriminatorSettings:
    """The discriminators."""

    kind: Literal["patch", "segmenting"] = "patch"
    """patch: PatchGANs of map and picture; segmenting: a U-Net that finds every pixel's class, or
    that it is generated. It needs label maps, and takes levels and ndf alone.
    """
    levels: Annotated[int, Interval(ge=1, le=8)] = 6
    """Levels of the segmenting U-Net; published: 6."""
    scales: Annotated[int, Interval(ge=1, le=8)] = 2
    """PatchGANs on the picture, its half, ...; published: 2, at 2048x1024 3; pix2pix has 1."""
    ndf: _Filters = 64
    """Filters of the first convolution."""
    layers: Annotated[int, Interval(ge=1, le=8)] = 3
    """Convolutions with stride 2."""
    padding: Annotated[int, Interval(ge=1, le=2)] = 2
    """Padding of every convolution: pix2pixHD 2, pix2pix 1."""
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
    feature_matching: _Weight = 10.0
    """Weight of the feature matching loss; 0 is off. A segmenting discriminator has none."""
    perceptual: _Weight = 10.0
    """Weight of the perceptual loss; needs vgg."""
    label_mix: _Weight = 10.0
    """Weight of LabelMix with a segmenting discriminator; 0 is off."""
    vgg: Path | None = None
    """Weights of a VGG: sceneloom weights vgg16-hed, or torchvision's VGG19 or VGG16; without them
    the perceptual loss is off.
    """
    l1: _Weight = 0.0
    """Weight of the plain L1 loss; pix2pix has 100."""
    pool: Annotated[int, Interval(ge=0, le=100_000)] = 0
    """Earlier pictures that the discriminators are shown again; published: 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Adam, batches and averaging."""

    learning_rate: _Share = 2e-4
    """Learning rate of generator, encoder and discriminators."""
    beta1: _Decay = 0.5
    """Adam's first momentum."""
    beta2: _Decay = 0.999
    """Adam's second momentum."""
    batch: _Batch = 1
    """Pictures per process and forward pass."""
    accumulate: _Batch = 1
    """Forward passes whose gradients are averaged for one step."""
    ema: _Decay = 0.0
    """Decay of the exported moving average, less in the first steps; 0.999 is proven, 0 is off."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """Length of the run, and the fall of the learning rate."""

    epochs: _Epochs = 100
    """Epochs with the full learning rate."""
    decay_epochs: _Epochs = 100
    """Epochs after them, with the learning rate falling to zero in a straight line."""
    enhancer_only_epochs: _Epochs = 0
    """Epochs at the start with the global generator fixed; published: 10 with enhancers=1."""
    max_steps: _Limit = 0
    """Most steps; 0 is no limit. The learning rate does not follow it."""
    max_seconds: _Limit = 0
    """Most seconds of training in one call, which then ends with a checkpoint; the same command
    trains on. 0 is no limit. The learning rate does not follow it.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeSettings:
    """Device, precision, memory and loading."""

    device: DeviceChoice = "auto"
    """auto takes a GPU if one exists."""
    precision: Precision = "float32"
    """Precision of convolutions: 16 bits by autocast over float32 weights; float64 for proofs.
    auto takes bfloat16 where the device has it, else float32: a processor without it is many times
    slower in bfloat16.
    """
    channels_last: bool = True
    """Keep tensors in the memory order that convolutions prefer."""
    compile: bool = False
    """Compile generator and discriminators with torch.compile."""
    recompute: bool = False
    """Compute the generator's activations again in the backward pass: less memory, more time."""
    workers: _Workers = None
    """Processes that load samples; 0 loads in the training process. Without it 2, and for a GPU all
    cores but 4, at most 16.
    """
    cache: _Samples = 0
    """Samples that each loading process keeps in memory as they were read."""
    seed: _Seed = 0
    """Seed of weights, order of samples, crops and flips."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordSettings:
    """Checkpoints, log and validation."""

    checkpoint_every: _Every = 1000
    """Steps between checkpoints."""
    keep: Annotated[int, Interval(ge=1, le=10**6)] = 3
    """Newest checkpoints to keep."""
    keep_every: _Limit = 0
    """Keep checkpoints at multiples of this many steps for good; 0 is none."""
    log_every: _Every = 20
    """Steps between entries in log.jsonl and TensorBoard."""
    picture_every: _Every = 500
    """Steps between pictures in TensorBoard and, with held_out, validation."""
    held_out: _Samples = 0
    """Samples, the last by name, that are not trained on but validated by colour."""


@checked(InputError, sections=True)
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
        if not self.schedule.epochs + self.schedule.decay_epochs:
            raise InputError("schedule.epochs and schedule.decay_epochs are both 0")
        if self.schedule.enhancer_only_epochs and not self.generator.enhancers:
            raise InputError("schedule.enhancer_only_epochs needs generator.enhancers from 1")
        for name, on in {
            "compute.recompute": self.compute.recompute,
            "generator.enhancers": self.generator.enhancers,
            "generator.start_from": self.generator.start_from,
        }.items():
            if on and self.generator.network == "unet":
                raise InputError(f"{name} is for the pix2pixhd network; a U-Net has no such thing")
        for name, on in {
            "discriminator.affine_norm": self.discriminator.affine_norm,
            "discriminator.spectral_norm": self.discriminator.spectral_norm,
            "loss.pool": self.loss.pool,
        }.items():
            if on and self.discriminator.kind == "segmenting":
                raise InputError(f"{name} is for discriminator.kind patch; remove it")

    def trained_on(self, samples: int, *, processes: int = 1) -> int:
        """Number of samples to train on. Raises InputError if they are too few for a step."""
        count, o = samples - self.record.held_out, self.optimizer
        if count < (step := o.batch * o.accumulate * processes):
            raise InputError(
                f"{counted(samples, 'sample')}, {self.record.held_out} of them held out, are too "
                f"few for steps of {step} (optimizer.batch x accumulate x processes)"
            )
        return count


@checked(InputError)
@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """Encoding and clustering of styles."""

    clusters: Annotated[int, Interval(ge=1, le=1000)] = 10
    """Most clusters of a class."""
    smallest_share: _Share = 1 / 64
    """Cluster instances of at least this share of their picture; all, if a class has none."""
    width: int | None = None
    """Scale photographs to the training's width first; without it, encode them as they are."""
    seed: Annotated[int, Interval(ge=0, lt=2**32)] = 0
    """Seed of k-means: equal seeds give equal clusters."""
    device: DeviceChoice = "auto"
    """Device of the encoder; auto takes a GPU if one exists."""


@checked(InputError)
@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmenterSettings:
    """A segmentation network from random weights, and its training."""

    network: Literal["segformer", "unet"] = "segformer"
    """segformer (Xie et al., 2021) for many photographs and long training; unet (Ronneberger et
    al., 2015) for small things in few small pictures.
    """
    size: str = "512x256"
    """WIDTHxHEIGHT of photographs in training and evaluation; both multiples of 32."""
    width: Annotated[int, Interval(ge=1, le=1024)] = 32
    """Channels of the first stage; 32 gives SegFormer's B0 and MONAI's usual U-Net."""
    epochs: Annotated[int, Interval(ge=1, le=1_000_000)] = 160
    """Passes over the photographs."""
    batch: _Batch = 8
    """Pictures per step."""
    learning_rate: _Share = 6e-4
    """Learning rate of AdamW after warm-up; it falls to zero in a straight line."""
    weight_decay: _Share = 0.01
    """Weight decay of AdamW."""
    warm_up: Annotated[float, Interval(ge=0, le=0.99)] = 0.05
    """Share of the steps in which the learning rate rises from zero."""
    balance: _Share = 0.0
    """Raise rare classes: 0 weighs all pixels alike, 1 all classes; 0.5 for a short training."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Precision of convolutions; auto takes bfloat16 where the device has it, else float32."""
    flip: bool = True
    """Mirror left to right, with a chance of one half."""
    photometric: bool = True
    """Vary light, colours, grain and sharpness at random."""
    workers: _Workers = None
    """Processes that load photographs; without it 2, and for a GPU all cores but 4, at most 16."""
    cache: _Samples = 0
    """Photographs that each loading process keeps in memory."""
    checkpoint_every: _Every = 500
    """Steps between checkpoints, from which the same command resumes."""
    half: bool = False
    """Write the weights as float16, in half the space."""
    seed: _Seed = 0
    """Seed of weights, order and flips."""
    device: DeviceChoice = "auto"
    """auto takes a GPU if one exists."""

    def __post_init__(self) -> None:
        height, width = check_size(self.size, of="size")
        if height % 32 or width % 32:
            raise InputError(f"size is {self.size}; both sides are multiples of 32")
        if self.network == "segformer" and self.width % 8:
            raise InputError(f"width is {self.width}; a SegFormer takes multiples of 8")


def to_json(settings: Any) -> dict[str, Any]:
    """Settings as a JSON object, paths as strings."""
    fields: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings), default=str))
    return fields
