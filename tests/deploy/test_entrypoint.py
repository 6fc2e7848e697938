"""The container's entrypoint, run for real: first in front of a tritonserver that only says how it
was called, then in front of the one that nvidia-pytriton carries.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support import CHECKOUT, blocky_maps, run_command, write_older

from sceneloom import TritonSynthesizer
from sceneloom.files import new_prefix
from sceneloom.triton.client import connect
from sceneloom_export.bundle import Exported
from sceneloom_serving.bundle import AOTI_CONFIG, AOTI_MODEL, VERSION
from sceneloom_serving.bundled_server import find_bundled_server, remove
from sceneloom_serving.plan_record import read_record, write_record

ENTRYPOINT = CHECKOUT / "deploy" / "entrypoint.sh"
ENGINE = CHECKOUT / "deploy" / "engine.sh"
DRIVER = CHECKOUT / "deploy" / "driver.sh"
SECRET = re.compile(r"(?<=:sceneloom-admin=)[0-9a-f]{64}")


class Container:
    """What the entrypoint finds around it: a PATH with a `tritonserver` and a driver in front, and
    variables.
    """

    def __init__(self, folder: Path, repository: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        (self.bin / "sceneloom-driver").symlink_to(DRIVER)
        self.write_driver("580.95.05", "13.0")
        self.environment = {
            "PATH": os.pathsep.join([str(self.bin), str(Path(sys.executable).parent), os.defpath]),
            "TMPDIR": str(folder),
            "SCENELOOM_REPOSITORY": str(repository),
            "SCENELOOM_VARIANT": "embedded",
        }

    def write(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def write_server(self, script: str) -> None:
        self.write("tritonserver", script)

    def write_driver(self, driver: str, cuda: str) -> None:
        """An nvidia-smi that names a driver and the newest CUDA of the libcuda that it finds."""
        log = ("==============NVSMI LOG==============", f"Driver Version    : {driver}")
        lines = (*log, f"CUDA Version      : {cuda}", "Attached GPUs     : 1")
        self.write("nvidia-smi", "\n".join(f'echo "{line}"' for line in lines))

    def run(
        self, *arguments: str, script: Path = ENTRYPOINT, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(script), *arguments],
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def container(tmp_path: Path, exported: Exported) -> Container:
    """With a tritonserver that prints its arguments, one to a line."""
    made = Container(tmp_path, exported.repository)
    made.write_server('printf "%s\\n" "$@"')
    return made


def test_verifies_then_runs_tritonserver(container: Container, exported: Exported) -> None:
    done = container.run("--log-verbose=1")
    assert done.returncode == 0, done.stderr
    verified, *arguments = done.stdout.splitlines()
    assert verified.endswith("files are as exported")
    assert arguments[-1] == "--log-verbose=1"
    served = Path(arguments[0].removeprefix("--model-repository="))
    assert [path.name for path in served.iterdir()] == ["synthesis"]
    assert laid_out(served / "synthesis") == exported_files(exported.repository / "synthesis")
    assert not (served / "synthesis" / "1").is_symlink()  # bytecode that Triton writes stays in it
    assert arguments[1:7] == [
        "--model-config-name=embedded",
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        "--exit-on-error=true",
        "--strict-readiness=true",
        "--exit-timeout-secs=30",
    ]


def laid_out(folder: Path) -> dict[str, Path]:
    """Name -> the file that is read under it."""
    found = {}
    for root, _, files in os.walk(folder, followlinks=True):
        for path in (Path(root, name) for name in files):
            found[path.relative_to(folder).as_posix()] = path.resolve()
    return found


def exported_files(folder: Path) -> dict[str, Path]:
    """Name -> file, without the model of the variant aoti."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.*")}
    return {name: path for name, path in files.items() if not name.startswith("aoti/")}


