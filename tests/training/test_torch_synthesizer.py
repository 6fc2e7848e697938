"""PyTorch's own ways to run a generator, each within its limits of the plain one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import wide_generator

from sceneloom.contract import Contract
from sceneloom.errors import EngineError
from sceneloom.request import Request
from sceneloom.schema import load_schema
from sceneloom_export.proof import draw_probe
from sceneloom_serving.parity import (
    Parity,
    check_parity,
    compare,
    reference_pictures,
    run_parity,
)
from sceneloom_training.networks import Generator, GeneratorArchitecture, HalfGenerator
from sceneloom_training.networks.generator import InstanceNorm, ReflectionPad, is_channels_last
from sceneloom_training.torch_synthesizer import TorchSynthesizer

CONTRACT = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU")


@pytest.fixture
def generator(small_architecture: GeneratorArchitecture) -> Generator:
    return wide_generator(small_architecture, seed=1)


@pytest.fixture(scope="module")
def maps() -> list[Request]:
    return [draw_probe(CONTRACT, *size, seed=i) for i, size in enumerate([(64, 96), (32, 40)])]


def parity_of(generator: Generator, maps: list[Request], **how: Any) -> Parity:
    pictures = reference_pictures(TorchSynthesizer(generator, CONTRACT), maps)
    candidate = TorchSynthesizer(generator, CONTRACT, max_batch_size=2, **how)
    parity = run_parity(pictures, candidate, maps)
    check_parity(parity, how.get("precision", "fp32"), "PyTorch")
    return parity


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_every_precision_and_memory_order_is_within_its_limits(
    generator: Generator, maps: list[Request], precision: str, channels_last: bool
) -> None:
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    parity = parity_of(generator, maps, precision=precision, channels_last=channels_last)
    assert (parity.mean > 0.03) == (precision != "fp32")
    assert all(torch.equal(before[n], tensor) for n, tensor in generator.state_dict().items())
    assert all(tensor.is_contiguous() for tensor in generator.state_dict().values())


def test_half_generator_has_float32_norms_and_last_step(generator: Generator) -> None:
    half = HalfGenerator(generator)
    seen: dict[str, set[tuple[torch.dtype, torch.dtype]]] = {}

    def note(kind: str, x: torch.Tensor, y: torch.Tensor) -> None:
        seen.setdefault(kind, set()).add((x.dtype, y.dtype))

    for module in half.network.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d, InstanceNorm)):
            kind = "norm" if isinstance(module, InstanceNorm) else "convolution"
            module.register_forward_hook(lambda _m, x, y, k=kind: note(k, x[0], y))
    image = half(torch.rand(1, 36, 32, 40))
    assert image.dtype == torch.float32
    assert seen["norm"] == {(torch.float32, torch.float32)}
    assert seen["convolution"] == {(torch.float16, torch.float16)}
    assert not torch.equal(image, image.half().float())  # the tanh is not rounded to half


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_channels_last_stays_so_to_the_last_convolution(
    generator: Generator, dtype: torch.dtype
) -> None:
    """PyTorch's own norm and reflection make it contiguous, and each convolution copies back."""
    half = HalfGenerator(generator, dtype).eval().to(memory_format=torch.channels_last)
    orders: dict[str, list[bool]] = {}
    for name, module in half.network.named_modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d, ReflectionPad)):
            module.register_forward_hook(
                lambda _, x, y, n=name: orders.setdefault(n, []).extend(
                    [is_channels_last(x[0]), is_channels_last(y)]
                )
            )
    planes = torch.rand(2, 36, 32, 40)
    with torch.inference_mode():
        images = half(planes)
        plain = HalfGenerator(generator, dtype).eval()(planes)
    assert {"global_generator.stem.0", "enhancers.0.blocks.0.conv2", "head.0.1"} <= orders.keys()
    assert all(all(found) for found in orders.values()), orders
    assert (images - plain).abs().max() < 16 * torch.finfo(dtype).eps


@pytest.mark.parametrize("pad", [1, 3])
def test_reflection_in_channels_last_is_pytorchs(pad: int) -> None:
    x = torch.rand(2, 5, 7, 9).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        found = ReflectionPad(pad)(x)
    assert is_channels_last(found)
    assert torch.equal(found, torch.nn.functional.pad(x, [pad] * 4, mode="reflect"))


def test_the_exported_graph_has_the_same_nodes_in_any_memory_order(generator: Generator) -> None:
    """Engines know the norm and the reflection by these."""
    planes = torch.rand(1, 36, 32, 40)
    with torch.no_grad():
        program = torch.export.export(HalfGenerator(generator).eval(), (planes,))
        targets = [str(node.target) for node in program.graph.nodes]
    assert any("instance_norm" in name for name in targets)
    assert any("pad" in name for name in targets)
    assert not any("var_mean" in name for name in targets)


def test_a_graph_without_a_gpu_is_refused(generator: Generator) -> None:
    with pytest.raises(EngineError, match="a CUDA graph needs a GPU"):
        TorchSynthesizer(generator, CONTRACT, precision="fp16", graphed=True)


def test_gpu_that_is_not_there_is_refused_in_a_sentence(generator: Generator) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EngineError, match="PyTorch sees no GPU on this machine"):
        TorchSynthesizer(generator, CONTRACT, device="cuda")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_gpu_is_within_the_limits(
    generator: Generator, maps: list[Request], precision: str
) -> None:
    parity = parity_of(generator, maps, device="cuda", precision=precision, channels_last=True)
    assert parity.mean > 0.03


@pytest.mark.gpu
@needs_gpu
def test_a_graph_gives_eager_pictures_of_every_size_and_says_its_time(
    generator: Generator, maps: list[Request]
) -> None:
    how: dict[str, Any] = {"device": "cuda", "precision": "fp16", "channels_last": True}
    eager = TorchSynthesizer(generator, CONTRACT, **how)
    graph = TorchSynthesizer(generator, CONTRACT, graphed=True, **how)
    assert (graph.engine, graph.precision) == ("torch-graph-fp16", "fp16")
    for one in (*maps, *maps, maps[1]):
        expected, found = eager.run_requests([one]), graph.run_requests([one])
        assert compare([expected], [found]).max <= 1
        assert eager.device_seconds
        assert graph.device_seconds
    assert parity_of(generator, maps, graphed=True, **how).mean > 0.03


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_is_the_same(generator: Generator, maps: list[Request]) -> None:
    assert parity_of(generator, maps, compiled=True).max <= 1
