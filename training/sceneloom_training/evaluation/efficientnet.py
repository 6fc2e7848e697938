"""EfficientNet-Lite0 up to its pooled features: EfficientNet-B0 (Tan and Le, 2019) without squeeze
and excitation, with ReLU6. `sceneloom weights efficientnet-lite0` gets its weights.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from sceneloom.errors import CheckpointError
from sceneloom.text import reason
from sceneloom_training.checkpoint import load_tensors

SIDE = 224
"""Height and width of its training's pictures."""
FEATURES = 1280
_STEM = 32
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, kernel, stride of the first, expansion, channels."""
_NAMES = {
    r"_conv_stem\.": "stem.conv.",
    r"_bn0\.": "stem.norm.",
    r"_conv_head\.": "head.conv.",
    r"_bn1\.": "head.norm.",
    r"(_blocks\.\d+)\._expand_conv\.": r"\1.expand.conv.",
    r"(_blocks\.\d+)\._bn0\.": r"\1.expand.norm.",
    r"(_blocks\.\d+)\._depthwise_conv\.": r"\1.depthwise.conv.",
    r"(_blocks\.\d+)\._bn1\.": r"\1.depthwise.norm.",
    r"(_blocks\.\d+)\._project_conv\.": r"\1.project.conv.",
    r"(_blocks\.\d+)\._bn2\.": r"\1.project.norm.",
}
"""Names in the file to names here; the first block has no expand."""


class EfficientNetLite0(nn.Module):
    """Pictures to 1280 features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Layer(3, _STEM, 3, stride=2)
        blocks, channels = [], _STEM
        for count, kernel, stride, expansion, width in _STAGES:
            for i in range(count):
                options = {"kernel": kernel, "stride": 1 if i else stride, "expansion": expansion}
                blocks.append(_Block(channels, width, **options))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = _Layer(channels, FEATURES, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Features [N, 1280] of grey levels, float [N, 3, 224, 224], 0 to 255."""
        x = (pictures - 127.0) / 128.0
        features: Tensor = self.head(self.blocks(self.stem(x))).mean((2, 3))
        return features


class _Layer(nn.Module):
    """Convolution, BatchNorm and, if it activates, ReLU6."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        activates: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)
        self.activates = activates

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(_padded(x, self.conv.kernel_size[0], self.conv.stride[0])))
        return functional.relu6(x) if self.activates else x


class _Block(nn.Module):
    """Inverted residual: expand, depthwise convolution, project."""

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = _Layer(inputs, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _Layer(inner, inner, kernel, stride=stride, groups=inner)
        self.project = _Layer(inner, outputs, 1, activates=False)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.adds else y


def _padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros as TensorFlow's SAME pads: of an odd number, one more at the end."""
    margins = []
    for side in (x.shape[-1], x.shape[-2]):
        whole = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        margins += [whole // 2, whole - whole // 2]
    return functional.pad(x, margins)


def load_efficientnet(path: Path) -> EfficientNetLite0:
    """Load the weights, in eval mode. Raises CheckpointError for any other file."""
    network = EfficientNetLite0()
    try:
        state = load_tensors(path)
        named = {}
        for name, tensor in state.items():
            if name.startswith("_fc."):  # classes of ImageNet
                continue
            for theirs, ours in _NAMES.items():
                if re.match(theirs, name):
                    name = re.sub(theirs, ours, name, count=1).removeprefix("_")
                    break
            named[name] = tensor
        network.load_state_dict(named)
    except Exception as error:  # pickle, zip, key and shape errors of another file
        raise CheckpointError(
            f"{path}: not readable as the file of sceneloom weights efficientnet-lite0 "
            f"({reason(error)})"
        ) from None
    return network.eval().requires_grad_(False)
