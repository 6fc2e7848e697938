"""The studio in Debian's Chromium: what a person does there, over the gateway and a server that
draws each class in its colour and each thing in the shade of its style.
"""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from gateways import Gateway, contract, png, serve_fake, start
from PIL import Image

from sceneloom.contract import INPUT_INSTANCES, INPUT_STYLE
from sceneloom.maps import Array
from sceneloom.testing import FakeTransport
from sceneloom_gateway.scene import Scene, read_scene, write_scene

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (apt-get install chromium)")

ROAD, CAR, SKY = 7, 26, 23
WIDTH, HEIGHT = 512, 256
LOOKS = ((0.0,), (40.0,), (-60.0,), (80.0,))


class ShadedTransport(FakeTransport):
    """Adds an instance's style to its pixels, and remembers the sizes that were asked for."""

    def infer(self, model: str, inputs: Mapping[str, Array], output: str, **how: Any) -> Array:
        images = super().infer(model, inputs, output, **how)
        for image, ids, table in zip(
            images, inputs[INPUT_INSTANCES], inputs[INPUT_STYLE], strict=True
        ):
            known, index = np.unique(ids, return_inverse=True)
            shade = table[: len(known), 0][index].reshape(ids.shape)
            image[:] = np.clip(image + shade[..., None], 0, 255).astype(np.uint8)
        return images


@pytest.fixture(scope="module")
def transport() -> ShadedTransport:
    looks = {CAR: LOOKS, 24: LOOKS}
    defaults = {label: (0.0,) for label in looks}
    styled = contract(style_channels=1, style_clusters=looks, style_defaults=defaults)
    return ShadedTransport(styled, engine="fake-fp32")


