"""Our TensorRT code against the real bindings of TensorRT 8.6, 10 and 11 and of CUDA 12 and 13.

No GPU is here, so a misspelt name would only be found by a user. tensorrt_bindings.json is what the
real wheels have (make_tensorrt_bindings.py makes it), and every name that our code uses must be in
each version that the code is for, and take as many arguments.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import CHECKOUT
from tensorrt_uses import CUDA, GENERATIONS, ONLY_FOR, TENSORRT, Use, uses

TABLE: dict[str, Any] = json.loads(Path(__file__).with_name("tensorrt_bindings.json").read_text())
USES = uses()
PACK = CHECKOUT / ".trt" / "trt86" / "run"


def versions(use: Use) -> list[dict[str, Any]]:
    """The tables of the versions that a use is for."""
    if use.owner.startswith(CUDA):
        return list(TABLE[CUDA].values())
    wanted = [v for v in TABLE[TENSORRT] if any(v.startswith(f"{g}.") for g in use.generations)]
    return [TABLE[TENSORRT][version] for version in wanted]


def signatures(use: Use, table: dict[str, Any]) -> list[str] | None:
    """What a version has for a name, or None if it has no such name."""
    owner = use.owner.removeprefix(CUDA).strip(".").replace(TENSORRT, "")
    found: list[str] | None = table.get(owner, {}).get(use.name)
    return found


def takes(signature: str, arguments: int) -> bool:
    """Whether so many positional arguments fit a docstring's signature."""
    inside = re.sub(r"<[^>]*>", "", signature[signature.index("(") + 1 :].split(") ->")[0])
    parameters = [p for p in inside.removesuffix(")").split(",") if p.strip()]
    parameters = [p for p in parameters if not p.strip().startswith("self")]
    required = sum("=" not in parameter for parameter in parameters)
    return required <= arguments <= len(parameters)


def test_the_table_has_every_generation() -> None:
    known = [version.split(".") for version in TABLE[TENSORRT]]
    assert {v[0] for v in known} == {"8", "10", "11"}
    assert {".".join(v[:2]) for v in known} >= {"8.6", "10.12"}  # the oldest of each that we take
    assert {version.split(".")[0] for version in TABLE[CUDA]} == {"12", "13"}


def test_the_walk_finds_what_the_code_is_known_to_use() -> None:
    found = {(use.owner, use.name) for use in USES}
    assert len(found) > 90
    assert found >= {
        ("IBuilderConfig", "set_flag"),
        ("BuilderFlag", "OBEY_PRECISION_CONSTRAINTS"),
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("OnnxParserFlag", "NATIVE_INSTANCENORM"),
        ("IExecutionContext", "execute_async_v3"),
        ("ITensor", "dtype"),
        ("ITimingCache", "serialize"),
        ("Runtime", "engine_host_code_allowed"),
        (CUDA, "cudaGraphInstantiate"),
        (f"{CUDA}.cudaMemcpyKind", "cudaMemcpyHostToDevice"),
    }
    functions = {name for use in USES if use.generations != GENERATIONS for name in use.generations}
    assert functions == set(GENERATIONS)
    assert ONLY_FOR


@pytest.mark.parametrize("use", USES, ids=lambda u: f"{u.owner}.{u.name}@{u.where.split('/')[-1]}")
def test_every_name_exists_in_every_version_that_the_code_is_for(use: Use) -> None:
    tables = versions(use)
    assert tables
    for table in tables:
        found = signatures(use, table)
        assert found is not None, f"{use.where}: no {use.name} of {use.owner}"
        if use.arguments is not None and found:
            assert any(takes(signature, use.arguments) for signature in found), use


def test_names_that_are_gone_are_seen_to_be_gone() -> None:
    """The judge can fail: what 11 dropped, and what 8.6 does not have yet."""
    gone = {"8.6": ("OnnxParserFlag", "NATIVE_INSTANCENORM"), "11": ("BuilderFlag", "FP16")}
    for generation, (owner, name) in gone.items():
        use = Use(owner=owner, name=name, arguments=None, generations=(generation,), where="")
        assert [signatures(use, table) for table in versions(use)] == [None]
    assert not takes("set_flag(self: IBuilderConfig, flag: BuilderFlag) -> None", 2)
    assert takes("create_network(self: Builder, flags: int = 0) -> INetworkDefinition", 0)
    assert not takes("cudaMemcpyAsync(dst, src, size_t count, kind: cudaMemcpyKind, stream)", 4)


REAL = """
import sys
sys.path[:0] = {folders!r}
import tensorrt as trt
from sceneloom.contract import Contract
from sceneloom.errors import EngineError
from sceneloom.schema import load_schema
from sceneloom_export import engine, tensorrt_build
from sceneloom_export.settings import PlanSettings
from sceneloom_serving.tensorrt_runtime import TensorBuffer
from sceneloom_serving.gpu import Stream, this_machine
assert trt.__version__.startswith("8.6")
assert tensorrt_build.network_flags(trt, 8) == 1
logger = tensorrt_build.collecting_logger(trt)
assert trt.init_libnvinfer_plugins(logger, "")
assert logger.errors == []
logger.log(trt.ILogger.ERROR, "no kernel")
assert logger.errors == ["no kernel"]
flags = trt.BuilderFlag.FP16, trt.BuilderFlag.TF32, trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS
assert all(isinstance(int(flag), int) for flag in flags)
assert tensorrt_build.norm_choices(trt.__version__, PlanSettings()) == ["group"]
for make in (Stream, lambda: TensorBuffer((2, 3), "uint8")):
    try:
        make().free()
    except EngineError as error:
        assert "cudaErrorInsufficientDriver" in str(error), error
heavy = {{"torch", "onnx", "cv2", "PIL", "tyro", "tritonclient"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
try:
    print(this_machine().gpu)
except EngineError as error:
    print("refused:", error)
"""


@pytest.mark.slow
def test_the_real_8_6_up_to_the_missing_card() -> None:
    """Python 3.10 with NumPy, pydantic, TensorRT 8.6 and cuda-python, and nothing else."""
    if not PACK.is_file():
        pytest.skip("needs .trt/trt86, unpacked from shared/tools/pack_tensorrt86.sh (600 MB)")
    folders = [str(CHECKOUT / name) for name in ("client", "serving", "export")]
    done = subprocess.run(
        [PACK, "python", "-c", REAL.format(folders=folders)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = done.stdout.splitlines()[-1]
    assert "no NVIDIA GPU that CUDA can use" in answer or not answer.startswith("refused")
