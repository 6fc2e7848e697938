"""Two builds of ONNX Runtime in one environment: the files decide which one there is."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import CHECKOUT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CHECK = """
import sys
from sceneloom.errors import SceneLoomError
from sceneloom_serving.onnx_runtime import check_provider
for provider in ("cpu", "cuda"):
    try:
        check_provider(provider)
        print("fine")
    except SceneLoomError as error:
        print(error)
"""
CPU, GPU = "onnxruntime", "onnxruntime-gpu"
AGAIN = "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu"


def install(folder: Path, package: str) -> None:
    """A build with the same files as the other, and another content in each."""
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"][package == CPU :]
    files = {
        "onnxruntime/__init__.py": f"def get_available_providers():\n    return {providers}\n",
        "onnxruntime/capi/state.so": package,
    }
    if package == GPU:
        files["onnxruntime/capi/providers_cuda.so"] = "kernels"
    record = ""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        record += f"{name},sha256=x,{len(text)}\n"
    info = folder / f"{package.replace('-', '_')}-1.32.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.32.0\n")
    (info / "RECORD").write_text(record)


def check(folder: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", CHECK],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.splitlines()


def test_each_build_alone(tmp_path: Path) -> None:
    install(tmp_path / "cpu", CPU)
    cpu, cuda = check(tmp_path / "cpu")
    assert cpu == "fine"
    assert cuda == f"this build of ONNX Runtime has no cuda provider: {AGAIN}"
    install(tmp_path / "gpu", GPU)
    assert check(tmp_path / "gpu") == ["fine", "fine"]


def test_the_gpus_build_over_the_others_files_is_whole(tmp_path: Path) -> None:
    """What `pip install '.[export,gpu]'` leaves, where pip takes them in this order."""
    install(tmp_path, CPU)
    install(tmp_path, GPU)
    assert check(tmp_path) == ["fine", "fine"]


def test_the_others_files_over_the_gpus_are_refused_for_the_gpu_alone(tmp_path: Path) -> None:
    install(tmp_path, GPU)
    install(tmp_path, CPU)
    refused = f"onnxruntime was installed over files of onnxruntime-gpu: {AGAIN}"
    assert check(tmp_path) == ["fine", refused]
    # A build of another version whose Python part is the GPU's: the library decides.
    install(tmp_path, GPU)
    (tmp_path / "onnxruntime" / "capi" / "state.so").write_text("of another version")
    assert check(tmp_path) == ["fine", refused]
    # And uninstalling one has taken the other's files along.
    install(tmp_path, GPU)
    (tmp_path / "onnxruntime" / "capi" / "state.so").unlink()
    assert check(tmp_path) == ["fine", refused]


EXTRAS = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
MAKEFILE = (CHECKOUT / "Makefile").read_text()


def packages(requirements: list[str], found: set[str]) -> set[str]:
    """The names that pip would install for requirements, as far as this environment knows."""
    for requirement in requirements:
        name, extras, marker = re.match(  # type: ignore[union-attr]
            r"([\w.-]+)(?:\[([\w,-]+)\])?[^;]*(?:; *(.*))?$", requirement
        ).groups()
        if marker and "extra" in marker:
            continue
        if name == "sceneloom":
            for extra in extras.split(","):
                packages(EXTRAS["optional-dependencies"][extra], found)
        elif name.lower() not in found:
            found.add(name.lower())
            try:
                packages(importlib.metadata.requires(name) or [], found)
            except importlib.metadata.PackageNotFoundError:
                continue
    return found


def test_make_gpu_installs_everything_for_the_gpu_and_one_onnx_runtime() -> None:
    extras = re.findall(r"-e '\.\[([\w,-]+)\]'", MAKEFILE)
    (gpu,) = [names for names in extras if "gpu" in names]
    found = packages([f"sceneloom[{gpu}]", *EXTRAS["dependencies"]], set())
    assert found >= {"onnxruntime-gpu", "tensorrt", "cuda-python", "torch", "onnx", "pytest"}
    assert "onnxruntime" not in found
    (cpu,) = [names for names in extras if "gpu" not in names]
    assert "onnxruntime" in packages([f"sceneloom[{cpu}]"], set())  # the walk sees it


@pytest.mark.parametrize(
    ("target", "program"),
    [("gpu", "-m pytest -m gpu"), ("gpu-report", "benchmarks/experiments/gpu_report.py")],
)
def test_make_gpu_runs_every_test_of_the_gpu(target: str, program: str) -> None:
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert f".venv-gpu/bin/python {program}" in done.stdout
    assert re.search(r"(?<!-gpu)/\.?venv/", done.stdout) is None
    named = set(re.findall(r"tests/\S+\.py", done.stdout))
    marked = {
        str(path.relative_to(CHECKOUT))
        for path in (CHECKOUT / "tests").rglob("test_*.py")
        if re.search(r"pytest\.mark\.gpu\b", path.read_text()) and path != Path(__file__)
    }
    assert named == marked


@pytest.mark.parametrize("target", ["gpu", "gpu-report"])
def test_make_gpu_without_a_gpu_installs_nothing(tmp_path: Path, target: str) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((CHECKOUT / name).read_text())
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("make", "sh"):
        (tools / tool).symlink_to(
            next(p for d in os.defpath.split(":") if (p := Path(d, tool)).exists())
        )
    done = subprocess.run(
        ["make", target],
        cwd=tmp_path,
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == (
        "make gpu and make gpu-report need an NVIDIA GPU and its driver: this machine has no "
        "nvidia-smi\n"
    )
    assert not (tmp_path / ".venv-gpu").exists()


@pytest.mark.parametrize("name", ["onnxruntime-gpu", "tensorrt", "cuda-python"])
def test_the_extra_of_the_gpu_is_in_the_one_for_exports(name: str) -> None:
    assert name in packages(["sceneloom[export-gpu]"], set())
