"""Golden files: written, read back, refused if damaged; block means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import blocky_maps, wide_generator

from sceneloom.contract import Contract
from sceneloom.errors import ModelFailedError, ServerStartError
from sceneloom.request import prepare
from sceneloom.schema import load_schema
from sceneloom_serving.bundle import Golden, block_means, load_golden, save_golden
from sceneloom_serving.parity import check_golden
from sceneloom_training.networks import GeneratorArchitecture
from sceneloom_training.torch_synthesizer import TorchSynthesizer

CONTRACT = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)


def test_block_means_of_a_known_picture() -> None:
    image = np.zeros((33, 48, 3), np.uint8)
    image[:16, :16] = 100
    image[:8, 16:32, 1] = 50
    means = block_means(image)
    assert means.shape == (2, 3, 3)
    assert means[0, 0].tolist() == [100, 100, 100]
    assert means[0, 1].tolist() == [0, 25, 0]
    assert means[1].max() == 0  # the last row of pixels is no whole block


def test_golden_round_trip_and_tolerance(
    tmp_path: Path, small_architecture: GeneratorArchitecture
) -> None:
    generator = wide_generator(small_architecture, seed=1)
    reference = TorchSynthesizer(generator, CONTRACT)
    request = prepare(CONTRACT, *blocky_maps(64, 64, seed=0))
    means = block_means(reference.run_requests([request])[0])
    save_golden(Golden(request=request, block_means=means), tmp_path)
    golden = load_golden(tmp_path)
    assert golden.request.style is None
    assert check_golden(reference, golden) == 0
    generator.head[1].bias.add_(0.005)  # about half a grey level: within the tolerance
    assert 0 < check_golden(TorchSynthesizer(generator, CONTRACT), golden) < 2
    generator.head[1].bias.add_(0.1)
    with pytest.raises(ModelFailedError, match="2 is the limit"):
        check_golden(TorchSynthesizer(generator, CONTRACT), golden)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged", b"\x93NUMPY"])
def test_damaged_golden_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "golden.npz").write_bytes(content)
    with pytest.raises(ServerStartError, match=r"golden\.npz: damaged"):
        load_golden(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"label_map": np.zeros((64, 64))},
        {"label_map": np.zeros((0, 0), np.uint8)},
        {"label_map": np.zeros(64, np.uint8)},
        {"instance_map": np.zeros((64, 64), np.int64)},
        {"instance_map": np.zeros((64, 32), np.int32)},
        {"block_means": np.zeros((1, 1, 3), np.float32)},
        {"block_means": np.array("x")},
        {"surprise": np.zeros(1)},
    ],
)
def test_golden_file_with_other_arrays(tmp_path: Path, change: dict[str, np.ndarray]) -> None:
    fields = {
        "label_map": np.zeros((64, 64), np.uint8),
        "instance_map": np.zeros((64, 64), np.int32),
        "block_means": np.zeros((4, 4, 3), np.float32),
    }
    np.savez(tmp_path / "golden.npz", **fields)
    assert load_golden(tmp_path).request.style is None
    np.savez(tmp_path / "golden.npz", **{**fields, **change})
    with pytest.raises(ServerStartError, match=r"golden\.npz: damaged"):
        load_golden(tmp_path)


def test_blocks_of_a_picture_smaller_than_one() -> None:
    image = np.full((8, 40, 3), 7, np.uint8)
    assert block_means(image).tolist() == np.full((1, 2, 3), 7.0).tolist()
