"""The commands as a user types them: import, export, serve, render, in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from support import COMMAND, ServeCommand, blocky_maps, run_command

from sceneloom.cli import main
from sceneloom.files import SHARED_MEMORY
from sceneloom_export.bundle import Exported

pytestmark = pytest.mark.triton


@pytest.fixture
def serve(exported: Exported) -> Iterator[ServeCommand]:
    with ServeCommand(exported.repository) as running:
        yield running


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """pix2pixHD's layout: three good pairs of two sizes, and broken ones."""
    root = tmp_path / "data"
    (root / "test_label").mkdir(parents=True)
    (root / "test_inst").mkdir()
    for i, size in enumerate([(64, 96), (64, 96), (45, 70)]):
        labels, instances = blocky_maps(*size, seed=i)
        cv2.imwrite(str(root / "test_label" / f"city_{i}_gtFine_labelIds.png"), labels)
        cv2.imwrite(
            str(root / "test_inst" / f"city_{i}_gtFine_instanceIds.png"),
            instances.astype(np.uint16),
        )
    return root


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_serve_stops_cleanly(exported: Exported, number: int) -> None:
    # A named engine: without one, the first start of a bundle says what it tries.
    serve = ServeCommand(exported.repository, "--engine", "onnxruntime-fp32", stop_timeout=30)
    (server,) = children(serve.process.pid)
    code, errors = serve.end(number)
    assert code == 0, errors
    assert errors == "stopped\n"
    assert not Path(f"/proc/{server}").exists()
    assert not list(SHARED_MEMORY.glob(f"sceneloom-{serve.process.pid}-*"))


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def wait_until_gone(processes: list[int]) -> None:
    # Triton waits 30 seconds for a model process that another server's sweep has ended meanwhile.
    deadline = time.monotonic() + 120
    while any(Path(f"/proc/{process}").exists() for process in processes):
        assert time.monotonic() < deadline, "a process outlived its parent"
        time.sleep(0.2)


