"""Lower precisions: 16 bit rounded, INT8 quantised, and recognition compared.

ONNX Runtime's CPU provider removes half precision casts and so proves nothing about them. So
PyTorch's graph runs with every tensor really rounded (convolutions add up in float32 before, as
GPUs do), and the largest value of each layer is kept. A float16 graph fails if one is not finite or
above `HALF_LIMIT`, a quarter of float16's range: other maps reach further.

INT8 comes from ONNX Runtime's quantiser: Q/DQ nodes around the convolutions, ranges found on maps.
It is for OpenVINO alone: activations are uint8 with zero points, which TensorRT does not take.
Transposed convolutions, norms, both ends of the graph and the last convolution stay float32: the
last is 1 % of the arithmetic, and its error is visible.

Recognition: a segmenter compares a precision's pictures with float32's (docs/evaluation.md).
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime.quantization as quantization
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sceneloom.contract import Contract
from sceneloom.errors import ParityError
from sceneloom.maps import Image, InstanceMap, LabelMap, Style
from sceneloom.request import Request, stack, tensors
from sceneloom.schema import LabelSchema
from sceneloom.synthesizer import Synthesizer
from sceneloom_export.graph import quiet
from sceneloom_serving.bundle import INT8_FILE, WEIGHTS
from sceneloom_serving.parity import MAX_LOST_IOU
from sceneloom_training.data.geometry import resize_nearest
from sceneloom_training.evaluation.evaluate import resize_picture
from sceneloom_training.evaluation.scores import count_classes, score, truth_table
from sceneloom_training.evaluation.segmenter import load_segmenter
from sceneloom_training.networks import ServedGenerator, SynthesisNetwork, drop_dead_biases

HALF_LIMIT = 16_000.0  # largest value of any layer of a float16 graph


class RoundedSynthesizer(Synthesizer):
    """Runs a generator in float32 on the CPU, with every tensor rounded to 16 bits."""

    def __init__(self, generator: SynthesisNetwork, contract: Contract, dtype: torch.dtype) -> None:
        """Copy a float32 generator and round its weights, except norms' scales and shifts."""
        super().__init__(contract)
        self.largest: dict[str, float] = {}
        """Layer -> largest absolute value before rounding, or NaN if one was not finite."""
        self._dtype = dtype
        rounded = copy.deepcopy(generator).eval()
        if dtype == torch.float16:  # as the half graph
            drop_dead_biases(rounded)
        for module in rounded.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                for parameter in module.parameters(recurse=False):
                    parameter.copy_(parameter.to(dtype).float())
        self._served = ServedGenerator(rounded, contract)
        self._names = {module: name for name, module in rounded.named_modules()}
        self._network = rounded

    def run_batch(
        self, label_maps: LabelMap, instance_maps: InstanceMap | None, styles: Style | None
    ) -> Image:
        """Run one batch; see `Synthesizer.run_batch`."""
        inputs = [
            None if x is None else torch.from_numpy(x) for x in (label_maps, instance_maps, styles)
        ]
        # While the network runs, and only then: the steps around it are float32.
        mode, stack = _Rounding(self._dtype, self.largest), contextlib.ExitStack()
        hooks = [
            self._network.register_forward_pre_hook(lambda _, x: (x[0].to(self._dtype).float(),)),
            self._network.register_forward_pre_hook(lambda *_: stack.enter_context(mode) and None),
            self._network.register_forward_hook(lambda *_: stack.close()),
        ]
        for module, name in self._names.items():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.InstanceNorm2d)):
                hooks += [
                    module.register_forward_pre_hook(partial(mode.enter, name)),
                    module.register_forward_hook(partial(mode.enter, _BETWEEN)),
                ]
        try:
            with torch.inference_mode():
                image: Image = self._served(*inputs).numpy()
        finally:
            stack.close()
            for hook in hooks:
                hook.remove()
        return image


_BETWEEN = "between layers"
_LOOKS = (torch.is_grad_enabled, torch.is_floating_point)
_FLOAT32 = (torch.tanh, torch.Tensor.tanh)  # the last step, in every engine