def test_of_a_repository_of_an_older_version_only_the_model_is_served(
    container: Container, exported: Exported, tmp_path: Path
) -> None:
    older = write_older(exported.repository, tmp_path / "older")
    done = container.run(SCENELOOM_REPOSITORY=str(older))
    assert done.returncode == 0, done.stderr
    [served] = re.findall("--model-repository=(.*)", done.stdout)
    assert [path.name for path in Path(served).iterdir()] == ["synthesis"]


@pytest.mark.slow
def test_the_variant_aoti_is_laid_out_as_two_models(
    container: Container, compiled: Path, tmp_path: Path
) -> None:
    """The ensemble under the usual name, and the model of Triton's PyTorch backend beside it, which
    find the verified files of one folder. Triton reads configs/aoti.pbtxt where there is one.
    """
    repository = shutil.copytree(compiled, tmp_path / "repository")
    package = repository / VERSION / "model.pt2"
    record = read_record(package)
    card = dataclasses.replace(record.machine, gpu="a GPU", compute_capability="9.0")
    write_record(package, dataclasses.replace(record, machine=card))
    chosen = {"SCENELOOM_REPOSITORY": str(repository), "SCENELOOM_VARIANT": "aoti"}
    done = container.run(script=ENGINE, **chosen)
    assert (done.returncode, done.stdout) == (0, "the variant aoti loads no plan\n"), done.stderr
    done = container.run(**chosen)
    assert done.returncode == 0, done.stderr
    assert "--model-config-name=aoti" in done.stdout.splitlines()
    [served] = map(Path, re.findall("--model-repository=(.*)", done.stdout))
    assert sorted(path.name for path in served.iterdir()) == ["synthesis", AOTI_MODEL]
    source = repository / "synthesis"
    assert laid_out(served / "synthesis") == exported_files(source)
    behind = laid_out(served / AOTI_MODEL)
    assert behind.pop("config.pbtxt") == repository / AOTI_CONFIG
    assert behind == {f"1/{path.name}": path for path in (source / "1").iterdir()}
    # What the ensemble calls, and what the model behind it loads, are in their places.
    ensemble = (served / "synthesis" / "configs" / "aoti.pbtxt").read_text("utf-8")
    assert re.findall('model_name: "(.*)"', ensemble) == [AOTI_MODEL]
    config = (served / AOTI_MODEL / "config.pbtxt").read_text("utf-8")
    assert re.findall('default_model_filename: "(.*)"', config) == [package.name]

    # As Docker mounts /tmp by default.
    (folder := tmp_path / "tmp").mkdir()
    mounting = f'mount -t tmpfs -o noexec none "{folder}" && TMPDIR="{folder}" exec "{ENTRYPOINT}"'
    own = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*own, "true"], capture_output=True, check=False).returncode == 0:
        done = subprocess.run(
            [*own, "sh", "-c", mounting],
            env={**container.environment, **chosen},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, "tritonserver" in done.stdout) == (1, False)
        assert done.stderr == (
            f"{folder}: nothing can be executed from it, and PyTorch loads the package's code from "
            "there: set SCENELOOM_TMP=exec for docker-compose.yml, or mount it with exec\n"
        )

    package.write_bytes(package.read_bytes()[:-1] + b"?")
    done = container.run(**chosen)
    assert (done.returncode, done.stdout) == (1, "")
    assert "is not the plan of model.pt2.json" in done.stderr


def test_apis_are_closed_with_a_secret_that_is_new_each_time(container: Container) -> None:
    secrets = set()
    for variables in ({}, {"SCENELOOM_SHARED_MEMORY": "on"}):
        lines = container.run(**variables).stdout.splitlines()
        closed = [line for line in lines if "restricted" in line]
        apis = "model-repository,trace,logging" + ("" if variables else ",shared-memory")
        assert [SECRET.sub("", line) for line in closed] == [
            f"--http-restricted-api={apis}:sceneloom-admin=",
            f"--grpc-restricted-protocol={apis}:sceneloom-admin=",
        ]
        secrets |= {SECRET.findall(line)[0] for line in closed}
    assert len(secrets) == 2
    lines = container.run(SCENELOOM_ADMIN_KEY="known").stdout.splitlines()
    assert sum(line.endswith(":sceneloom-admin=known") for line in lines) == 2


