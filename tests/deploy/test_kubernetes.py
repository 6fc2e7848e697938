"""The Kubernetes job: valid by Kubernetes' own schemas, and in step with the command that it runs.
No cluster was at hand where it was written.
"""

from __future__ import annotations

import copy
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from map_sets import small_maps, write_folder
from support import CHECKOUT, run_command

from sceneloom.render_command import LOCATION_GONE, SERVER_GONE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = CHECKOUT / "deploy" / "kubernetes"
OLDEST = "1.33"  # from then on tries are counted for each part without a feature gate


@pytest.fixture
def job() -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((FOLDER / "render-job.yaml").read_text())
    return data


def pod(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["template"]["spec"]
    return found


def arguments(job: dict[str, Any]) -> list[str]:
    [container] = pod(job)["containers"]
    found: list[str] = container["args"]
    return found


def flag(job: dict[str, Any], name: str) -> str:
    [value] = [a.split("=", 1)[1] for a in arguments(job) if a.startswith(f"--{name}=")]
    return value


@pytest.mark.parametrize("version", [OLDEST, "1.37"])
def test_it_is_valid_and_the_validator_can_tell(job: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(job, version, strict=True)
    for wrong in ("backofLimitPerIndex", "podReplacement"):
        broken = copy.deepcopy(job)
        broken["spec"][wrong] = 1
        with pytest.raises(kubernetes_validate.ValidationError, match=wrong):
            kubernetes_validate.validate(broken, version, strict=True)


def test_every_part_has_one_pod_at_a_time(job: dict[str, Any]) -> None:
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    assert flag(job, "shard") == f"$(JOB_COMPLETION_INDEX)/{spec['completions']}"
    assert spec["parallelism"] <= spec["completions"]
    assert spec["podReplacementPolicy"] == "Failed"
    assert "backoffLimit" not in spec
    assert pod(job)["restartPolicy"] == "Never"  # or there is no policy for exit codes


def test_exit_codes_mean_what_the_command_says(job: dict[str, Any]) -> None:
    rules = job["spec"]["podFailurePolicy"]["rules"]
    actions = {
        code: rule["action"]
        for rule in rules
        if "onExitCodes" in rule
        for code in rule["onExitCodes"]["values"]
    }
    assert actions == {1: "FailIndex", 2: "FailJob"}
    assert all(rule["onExitCodes"]["operator"] == "In" for rule in rules if "onExitCodes" in rule)
    # An exit code of a run that can be resumed counts as a try of its part, which is tried again.
    assert not actions.keys() & {SERVER_GONE, LOCATION_GONE, 128 + signal.SIGTERM}
    # A drained node stops a run with 143, which is nobody's fault: looked at before the codes.
    assert rules[0]["action"] == "Ignore"
    assert rules[0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    names = {rule["onExitCodes"]["containerName"] for rule in rules if "onExitCodes" in rule}
    assert names == {container["name"] for container in pod(job)["containers"]}


def test_a_stop_is_given_the_time_that_an_answer_may_take(job: dict[str, Any]) -> None:
    assert pod(job)["terminationGracePeriodSeconds"] > float(flag(job, "timeout"))


def test_its_command_line_is_right(job: dict[str, Any], tmp_path: Path) -> None:
    write_folder(tmp_path / "maps", small_maps(1))
    words = {
        "/maps": str(tmp_path / "maps"),
        "/pictures": str(tmp_path / "pictures"),
        "--url=triton:8001": "--url=127.0.0.1:1",
        "--metrics-port=9200": "--metrics-port=0",
        "--metrics-host=0.0.0.0": "--metrics-host=127.0.0.1",
    }
    line = [words.get(word, word) for word in arguments(job)]
    assert sum(a != b for a, b in zip(line, arguments(job), strict=True)) == len(words)
    line = [word.replace("$(JOB_COMPLETION_INDEX)", "3") for word in line]
    done = run_command(*line)
    assert done.returncode not in (0, 2), done.stderr
    assert "127.0.0.1:1" in done.stderr  # it got as far as the server, which is not there
    wrong = run_command(*line, "--no-such-flag")
    assert wrong.returncode == 2


def test_containers_have_as_little_as_they_need(job: dict[str, Any]) -> None:
    spec = pod(job)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    mounted = set()
    for container in [*spec["initContainers"], *spec["containers"]]:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
        mounted |= {mount["name"] for mount in container.get("volumeMounts", ())}
    assert mounted == {volume["name"] for volume in spec["volumes"]}
    mounts = {m["mountPath"]: m for m in spec["containers"][0]["volumeMounts"]}
    places = arguments(job)[1:3]
    assert [mounts[place].get("readOnly", False) for place in places] == [True, False]


def test_the_image_is_of_this_version(job: dict[str, Any]) -> None:
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    containers = [*pod(job)["initContainers"], *pod(job)["containers"]]
    assert {container["image"] for container in containers} == {f"sceneloom-client:{version}"}
    dockerfile = FOLDER / "Dockerfile"
    assert f"--tag sceneloom-client:{version} ." in dockerfile.read_text()
    done = subprocess.run(
        [Path(sys.executable).parent / "hadolint", dockerfile],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_its_build_context_is_the_servers_without_the_scripts() -> None:
    def kept(path: Path) -> set[str]:
        return {line for line in path.read_text().splitlines() if not line.startswith("#")}

    servers = kept(CHECKOUT / "deploy" / "Dockerfile.dockerignore")
    assert kept(FOLDER / "Dockerfile.dockerignore") == {
        line for line in servers if not line.startswith("!deploy/")
    }


class StartingServer(BaseHTTPRequestHandler):
    """Ready when it is asked for the third time."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(200 if self.asked > 2 else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def starting() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), StartingServer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_pod_waits_for_the_server(job: dict[str, Any], starting: str) -> None:
    [waiting] = pod(job)["initContainers"]
    [code] = waiting["args"]
    [host] = re.findall(r"http://([\w.-]+):8000/v2/health/ready", code)
    assert host == flag(job, "url").split(":")[0]
    code = code.replace(f"{host}:8000", starting).replace("sleep(5)", "sleep(0.05)")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.count("not ready: HTTP Error 503") == 2
