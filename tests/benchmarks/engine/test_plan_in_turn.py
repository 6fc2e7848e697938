"""The TensorRT plan of a benchmark, built with a profile for each batch and then among those that
may serve, on a GPU that is not there (`tests/fake_gpu`).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from gpu_worlds import fake_gpu, run_python

from sceneloom_bench.engine_case import make_bundle
from sceneloom_export.bundle import Exported

CODE = """
import json, sys
from pathlib import Path
from sceneloom_bench.engine_case import build_plan
from sceneloom_bench.turns import EngineRunner
from sceneloom_bench.harness import bench_maps
from sceneloom_serving.engines import open_engine

version = Path(sys.argv[1])
build_plan(version, (128, 192), [1, 2], timed_runs=3)
with open_engine("tensorrt-fp16", version, max_batch_size=2) as engine:
    runner = EngineRunner(engine)
    runner.hold(bench_maps(engine.contract, (128, 192), 3))
    turn = runner.turn([[0], [1, 2]], frozenset({2}))
    profiles = [str(profile) for profile in engine.record.profiles]
    print(json.dumps([profiles, engine.max_batch_size, len(turn.seconds), turn.pictures[2].shape]))
"""
CHOICE = """
import contextlib, sys
from pathlib import Path
from sceneloom import progress
from sceneloom_bench.engine_case import Bundle, build_plan, choose_served

bundle = Bundle(repository=Path(sys.argv[1]), engine=sys.argv[2], sha256=sys.argv[3], left_out={})
build_plan(bundle.version, (64, 96), [1, 2], timed_runs=3)
with contextlib.redirect_stderr(sys.stdout), progress.shown():
    print(choose_served(bundle).engine)
"""


@pytest.mark.slow
def test_a_plan_that_was_built_after_the_export_may_serve(
    least_checkpoint: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(
        least_checkpoint,
        tmp_path / "bundle",
        size=(64, 96),
        precisions=["fp32", "fp16"],
        largest_batch=2,
        refused=tmp_path / "refused",
        only_size=True,
    )
    assert bundle.left_out == {}
    told = (bundle.repository, bundle.engine, bundle.sha256)
    said = run_python(CHOICE, *told, environment=fake_gpu()).splitlines()
    (plan,) = (line for line in said if line.startswith("tensorrt-fp16: "))
    assert "s a picture" in plan
    assert said[-1] in ("tensorrt-fp16", "onnxruntime-fp32", "openvino-fp32")


@pytest.mark.slow
def test_a_profile_for_each_batch(exported: Exported, tmp_path: Path) -> None:
    version = shutil.copytree(exported.repository, tmp_path / "bundle") / "synthesis" / "1"
    said = run_python(CODE, version, environment=fake_gpu())
    assert json.loads(said.splitlines()[-1]) == [
        ["1@192x128", "2@192x128"],
        2,
        2,
        [128, 192, 3],
    ]