def test_exit_code_and_signals_are_those_of_the_server(container: Container) -> None:
    container.write_server("exit 3")
    assert container.run().returncode == 3
    container.write_server('trap "echo asked; exit 7" TERM; echo up; while :; do sleep 0.1; done')
    process = subprocess.Popen(
        [str(ENTRYPOINT)], env=container.environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while process.stdout.readline() not in ("up\n", ""):
        pass
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == "asked\n"
    assert process.returncode == 7


def test_nothing_starts_if_a_file_was_changed(container: Container, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(container.environment["SCENELOOM_REPOSITORY"], copy)
    (copy / "synthesis" / "1" / "model.py").write_text("")
    done = container.run(SCENELOOM_REPOSITORY=str(copy))
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"sceneloom verify: \S+/model\.py: is not the file.*\n", done.stderr)


@pytest.mark.parametrize("variant", ["tensorrt", "unknown"])
def test_nothing_starts_without_what_the_variant_loads(container: Container, variant: str) -> None:
    done = container.run(SCENELOOM_VARIANT=variant)
    assert (done.returncode, done.stdout) == (1, "")
    assert "model.plan: missing" in done.stderr or "has no variant 'unknown'" in done.stderr


def test_engine_step_has_nothing_to_do_for_a_variant_without_a_plan(container: Container) -> None:
    done = container.run(script=ENGINE, SCENELOOM_VARIANT="onnxruntime")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "the variant onnxruntime loads no plan\n"


def test_engine_step_builds_a_plan_that_does_not_fit(container: Container) -> None:
    real = shutil.which("sceneloom", path=container.environment["PATH"])
    container.write(
        "sceneloom", f'if [ "$1" = engine ]; then echo "$@"; else exec "{real}" "$@"; fi'
    )
    done = container.run("--norms", "native", script=ENGINE, SCENELOOM_VARIANT="tensorrt")
    repository = container.environment["SCENELOOM_REPOSITORY"]
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"engine {repository}/synthesis/1/model.onnx --keep --norms native\n"


@pytest.mark.parametrize("script", [ENGINE, ENTRYPOINT])
def test_a_driver_too_old_for_the_images_cuda_ends_it_in_a_sentence(
    container: Container, script: Path
) -> None:
    container.write_driver("570.86.15", "12.8")
    done = container.run(script=script, SCENELOOM_VARIANT="onnxruntime", CUDA_VERSION="13.2.1.021")
    assert done.returncode == 1
    assert done.stderr == (
        "the NVIDIA driver is 570.86.15 and takes CUDA 12.8 at most; this image has CUDA 13, which "
        "needs driver R580 or newer, or on a data-centre GPU NVIDIA's Container Toolkit 1.17.7 or "
        "newer\n"
    )
    assert "tritonserver" not in done.stdout
    assert "loads no plan" not in done.stdout


def test_drivers_that_do(container: Container) -> None:
    def starts(driver: str, takes: str, **variables: str) -> bool:
        container.write_driver(driver, takes)
        return container.run(script=DRIVER, **variables).returncode == 0

    assert starts("580.65.06", "13.0")
    assert starts("610.10", "14.1")
    assert starts("570.86.15", "13.2")  # the toolkit has put the image's own libcuda first
    assert not starts("570.86.15", "12.8")
    assert starts("570.86.15", "12.8", CUDA_VERSION="12.9.1")  # another base image
    assert not starts("470.57", "11.4", CUDA_VERSION="12.9.1")
    assert starts("", "")  # words that are not known are no reason to refuse


def test_a_container_without_a_gpu_is_told_so(container: Container) -> None:
    container.write(
        "nvidia-smi", 'echo "NVIDIA-SMI has failed because it has no driver."; echo more; exit 9'
    )
    done = container.run(script=ENGINE)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "nvidia-smi sees no NVIDIA GPU: NVIDIA-SMI has failed because it has no driver.\n"
    )
    (container.bin / "nvidia-smi").unlink()
    done = container.run(script=ENGINE)
    if shutil.which("nvidia-smi", path=container.environment["PATH"]):
        pytest.skip("this machine has a GPU")
    assert done.returncode == 1
    assert done.stderr.startswith("no nvidia-smi in this container: start it with NVIDIA's")
    assert done.stderr.count("\n") == 1
    assert container.run().returncode == 0  # the variant embedded needs none


