"""The deployment's files: valid by the Compose specification, hadolint and shellcheck, and in step
with each other. No Docker engine is needed, and none was at hand where they were written.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import CHECKOUT, run_command

from sceneloom.cli import COMMANDS
from sceneloom_gateway.server import ServerSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

COMPOSE = ("docker-compose.yml", "docker-compose.cpu.yml")
BIN = Path(sys.executable).parent
DOCKERFILE = CHECKOUT / "deploy" / "Dockerfile"


def check(*command: str | Path) -> None:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def compose(name: str) -> dict[str, Any]:
    """A compose file with the defaults of its variables."""
    text = (CHECKOUT / name).read_text()
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    text = re.sub(r"\$\{SCENELOOM_REPOSITORY:\?[^}]*\}", "/repository", text)
    assert "$" not in re.sub(r"#.*", "", text)
    data: dict[str, Any] = yaml.safe_load(text)
    return data


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_files_follow_the_specification(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("check_jsonschema") is None:
        pytest.skip("check-jsonschema, which carries the Compose specification, needs Python 3.11")
    validator = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec"]
    check(*validator, CHECKOUT / name)
    resolved = tmp_path / "resolved.json"
    resolved.write_text(json.dumps(compose(name)))
    check(*validator, resolved)
    broken = compose(name)
    broken["services"]["triton"]["shm_sise"] = "2gb"
    resolved.write_text(json.dumps(broken))
    with pytest.raises(AssertionError, match="shm_sise"):
        check(*validator, resolved)


def test_dockerfile_and_scripts_pass_the_linters() -> None:
    check(BIN / "hadolint", DOCKERFILE)
    check(BIN / "shellcheck", *(CHECKOUT / "deploy").glob("*.sh"))


def test_scripts_and_health_checks_call_commands_there_are() -> None:
    texts = [path.read_text() for path in (CHECKOUT / "deploy").glob("*.sh")]
    called = set(re.findall(r"^[^#\n]*\bsceneloom (\w+)", "\n".join(texts), re.MULTILINE))
    assert called == {"verify", "engine", "probe"}
    assert called <= COMMANDS.keys()


@pytest.mark.parametrize("name", COMPOSE)
def test_every_service_runs_with_as_little_as_it_needs(name: str) -> None:
    for service in compose(name)["services"].values():
        assert service["user"] == "1000:1000"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service
        assert re.fullmatch(r"\d+g", service["mem_limit"])
        assert 1000 <= service["pids_limit"] <= 10_000


@pytest.mark.parametrize("name", COMPOSE)
def test_variables_of_the_host_reach_the_server(name: str) -> None:
    """Each that the entrypoint reads, but the probe's address, and what nobody thought of."""
    triton = yaml.safe_load((CHECKOUT / name).read_text())["services"]["triton"]
    assert triton["command"] == "${SCENELOOM_TRITON_FLAGS:-}"
    script = (CHECKOUT / "deploy" / "entrypoint.sh").read_text()
    read = set(re.findall(r"\$\{(SCENELOOM_\w+)", script))
    assert "SCENELOOM_ADMIN_KEY" in read
    own = {"SCENELOOM_REPOSITORY", "SCENELOOM_PROBE_URL"}  # /models and the port in the container
    assert triton["environment"].keys() == read - own
    readme = (CHECKOUT / "deploy" / "README.md").read_text()
    for variable in set(re.findall(r"\$\{(SCENELOOM_\w+)", (CHECKOUT / name).read_text())):
        assert f"`{variable}`" in readme


