"""The `sceneloom` command: exit codes, messages without tracebacks, rendering over real gRPC."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

import sceneloom
from sceneloom.cli import COMMANDS, main
from sceneloom.contract import Contract
from sceneloom.errors import QueueFullError, RequestRejectedError
from sceneloom.schema import load_schema

if TYPE_CHECKING:
    from conftest import Start

CITYSCAPES = load_schema("cityscapes")
PLAIN = Contract(schema=CITYSCAPES, boundaries=False, size_multiple=16)
BOUNDARIES = Contract(schema=CITYSCAPES, boundaries=True, size_multiple=16)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three maps in pix2pixHD's layout, one of them of a size that wants padding."""
    root = tmp_path / "data"
    for i, size in enumerate([(32, 48), (32, 48), (40, 40)]):
        for folder, kind, dtype in (("test_label", "label", "u1"), ("test_inst", "inst", "u2")):
            (root / folder).mkdir(parents=True, exist_ok=True)
            values = np.random.default_rng(i).integers(0, 35, size).astype(dtype)
            assert cv2.imwrite(str(root / folder / f"{i}_{kind}.png"), values)
    return root


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The installed command, in a process of its own."""
    command = [Path(sys.executable).with_name("sceneloom"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "manifest." not in path.name)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["-h"], ["help"]):
        assert main(arguments) == 0
        text = capsys.readouterr().out
        assert all(f"\n  {name} " in text for name in COMMANDS)


def test_no_command_is_a_wrong_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: sceneloom COMMAND" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sceneloom {sceneloom.__version__}\n"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("rendr", "did you mean 'render'?"), ("xyz", "there are import, "), ("", "there are import")],
)
def test_an_unknown_command(name: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "a"]) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"sceneloom: no command {name!r}")
    assert hint in text


def test_render_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["render", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for flag in ("--url", "--model", "--labels", "--instances", "--timeout", "--in-flight",
                 "--format", "--quality", "--unknown", "--max-pixels",
                 "--style-seed", "--style-of", "--style-per", "--style-file"):  # fmt: skip
        assert flag in text


@pytest.mark.parametrize(
    "flags",
    [
        ("--in-flight", "0"),
        ("--in-flight", "many"),
        ("--quality", "101"),
        ("--max-pixels", "0"),
        ("--format", "gif"),
        ("--unknown", "maybe"),
        ("--style-seed", "blue"),
        ("--style-of", "all"),
        ("--style-of", "stuff", "--style-seed", "1"),
        ("--style-per", "dataset"),
        ("--style-seed", "1", "--style-file", "a.json"),
        ("--no-such-flag",),
        ("--timeout", "0"),
        ("--timeout", "nan"),
        ("--timeout", "1e300"),
        ("--url", "localhost"),
        ("--url", "localhost:99999"),
        ("--url", ""),
        ("--url", "a:1", "a:1"),
        ("--shard", "3/3"),
        ("--video", "v.txt"),
        ("--verify", "--dry-run"),
        ("--manifest", "m.jsonl"),
    ],
)
def test_settings_out_of_range(
    flags: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    try:
        code: Any = main(["render", str(tmp_path), str(tmp_path / "out"), *flags])
    except SystemExit as error:
        code = error.code
    assert code in (1, 2)
    out, err = capfd.readouterr()
    assert flags[0] in err or flags[0][2:].replace("-", "_") in err or flags[-1] in err
    assert "Traceback" not in out + err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("places", [("", "out"), ("maps", "")])
def test_empty_places(places: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", *places, "--url", "127.0.0.1:1"]) == 2
    assert "is empty; . is the folder you are in" in capsys.readouterr().err


def test_a_wrong_setting_in_a_process_of_its_own() -> None:
    done = run("render", "a", "b", "--in-flight", "0")
    assert done.returncode == 2
    assert "in_flight is 0; it is at least 1" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_server_in_a_process_of_its_own(tmp_path: Path) -> None:
    done = run("render", tmp_path, tmp_path / "out", "--url", "127.0.0.1:1")
    assert done.returncode == 3
    [line] = done.stderr.splitlines()
    assert line.startswith("sceneloom render: 127.0.0.1:1, model 'synthesis': ")
    assert "not reachable" in line
    assert done.stdout == ""


def test_render(data: Path, start_server: Start, capsys: pytest.CaptureFixture[str]) -> None:
    server = start_server(BOUNDARIES)
    output = data / "out"
    assert main(["render", str(data), str(output), "--url", server.url]) == 0
    assert names(output) == ["0_label.png", "1_label.png", "2_label.png"]
    assert cv2.imread(str(output / "2_label.png")).shape == (40, 40, 3)
    text = capsys.readouterr().out
    assert text.startswith("rendered 3 of 3 maps in ")
    assert f" to {output}; 1 was padded to the model's next size and cropped back\n" in text
    assert text.endswith(f"manifest: {output / 'manifest.sqlite'}\n")


def test_render_in_a_process_of_its_own(data: Path, start_server: Start) -> None:
    server = start_server(PLAIN)
    (data / "test_label" / "1_label.png").write_bytes(b"")
    done = run("render", data, data / "out", "--url", server.url, "--format", "jpg")
    assert done.returncode == 1
    assert f"failed: {data}/test_label/1_label.png: the file is empty" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("rendered 2 of 3 maps in ")
    assert names(data / "out") == ["0_label.jpg", "2_label.jpg"]


def test_named_folders(data: Path, start_server: Start) -> None:
    (data / "test_label").rename(data / "masks")
    (data / "test_inst").rename(data / "ids")
    url = start_server(BOUNDARIES).url
    folders = ["--labels", "masks", "--instances", str(data / "ids")]
    assert main(["render", str(data), str(data / "out"), "--url", url, *folders]) == 0
    assert len(names(data / "out")) == 3


@pytest.mark.parametrize(
    ("contract", "arguments", "reason"),
    [
        (PLAIN, ["nowhere", "out"], "nowhere: no such folder"),
        (PLAIN, ["data/test_label", "out"], r"--labels (. for the folder itself)"),
        (PLAIN, ["data", "out", "--labels", "masks"], "holds test_inst, test_label)"),
        (BOUNDARIES, ["data", "out", "--labels", "test_label"], "with --instances"),
        (BOUNDARIES, ["data", "out", "--instances", "ids"], "ids: no such folder"),
        (PLAIN, ["data", "data/test_label"], "holds maps, and the pictures would"),
        (PLAIN, ["data", "data/test_label/new"], "holds maps, and the pictures would"),
        (BOUNDARIES, ["data", "data/test_inst"], "holds maps, and the pictures would"),
        (PLAIN, ["data", "data/test_label/0_label.png"], "holds maps, and the pictures would"),
        (PLAIN, ["data", "file"], "file: cannot be the folder for pictures"),
        (PLAIN, ["data", "out", "--model", "other"], "Request for unknown model"),
    ],
)
def test_one_line_says_what_is_wrong_and_nothing_is_written(
    data: Path,
    start_server: Start,
    contract: Contract,
    arguments: list[str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = start_server(contract)
    monkeypatch.chdir(data.parent)
    Path("file").write_text("mine")
    before = sorted(data.parent.rglob("*"))
    assert main(["render", *arguments, "--url", server.url]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("sceneloom render: ")
    assert reason in lines[-1]
    assert sorted(data.parent.rglob("*")) == before
    assert server.transport.requests == []


def test_a_server_that_fails(
    data: Path, start_server: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    failures = [QueueFullError("x"), RequestRejectedError("broken")]
    server = start_server(PLAIN, failures=failures)
    arguments = ["--url", server.url, "--in-flight", "1"]
    assert main(["render", str(data), str(data / "out"), *arguments]) == 1
    out, err = capsys.readouterr()
    assert err.count("failed: ") == 1
    assert "wrong request" in err
    assert out.startswith("rendered 2 of 3 maps")
    assert main(["render", str(data), str(data / "out"), *arguments]) == 0
    out, _ = capsys.readouterr()
    assert out.startswith("rendered 1 of 3 maps")
    assert "; 2 were there already" in out


def test_many_failures_are_counted_by_kind(
    data: Path, start_server: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(30):
        (data / "test_label" / f"broken{i:02}.png").write_bytes(b"" if i else b"x")
    arguments = [str(data), str(data / "out"), "--url", start_server(PLAIN).url]
    assert main(["render", *arguments]) == 1
    out, err = capsys.readouterr()
    assert err.count("failed: ") == 2
    assert err.count(".png: the file is empty; the same reason for 28 more (") == 1
    assert err.count(".png, ...)\n") == 1  # three names, not 28
    assert "... 30 in all: 30 ImageReadError" in err
    assert out.startswith("rendered 3 of 33 maps")


def test_schemas(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schemas"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "cityscapes             35 labels, unlabelled: 0" in lines
    assert len({line.index(" labels") for line in lines}) == 1
    assert main(["schemas", "no-such"]) == 1
    assert capsys.readouterr().err.startswith("sceneloom schemas: no label schema 'no-such'")


def test_a_schema_printed_can_be_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schemas", "nyu40"]) == 0
    path = tmp_path / "mine.json"
    path.write_text(capsys.readouterr().out)
    assert load_schema(path) == load_schema("nyu40")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "sceneloom schemas: memory was not enough (MemoryError)\n"),
        (
            RuntimeError("can't start new thread"),
            "sceneloom schemas: no further thread or process can be started (can't start new "
            "thread); the limit is that of ulimit -u, or of the container's pids\n",
        ),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device\n"),
        (
            ZeroDivisionError("division by zero"),
            "ZeroDivisionError: division by zero\nsceneloom schemas: ZeroDivisionError, a fault of "
            "SceneLoom's or of a library's; please report it with the lines above\n",
        ),
    ],
)
def test_any_other_error_ends_with_a_sentence(
    error: Exception,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object) -> int:
        raise error

    monkeypatch.setattr("sceneloom.schemas_command.main", fail)
    monkeypatch.setattr("tyro.cli", lambda function, **options: function())
    assert main(["schemas"]) == 1
    assert capsys.readouterr().err.endswith(said)


def test_names_that_the_output_cannot_encode_are_escaped(
    data: Path, tmp_path: Path, start_server: Start
) -> None:
    url = start_server(PLAIN).url
    (data / "test_label/0_label.png").rename(data / "test_label/日本_label.png")
    out = tmp_path / "ü"
    result = subprocess.run(
        [Path(sys.executable).with_name("sceneloom"), "render", data, out, "--url", url],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "3 maps" in result.stdout
    assert "\\xfc" in result.stdout
    assert names(out) == ["1_label.png", "2_label.png", "日本_label.png"]


def test_a_current_folder_that_was_removed_is_named(
    data: Path, tmp_path: Path, start_server: Start
) -> None:
    url = start_server(PLAIN).url
    there = tmp_path / "there"
    there.mkdir()
    command = [Path(sys.executable).with_name("sceneloom"), "render", data, "out", "--url", url]
    line = f"cd {there}; rmdir {there}; exec {shlex.join(map(str, command))}"
    result = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "the folder you are in was removed; change to one that exists" in result.stderr