@pytest.mark.parametrize("on", [True, False])
def test_shared_memory_is_opened_in_the_servers_own_way(container: Container, on: bool) -> None:
    """Triton closes it by default since 2.68 (26.04), and opens it by a flag that older ones end
    at.
    """
    variables = {"SCENELOOM_SHARED_MEMORY": "on"} if on else {}
    flag = "--allow-client-shm=true"
    for usage, opens in (("--allow-client-shm <boolean>", on), ("--allow-http <boolean>", False)):
        container.write_server(
            f'[ "$1" != --help ] || {{ echo "Usage: tritonserver"; echo "{usage}" >&2; exit 1; }}\n'
            'printf "%s\\n" "$@"'
        )
        done = container.run("--log-verbose=1", **variables)
        assert done.returncode == 0, done.stderr
        assert (flag in done.stdout.splitlines()) == opens
        assert ("shared-memory" in done.stdout) != on
        assert done.stdout.splitlines()[-1] == "--log-verbose=1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def bundled(container: Container, tmp_path: Path) -> Iterator[Container]:
    """With the real tritonserver of the wheel."""
    prefix = new_prefix()
    server = find_bundled_server()
    server.write_backend_directory(tmp_path / "backends")
    environment = server.environment()
    container.environment["LD_LIBRARY_PATH"] = environment["LD_LIBRARY_PATH"]
    container.write_server(
        f'exec "{server.executable}" "--backend-directory={tmp_path / "backends"}" '
        f'--backend-config=python,shm-region-prefix-name={prefix} --allow-gpu-metrics=false "$@"'
    )
    yield container
    remove(prefix)  # a server that is killed leaves its shared memory


