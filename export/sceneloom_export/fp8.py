"""FP8 (e4m3) in the residual blocks of the global generator, 46 % of the published network's
arithmetic, in the half graph.

A norm is in front of every such convolution or of what is added up there, so values are a few
deviations of one: one fixed scale fits all activations, without calibration. Weights have a scale
for each output channel. Everything else is as in half.

`emulate` computes it in PyTorch, which judges it on a CPU; `write_fp8` writes the half graph with
QuantizeLinear and DequantizeLinear nodes for TensorRT 10 and newer, which computes the convolution
between them in FP8 (compute capability 8.9 and newer). It quantises as these nodes do: divide by
the scale, clip to 448, round to the nearest even.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from sceneloom.errors import ExportError
from sceneloom_serving.bundle import FP8_FILE, WEIGHTS
from sceneloom_training.networks import Generator, SynthesisNetwork

SCALE = 1 / 8
"""Scale of every activation: values up to 56 deviations."""
_LARGEST = 448.0  # of e4m3
_OPSET = 19  # the first with 8 bit floats
_WEIGHT = re.compile(r".*\bglobal_generator\.blocks\.\d+\.conv[12]\.weight")


class Fp8Convolution(nn.Conv2d):
    """A convolution that rounds its input and weights to e4m3 and adds up in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W], padded -> [N, channels, H - 2, W - 2]."""
        scales = weight_scales(self.weight).view(-1, 1, 1, 1)
        inputs = _quantise(x, torch.tensor(SCALE, dtype=x.dtype, device=x.device)).to(x.dtype)
        weight = _quantise(self.weight, scales).to(x.dtype)
        y: Tensor = functional.conv2d(inputs * SCALE, weight * scales, self.bias)
        return y


def weight_scales(weight: Tensor) -> Tensor:
    """Scale of each output channel of [channels, C, 3, 3], in half as in the graph; at least the
    least normal half, for channels of zeros.
    """
    largest = weight.detach().abs().amax((1, 2, 3)) / _LARGEST
    return largest.clamp(min=2.0**-14).half().to(weight.dtype)


def _quantise(x: Tensor, scales: Tensor) -> Tensor:
    limits = _LARGEST * scales
    return (x.clamp(-limits, limits) / scales).to(torch.float8_e4m3fn)


def emulate(generator: SynthesisNetwork) -> SynthesisNetwork:
    """Copy a generator, with FP8 in its blocks; raises ExportError for a network without them."""
    if not isinstance(generator, Generator) or not generator.global_generator.blocks:
        raise ExportError(
            "fp8 is for the residual blocks of pix2pixHD's global generator, and this network has "
            "none: export it with --precision exact"
        )
    copied = copy.deepcopy(generator)
    for block in copied.global_generator.blocks:
        for name in ("conv1", "conv2"):
            plain = getattr(block, name)
            quantised = Fp8Convolution(plain.in_channels, plain.out_channels, 3)
            quantised.weight, quantised.bias = plain.weight, plain.bias
            setattr(block, name, quantised)
    return copied.eval()


def write_fp8(source: Path, target: Path) -> None:
    """Write a half graph with FP8 in its blocks; `target` is `FP8_FILE` in any folder."""
    model = onnx.load(source)
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    half, fp8 = TensorProto.FLOAT16, TensorProto.FLOAT8E4M3FN
    added = [
        helper.make_tensor("fp8_scale", half, [], [SCALE]),
        helper.make_tensor("fp8_zero", fp8, [], [0.0]),
    ]
    nodes = []
    for node in graph.node:
        name = node.input[1] if node.op_type == "Conv" else ""
        if not _WEIGHT.fullmatch(name):
            nodes.append(node)
            continue
        weight = torch.from_numpy(numpy_helper.to_array(weights[name]).copy()).float()
        scales = weight_scales(weight)
        quantised = _quantise(weight, scales.view(-1, 1, 1, 1))
        stored = quantised.view(torch.uint8).numpy().tobytes()
        weights[name].CopyFrom(
            TensorProto(name=name, data_type=fp8, dims=weight.shape, raw_data=stored)
        )
        channels = [len(scales)]
        added += [
            helper.make_tensor(f"{name}_scale", half, channels, scales.half().numpy()),
            helper.make_tensor(f"{name}_zero", fp8, channels, bytes(len(scales)), raw=True),
        ]
        x, by = node.input[0], ["fp8_scale", "fp8_zero"]
        eight, back, wide = f"{name}_input_fp8", f"{name}_input", f"{name}_half"
        of_weight = [name, f"{name}_scale", f"{name}_zero"]
        nodes += [
            helper.make_node("QuantizeLinear", [x, *by], [eight], f"{name}_quantise"),
            helper.make_node("DequantizeLinear", [eight, *by], [back], f"{name}_dequantise"),
            helper.make_node("DequantizeLinear", of_weight, [wide], f"{name}_widen", axis=0),
        ]
        node.input[0], node.input[1] = back, wide
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(added)
    for entry in model.opset_import:
        if not entry.domain:
            entry.version = _OPSET
    model.ir_version = max(model.ir_version, 9)  # the first with 8 bit floats
    onnx.save(
        model, target, save_as_external_data=True, location=WEIGHTS[FP8_FILE], size_threshold=4096
    )
    onnx.checker.check_model(str(target), full_check=True)
