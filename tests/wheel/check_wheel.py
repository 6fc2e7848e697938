"""Build the wheel and prove that it works where there is no checkout.

First in an environment that has the wheel alone: `sceneloom` imports, its command answers, a street
is painted, torch is neither loaded nor installed. Then with the extras: a generator is imported,
exported and served from the wheel's own templates, and a map is rendered through it.

    make wheel
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]

LIGHT = """
import importlib.util, sys
import sceneloom
from sceneloom import Contract, TritonSynthesizer, load_schema, read_label_map
from sceneloom.schema import builtin_schemas
assert [load_schema(name).channels for name in builtin_schemas()]
from sceneloom_streets import draw_street
assert draw_street(7, 64, 128).label_map.shape == (64, 128)
heavy = {"torch", "onnx", "onnxruntime"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert not any(importlib.util.find_spec(name) for name in heavy), "the base install brings them"
print("sceneloom", sceneloom.__version__, "from", sceneloom.__file__)
"""

WHOLE = """
import os, subprocess, sys, sysconfig
from pathlib import Path
import torch
import sceneloom, sceneloom_serving
from sceneloom import TritonSynthesizer
from sceneloom_export.proof import draw_probe
from sceneloom_serving.embedded import EmbeddedServer, ServerSettings
from sceneloom_training.networks import GeneratorArchitecture, build_generator
from sceneloom_training.published import published_names

os.environ["XDG_CACHE_HOME"] = str(Path("cache").resolve())
site = Path(sysconfig.get_paths()["purelib"])
assert sceneloom_serving.templates().is_relative_to(site), sceneloom_serving.templates()
architecture = GeneratorArchitecture(
    input_channels=36, ngf=4, global_downsamplings=2, global_blocks=1, enhancers=1
)
state = build_generator(architecture, seed=0).state_dict()
names = dict(published_names(architecture))
torch.save({names[name]: tensor for name, tensor in state.items()}, "latest_net_G.pth")
command = [str(Path(sys.executable).parent / "sceneloom")]
for arguments in (
    ["import", "latest_net_G.pth", "--labels", "cityscapes", "--out", "checkpoint"],
    ["export", "checkpoint", "--repository", "repository", "--largest", "256x128"],
    ["verify", "repository", "--variant", "embedded"],
    ["runtimes", "repository"],
):
    subprocess.run([*command, *arguments], check=True)
ports = ServerSettings(http_port=0, grpc_port=0, metrics_port=0)
with EmbeddedServer(Path("repository"), ports) as server, TritonSynthesizer(server.grpc) as client:
    request = draw_probe(client.contract, 64, 128, seed=0)
    image = client.synthesize(request.label_map, request.instance_map)
    assert client.engine, "the configuration names no engine"
assert image.shape == (64, 128, 3) and image.std() > 0
print("served from", sceneloom_serving.templates().name, "inside the wheel's package")
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="sceneloom-wheel-") as name:
        folder = Path(name)
        # By way of the sdist, as an index does.
        run(sys.executable, "-m", "build", "--outdir", folder / "dist", CHECKOUT, cwd=folder)
        (wheel,) = (folder / "dist").glob("*.whl")
        run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
        python = folder / "venv" / "bin" / "python"
        install(python, folder, str(wheel))
        run(python, "-I", "-c", LIGHT, cwd=folder)
        run(folder / "venv" / "bin" / "sceneloom", "--help", cwd=folder)
        for name in ("render", "verify", "probe"):
            run(folder / "venv" / "bin" / "sceneloom", name, "--help", cwd=folder)
        install(python, folder, f"{wheel}[train,export,serve,embedded]")
        run(python, "-I", "-c", WHOLE, cwd=folder)
    print("the wheel works")


def install(python: Path, folder: Path, what: str) -> None:
    """Install into the environment of `python`, which holds nothing else, with this one's pip."""
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-compile"]
    quiet = ["--quiet", "--disable-pip-version-check"]
    run(*pip, *quiet, "-c", CHECKOUT / "constraints.txt", what, cwd=folder)


def run(*command: str | Path, cwd: Path) -> None:
    subprocess.run([str(part) for part in command], cwd=cwd, check=True)


if __name__ == "__main__":
    main()
