"""What the half graph spares the GPU: planes in float32, and biases that a norm takes away."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from sceneloom.contract import Contract
from sceneloom.request import stack
from sceneloom.schema import load_schema
from sceneloom_export.bundle import Exported
from sceneloom_export.graph import export_onnx
from sceneloom_export.proof import draw_probe
from sceneloom_serving.parity import compare
from sceneloom_training.networks import (
    Generator,
    HalfGenerator,
    ServedGenerator,
    UNetArchitecture,
    build_generator,
    drop_dead_biases,
)
from sceneloom_training.networks.served import boundary_plane, one_hot_planes, style_planes
from sceneloom_training.torch_synthesizer import TorchSynthesizer

STYLED = Contract(
    schema=load_schema("cityscapes"), boundaries=True, style_channels=3, size_multiple=8
)


@pytest.mark.slow
def test_planes_are_made_in_half(tmp_path: Path, styled_generator: Generator) -> None:
    half = ServedGenerator(HalfGenerator(styled_generator).eval(), STYLED).eval()
    export_onnx(half, tmp_path / "fp16.onnx", weights="weights-fp16.bin")
    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "fp16.onnx")).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    planes = next(
        node
        for node in graph.node
        if node.op_type == "Concat" and types[node.output[0]] in (1, 10) and len(node.input) == 3
    )
    # One-hot, boundary and style: the copies in float32 took 302 MB at 2048x1024.
    assert [types[name] for name in planes.input] == [TensorProto.FLOAT16] * 3


def test_planes_made_in_half_give_the_same_bits(styled_generator: Generator) -> None:
    half = HalfGenerator(styled_generator).eval()
    served = ServedGenerator(half, STYLED).eval()
    labels, instances, style = (
        torch.from_numpy(x) for x in stack([draw_probe(STYLED, 64, 96, seed=3)]) if x is not None
    )
    with torch.inference_mode():
        planes = torch.cat(
            [
                one_hot_planes(labels, served.channel_ids),
                boundary_plane(instances),
                style_planes(instances, style),
            ],
            1,
        )
        assert planes.dtype == torch.float32
        picture = ((half(planes) + 1.0) * 127.5).clamp(0.0, 255.0).round()
        given = served(labels, instances, style)
    assert torch.equal(given, picture.permute(0, 2, 3, 1).to(torch.uint8))


def norms_biases(path: Path) -> list[bool]:
    """For each InstanceNormalization, whether the convolution before it has a bias."""
    graph = onnx.load(path, load_external_data=False).graph
    makers = {name: node for node in graph.node for name in node.output}
    found = []
    for node in (n for n in graph.node if n.op_type == "InstanceNormalization"):
        before = makers[node.input[0]]
        before = makers[before.input[0]] if before.op_type == "Cast" else before
        assert before.op_type in ("Conv", "ConvTranspose")
        found.append(len(before.input) == 3)
    return found


def test_only_the_half_graph_leaves_the_biases_out(exported: Exported) -> None:
    version = exported.repository / "synthesis" / "1"
    full, half = norms_biases(version / "model.onnx"), norms_biases(version / "fp16.onnx")
    assert len(full) == len(half) > 0
    assert all(full)  # CPUs add them for nothing, and the weights of older exports stay the same
    assert not any(half)


@pytest.mark.parametrize("network", ["pix2pixhd", "unet"])
def test_biases_before_a_norm_change_at_most_one_level(
    styled_generator: Generator, network: str
) -> None:
    generator, contract = styled_generator, STYLED
    if network == "unet":
        architecture = UNetArchitecture(input_channels=39, ngf=4, downsamplings=5)
        contract = Contract(
            schema=load_schema("cityscapes"), boundaries=True, style_channels=3, size_multiple=32
        )
        generator = build_generator(architecture, seed=1).eval().requires_grad_(False)
        noise = torch.Generator().manual_seed(1)
        for name, tensor in generator.named_parameters():
            if name.endswith("bias"):
                tensor.copy_(torch.randn(tensor.shape, generator=noise) * 0.1)
    without = copy.deepcopy(generator)
    drop_dead_biases(without)
    dropped = sum(p.numel() for p in generator.parameters()) - sum(
        p.numel() for p in without.parameters()
    )
    assert dropped > 0
    requests = [draw_probe(contract, 64, 96, seed) for seed in range(3)]
    pictures = [
        [TorchSynthesizer(net, contract).run_batch(*stack([r])) for r in requests]
        for net in (generator, without)
    ]
    assert np.ptp(pictures[0][0].astype(int)) > 20
    assert compare(*pictures).max <= 1
