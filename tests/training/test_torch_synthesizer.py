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
from sceneloom_serving.parity import Parity, check_parity, reference_pictures, run_parity
from sceneloom_training.networks import Generator, GeneratorArchitecture, HalfGenerator
from sceneloom_training.networks.generator import InstanceNorm
from sceneloom_training.torch_synthesizer import TorchSynthesizer

CONTRACT = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)


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


def test_gpu_that_is_not_there_is_refused_in_a_sentence(generator: Generator) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EngineError, match="PyTorch sees no GPU on this machine"):
        TorchSynthesizer(generator, CONTRACT, device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_gpu_is_within_the_limits(
    generator: Generator, maps: list[Request], precision: str
) -> None:
    parity = parity_of(generator, maps, device="cuda", precision=precision, channels_last=True)
    assert parity.mean > 0.03


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_is_the_same(generator: Generator, maps: list[Request]) -> None:
    assert parity_of(generator, maps, compiled=True).max <= 1
