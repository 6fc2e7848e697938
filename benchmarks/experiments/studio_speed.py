"""How quickly the studio follows a hand, in Chromium on this machine, with the demo's weights.

Strokes are drawn on a 512x256 street. Printed are the times from a stroke's end to its picture
beside those of the same maps at the Triton server, in turn; pictures a second while a stroke goes
on; and, on a map of 2048x1024 with 500 strokes to undo, the renderer's memory and the frames a
second while one is drawn.

    python benchmarks/experiments/studio_speed.py build/demo/repository
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import tyro
from PIL import Image

from sceneloom import TritonSynthesizer
from sceneloom.errors import MissingDependencyError, SceneLoomError
from sceneloom_serving.embedded import EmbeddedServer, ServerSettings
from sceneloom_serving.engines import describe_machine
from sceneloom_streets import draw_street

STROKES, STEPS = 15, 40
UNDOS = 500
TIMER = """
() => {
  window.times = []; window.pictures = 0;
  const status = document.getElementById("status");
  let end = null, busy = false;
  document.getElementById("stage").addEventListener("pointerup", () => {
    end = performance.now(); busy = false;
  });
  new MutationObserver(() => {
    if (status.textContent === "Rendering ...") busy = true;
    else if (end !== null && busy) { window.times.push(performance.now() - end); end = null; }
  }).observe(status, { childList: true });
  const make = window.createImageBitmap;
  window.createImageBitmap = (...given) => { window.pictures += 1; return make(...given); };
}
"""
FRAMES = """
() => {
  window.frames = [];
  const next = (time) => { window.frames.push(time); requestAnimationFrame(next); };
  requestAnimationFrame(next);
}
"""


def main(repository: Annotated[Path, tyro.conf.Positional]) -> int:
    """Measure, and print one JSON document.

    Args:
        repository: an export of the demo's weights, as make demo leaves it.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise MissingDependencyError("needs pip install playwright") from None
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise MissingDependencyError("needs Chromium (apt-get install chromium)")
    ports = ServerSettings(http_port=0, grpc_port=0, metrics_port=0)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer(repository, ports))
        client = stack.enter_context(TritonSynthesizer(server.grpc))
        url = stack.enter_context(_gateway(server.grpc))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        stack.callback(browser.close)
        tab = browser.new_page(viewport={"width": 1360, "height": 820})
        tab.goto(f"{url}/studio/")
        _settle(tab)
        tab.locator("[data-layout=map]").click()
        found = {
            **_pictures(tab, client),
            **_large_map(tab),
            "engine": server.engine,
            "machine": describe_machine()["cpu"],
        }
    print(json.dumps(found, indent=2))
    return 0


@contextlib.contextmanager
def _gateway(triton: str) -> Any:
    command = [sys.executable, "-m", "sceneloom.cli", "gateway", "--triton", triton]
    process = subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", "--studio"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[1]
    finally:
        process.terminate()
        process.wait()


def _settle(tab: Any) -> None:
    tab.locator("#status", has_text=" x ").wait_for(timeout=120_000)


def _pictures(tab: Any, client: TritonSynthesizer) -> dict[str, Any]:
    """Times of a 512x256 map in the studio and at the server, in turn."""
    street = draw_street(1_000_003, 256, 512, labels="cityscapes-markings")
    tab.evaluate(TIMER)
    tab.locator("#class-26").click()
    server = []
    for number in range(STROKES):
        started = time.perf_counter()
        client.synthesize(street.label_map, street.instance_map)
        server.append(1000 * (time.perf_counter() - started))
        _stroke(tab, number / STROKES, 3)
        _settle(tab)
        time.sleep(0.2)
    times = tab.evaluate("window.times")
    tab.locator("#class-24").click()  # cars are there already: the map would not change
    before, started = tab.evaluate("window.pictures"), time.perf_counter()
    _stroke(tab, 0.2, STEPS, pause=50)
    seconds = time.perf_counter() - started
    drafts = tab.evaluate("window.pictures") - before
    _settle(tab)
    return {
        "strokes": len(times),
        "stroke_to_picture_ms": round(statistics.median(times), 1),
        "server_ms": round(statistics.median(server), 1),
        "drafts_per_second": round(drafts / seconds, 1),
    }


def _large_map(tab: Any) -> dict[str, Any]:
    """Memory and frames with many strokes on 2048x1024."""
    street = draw_street(5, 1024, 2048, labels="cityscapes-markings")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.png"
        data = io.BytesIO()
        Image.fromarray(street.label_map.astype(np.uint8)).save(data, "png")
        path.write_bytes(data.getvalue())
        tab.locator("#file").set_input_files(path)
        tab.locator("#status", has_text="2048 x 1024").wait_for(timeout=120_000)
        # Pictures are not what is measured here.
        tab.route("**/v1/synthesize", lambda route: route.abort())
        for number in range(UNDOS):
            _stroke(tab, number / UNDOS, 2)
        tab.evaluate(FRAMES)
        _stroke(tab, 0.4, 120, pause=8)
        frames = np.diff(tab.evaluate("window.frames"))
    renderers = [
        process.memory_full_info().pss
        for process in psutil.Process().children(recursive=True)
        if "--type=renderer" in process.cmdline()
    ]
    return {
        "undo_steps": UNDOS,
        "renderer_mb": round(max(renderers) / 1e6),
        "frames_per_second": round(1000 / float(np.median(frames)), 1),
        "frame_p95_ms": round(float(np.percentile(frames, 95)), 1),
    }


def _stroke(tab: Any, share: float, steps: int, pause: float = 0) -> None:
    """Draw over the lower half of the map, from a place that `share` chooses."""
    box = tab.locator("#stage").bounding_box()
    x = box["x"] + box["width"] * (0.2 + 0.5 * share)
    y = box["y"] + box["height"] * (0.55 + 0.1 * share)
    mouse = tab.mouse
    mouse.move(x, y)
    mouse.down()
    for step in range(1, steps + 1):
        mouse.move(x + 80 * step / steps, y + 30 * step / steps)
        if pause:
            tab.wait_for_timeout(pause)
    mouse.up()


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main))
    except SceneLoomError as error:
        sys.exit(f"studio speed: {error}")
