"""The TensorRT runtime on a GPU that is not there: memory, profiles, splitting, CUDA graphs.

The fake CUDA copies when it is told to and replays what was captured, and the fake TensorRT runs
the graph with ONNX Runtime; so a picture is right only if every copy was, in the right order, with
the right shape.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from gpu_worlds import fake_gpu, run_engine, run_python, write_engine_bundle

from sceneloom.contract import Contract

PRELUDE = """
import sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[2])
from support import blocky_maps
from cuda.bindings import runtime as cuda
from sceneloom.errors import EngineError, SizeError
from sceneloom_serving.onnx_runtime import OnnxRuntimeSynthesizer
from sceneloom_serving.tensorrt_runtime import TensorRTSynthesizer

plan = Path(sys.argv[1])
reference = OnnxRuntimeSynthesizer(plan.with_name("model.onnx"), max_batch_size=8)
engine = TensorRTSynthesizer(plan)

def maps(count, height, width):
    pairs = [blocky_maps(height, width, seed) for seed in range(count)]
    return np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs])

def same(count, height, width):
    labels, instances = maps(count, height, width)
    got = engine.run_batch(labels, instances, None)
    expected = np.concatenate(
        [reference.run_batch(labels[i : i + 1], instances[i : i + 1], None) for i in range(count)]
    )
    assert np.abs(got.astype(int) - expected).max() <= 1
    return got
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, engine_bundle: Path) -> Path:
    """Profiles: 96x64 alone, batches of it, and a range of smaller sizes."""
    folder = shutil.copytree(engine_bundle, tmp_path_factory.mktemp("runtime") / "bundle")
    model = folder / "synthesis" / "1" / "model.onnx"
    profiles = ("--profiles", "96x64", "2:3:3@96x64", "1:2:2@16x16:32x32:64x48")
    done = run_engine(model, "--precision", "fp32", *profiles, environment=fake_gpu())
    assert done.returncode == 0, done.stderr
    return model.with_name("model.plan")


def run(plan: Path, code: str, **settings: str) -> None:
    tests = Path(__file__).resolve().parents[1]
    run_python(PRELUDE + code, plan, tests, environment=fake_gpu(**settings))


def test_batches_are_split_and_keep_their_order(plan: Path) -> None:
    run(
        plan,
        """
assert engine.max_batch_size == 3
assert engine.contract.sizes is None
for count in (1, 2, 3, 4, 7):
    pictures = same(count, 64, 96)
    assert len({p.tobytes() for p in pictures}) == count
sizes = [(64, 96), (32, 32), (64, 96), (30, 31)]
images = engine.synthesize_batch(*zip(*(blocky_maps(*size, 5) for size in sizes)))
assert [image.shape for image in images] == [(*size, 3) for size in sizes]
""",
    )


def test_a_model_of_pictures(tmp_path: Path) -> None:
    contract = Contract(kind="picture", boundaries=True, size_multiple=4)
    folder = write_engine_bundle(tmp_path / "bundle", contract=contract)
    model = folder / "synthesis" / "1" / "model.onnx"
    flags = ("--precision", "fp32", "--profiles", "1:2:2@96x64")
    done = run_engine(model, *flags, environment=fake_gpu())
    assert done.returncode == 0, done.stderr
    assert "parity with PyTorch" in done.stdout
    run(
        model.with_name("model.plan"),
        """
photos = np.random.default_rng(3).integers(0, 256, (3, 64, 96, 3), np.uint8)
instances = maps(3, 64, 96)[1]
got = engine.run_batch(photos, instances, None)
expected = reference.run_batch(photos, instances, None)
assert np.abs(got.astype(int) - expected).max() <= 1
assert np.ptp(got.astype(int)) > 20
""",
    )


def test_a_graph_is_captured_per_shape_and_replayed(plan: Path) -> None:
    run(
        plan,
        """
same(1, 64, 96)
assert cuda.counts == {"launched": 0, "captured": 1, "enqueued": 2}  # once to run, once to capture
for _ in range(3):
    same(1, 64, 96)
assert cuda.counts == {"launched": 3, "captured": 1, "enqueued": 2}
same(1, 32, 32)
assert engine.device_seconds > 0  # between events that are no part of the graph
same(1, 48, 64)  # the same profile in another shape: captured anew
assert cuda.counts == {"launched": 3, "captured": 3, "enqueued": 6}
same(1, 32, 32)
same(1, 64, 96)  # another profile's graph is still there
assert cuda.counts == {"launched": 4, "captured": 4, "enqueued": 8}
assert engine.captured
first, second = (engine.run_batch(*pair, None) for pair in [maps(1, 64, 96), maps(2, 64, 96)])
assert (first[0] == second[0]).all()
""",
    )


def test_a_context_has_the_memory_of_its_own_profile(plan: Path) -> None:
    code = """
import tensorrt
same(1, 64, 96)
same(2, 32, 32)
assert tensorrt.context_pixels == {expected}, tensorrt.context_pixels
"""
    run(plan, code.format(expected=[1 * 64 * 96, 2 * 48 * 64]))
    largest = 3 * 64 * 96  # of the profile of batches, which nobody has asked for yet
    version = {"tensorrt": "8.6.1", "cuda_runtime": "12.9"}
    older = plan.with_name("older.plan")
    older.write_bytes(plan.read_bytes())
    record = json.loads(plan.with_name("model.plan.json").read_text())
    record["machine"] |= version
    older.with_name("older.plan.json").write_text(json.dumps(record))
    run(older, code.format(expected=[largest, largest]), FAKE_TENSORRT="8.6.1.6")


def test_plans_that_cannot_be_captured_run_all_the_same(plan: Path) -> None:
    run(
        plan,
        """
for _ in range(2):
    same(1, 64, 96)
assert not engine.captured
assert cuda.counts["launched"] == 0
""",
        FAKE_NO_CAPTURE="1",
    )


def test_sizes_that_no_profile_takes(plan: Path) -> None:
    run(
        plan,
        """
for shape in [(1, 128, 128), (1, 64, 100), (1, 8, 8)]:
    try:
        engine.run_batch(np.zeros(shape, np.uint8), np.zeros(shape, np.int32), None)
    except SizeError as error:
        assert "2:3:3@96x64" in str(error), error
    else:
        raise AssertionError(shape)
""",
    )


def test_everything_is_given_back(plan: Path) -> None:
    run(
        plan,
        """
with engine:
    same(2, 64, 96)
    same(1, 32, 32)
    assert len(cuda.memory) == 2 * 3 * 2  # two profiles, three tensors, both sides
assert cuda.memory == {}
engine.close()
""",
    )


def test_only_numpy_and_pydantic_are_needed_beside_the_gpus_own_packages() -> None:
    loaded = run_python(
        "import sceneloom_export.engine, sceneloom_serving.tensorrt_runtime, sys;"
        "print(*{name.split('.')[0] for name in sys.modules})",
        environment=fake_gpu(),
    ).split()
    heavy = {
        "torch",
        "onnx",
        "onnxruntime",
        "cv2",
        "PIL",
        "tyro",
        "tritonclient",
    }
    assert heavy & set(loaded) == set()
    assert {"sceneloom", "numpy"} <= set(loaded)