@pytest.mark.parametrize("name", COMPOSE)
def test_the_server_of_each(name: str) -> None:
    triton = compose(name)["services"]["triton"]
    assert triton["restart"] == "unless-stopped"
    assert triton["ipc"] == "shareable"
    assert int(triton["shm_size"].removesuffix("gb")) >= 1
    assert all(port.startswith("127.0.0.1:") for port in triton["ports"])
    models = [v for v in triton["volumes"] if isinstance(v, dict) and v["target"] == "/models"]
    assert [volume["read_only"] for volume in models] == [True]
    program, command, repository, *flags = triton["healthcheck"]["test"][1:]
    assert (program, repository) == ("sceneloom", "/models")
    assert command in COMMANDS
    # The probe must give up before Docker ends it, or there would be no line that says why.
    seconds = float(flags[flags.index("--timeout") + 1])
    assert seconds < int(triton["healthcheck"]["timeout"].removesuffix("s"))
    # Triton lets requests finish for 30 s; Docker must not cut that short.
    assert int(triton["stop_grace_period"].removesuffix("s")) > 30


@pytest.mark.parametrize("name", COMPOSE)
def test_the_gateway_of_each_is_https_with_keys_and_only_on_request(name: str) -> None:
    gateway = compose(name)["services"]["gateway"]
    assert gateway["profiles"] == ["gateway"]
    assert gateway["depends_on"] == {"triton": {"condition": "service_healthy"}}
    assert gateway["ports"] == ["127.0.0.1:8443:8443"]
    folder, jobs = gateway["volumes"]
    assert folder["read_only"]
    assert jobs["source"] == f"{folder['source']}/jobs"
    assert not jobs.get("read_only")
    assert int(gateway["stop_grace_period"].removesuffix("s")) > ServerSettings().drain_seconds
    assert (CHECKOUT / gateway["build"]["dockerfile"]).is_file()
    program, *flags = gateway["command"].split()
    given = dict(flag.split("=", 1) for flag in flags)
    files = {flag: value for flag, value in given.items() if value.startswith("/gateway/")}
    assert files.keys() == {"--triton-file", "--tls-cert", "--tls-key", "--keys"}
    assert given["--jobs.folder"] == jobs["target"]
    readme = (CHECKOUT / "deploy" / "README.md").read_text()
    assert all(f"{Path(value).name}" in readme for value in files.values())
    help_text = run_command(program, "--help").stdout
    assert all(flag in help_text for flag in given)
    assert given["--listen"].partition(":")[2] in gateway["healthcheck"]["test"][-1]
    compile(gateway["healthcheck"]["test"][-1], "health check", "exec")


def test_the_plan_is_built_by_the_image_that_serves_it() -> None:
    services = compose("docker-compose.yml")["services"]
    engine, triton = services["engine"], services["triton"]
    assert engine["image"] == triton["image"]
    assert engine["build"] == triton["build"] == {"context": ".", "dockerfile": "deploy/Dockerfile"}
    assert triton["depends_on"] == {"engine": {"condition": "service_completed_successfully"}}
    assert engine["restart"] == "no"
    assert engine["environment"]["SCENELOOM_VARIANT"] == "tensorrt"
    for service in (engine, triton):
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_only_a_package_may_be_loaded_from_the_servers_tmp() -> None:
    services = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())["services"]
    assert services["triton"]["tmpfs"] == ["/tmp:${SCENELOOM_TMP:-noexec}"]
    assert services["engine"]["tmpfs"] == ["/tmp:exec"]  # TensorRT's own generated code


def test_the_cpu_host_needs_no_gpu_and_no_engine() -> None:
    services = compose("docker-compose.cpu.yml")["services"]
    assert services.keys() == {"triton", "gateway"}
    assert "deploy" not in services["triton"]
    assert services["triton"]["environment"]["SCENELOOM_VARIANT"] == "embedded"
    assert services["triton"]["build"]["args"] == {"EXTRAS": "[serve]"}


def test_the_image_is_named_in_one_place_and_is_of_2026() -> None:
    files = [*(CHECKOUT / "deploy").rglob("*"), *(CHECKOUT / name for name in COMPOSE)]
    texts = {str(path.relative_to(CHECKOUT)): path.read_text() for path in files if path.is_file()}
    named = {name: re.findall(r"tritonserver:(\S+)", text) for name, text in texts.items()}
    tags = {name: found for name, found in named.items() if found}
    assert list(tags) == ["deploy/Dockerfile"]
    assert re.fullmatch(r"26\.\d\d-py3(@sha256:[0-9a-f]{64})?", *tags["deploy/Dockerfile"])


