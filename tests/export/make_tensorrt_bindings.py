"""Make tests/export/tensorrt_bindings.json: what the real bindings of TensorRT 8.6, 10 and 11 and
of CUDA have, for everything that our code uses.

The bindings of 10 and 11 come without TensorRT's libraries, and no GPU is here. So each wheel is
imported beside empty libraries that only satisfy the loader, and asked for its names and for the
signatures in its docstrings. 8.6's wheel has its libraries; it is imported from the folder that
shared/tools/pack_tensorrt86.sh and its unpack.py make.

    pip download --no-deps --only-binary=:all: --python-version 3.10 --implementation cp \\
      --platform manylinux_2_28_x86_64 -d .trt/wheels tensorrt-cu12-bindings==10.12.0.36
    (likewise tensorrt-cu12-bindings==10.16.1.11, tensorrt-cu13-bindings==11.4.0.106,
    cuda-bindings==12.9.10, cuda-bindings==13.4.4 and cuda-pathfinder)
    python tests/export/make_tensorrt_bindings.py .trt/wheels --trt86 .trt/trt86 --python python3.10
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tensorrt_uses import CUDA, TENSORRT, uses

TABLE = Path(__file__).with_name("tensorrt_bindings.json")
LIBRARIES = {
    "libnvinfer": (
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry",
        "getPluginRegistry",
    ),
    "libnvonnxparser": (
        "createNvOnnxParserRefitter_INTERNAL",
        "createNvOnnxParser_INTERNAL",
        "getNvOnnxParserVersion",
    ),
    "libnvinfer_plugin": ("initLibNvInferPlugins",),
}
"""Library -> the functions that the bindings ask the loader for."""
ASK = """
import importlib, json, sys
module, wanted = sys.argv[1], json.loads(sys.argv[2])
module = importlib.import_module(module)
answer = {"version": getattr(module, "__version__", None), "names": {}}
for owner, names in wanted.items():
    value = module
    for part in filter(None, owner.split(".")):
        value = getattr(value, part, None)
    found = {}
    for name in names:
        if value is not None and hasattr(value, name):
            found[name] = (getattr(getattr(value, name), "__doc__", None) or "").strip()
    answer["names"][owner] = found
print(json.dumps(answer))
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("wheels", type=Path)
    parser.add_argument("--trt86", type=Path, required=True)
    parser.add_argument("--python", required=True)
    arguments = parser.parse_args()
    tensorrt, cuda = _wanted()
    table: dict[str, Any] = {TENSORRT: {}, CUDA: {}}
    run = str(arguments.trt86.resolve() / "run")
    table[TENSORRT].update(_ask([run, "python"], {}, "tensorrt", tensorrt))
    for wheel in sorted(arguments.wheels.glob("*.whl")):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for file in (wheel, *arguments.wheels.glob("cuda_pathfinder-*.whl")):
                zipfile.ZipFile(file).extractall(folder)
            paths = {"PYTHONPATH": name, "LD_LIBRARY_PATH": name}
            if (folder / "tensorrt_bindings").is_dir():
                _make_libraries(folder, wheel.name.split("-")[1].split(".")[0])
                table[TENSORRT].update(
                    _ask([arguments.python], paths, "tensorrt_bindings", tensorrt)
                )
            elif wheel.name.startswith("cuda_bindings"):
                version = wheel.name.split("-")[1]
                answer = _ask([arguments.python], paths, CUDA, cuda)
                table[CUDA][version] = next(iter(answer.values()))
    TABLE.write_text(_pretty(table), "utf-8")
    print(f"wrote {TABLE.name}: {[sorted(versions) for versions in table.values()]}")


def _wanted() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Owner -> names: of TensorRT, and of CUDA with the module's own name left out."""
    wanted: tuple[dict[str, set[str]], dict[str, set[str]]] = ({}, {})
    for use in uses():
        part = wanted[use.owner.startswith(CUDA)]
        owner = use.owner.removeprefix(CUDA).strip(".").replace(TENSORRT, "")
        part.setdefault(owner, set()).add(use.name)
    tensorrt, cuda = ({k: sorted(v) for k, v in sorted(part.items())} for part in wanted)
    return tensorrt, cuda


def _make_libraries(folder: Path, major: str) -> None:
    for library, functions in LIBRARIES.items():
        source = "\n".join(f"int {name}(void) {{ return 0; }}" for name in functions)
        file = f"{library}.so.{major}"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-xc", "-", f"-Wl,-soname,{file}", "-o", folder / file],
            input=source,
            text=True,
            check=True,
        )


def _ask(
    python: list[str], paths: dict[str, str], module: str, wanted: dict[str, list[str]]
) -> dict[str, dict[str, dict[str, list[str]]]]:
    """Version -> owner -> name -> signatures, for what there is."""
    done = subprocess.run(
        [*python, "-c", ASK, module, json.dumps(wanted)],
        env={**os.environ, **paths},
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    return {
        str(answer["version"]): {
            owner: {name: _signatures(name, text) for name, text in names.items()}
            for owner, names in answer["names"].items()
        }
    }


def _signatures(name: str, text: str) -> list[str]:
    """The lines of a docstring that are signatures of the name."""
    found = re.findall(rf"^(?:\d+\. )?({name}\(.*)$", text, re.MULTILINE)
    return [line.replace("tensorrt_bindings.", "") for line in found if "*args" not in line]


def _pretty(table: dict[str, Any]) -> str:
    """One line per owner, so that a change of the table can be read."""
    lines = []
    for module, versions in table.items():
        entries = []
        for version, owners in sorted(versions.items()):
            rows = [f"   {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(owners.items())]
            entries.append(f"  {json.dumps(version)}: {{\n" + ",\n".join(rows) + "\n  }")
        lines.append(f" {json.dumps(module)}: {{\n" + ",\n".join(entries) + "\n }")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    main()