@pytest.fixture
def running(
    bundled: Container, request: pytest.FixtureRequest
) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """The process, and HOST:PORT of gRPC and HTTP, once the probe is right."""
    grpc, http = free_port(), free_port()
    ports = [f"--grpc-port={grpc}", f"--http-port={http}", "--allow-metrics=false"]
    addresses = ["--grpc-address=127.0.0.1", "--http-address=127.0.0.1"]
    url = f"127.0.0.1:{grpc}"
    known = {"SCENELOOM_ADMIN_KEY": "known"}
    known["SCENELOOM_SHARED_MEMORY"] = getattr(request, "param", "off")
    probes = {"SCENELOOM_PROBE_URL": url, "SCENELOOM_PROBE_SECONDS": "1"}
    environment = {**bundled.environment, **known, **probes}
    process = subprocess.Popen(
        [str(ENTRYPOINT), *ports, *addresses],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 90
    while run_command("probe", environment["SCENELOOM_REPOSITORY"], "--url", url).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(process.communicate()[0][-3000:])
    yield process, url, f"127.0.0.1:{http}"
    # What a container's end ends, the model's processes included.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)


def status(http: str, path: str, key: str | None = None) -> int:
    headers = {"sceneloom-admin": key} if key else {}
    request = urllib.request.Request(f"http://{http}/v2/{path}", data=b"{}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.triton
def test_the_real_server_behind_it(
    running: tuple[subprocess.Popen[str], str, str], exported: Exported
) -> None:
    process, url, http = running
    with urllib.request.urlopen(f"http://{http}/v2/models/synthesis/config", timeout=10) as answer:
        assert json.load(answer)["backend"] == "python"
    done = run_command("probe", exported.repository, "--url", url)
    assert "grey levels from the exported picture" in done.stdout
    assert status(http, "repository/index") == 403
    assert status(http, "repository/index", "wrong") == 403
    assert status(http, "repository/index", "known") == 200
    assert status(http, "repository/models/synthesis/unload", "known") >= 400  # control mode none
    shared = "systemsharedmemory/region/x/register"
    assert status(http, shared) == 403
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert not list(exported.repository.rglob("__pycache__"))


@pytest.mark.triton
@pytest.mark.parametrize("running", ["on"], indirect=True)
def test_shared_memory_of_the_real_server(running: tuple[subprocess.Popen[str], str, str]) -> None:
    """2.51 does not know the newer flag: with it, it would not have started."""
    maps = blocky_maps(64, 96, seed=0)
    shared = connect(running[1], transport="grpc-shm")
    with TritonSynthesizer(running[1], transport=shared) as through_memory:
        given = through_memory.synthesize(*maps)
    with TritonSynthesizer(running[1]) as plain:
        assert np.array_equal(given, plain.synthesize(*maps))


@pytest.mark.triton
def test_a_client_that_prefers_shared_memory_finds_it_closed(
    running: tuple[subprocess.Popen[str], str, str],
) -> None:
    """As by default: Triton answers with UNAVAILABLE, but is there."""
    transport = connect(running[1])
    assert transport.kind == "grpc"
    assert "This protocol is restricted" in transport.why
    with TritonSynthesizer(running[1], transport=transport) as synthesizer:
        assert synthesizer.synthesize(*blocky_maps(64, 96, seed=0)).shape == (64, 96, 3)


@pytest.mark.triton
def test_a_container_whose_model_has_died_ends(
    running: tuple[subprocess.Popen[str], str, str],
) -> None:
    process, url, http = running
    assert process.stdout is not None
    assert any(line.startswith(f"{url}: right") for line in process.stdout)  # it has seen it alive
    models = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # a process that has just ended
            pid, stat = int(path.parent.name), path.read_text()
            if os.getpgid(pid) == process.pid and "(triton_python" in stat:
                models.append(pid)
    (model,) = models
    os.kill(model, signal.SIGKILL)
    with urllib.request.urlopen(f"http://{http}/v2/health/ready", timeout=10) as answer:
        assert answer.status == 200  # the server itself notices nothing
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGKILL
    assert "the server is ended after 3 probes that failed" in output


@pytest.mark.triton
@pytest.mark.parametrize(
    ("variant", "backend"),
    [
        ("tensorrt", "tensorrt"),
        ("tensorrt-throughput", "tensorrt"),
        ("onnxruntime", "onnxruntime"),
    ],
)
def test_the_real_server_takes_the_other_variants_up_to_their_backend(
    bundled: Container, exported: Exported, variant: str, backend: str
) -> None:
    assert [path.name for path in find_bundled_server().backend.parent.iterdir()] == ["python"]
    # Not through the entrypoint, which asks for the plan.
    done = subprocess.run(
        [
            "tritonserver",
            f"--model-repository={link_to(bundled, exported.repository)}",
            f"--model-config-name={variant}",
            "--disable-auto-complete-config",
            "--allow-http=false",
            "--allow-metrics=false",
            f"--grpc-port={free_port()}",
            "--exit-timeout-secs=1",
        ],
        env=bundled.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"unable to find backend library for backend '{backend}'" in done.stdout + done.stderr


def link_to(container: Container, repository: Path) -> Path:
    folder = container.bin.parent / "linked"
    folder.mkdir()
    (folder / "synthesis").symlink_to(repository / "synthesis")
    return folder
