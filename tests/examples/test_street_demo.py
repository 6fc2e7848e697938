"""What `make demo` wrote, by `make demo-check`; and the same at a size that takes a minute."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
from support import CHECKOUT, ServeCommand, run_command

from sceneloom.errors import InputError

COMMAND = (sys.executable, str(CHECKOUT / "examples" / "street_demo" / "demo.py"))


def check_demo(folder: Path, pictures: int, height: int, width: int, again: Path) -> dict[str, Any]:
    """Page, pictures, and a repository that serves again; the demo's report.

    Args:
        folder: what the demo wrote.
        pictures: streets.
        height: pixels.
        width: pixels.
        again: an empty folder.
    """
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    assert report["pictures"] == pictures
    assert report["size"] == [height, width]
    assert report["parity"]["psnr"] is None or report["parity"]["psnr"] >= 35
    assert all(seconds >= 0 for seconds in report["seconds"].values())

    page = (folder / "index.html").read_text()
    assert report["weights"] in page
    assert all(stage in page for stage in report["seconds"])
    for number in range(pictures):
        name = f"street_{number:03}_labelIds"
        painted = f"data/test_img/street_{number:03}.png"
        maps = (f"page/{name}_labels.png", f"page/{name}_boundaries.png")
        for image in (*maps, painted, f"page/{name}.jpg"):
            assert image in page
            assert cv2.imread(str(folder / image)).shape == (height, width, 3)
    looks = [f"looks/{seed}/street_000_labelIds.png" for seed in range(1, 7)]
    of_thing = [f"looks/car/{cluster}.png" for cluster in range(6)]
    for group in (looks, of_thing):
        assert all(look in page for look in group)
        assert all(look.replace(".png", ".jpg") in page for look in group)
        assert len({(folder / look).read_bytes() for look in group}) == 6
    linked = re.findall(r'href="([^"]+)"', page)
    assert [path for path in linked if not (folder / path).is_file()] == []
    assert any(path.endswith("MODEL_CARD.md") for path in linked)

    first = "street_000_labelIds.png"
    for kind, name in (("test_label", first), ("test_inst", "street_000_instanceIds.png")):
        (again / "data" / kind).mkdir(parents=True)
        shutil.copy(folder / "data" / kind / name, again / "data" / kind)
    proof = json.loads((folder / "repository" / "report.json").read_text())["proof"]
    with ServeCommand(folder / "repository", "--engine", proof["engine"]) as serve:
        arguments = ("--url", serve.grpc, "--style-seed", "1", "--style-of", "all")
        done = run_command("render", again / "data", again / "pictures", *arguments)
        assert done.returncode == 0, done.stderr
    assert (folder / "pictures" / first).read_bytes() == (again / "pictures" / first).read_bytes()
    return report


@pytest.mark.demo
@pytest.mark.triton
def test_what_make_demo_wrote(tmp_path: Path) -> None:
    folder = CHECKOUT / "build" / "demo"
    assert (folder / "report.json").is_file(), "make demo writes it"
    check_demo(folder, 6, 1024, 2048, tmp_path)


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.timeout(400)
def test_demo_of_another_size(tmp_path: Path) -> None:
    folder, size = tmp_path / "demo", ("--maps", "2", "--height", "128", "--width", "256")
    done = subprocess.run(
        [*COMMAND, "--out", str(folder), *size],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    report = check_demo(folder, 2, 128, 256, tmp_path / "again")
    assert json.loads(done.stdout.splitlines()[-1]) == report
    shown = [line.removesuffix(" ...") for line in done.stderr.splitlines()]
    assert [stage for stage in report["seconds"] if stage not in shown] == []
    assert "render with PyTorch 256x128 (4 of 4)" in shown  # export's own stages


def test_demo_refuses_a_folder_that_holds_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("important")
    done = subprocess.run(
        [*COMMAND, "--out", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "holds something other than a demo" in done.stderr
    assert "Traceback" not in done.stderr
    monkeypatch.syspath_prepend(Path(COMMAND[1]).parent)
    claim_folder = runpy.run_path(COMMAND[1])["claim_folder"]
    with pytest.raises(InputError, match="cannot be the demo's folder"):
        claim_folder(tmp_path / "data" / "mine.txt")
    assert (tmp_path / "data" / "mine.txt").read_text() == "important"