@pytest.mark.parametrize("server_too", [pytest.param(False, marks=pytest.mark.slow), True])
def test_killed_serve_leaves_no_process_and_the_next_one_sweeps(
    exported: Exported,
    server_too: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A folder of its own for temporary files: any other server that is made meanwhile sweeps too.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    serve = ServeCommand(exported.repository, stop_timeout=30)
    pid = serve.process.pid
    (server,) = children(pid)
    processes = [server, *children(server)]
    assert len(processes) == 2
    os.kill(pid, signal.SIGKILL)
    if server_too:
        os.kill(server, signal.SIGKILL)
    serve.process.communicate(timeout=60)
    if not server_too:  # the server ends with its parent, in order
        wait_until_gone(processes)
    assert list(tmp_path.glob(f"sceneloom-{pid}-*"))
    assert ServeCommand(exported.repository).end(signal.SIGTERM)[0] == 0
    wait_until_gone(processes)
    left = [tmp_path, SHARED_MEMORY]
    assert [path for folder in left for path in folder.glob(f"sceneloom-{pid}-*")] == []


def test_render_a_data_set_with_broken_maps(
    dataset: Path, serve: ServeCommand, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    good = run_command("render", dataset, out, "--url", serve.grpc)
    assert good.returncode == 0, good.stderr
    assert "rendered 3 of 3 maps" in good.stdout
    assert "1 was padded" in good.stdout
    assert sorted(p.name for p in out.glob("*.png")) == [
        f"city_{i}_gtFine_labelIds.png" for i in range(3)
    ]
    assert cv2.imread(str(out / "city_2_gtFine_labelIds.png")).shape == (45, 70, 3)

    labels, _ = blocky_maps(64, 96, seed=5)
    labels[0, :7] = 99
    cv2.imwrite(str(dataset / "test_label" / "unknown_gtFine_labelIds.png"), labels)
    shutil.copy(
        dataset / "test_inst/city_0_gtFine_instanceIds.png",
        dataset / "test_inst/unknown_gtFine_instanceIds.png",
    )
    (dataset / "test_label" / "empty_gtFine_labelIds.png").write_bytes(b"")
    shutil.copy(
        dataset / "test_inst/city_0_gtFine_instanceIds.png",
        dataset / "test_inst/empty_gtFine_instanceIds.png",
    )
    shutil.copy(
        dataset / "test_label/city_0_gtFine_labelIds.png",
        dataset / "test_label/alone_gtFine_labelIds.png",
    )
    broken = run_command(
        "render", dataset, tmp_path / "out2", "--url", serve.grpc, "--format", "jpg"
    )
    assert broken.returncode == 1
    assert "rendered 3 of 6 maps" in broken.stdout
    lines = [line for line in broken.stderr.splitlines() if line.startswith("failed: ")]
    assert len(lines) == 3
    assert any("alone_gtFine" in line and "instance map" in line for line in lines)
    assert any("empty_gtFine" in line and "empty" in line for line in lines)
    assert any("unknown_gtFine" in line and "99 (7 pixels)" in line for line in lines)
    assert len(list((tmp_path / "out2").glob("*.jpg"))) == 3
    mended = run_command(
        "render", dataset, tmp_path / "out3", "--url", serve.grpc, "--unknown", "unlabelled"
    )
    assert "rendered 4 of 6 maps" in mended.stdout


def test_render_without_a_server_is_one_line(dataset: Path, tmp_path: Path) -> None:
    done = run_command("render", dataset, tmp_path / "out", "--url", "127.0.0.1:9")
    assert done.returncode == 3
    assert done.stderr.startswith("sceneloom render: 127.0.0.1:9")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_import_refuses_in_one_sentence(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for labels, reason in (("nyu40", "36 input channels"), ("cityscape", "cityscapes19")):
        assert main(["import", str(published), "--labels", labels, "--out", str(tmp_path)]) == 1
        assert reason in (errors := capsys.readouterr().err)
        assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_import_and_export_commands(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run_command("import", published, "--labels", "cityscapes", "--out", tmp_path / "c")
    assert done.returncode == 0, done.stderr
    assert "ngf 4, 2 downsamplings, 2 blocks, enhancers: 1, of 1 block" in done.stdout
    assert "multiples of 8" in done.stdout
    places = (str(tmp_path / "c"), "--repository", str(tmp_path / "r"))
    assert main(["export", *places, "--sizes", "100x100"]) == 1
    assert "multiple of 8" in capsys.readouterr().err
    flags = ("--max-batch-size", "2", "--sizes", "64x64", "256x128", "--precision", "bf16")
    with subprocess.Popen(
        [*COMMAND, "export", *places, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        try:
            said = [line.rstrip("\n") for line in running.stderr if running.poll() is None]
            lines = running.stdout.read().splitlines()
        finally:
            running.kill()
    assert running.returncode == 0, said
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert lines[0].startswith("differences from PyTorch in float32, in grey levels")
    (line,) = [line for line in lines if line.startswith("  bf16 left out: ")]  # random weights
    assert "at the 99.9th percentile, 3 is the limit" in line
    assert not any("fp16:" in line for line in lines)
    (line,) = [line for line in lines if line.startswith("  onnxruntime-fp32: ")]
    assert "s a picture; max " in line
    (line,) = [line for line in lines if line.startswith("serves by default: ")]
    assert report["proof"]["engine"] in line
    assert "(fp32), differs from PyTorch by max " in line
    assert any(line.startswith("--precision fast: ") for line in lines)
    assert all(re.search(r"( \.\.\.|: [\d.]+ s)$", line) for line in said)  # nothing else
    check_progress([line.removesuffix(" ...") for line in said if line.endswith(" ...")])


def check_progress(begun: list[str]) -> None:
    """What an export says before it does it; each line was read while it ran."""
    assert begun[0] == "load PyTorch and ONNX"
    stages = [line for line in begun if not line.endswith("so far")]
    assert stages[1:3] == ["read the checkpoint", "draw the maps of the proof"]
    assert re.fullmatch(r"render with PyTorch 64x64 \(1 of \d+\)", stages[3])
    largest = [line for line in stages if line.startswith("render with PyTorch 256x128")]
    assert re.fullmatch(r".* \((\d+) of \1\)", largest[-1])
    assert stages.index("write model.onnx") < stages.index("check the graph")
    assert any(line.startswith("judge bf16 256x128 (") for line in stages)
    assert any(re.fullmatch(r"measure onnxruntime-fp32 \(1 of \d\)", line) for line in stages)
    assert any(re.fullmatch(r"time \d engines? in turn", line) for line in stages)


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    overview = run_command("--help").stdout
    for name in ("import", "export", "runtimes", "serve", "render", "schemas"):
        assert f"  {name} " in overview
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        assert "usage: sceneloom " + name in capsys.readouterr().out