@pytest.fixture(scope="module")
def gateway(
    transport: ShadedTransport, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    with ExitStack() as stack:
        triton = serve_fake(stack, transport)
        folder = tmp_path_factory.mktemp("studio")
        flags = ("--studio", "--jobs.folder", folder / "jobs")
        yield start(stack, folder, "--triton", triton.url, *flags)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


class Page:
    """The studio in a tab, as a person sees and uses it."""

    def __init__(self, tab: Any, url: str) -> None:
        self.tab = tab
        self.said: list[str] = []
        tab.on("console", lambda message: self.said.append(message.text))
        tab.on("pageerror", lambda error: self.said.append(str(error)))
        tab.goto(f"{url}/studio/")
        self.wait()
        tab.locator("[data-layout=map]").click()

    def wait(self) -> None:
        """Until the picture is that of the map."""
        self.tab.locator("#status", has_text=" x ").wait_for()

    def screen(self, x: float, y: float) -> tuple[float, float]:
        """The point of the page over a point of the map, which fills the stage."""
        box = self.tab.locator("#stage").bounding_box()
        scale = min(box["width"] / WIDTH, box["height"] / HEIGHT)
        left = box["x"] + (box["width"] - scale * WIDTH) / 2
        top = box["y"] + (box["height"] - scale * HEIGHT) / 2
        return left + scale * x, top + scale * y

    def drag(self, *points: tuple[float, float]) -> None:
        """Press at the first point of the map, move over the others, and release."""
        mouse = self.tab.mouse
        mouse.move(*self.screen(*points[0]))
        mouse.down()
        for point in points[1:]:
            mouse.move(*self.screen(*point), steps=6)
        mouse.up()
        self.wait()

    def choose(self, label: int) -> None:
        self.tab.locator(f"#class-{label}").click()

    def tool(self, name: str) -> None:
        self.tab.locator(f"[data-tool={name}]").click()

    def file(self, button: str) -> bytes:
        """What a button downloads."""
        with self.tab.expect_download() as download:
            self.press(button)
        return Path(download.value.path()).read_bytes()

    def press(self, button: str) -> None:
        """Press a button, in a menu or not."""
        menu = self.tab.locator(f"details:has({button}) summary")
        if menu.count():
            menu.click()
        self.tab.locator(button).click()

    def labels(self) -> npt.NDArray[np.int64]:
        return np.array(Image.open(io.BytesIO(self.file("#save-map")))).astype(np.int64)

    def instances(self) -> npt.NDArray[np.int64]:
        return np.array(Image.open(io.BytesIO(self.file("#save-instances")))).astype(np.int64)

    def picture(self) -> npt.NDArray[np.int64]:
        data = np.frombuffer(self.file("#save-picture"), np.uint8)
        return cv2.imdecode(data, cv2.IMREAD_COLOR).astype(np.int64)

    def open(self, *files: Path) -> None:
        self.tab.locator("#file").set_input_files(files)
        self.wait()


OpenStudio = Callable[..., Page]


@pytest.fixture
def studio(browser: Any, gateway: Gateway) -> Iterator[OpenStudio]:
    with ExitStack() as stack:

        def begin(**settings: Any) -> Page:
            settings.setdefault("viewport", {"width": 1280, "height": 760})
            context = browser.new_context(accept_downloads=True, **settings)
            stack.callback(context.close)
            return Page(context.new_page(), gateway.url)

        yield begin


def test_paint_fill_undo_and_a_look_for_one_car(studio: OpenStudio) -> None:
    page = studio()
    before = page.labels()
    assert before.shape == (HEIGHT, WIDTH)
    page.choose(CAR)
    page.drag((200, 180), (260, 182))
    painted = page.labels()
    assert (painted[175:185, 205:255] == CAR).all()
    new = np.unique(page.instances()[175:185, 205:255])
    assert len(new) == 1
    assert new[0] // 1000 == CAR
    assert not (painted != before)[:150].any()

    page.tool("bucket")
    page.choose(SKY)
    page.tool("bucket")
    page.tab.mouse.click(*page.screen(230, 180))
    page.wait()
    assert (page.labels()[175:185, 205:255] == SKY).all()
    page.tab.keyboard.press("Control+z")
    page.wait()
    assert (page.labels() == painted).all()

    plain = page.picture()
    page.tool("select")
    page.tab.mouse.click(*page.screen(230, 180))
    looks = page.tab.locator("#looks [role=option]")
    looks.nth(3).wait_for()
    assert looks.count() == len(LOOKS)
    looks.nth(3).click()
    page.wait()
    changed = np.abs(page.picture() - plain).mean(-1)
    car = page.instances() == new[0]
    assert changed[car].mean() > 20
    assert changed[~car].max() == 0

    page.tab.keyboard.press("Control+z")
    page.tab.keyboard.press("Control+z")
    page.wait()
    assert (page.labels() == before).all()
    assert page.said == []


def test_things_are_moved_copied_and_deleted(studio: OpenStudio) -> None:
    page = studio()
    page.choose(CAR)
    page.tool("rectangle")
    page.drag((100, 190), (140, 210))
    first = page.instances()[200, 120]
    page.tool("select")
    page.drag((120, 200), (170, 200))
    assert page.instances()[200, 170] == first
    assert page.labels()[200, 105] != CAR
    page.tab.keyboard.press("Control+d")
    page.wait()
    ids = {int(one) for one in np.unique(page.instances()) if one // 1000 == CAR}
    assert first in ids
    count = len(ids)
    page.tab.keyboard.press("Delete")
    page.wait()
    left = {int(one) for one in np.unique(page.instances()) if one // 1000 == CAR}
    assert len(left) == count - 1
    assert page.said == []


def test_files_in_every_form_and_a_scene_that_comes_back(
    studio: OpenStudio, tmp_path: Path
) -> None:
    page = studio()
    schema = contract().schema
    assert schema is not None
    labels = np.full((64, 96), ROAD, np.uint8)
    labels[:32], labels[40:50, 10:30] = SKY, CAR
    (tmp_path / "grey.png").write_bytes(png(labels))
    coloured = schema.colourise(labels)
    coloured[0, :8] = (1, 2, 3)
    Image.fromarray(coloured).save(tmp_path / "coloured.png")
    palette = Image.fromarray(labels, mode="P")
    palette.putpalette([channel for n in range(256) for channel in (n, n, n)])
    palette.save(tmp_path / "palette.png")
    (tmp_path / "deep.png").write_bytes(png(labels.astype(np.uint16)))
    for name in ("grey", "palette", "deep"):
        page.open(tmp_path / f"{name}.png")
        assert (page.labels() == labels).all(), name
    page.tab.locator("#file").set_input_files(tmp_path / "coloured.png")
    words = page.tab.locator("#status", has_text="match no class")
    words.wait_for()
    assert "0.1 % of the pixels match no class" in words.inner_text()
    assert (page.labels()[1:] == labels[1:]).all()

    (tmp_path / "broken.png").write_bytes(png(labels)[:60])
    page.tab.locator("#file").set_input_files(tmp_path / "broken.png")
    page.tab.locator("#status", has_text="broken.png: is cut short").wait_for()

    instances = labels.astype(np.int32)
    instances[40:50, 10:30] = CAR * 1000 + 3
    scene = Scene(
        schema="cityscapes",
        label_map=labels,
        instance_map=instances,
        looks={CAR * 1000 + 3: 2},
    )
    write_scene(tmp_path / "scene.json", scene)
    page.open(tmp_path / "scene.json")
    car = instances == CAR * 1000 + 3
    shade = page.picture()[car].mean()
    (tmp_path / "again.json").write_bytes(page.file("#save-scene"))
    again = read_scene(tmp_path / "again.json")
    assert (again.label_map == labels).all()
    assert (again.instance_map == instances).all()
    assert again.looks == {CAR * 1000 + 3: 2}
    page.open(tmp_path / "grey.png")
    assert page.picture()[car].mean() > shade + 20  # without its look
    page.open(tmp_path / "again.json")
    assert page.picture()[car].mean() == shade


def test_a_link_brings_the_scene_back_and_variations_come_as_a_zip_file(
    studio: OpenStudio,
) -> None:
    page = studio()
    page.choose(CAR)
    page.drag((300, 190), (340, 195))
    painted = page.labels()
    page.press("#copy-link")
    page.tab.locator("#status", has_text="restores the scene").wait_for()
    link = page.tab.url
    page.tab.locator("#count").fill("3")
    pictures = zipfile.ZipFile(io.BytesIO(page.file("#variations button")))
    names = [name for name in pictures.namelist() if name.endswith(".png")]
    assert len(names) == 3
    assert len({pictures.read(name) for name in names}) == 3
    page.tab.goto("about:blank")
    page.tab.goto(link)
    page.wait()
    assert (page.labels() == painted).all()
    page.tab.goto("about:blank")
    page.tab.goto(link[:-40])
    page.tab.locator("#status", has_text="cut short or damaged").wait_for()


def test_a_phone_a_keyboard_and_no_other_host(studio: OpenStudio, gateway: Gateway) -> None:
    page = studio(viewport={"width": 390, "height": 844}, has_touch=True)
    hosts: set[str] = set()
    page.tab.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    page.tab.reload()
    page.wait()
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= 390
    before = page.labels()
    # Everything that follows is done with keys.
    page.tab.locator("#search").focus()
    page.tab.keyboard.type("car")
    page.tab.keyboard.press("Enter")
    page.tab.locator("#stage").focus()
    page.tab.keyboard.press("Space")
    for _ in range(4):
        page.tab.keyboard.press("ArrowRight")
    page.tab.keyboard.press("Space")
    page.wait()
    assert (page.labels() != before).sum() > 100
    assert hosts == {gateway.url.removeprefix("http://")}
    assert page.said == []


def test_nothing_serious_for_readers_of_screens(studio: OpenStudio) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    for scheme in ("light", "dark"):
        page = studio(color_scheme=scheme, bypass_csp=True)
        found = axe.Axe().run(page.tab).response["violations"]
        serious = [
            f"{one['id']}: {one['help']}"
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
        assert serious == [], json.dumps(serious)