class _Rounding(TorchFunctionMode):
    """Rounds the results of torch's functions, and keeps the largest of each layer."""

    def __init__(self, dtype: torch.dtype, largest: dict[str, float]) -> None:
        super().__init__()
        self._dtype, self._largest, self.layer = dtype, largest, _BETWEEN

    def enter(self, layer: str, *_: Any) -> None:
        self.layer = layer

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _LOOKS or func in _FLOAT32 or not isinstance(result, Tensor):
            return result
        if result.dtype != torch.float32 or not result.dim():
            return result
        low, high = map(float, torch.aminmax(result))
        reached = max(-low, high)
        if not math.isnan(self._largest.get(self.layer, 0.0)):
            finite = math.isfinite(low) and math.isfinite(high)
            before = self._largest.get(self.layer, 0.0)
            self._largest[self.layer] = max(before, reached) if finite else math.nan
        rounded = result.to(self._dtype)
        # After a function in place, rounding is in place, too.
        return result.copy_(rounded) if args and result is args[0] else rounded.float()


def check_half_range(largest: Mapping[str, float]) -> None:
    """Refuse values near the end of float16's range; raises ParityError with their layers."""
    broken = {n: v for n, v in largest.items() if math.isnan(v) or v > HALF_LIMIT}
    if broken:
        ordered = sorted(broken.items(), key=lambda item: item[0] == _BETWEEN)
        shown = ", ".join(
            f"{name} ({'not finite' if math.isnan(value) else f'{value:,.0f}'})"
            for name, value in ordered[:5]
        )
        raise ParityError(
            f"float16 would overflow: {len(broken)} layers reach more than {HALF_LIMIT:,.0f}, in "
            f"the network's order {shown}"
        )


def quantise(source: Path, target: Path, maps: Sequence[Request]) -> None:
    """Write a graph with accurate norms in int8, with ranges from maps at network size."""
    graph = onnx.load(source, load_external_data=False).graph
    convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
    with quiet(None):
        quantization.quantize_static(
            source,
            target,
            _Maps(maps),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=convolutions[-1:],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            use_external_data_format=True,
        )
    model = onnx.load(target)
    target.with_name(f"{target.name}.data").unlink(missing_ok=True)
    onnx.save(
        model, target, save_as_external_data=True, location=WEIGHTS[INT8_FILE], size_threshold=4096
    )


class _Maps(quantization.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, maps: Sequence[Request]) -> None:
        self._left = iter(maps)

    def get_next(self) -> dict[str, Any] | None:
        request = next(self._left, None)
        return None if request is None else tensors(*stack([request]))


class Recognition:
    """A segmenter, and maps of the pictures that it sees."""

    def __init__(self, segmenter: Path, schema: LabelSchema, requests: Sequence[Request]) -> None:
        """Load a segmenter; raises CheckpointError, or InputError without a common class."""
        self._segmenter = load_segmenter(segmenter)
        table, _ = truth_table(schema, self._segmenter.schema)
        size = (self._segmenter.height, self._segmenter.width)
        truths = [resize_nearest(table[request.label_map], *size) for request in requests]
        self._truth, self._size = np.stack(truths), size
        self.pictures = len(truths)
        """Count of the maps."""

    def mean_iou(self, pictures: Sequence[Image]) -> float:
        """Mean IoU of the pictures, uint8 [1, H, W, 3] of each map, 0 to 100."""
        shown = np.stack([resize_picture(picture[0], *self._size) for picture in pictures])
        channels = self._segmenter.schema.channels
        counts = count_classes(self._segmenter.segment(shown), self._truth, channels)
        value = score(counts, draws=1, seed=0).mean_iou.value
        return 100 * (value or 0.0)

    def check(
        self, references: Sequence[Image], candidates: Sequence[Image], precision: str
    ) -> float:
        """Points of mean IoU that a precision loses, or gains below 0; raises ParityError."""
        before, after = self.mean_iou(references), self.mean_iou(candidates)
        if before - after > MAX_LOST_IOU:
            raise ParityError(
                f"{precision} loses {before - after:.1f} points of mean IoU in the eyes of "
                f"{self._segmenter.name} ({before:.1f} to {after:.1f}), {MAX_LOST_IOU:g} is the "
                "limit"
            )
        return before - after
