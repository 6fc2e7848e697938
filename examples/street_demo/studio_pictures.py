"""Screenshots of the studio for docs/studio.md: on a desk, dark, and on a phone.

Needs Chromium (apt-get install chromium) and Python's playwright, and an export of the demo:

    make demo
    python examples/street_demo/studio_pictures.py build/demo/repository docs
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

CAR = 26
LOOK = 2


def main(repository: Path, out: Path) -> None:
    """Write studio.jpg, studio-dark.jpg and studio-phone.jpg."""
    command = [sys.executable, "-m", "sceneloom.cli", "studio", str(repository)]
    studio = subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert studio.stdout is not None
        url = studio.stdout.readline().split()[1]
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            desk = {"width": 1360, "height": 860}
            for name, options in (
                ("studio", {"viewport": desk}),
                ("studio-dark", {"viewport": desk, "color_scheme": "dark"}),
                ("studio-phone", {"viewport": {"width": 390, "height": 844}, "has_touch": True}),
            ):
                context = browser.new_context(**options)
                tab = context.new_page()
                tab.goto(url)
                _wait(tab)
                _restyle_a_car(tab)
                tab.screenshot(path=out / f"{name}.jpg", type="jpeg", quality=86)
                context.close()
            browser.close()
    finally:
        studio.terminate()
        studio.wait()


def _restyle_a_car(tab: Any) -> None:
    """Paint a car on the road, select it, and give it another look."""
    tab.locator("[data-layout=map]").click()
    tab.locator(f"#class-{CAR}").click()
    box = tab.locator("#stage").bounding_box()
    scale = min(box["width"] / 512, box["height"] / 256)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2 + 60 * scale
    tab.locator("[data-tool=brush]").click()
    tab.mouse.move(x - 30 * scale, y)
    tab.mouse.down()
    tab.mouse.move(x + 30 * scale, y, steps=8)
    tab.mouse.up()
    _wait(tab)
    tab.locator("[data-tool=select]").click()
    tab.mouse.click(x, y)
    looks = tab.locator("#looks [role=option]")
    looks.nth(LOOK).click()
    for number in range(looks.count()):
        tab.wait_for_function(
            "n => document.querySelectorAll('#looks img')[n]?.naturalWidth", arg=number
        )
    tab.locator("[data-layout=both]").click()
    _wait(tab)


def _wait(tab: Any) -> None:
    """Until the picture is that of the map."""
    tab.locator("#status", has_text=" x ").wait_for(timeout=120_000)
    tab.wait_for_timeout(300)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
