"""What is measured and what it costs: operations, peaks, which engines, which settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from engine_fakes import CONTRACT, FlatEngine, flat_request

from sceneloom.errors import EngineError, InputError, SceneLoomError, SizeError
from sceneloom_bench.engine_candidates import (
    ALL_CLASSES,
    built_later,
    candidates,
    check_names,
    choose,
    known_names,
    needed_precisions,
)
from sceneloom_bench.engine_case import picture_gflop, random_checkpoint, read_case
from sceneloom_bench.engine_command import EngineBenchSettings
from sceneloom_bench.peaks import (
    COPY,
    RUNS,
    copied_bytes,
    measure_peaks,
    median_peaks,
    peak_measurements,
)
from sceneloom_bench.turns import EngineRunner
from sceneloom_serving.engines import ENGINES
from sceneloom_training.networks import GeneratorArchitecture

PUBLISHED = GeneratorArchitecture(input_channels=36, ngf=32, enhancers=1)


def test_the_published_network_takes_748_billion_multiplications() -> None:
    whole = picture_gflop(PUBLISHED, (1024, 2048))
    assert whole == pytest.approx(2 * 748, rel=1e-3)
    assert picture_gflop(PUBLISHED, (64, 128)) == pytest.approx(whole / 256)


def test_the_random_checkpoint_is_the_published_network_made_small(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tmp_path, ngf=4, blocks=1)
    subject = read_case(checkpoint, (64, 128), random=True)
    assert subject.weights == "random"
    assert subject.contract.size_multiple == 32
    assert subject.architecture["enhancers"] == 1
    small = GeneratorArchitecture(input_channels=36, ngf=4, global_blocks=1, enhancers=1)
    assert subject.gflop == picture_gflop(small, (64, 128))
    with pytest.raises(SizeError, match=r"100x64 \(width x height\) is not a multiple of 32"):
        read_case(checkpoint, (64, 100), random=True)


def test_a_checkpoint_is_named_by_its_hash(checkpoint: Path) -> None:
    assert len(read_case(checkpoint, (64, 128), random=False).weights) == 64


@pytest.fixture
def _threads() -> Iterator[None]:
    """Measuring peaks takes all threads there are."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
def test_peaks_are_measured_and_the_copy_counts_both_ways() -> None:
    found = measure_peaks("cpu", side=64, copied_mib=4)
    assert list(found) == ["matrix product float32", COPY]
    assert copied_bytes(4) == 8 * 2**20
    for runs in found.values():
        assert len(runs) == RUNS
        assert min(runs) > 0
    product, copy = peak_measurements(found, "before")
    assert product.load == {"mode": "peak", "when": "before"}
    assert product.figures["tflops"].value * 1e12 == pytest.approx(
        median_peaks(found)["matrix product float32"]
    )
    assert copy.figures["gbs"].low is not None
    assert copy.figures["gbs"].unit == "GB/s"


def test_the_order_is_that_of_a_waterfall() -> None:
    assert known_names("cpu") == [
        "torch-fp32",
        "torch-fp32-compiled",
        "onnxruntime-fp32",
        "aoti-fp16",
        "aoti-fp32",
        ALL_CLASSES,
        "openvino-fp32",
        "openvino-bf16",
        "openvino-int8",
    ]
    on_gpu = known_names("cuda")
    assert on_gpu[:2] == ["torch-fp32", "torch-fp32-compiled"]
    assert on_gpu[-1] == "tensorrt-fp16"
    assert set(ENGINES) <= set(known_names())


def test_what_cannot_run_here_is_listed_with_its_reason() -> None:
    tried, cannot = choose((), "cpu")
    assert tried[0] == "torch-fp32"
    assert set(tried) | set(cannot) == set(known_names())
    if not torch.cuda.is_available():
        gpu = {name for name, engine in ENGINES.items() if engine.gpu}
        assert gpu <= set(cannot)
        assert all(cannot.values())
    assert "measured on the CPU" in choose(["openvino-fp32"], "cuda")[1]["openvino-fp32"]


def test_some_can_be_chosen_and_the_baseline_always_is() -> None:
    tried, cannot = choose(["openvino-fp32"], "cpu")
    assert tried == ["torch-fp32", "openvino-fp32"]
    assert cannot == {}
    assert needed_precisions(tried) == ["fp32"]
    assert needed_precisions(["openvino-int8", ALL_CLASSES]) == ["fp32", "int8"]
    assert needed_precisions(["torch-fp32"]) == []
    with pytest.raises(InputError, match="did you mean 'openvino-fp32'"):
        check_names(["openvino-fp23"])


def test_one_bundle_has_one_plan_and_one_package() -> None:
    assert built_later(known_names("cpu")) == ["aoti-fp32"]
    assert built_later(known_names("cuda")) == ["tensorrt-fp16", "aoti-cuda-fp16"]
    assert built_later(["torch-fp32", "aoti-cuda-fp32"]) == ["aoti-cuda-fp32"]
    assert built_later(["torch-fp32", "openvino-fp32"]) == []


def test_without_a_bundle_pytorch_is_left() -> None:
    found, cannot = candidates(["torch-fp32", "tensorrt-fp16"], "cuda", Path("checkpoint"), None, 4)
    assert [one.name for one in found] == ["torch-fp32"]
    assert found[0].how == "PyTorch, fp32, NCHW, eager"
    assert cannot == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"rounds": 0},
        {"pictures": 0},
        {"maps": 1},
        {"batch": ()},
        {"batch": (0,)},
        {"size": "2048"},
        {"name": "a/b"},
        {"engines": ("no-such",)},
    ],
)
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(SceneLoomError):
        EngineBenchSettings(**wrong)  # type: ignore[arg-type]


def test_settings_by_device() -> None:
    settings = EngineBenchSettings(batch=(8, 1, 8))
    assert settings.batches == [1, 8]
    assert settings.turn("cpu") == 1
    assert settings.turn("cuda") * settings.rounds >= 459
    assert EngineBenchSettings().needed_maps("cpu") == 7  # no more than are rendered
    assert EngineBenchSettings(batch=(16,)).needed_maps("cuda") == 17  # no two batches are equal


def test_the_time_between_an_engines_events_is_kept_beside_the_hosts() -> None:
    engine = FlatEngine(CONTRACT)
    runner = EngineRunner(engine)
    runner.hold([flat_request(7)])
    assert runner.turn([[0]]).device_seconds == []
    engine.device_seconds = 0.04
    assert runner.turn([[0], [0]]).device_seconds == [0.04, 0.04]


def test_pytorch_in_a_graph_is_measured_on_a_gpu_alone(checkpoint: Path) -> None:
    assert "torch-graph-fp16" not in known_names("cpu")
    (one,), cannot = candidates(["torch-graph-fp16"], "cuda", checkpoint, None, 1)
    assert one.how == "PyTorch, fp16, channels last, eager, a CUDA graph"
    assert cannot == {}
    if not torch.cuda.is_available():
        with pytest.raises(EngineError, match="PyTorch sees no GPU"):
            one.open()
