"""The bundled server: leftovers of dead ones, preconditions, settings, no reports to anyone."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx
import pytest

from sceneloom.contract import Contract
from sceneloom.errors import ExportError, SchemaError, ServerStartError
from sceneloom.files import SHARED_MEMORY, new_prefix
from sceneloom.schema import load_schema
from sceneloom_export.bundle import Exported
from sceneloom_serving import templates
from sceneloom_serving.bundle import CPU_FILE
from sceneloom_serving.bundled_server import (
    check_numpy,
    find_bundled_server,
    find_libpython,
    new_folder,
    remove,
    sweep,
)
from sceneloom_serving.embedded import ServerSettings
from sceneloom_serving.onnx_runtime import OnnxRuntimeSynthesizer

CONTRACT = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)


def test_what_dead_processes_left_is_swept_and_the_rest_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A folder of its own for temporary files: any server that is made meanwhile sweeps too.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    mine, other = new_prefix(), new_prefix()
    namespace = mine.split("-")[3]
    dead = SHARED_MEMORY / f"sceneloom-{process.pid}-1-{namespace}-test"
    dead_folder = tmp_path / f"sceneloom-{process.pid}-1-{namespace}-test"
    # Of a container that shares /dev/shm with us: no process of ours ever had that number there.
    elsewhere = SHARED_MEMORY / f"sceneloom-{process.pid}-1-{int(namespace) + 1}-test"
    alive, alive_other = SHARED_MEMORY / f"{mine}test", SHARED_MEMORY / f"{other}test"
    alive_folder = new_folder(mine)
    foreign = SHARED_MEMORY / "sceneloom-notapid-test"
    files = (dead, alive, alive_other, foreign, elsewhere)
    for path in files:
        path.write_bytes(b"x")
    dead_folder.mkdir()
    try:
        assert {dead.name} <= set(sweep())
        assert not dead.exists()
        assert not dead_folder.exists()
        kept = (alive, alive_other, alive_folder, foreign, elsewhere)
        assert all(path.exists() for path in kept)
        remove(mine)
        assert not alive.exists()
        assert not alive_folder.exists()
        assert alive_other.exists()  # another server of the same process
    finally:
        for path in files:
            path.unlink(missing_ok=True)


def test_another_pid_namespace_gives_other_names() -> None:
    code = "from sceneloom.files import new_prefix; print(new_prefix())"
    command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    inside = subprocess.run(
        [*command, sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    if inside.returncode:
        pytest.skip(f"this machine lets nobody make a pid namespace: {inside.stderr.strip()}")
    assert new_prefix().split("-")[3] not in ("0", inside.stdout.split("-")[3])


def test_numpy_2_is_refused() -> None:
    check_numpy("1.26.4")
    with pytest.raises(ServerStartError, match=r"numpy 2\.1\.0.*empty tensors.*pip install"):
        check_numpy("2.1.0")


def test_bundled_server_is_found() -> None:
    server = find_bundled_server()
    assert server.executable.is_file()
    assert server.stub.is_file()
    assert find_libpython().is_file()
    environment = server.environment()
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.prefix) / "bin")
    assert str(find_libpython().parent) in environment["LD_LIBRARY_PATH"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.platform = 'darwin'", "the bundled Triton server does not run on"),
        ("import platform; platform.machine = lambda: 'aarch64'", "aarch64; it is for Linux"),
        (
            "import importlib.util as u; f = u.find_spec; "
            "u.find_spec = lambda n: None if n == 'pytriton' else f(n)",
            r"pip install 'sceneloom[serve,embedded]'",
        ),
        (
            "import sysconfig; sysconfig.get_config_var = lambda n: None; "
            "import sys; sys.base_prefix = '/nowhere'",
            "apt-get install libpython3",
        ),
        (
            "import sys; sys.version_info = type('V', (), dict(major=3, minor=7))()",
            "stub for Python 3.7",
        ),
        (
            "import sys; sys.version_info = type('V', (), dict(major=3, minor=13))()",
            "numpy below 2, which Python 3.13 does not have",
        ),
    ],
)
def test_machine_that_cannot_run_it_is_told_why(code: str, message: str) -> None:
    # The machine's own facts are changed, in a process of its own; nothing of ours is patched.
    script = (
        "from sceneloom_serving.bundled_server import find_bundled_server\n"
        "from sceneloom.errors import SceneLoomError\n"
        f"{code}\n"
        "try:\n    find_bundled_server()\nexcept SceneLoomError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert message in done.stdout


def test_templates_are_the_checkouts() -> None:
    assert templates() == Path(__file__).resolve().parents[2] / "triton_models"


def test_onnx_file_that_is_not_ours(tmp_path: Path, exported: Exported) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no protobuf")
    with pytest.raises(ExportError, match=r"model\.onnx: ONNX Runtime cannot load it"):
        OnnxRuntimeSynthesizer(path)
    model = onnx.load(exported.repository / "synthesis" / "1" / CPU_FILE)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(ExportError, match="carries no contract"):
        OnnxRuntimeSynthesizer(path)
    onnx.helper.set_model_props(model, {"sceneloom": "{}"})
    onnx.save(model, path)
    with pytest.raises(SchemaError, match="format"):
        OnnxRuntimeSynthesizer(path)


@pytest.mark.parametrize(
    "settings",
    [
        {"http_port": -1},
        {"grpc_port": 65536},
        {"http_port": 8001},
        {"start_timeout": 0},
        {"stop_timeout": float("inf")},
        {"stop_timeout": -1},
    ],
)
def test_server_settings_out_of_range(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"port|timeout"):
        ServerSettings(**settings)  # type: ignore[arg-type]


def test_onnx_runtime_reports_to_nobody(exported: Exported, tmp_path: Path) -> None:
    model = exported.repository / "synthesis" / "1" / CPU_FILE
    quiet = ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS")
    environment = {name: value for name, value in os.environ.items() if name not in quiet}

    code = "import sceneloom_serving, sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1])"
    run = [sys.executable, "-c", code, str(model)]
    subprocess.run(run, env={**environment, "XDG_CACHE_HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.iterdir()) == []  # where it keeps a device's id and what it will send


def test_nothing_that_runs_is_copied_for_the_server(tmp_path: Path) -> None:
    """A folder for temporary files may be mounted noexec, and a fresh copy may be busy."""
    server = find_bundled_server()
    installed = tmp_path / "installed"  # by a pip that compiles
    (installed / "__pycache__").mkdir(parents=True)
    for file in server.backend.iterdir():
        if file.is_file():
            (installed / file.name).symlink_to(file)
    dataclasses.replace(server, backend=installed).write_backend_directory(tmp_path)
    files = list((tmp_path / "python").iterdir())
    assert {"libtriton_python.so", "triton_python_backend_stub"} < {file.name for file in files}
    assert all(file.is_symlink() and file.is_file() for file in files)


def test_openvino_reports_to_nobody_and_writes_no_id(exported: Exported, tmp_path: Path) -> None:
    """Its package for reports opens a connection when openvino is imported: to the proxy here."""
    model = exported.repository / "synthesis" / "1" / CPU_FILE
    code = (
        "import sys, sceneloom_serving.openvino_runtime as o; from pathlib import Path; "
        "o.OpenVinoSynthesizer(Path(sys.argv[1])); import openvino, time; time.sleep(1)"
    )
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        environment = {name: value for name, value in os.environ.items() if name != "CI"}
        environment["https_proxy"] = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        run = [sys.executable, "-c", code, str(model)]
        subprocess.run(run, env={**environment, "HOME": str(tmp_path)}, check=True)
        proxy.settimeout(0.1)
        with pytest.raises(TimeoutError):
            proxy.accept()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_has_imported_openvinos_reports_keeps_them() -> None:
    code = "import openvino_telemetry as t, sceneloom_serving; import openvino_telemetry; print(t)"
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert "openvino_telemetry" in done.stdout
