"""Engines as a user chooses them: `serve --engine`, `sceneloom runtimes`, and the same pictures."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import ServeCommand, blocky_maps, copy_export, free_ports, run_command

from sceneloom import TritonSynthesizer
from sceneloom.cli import main
from sceneloom.errors import ServerStartError, ServerUnavailableError
from sceneloom_export.bundle import Exported
from sceneloom_serving.bundle import load_golden
from sceneloom_serving.embedded import EmbeddedServer, ServerSettings
from sceneloom_serving.engines import ENGINES, unavailable
from sceneloom_serving.parity import compare

pytestmark = pytest.mark.triton


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where nothing is remembered yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sceneloom" / "engines"


@pytest.fixture(scope="module")
def onnxruntime_server(exported: Exported) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(exported.repository, free_ports(), engine="onnxruntime-fp32") as server:
        yield server


def test_engines_give_the_same_pictures_and_the_client_sees_which_runs(
    server: EmbeddedServer, onnxruntime_server: EmbeddedServer, exported: Exported
) -> None:
    maps = [blocky_maps(*size, seed=i) for i, size in enumerate([(64, 96), (61, 97), (64, 96)])]
    pictures = []
    for address, name in (
        (server.grpc, "openvino-fp32"),
        (onnxruntime_server.grpc, "onnxruntime-fp32"),
    ):
        with TritonSynthesizer(address) as client:
            assert client.engine == name
            assert client.contract == exported.contract
            pictures.append(client.synthesize_batch(*zip(*maps, strict=True)))
    assert compare(pictures[0], pictures[1]).max <= 1
    assert pictures[0][0].std() > 20


def test_serve_takes_the_engine_that_is_asked_for(exported: Exported) -> None:
    with ServeCommand(exported.repository, "--engine", "onnxruntime-fp32") as serve:
        with TritonSynthesizer(serve.grpc) as client:
            assert client.engine == "onnxruntime-fp32"
        assert serve.end(signal.SIGTERM) == (0, "stopped\n")


def test_auto_measures_once_and_remembers(exported: Exported, cache: Path) -> None:
    with ServeCommand(exported.repository) as serve:
        with TritonSynthesizer(serve.grpc) as client:
            first = client.engine
        code, errors = serve.end(signal.SIGTERM)
    assert code == 0
    assert "trying the exact engines of this bundle on this machine, once" in errors
    assert re.search(r"^onnxruntime-fp32: .* s a picture; max [01],", errors, re.MULTILINE)
    (file,) = cache.iterdir()
    remembered = json.loads(file.read_text())
    assert remembered["engine"] == first
    assert remembered["bundle_hash"] == exported.contract.bundle_hash
    other = next(x for x in ("openvino-fp32", "onnxruntime-fp32") if x != first)
    file.write_text(json.dumps({**remembered, "engine": other}))
    with ServeCommand(exported.repository) as serve:
        with TritonSynthesizer(serve.grpc) as client:
            assert client.engine == other
        assert serve.end(signal.SIGTERM) == (0, "stopped\n")


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        (
            "openvino",
            2,
            "no engine 'openvino'; choose one of auto, onnxruntime-fp32",
        ),
        ("openvino-int8", 1, "the bundle has no int8.onnx: sceneloom export --precision fast"),
        ("tensorrt-fp16", 1, "tensorrt-fp16: "),
    ],
)
def test_serve_refuses_an_engine_that_cannot_run(
    exported: Exported, name: str, code: int, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(exported.repository), "--engine", name]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("sceneloom serve: ")
    assert reason in shown.err


def test_engine_that_does_not_load_in_the_server_is_explained(exported: Exported) -> None:
    server = EmbeddedServer(exported.repository, free_ports(), engine="openvino-int8")
    with pytest.raises(ServerStartError, match=r"openvino-int8: the bundle has no int8\.onnx"):
        server.start()


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_runtimes_of_this_machine(cache: Path) -> None:
    done = run_command("runtimes")
    assert (done.returncode, done.stderr) == (0, "")
    lines = rows(done.stdout)
    assert lines.keys() == ENGINES.keys()
    for name, line in lines.items():
        reason = unavailable(ENGINES[name])
        named = f"  {name:26} {ENGINES[name].precision}"
        assert line == f"{named} {'yes' if reason is None else f'no: {reason}'}"
    assert lines["onnxruntime-fp32"].endswith(" yes")
    assert not cache.exists()


def rows(shown: str) -> dict[str, str]:
    return {line[2:].split()[0]: line for line in shown.splitlines()}


def test_runtimes_of_a_bundle_measured(
    exported: Exported, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def table(*arguments: str | Path) -> dict[str, str]:
        assert main(["runtimes", *map(str, arguments)]) == 0
        shown = capsys.readouterr()
        assert ("measure " in shown.err) == ("--measure" in arguments)  # progress
        return rows(shown.out)

    before = table(exported.repository)
    assert before["openvino-fp32"].endswith(" yes")
    assert "the bundle has no int8.onnx" in before["openvino-int8"]
    assert not any(line.startswith("*") for line in before.values())
    measured = table(exported.repository, "--measure")
    assert re.search(r"yes: \d\S* s a picture; max [01],", measured["openvino-fp32"])
    (chosen,) = [name for name, line in measured.items() if line.startswith("* ")]
    kept = {found["precision"]: found for found in map(read, cache.iterdir())}
    assert kept.keys() == {"exact", "fast"}
    assert kept["exact"]["engine"] == kept["fast"]["engine"] == chosen  # nothing fast is proven
    after = table(exported.repository)
    assert [name for name, line in after.items() if line.startswith("* ")] == [chosen]


def test_runtimes_for_programs(
    exported: Exported, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def documents(*flags: str) -> list[dict[str, Any]]:
        assert main(["runtimes", str(exported.repository), "--json-lines", *flags]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    plain = documents()
    assert [one["engine"] for one in plain] == list(ENGINES)
    assert not any(one["chosen"] for one in plain)
    measured = {one["engine"]: one for one in documents("--measure")}
    assert sum(one["chosen"] for one in measured.values()) == 1
    assert sum(one["chosen_fast"] for one in measured.values()) == 1
    assert {one["precision"] for one in measured.values()} == {
        "fp32",
        "fp16",
        "fp8",
        "bf16",
        "int8",
    }
    for name, one in measured.items():
        assert one["runs"] == (one["reason"] is None)
        assert one["runs"] == (one["seconds"] is not None), name
    assert measured["openvino-fp32"]["parity"]["max"] <= 1
    assert measured["openvino-int8"]["parity"] is None


def test_runtimes_refuses_what_it_cannot_do(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runtimes", "--measure"]) == 2
    assert "none is named" in capsys.readouterr().err
    assert main(["runtimes", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err
    copy = tmp_path / "copy"
    copy_export(exported.repository, copy)
    weights = copy / "synthesis" / "1" / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00x")
    assert main(["runtimes", str(copy), "--measure"]) == 1
    assert "weights.bin" in capsys.readouterr().err


def test_server_that_was_restarted_with_another_engine_answers_no_old_client(
    exported: Exported,
) -> None:
    """A client that was idle meanwhile notices no restart: pictures would be called what they are
    not.
    """
    free = {f"{name}_port": free_port() for name in ("http", "grpc", "metrics")}
    ports = ServerSettings(**free, stop_timeout=0)
    golden = load_golden(exported.repository)
    inputs = (golden.request.label_map, golden.request.instance_map)
    with EmbeddedServer(exported.repository, ports, engine="openvino-fp32") as first:
        clients = [TritonSynthesizer(first.grpc), TritonSynthesizer(f"http://{first.http}")]
        for client in clients:
            client.synthesize(*inputs)
        assert (first.engine, clients[0].precision) == ("openvino-fp32", "fp32")
        assert first.difference.startswith("max ")
        assert (
            clients[1].fast
            == first.fast
            == "bf16, int8: not proven: sceneloom export " + ("--precision fast")
        )
    changed = "runs onnxruntime-fp32, and the request is for openvino-fp32"
    with EmbeddedServer(exported.repository, ports, engine="onnxruntime-fp32"):
        for client in clients:
            with pytest.raises(ServerUnavailableError, match=changed):
                client.synthesize(*inputs)
        with TritonSynthesizer(clients[0].transport.address) as again:
            again.synthesize(*inputs)
    for client in clients:
        client.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
