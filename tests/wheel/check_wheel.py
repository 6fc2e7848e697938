"""Build the wheel and prove that it works where there is no checkout.

First in an environment that has the wheel alone: `sceneloom` imports, its command answers, a street
is painted, torch is neither loaded nor installed. Then with the extra `gateway`: a picture comes
through `sceneloom gateway`. Then with the other extras: a generator is imported,
exported and served from the wheel's own templates, and a map is rendered through it.

    make wheel
    python tests/wheel/check_wheel.py --borrow    # the last part with this environment's packages
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
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

GATEWAY = """
import http.client, signal, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import cv2, grpc, numpy as np
from tritonclient.grpc import service_pb2_grpc
from sceneloom import Contract, load_schema
from sceneloom.testing import FakeTransport
sys.path.append(sys.argv[1])
from fake_triton import FakeTriton

schema = load_schema("cityscapes")
triton = FakeTriton(FakeTransport(Contract(schema=schema, boundaries=False, size_multiple=8)))
server = grpc.server(ThreadPoolExecutor(4))
service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
command = [str(Path(sys.executable).parent / "sceneloom"), "gateway", "--workers", "2"]
flags = ["--triton", f"127.0.0.1:{port}", "--listen", "127.0.0.1:0"]
process = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, text=True)
line = process.stdout.readline()
assert line.startswith("ready http://"), line
client = http.client.HTTPConnection(line.split("//")[1].strip(), timeout=30)
body = cv2.imencode(".png", np.zeros((64, 128), np.uint8))[1].tobytes()
client.request("POST", "/v1/synthesize", body, {"Content-Type": "image/png"})
answer = client.getresponse()
picture = cv2.imdecode(np.frombuffer(answer.read(), np.uint8), cv2.IMREAD_COLOR)
assert (answer.status, picture.shape) == (200, (64, 128, 3)), answer.status
process.send_signal(signal.SIGTERM)
assert process.wait(30) == 0
server.stop(0).wait()
print("the gateway made a picture")
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


def main(borrow: bool) -> None:
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
        install(python, folder, f"{wheel}[gateway]")
        run(python, "-I", "-c", GATEWAY, CHECKOUT / "tests", cwd=folder)
        if borrow:  # torch and the like, without the checkout: its .pth files are not read
            (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
            (packages / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"])
        else:
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
    main(sys.argv[1:] == ["--borrow"])
