"""`make demo`, at a size that takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from support import CHECKOUT, ServeCommand, run_command


@pytest.mark.triton
@pytest.mark.timeout(400)
def test_demo_writes_page_pictures_and_a_repository_that_serves_again(tmp_path: Path) -> None:
    demo = [sys.executable, str(CHECKOUT / "examples" / "street_demo" / "demo.py")]
    size = ["--maps", "2", "--height", "128", "--width", "256"]
    done = subprocess.run(
        [*demo, "--out", str(tmp_path / "demo"), *size],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["pictures"] == 2
    assert report["size"] == [128, 256]
    assert report["parity"]["psnr"] is None or report["parity"]["psnr"] >= 35
    assert all(seconds >= 0 for seconds in report["seconds"].values())

    page = (tmp_path / "demo" / "index.html").read_text()
    assert report["weights"] in page
    assert all(stage in page for stage in report["seconds"])
    for number in range(2):
        name = f"street_{number:03}_labelIds"
        painted = f"data/test_img/street_{number:03}.png"
        maps = (f"page/{name}_labels.png", f"page/{name}_boundaries.png")
        shown = (*maps, painted, f"pictures/{name}.png")
        for image in shown:
            assert image in page
            assert cv2.imread(str(tmp_path / "demo" / image)).shape == (128, 256, 3)
    looks = [f"looks/{seed}/street_000_labelIds.png" for seed in (1, 2, 3)]
    assert all(look in page for look in looks)
    assert len({(tmp_path / "demo" / look).read_bytes() for look in looks}) == 3

    with ServeCommand(tmp_path / "demo" / "repository") as serve:
        arguments = ("--url", serve.grpc, "--style-seed", "1")
        data, out = tmp_path / "demo" / "data", tmp_path / "again"
        again = run_command("render", data, out, *arguments)
        assert again.returncode == 0, again.stderr
    first = tmp_path / "demo" / "pictures" / "street_000_labelIds.png"
    assert first.read_bytes() == (out / first.name).read_bytes()


def test_demo_refuses_a_folder_that_holds_something_else(tmp_path: Path) -> None:
    demo = [sys.executable, str(CHECKOUT / "examples" / "street_demo" / "demo.py")]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("important")
    for arguments, reason in (
        (["--out", str(tmp_path)], "holds something other than a demo"),
        (["--out", str(tmp_path / "data" / "mine.txt")], "cannot be the demo's folder"),
    ):
        done = subprocess.run([*demo, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert reason in done.stderr
        assert "Traceback" not in done.stderr
    assert (tmp_path / "data" / "mine.txt").read_text() == "important"
