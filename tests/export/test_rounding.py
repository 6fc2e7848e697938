"""The judge of 16 bit engines: it computes what PyTorch in half does, and sees what overflows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from support import CHECKOUT, wide_generator

from sceneloom.contract import Contract
from sceneloom.errors import ParityError
from sceneloom.request import Request
from sceneloom.schema import load_schema
from sceneloom_export.precision import HALF_LIMIT, RoundedSynthesizer, check_half_range
from sceneloom_export.proof import draw_probe, judge_rounded, make_references, reference_maps
from sceneloom_serving.bundle import References
from sceneloom_serving.parity import Parity, compare, reference_pictures, run_parity
from sceneloom_training.checkpoint import load_checkpoint
from sceneloom_training.networks import Generator, GeneratorArchitecture, drop_dead_biases
from sceneloom_training.torch_synthesizer import TorchSynthesizer

CONTRACT = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)
LAYER = "global_generator.blocks.0.conv1"


@pytest.fixture
def generator(small_architecture: GeneratorArchitecture) -> Generator:
    return wide_generator(small_architecture, seed=1)


@pytest.fixture(scope="module")
def maps() -> list[Request]:
    return [draw_probe(CONTRACT, 64, 96, seed=seed) for seed in range(2)]


@pytest.fixture
def references(generator: Generator, maps: list[Request]) -> References:
    return make_references(generator, CONTRACT, maps)


def scale(generator: Generator, factor: float) -> None:
    """Scale a convolution in front of a norm, which takes the factor out again."""
    convolution = generator.get_submodule(LAYER)
    for parameter in convolution.parameters():
        parameter.mul_(factor)


@pytest.mark.parametrize(
    ("precision", "dtype", "most"), [("fp16", torch.float16, 1), ("bf16", torch.bfloat16, 4)]
)
def test_it_computes_what_pytorch_computes_in_16_bits(
    generator: Generator, maps: list[Request], precision: str, dtype: torch.dtype, most: int
) -> None:
    half = TorchSynthesizer(generator, CONTRACT, precision=precision)
    rounded = RoundedSynthesizer(generator, CONTRACT, dtype)
    pictures = reference_pictures(half, maps)
    assert run_parity(pictures, rounded, maps).max <= most
    full = reference_pictures(TorchSynthesizer(generator, CONTRACT), maps)
    moved = compare(full, pictures)
    found = run_parity(full, rounded, maps)
    assert found.mean > 0.03  # it does round
    assert found.mean == pytest.approx(moved.mean, rel=0.1)
    assert found.psnr == pytest.approx(moved.psnr, abs=1)


def test_bfloat16_moves_a_picture_further_than_half(
    generator: Generator, references: References
) -> None:
    half, brain = (judge_rounded(generator, CONTRACT, p, references) for p in ("fp16", "bf16"))
    assert half.reason is None
    assert brain.reason is not None
    assert "bf16 is proven on 8 maps at least" in brain.reason
    assert brain.parity.mean > 4 * half.parity.mean
    assert brain.largest.keys() == half.largest.keys()


def test_generator_stays_as_it_was_and_runs_as_before(
    generator: Generator, maps: list[Request], references: References
) -> None:
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    rounded = RoundedSynthesizer(generator, CONTRACT, torch.bfloat16)
    first = reference_pictures(rounded, maps)
    assert compare(first, reference_pictures(rounded, maps)).max == 0
    assert all(torch.equal(before[n], tensor) for n, tensor in generator.state_dict().items())
    again = reference_pictures(TorchSynthesizer(generator, CONTRACT), maps)
    assert compare(references.pictures, again).max == 0  # no hook or mode is left behind
    assert (torch.ones(1) * 1.0001).item() != 1


def test_every_layer_has_its_largest_value(
    generator: Generator, maps: list[Request], references: References
) -> None:
    judged = judge_rounded(generator, CONTRACT, "fp16", references)
    kinds = (torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.InstanceNorm2d)
    layers = {name for name, module in generator.named_modules() if isinstance(module, kinds)}
    assert judged.largest.keys() - {"between layers"} == layers
    reached: dict[str, float] = {}

    def note(name: str, y: torch.Tensor) -> None:
        reached[name] = max(reached.get(name, 0.0), float(y.abs().max()))

    drop_dead_biases(generator)  # the half graph has none
    for name in layers:
        generator.get_submodule(name).register_forward_hook(lambda _m, _x, y, n=name: note(n, y))
    reference_pictures(TorchSynthesizer(generator, CONTRACT), maps)
    for name in layers:
        assert judged.largest[name] == pytest.approx(reached[name], rel=0.02)
        as_half = np.float32(np.float16(judged.largest[name]))
        assert judged.largest[name] != as_half, "it is the value before it was rounded"


def test_value_that_half_cannot_hold_is_caught_by_its_layer(
    generator: Generator, references: References
) -> None:
    scale(generator, 2e5)
    assert run_parity(  # in float32 the norm behind it takes the factor out
        references.pictures, TorchSynthesizer(generator, CONTRACT), references.requests
    ) == Parity(max=1, p999=0, mean=pytest.approx(0, abs=1e-3), psnr=pytest.approx(90, abs=15))
    judged = judge_rounded(generator, CONTRACT, "fp16", references)
    assert judged.reason is not None
    assert f"in the network's order {LAYER} (" in judged.reason
    assert 65_504 < judged.largest[LAYER] < math.inf  # before it was rounded
    assert math.isnan(judged.largest["global_generator.blocks.0.norm1"])
    assert judged.to_json()["largest"]["global_generator.blocks.0.norm1"] is None
    brain = judge_rounded(generator, CONTRACT, "bf16", references)
    assert all(map(math.isfinite, brain.largest.values()))  # its range is float32's


def test_value_near_the_end_of_the_range_is_caught_although_the_picture_is_right(
    generator: Generator, references: References
) -> None:
    scale(generator, 2e4)
    rounded = RoundedSynthesizer(generator, CONTRACT, torch.float16)
    assert run_parity(references.pictures, rounded, references.requests).max <= 1
    assert HALF_LIMIT < rounded.largest[LAYER] < 65_504
    judged = judge_rounded(generator, CONTRACT, "fp16", references)
    assert judged.reason is not None
    assert "1 layers reach more than 16,000" in judged.reason
    assert f"{LAYER} ({judged.largest[LAYER]:,.0f})" in judged.reason


def test_limit_of_the_range() -> None:
    check_half_range({"a": HALF_LIMIT, "b": 0.0})
    with pytest.raises(ParityError, match=r"order b \(16,001\), c \(not finite\), between layers"):
        check_half_range({"between layers": math.nan, "a": 1.0, "b": 16_001.0, "c": math.nan})
    assert check_half_range({}) is None  # type: ignore[func-returns-value]


def test_pictures_that_differ_by_more_than_the_limits_are_refused(
    generator: Generator, maps: list[Request], small_architecture: GeneratorArchitecture
) -> None:
    other = make_references(wide_generator(small_architecture, seed=2), CONTRACT, maps)
    judged = judge_rounded(generator, CONTRACT, "fp16", other)
    assert judged.reason is not None
    assert "PyTorch's graph rounded to fp16 differs from PyTorch by" in judged.reason
    assert str(judged) == f"fp16 left out: {judged.reason}"


def test_demo_checkpoint_is_within_the_limits_in_half() -> None:
    folder = CHECKOUT / "examples" / "street_demo" / "generator"
    checkpoint = load_checkpoint(folder)
    assert checkpoint.contract is not None
    street = reference_maps(checkpoint.contract, (128, 256), [])[-1]
    references = make_references(checkpoint.generator, checkpoint.contract, [street])
    judged = judge_rounded(checkpoint.generator, checkpoint.contract, "fp16", references)
    assert judged.reason is None
    assert references.pictures[0].std() > 20
    assert max(judged.largest.values()) < HALF_LIMIT


def test_reference_maps_end_with_the_largest(tmp_path: Path) -> None:
    own = [draw_probe(CONTRACT, 32, 32, seed=7)]
    found = reference_maps(CONTRACT, (100, 200), own)
    sizes = [request.label_map.shape for request in found]
    assert sizes == [(64, 64), (128, 192), (192, 136), (32, 32), (104, 200)]
    assert found[3] is own[0]
    helen = Contract(
        schema=load_schema("helen"), boundaries=False, size_multiple=8, sizes=((32, 64), (16, 16))
    )
    sizes = [request.label_map.shape for request in reference_maps(helen, (1024, 2048), [])]
    assert sizes == [(32, 64), (16, 16), (32, 64)]
    assert len(np.unique(found[-1].label_map)) > 3
