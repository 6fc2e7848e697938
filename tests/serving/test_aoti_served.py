"""A package of AOTInductor behind Triton: as an engine of the Python backend, and the ensemble of
the variant `aoti`, around a model in Python in the place of Triton's PyTorch backend, which the
bundled server does not have.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import text_format
from support import blocky_maps, run_command
from tritonclient.grpc import model_config_pb2

from sceneloom import TritonSynthesizer
from sceneloom.errors import ServerUnavailableError, SizeError
from sceneloom.files import new_prefix
from sceneloom_serving.bundle import AOTI_CONFIG, AOTI_MODEL, VERSION
from sceneloom_serving.bundled_server import find_bundled_server, remove
from sceneloom_serving.embedded import EmbeddedServer
from sceneloom_serving.parity import compare
from sceneloom_training.checkpoint import load_checkpoint
from sceneloom_training.torch_synthesizer import TorchSynthesizer

pytestmark = [pytest.mark.triton, pytest.mark.slow]


def test_it_serves_by_its_name(compiled: Path, least_checkpoint: Path) -> None:
    trained, maps = load_checkpoint(least_checkpoint), blocky_maps(64, 96, 5)
    expected = TorchSynthesizer(trained.generator, trained.contract).synthesize(*maps)
    with (
        EmbeddedServer(compiled, engine="aoti-fp32") as server,
        TritonSynthesizer(server.grpc) as client,
    ):
        assert server.golden_difference <= 1  # proven before it was announced
        assert (server.engine, client.engine, client.precision) == (*["aoti-fp32"] * 2, "fp32")
        assert compare([expected], [client.synthesize(*maps)]).max <= 1


STAND_IN = """
from pathlib import Path
import triton_python_backend_utils as pb_utils
from sceneloom_serving.aoti_runtime import AotiSynthesizer

class TritonPythonModel:
    def initialize(self, args):
        self.engine = AotiSynthesizer(Path({package!r}))
    def execute(self, requests):
        answers = []
        for request in requests:
            maps = [pb_utils.get_input_tensor_by_name(request, f"INPUT__{{n}}") for n in (0, 1)]
            image = self.engine.run_batch(*(one.as_numpy() for one in maps), None)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT__0", image)]))
        return answers
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def url(compiled: Path, tmp_path: Path) -> Iterator[str]:
    """HOST:PORT of a real Triton with the variant `aoti`, laid out as the image's entrypoint does,
    but for the backend behind it.
    """
    served = tmp_path / "served"
    for name, source in (
        ("synthesis", compiled / "synthesis" / "configs" / "aoti.pbtxt"),
        (AOTI_MODEL, compiled / AOTI_CONFIG),
    ):
        (served / name / "1").mkdir(parents=True)
        shutil.copy(source, served / name / "config.pbtxt")
    path = served / AOTI_MODEL / "config.pbtxt"
    config = text_format.Parse(path.read_text("utf-8"), model_config_pb2.ModelConfig())
    config.backend, config.platform, config.default_model_filename = "python", "", "model.py"
    config.instance_group[0].kind = model_config_pb2.ModelInstanceGroup.KIND_CPU
    path.write_text(text_format.MessageToString(config))
    stand_in = STAND_IN.format(package=str(compiled / VERSION / "model.pt2"))
    (served / AOTI_MODEL / "1" / "model.py").write_text(stand_in)
    server, prefix, port = find_bundled_server(), new_prefix(), free_port()
    server.write_backend_directory(tmp_path / "backends")
    process = subprocess.Popen(
        [
            str(server.executable),
            f"--model-repository={served}",
            f"--backend-directory={tmp_path / 'backends'}",
            f"--backend-config=python,shm-region-prefix-name={prefix}",
            "--disable-auto-complete-config",
            "--allow-http=false",
            "--allow-metrics=false",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={port}",
        ],
        env=server.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while True:
        try:
            with TritonSynthesizer(f"127.0.0.1:{port}"):
                break
        except ServerUnavailableError:
            time.sleep(0.2)
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(process.communicate()[0][-3000:])
    yield f"127.0.0.1:{port}"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    remove(prefix)


def test_the_variant_answers_under_the_usual_names(
    url: str, compiled: Path, least_checkpoint: Path
) -> None:
    trained, maps = load_checkpoint(least_checkpoint), blocky_maps(64, 96, 6)
    expected = TorchSynthesizer(trained.generator, trained.contract).synthesize(*maps)
    with TritonSynthesizer(url) as client:
        assert (client.engine, client.contract.sizes) == ("aoti-cuda-fp32", ((64, 96),))
        assert compare([expected], [client.synthesize(*maps)]).max <= 1
        with pytest.raises(SizeError, match="96x64"):
            client.synthesize(*blocky_maps(64, 64, 0))
    done = run_command("probe", compiled, "--url", url)
    assert done.returncode == 0, done.stderr