def test_the_image_is_pinned_as_the_page_says(tmp_path: Path) -> None:
    readme = (CHECKOUT / "deploy" / "README.md").read_text()
    [block] = re.findall(r"^```bash\n(image=.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    (tmp_path / "deploy").mkdir()
    copy = tmp_path / "deploy" / "Dockerfile"
    copy.write_text(DOCKERFILE.read_text())
    docker = tmp_path / "docker"
    for digest in (f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"):  # and again, to a newer one
        docker.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\necho {digest}\n')
        docker.chmod(0o755)
        environment = {"PATH": f"{tmp_path}:{os.defpath}"}
        done = subprocess.run(
            ["sh", "-euc", block], cwd=tmp_path, env=environment, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")
        image = re.findall(r"^ARG TRITON_IMAGE=(\S+)$", copy.read_text(), re.MULTILINE)
        assert [re.sub(r":26\.\d\d-py3", ":TAG", name) for name in image] == [
            f"nvcr.io/nvidia/tritonserver:TAG@{digest}"
        ]
    check(BIN / "hadolint", copy)


def test_health_check_of_the_image_is_that_of_the_compose_files() -> None:
    text = DOCKERFILE.read_text()
    [image] = re.findall(r"HEALTHCHECK .*\\\n\s+CMD (\[.*\])", text)
    for name in COMPOSE:
        test = compose(name)["services"]["triton"]["healthcheck"]["test"]
        assert test == ["CMD", *json.loads(image)]


def test_the_build_context_holds_what_the_wheel_is_built_from() -> None:
    ignore = (CHECKOUT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignore
    kept = [line[1:] for line in ignore if line.startswith("!")]
    assert all((CHECKOUT / path).exists() for path in kept)
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = [*wheel["packages"], *wheel["force-include"], project["project"]["readme"]]
    needed += [*project["project"]["license-files"], "pyproject.toml"]
    needed += re.findall(r"source=([\w./]+),target", DOCKERFILE.read_text().replace("/wheels", ""))
    needed += re.findall(r"^COPY (?:--\S+ )*(deploy/\S+)", DOCKERFILE.read_text(), re.MULTILINE)
    inside = [any(Path(path).is_relative_to(keep) for keep in kept) for path in needed]
    assert all(inside), [path for path, found in zip(needed, inside, strict=True) if not found]


def test_the_image_builds_the_plan_through_the_bindings_of_its_own_tensorrt() -> None:
    text = re.sub(r"\\\n\s+", "", DOCKERFILE.read_text())
    [line] = [line for line in text.splitlines() if "tensorrt-cu13-bindings" in line]
    assert "--no-deps" in line
    assert '"tensorrt-cu13-bindings==${library##*.so.}.*"' in line


@pytest.mark.parametrize("place", ["usr/lib/x86_64-linux-gnu", "usr/local/tensorrt/lib"])
def test_the_bindings_version_is_that_of_the_images_library(tmp_path: Path, place: str) -> None:
    text = re.sub(r"\\\n\s+", "", DOCKERFILE.read_text())
    [line] = [line for line in text.splitlines() if "tensorrt-cu13-bindings" in line]
    command = line.removeprefix("RUN ").replace("/usr/", f"{tmp_path}/usr/")
    command = command.replace("python3 -m pip", "echo")
    (tmp_path / "usr" / "lib").mkdir(parents=True)
    (tmp_path / "usr" / "local").mkdir()
    missing = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (missing.returncode, missing.stdout) == (1, "")
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "libnvinfer.so.11.4.0").touch()
    (folder / "libnvinfer.so.11").symlink_to("libnvinfer.so.11.4.0")
    (folder / "libnvinfer_plugin.so.11.4.0").touch()
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert " tensorrt-cu13-bindings==11.4.0.* " in done.stdout
