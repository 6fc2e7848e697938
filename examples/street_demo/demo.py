"""The whole path on this machine: draw streets, export a trained generator, serve it, render.

Draws label and instance maps of 2048x1024 streets outside the generator's training set, exports
the generator to a Triton repository, starts the bundled Triton server, renders the maps through it,
and writes a page with maps, pictures and the seconds of each stage, shown on stderr while it runs.
The repository can be served again. The last line is one JSON document, also in report.json.

    make demo
    python examples/street_demo/demo.py --out build/demo --maps 4
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import page
import tyro

from sceneloom import SceneLoomError, TritonSynthesizer, boundary_map, load_schema, progress
from sceneloom.errors import InputError
from sceneloom.maps import read_instance_map, read_label_map
from sceneloom.pairing import MapPair, pair_maps
from sceneloom.pictures import write_image
from sceneloom.rendering import render
from sceneloom.rendering.items import Failed
from sceneloom.rendering.settings import RenderSettings
from sceneloom.schema import LabelSchema
from sceneloom.style import styles_by_seed
from sceneloom_export.bundle import export_bundle
from sceneloom_export.settings import ExportSettings
from sceneloom_serving.embedded import EmbeddedServer, ServerSettings
from sceneloom_streets import draw_pair
from sceneloom_streets.dataset import TEST_SEEDS

SCHEMA = load_schema("cityscapes-markings")
GENERATOR = Path(__file__).resolve().parent / "generator"
"""The checkpoint bundle; see MODEL_CARD.md beside it."""
WEIGHTS = "trained on procedural streets only (examples/street_demo/MODEL_CARD.md)"
LOOKS = (1, 2, 3)
"""Style seeds of the first street. The other pictures have the first of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Number and size of the streets."""

    maps: int = 4
    """Number of streets."""
    height: int = 1024
    """Height in pixels."""
    width: int = 2048
    """Width in pixels."""
    in_flight: int = 2
    """Requests at once."""

    def __post_init__(self) -> None:
        if not 1 <= self.maps <= len(TEST_SEEDS):
            raise InputError(f"maps is {self.maps}; it is from 1 to {len(TEST_SEEDS)}")


class Stages:
    """Seconds per stage, for the page."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show and time one stage."""
        start = time.perf_counter()
        with progress.stage(name):
            yield
        self.seconds[name] = round(time.perf_counter() - start, 2)


def main(
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("build/demo"),
    settings: Annotated[DemoSettings, tyro.conf.OmitArgPrefixes] = DemoSettings(),
) -> int:
    """Run the demo.

    Args:
        out: folder of the results; an older demo in it is replaced.
        settings: number and size of the streets.
    """
    claim_folder(out)
    stages = Stages()
    data, pictures, repository = out / "data", out / "pictures", out / "repository"
    for folder in (data, pictures, out / "page", out / "looks"):
        shutil.rmtree(folder, ignore_errors=True)
    with stages.stage("draw label and instance maps"):
        draw_data_set(data, settings)
    with stages.stage("export to a Triton repository, parity included"):
        size = (settings.height, settings.width)
        # float32 alone: quick, and the same pictures on every machine.
        float32 = ExportSettings(precision=("fp32",))
        exported = export_bundle(GENERATOR, repository, largest=size, export=float32)
    pairs = pair_maps(data / "test_label", data / "test_inst")[0]
    with contextlib.ExitStack() as stack:
        with stages.stage("start Triton and prove it with a real inference"):
            ports = ServerSettings(http_port=0, grpc_port=0, metrics_port=0)
            server = stack.enter_context(EmbeddedServer(repository, ports))
            client = stack.enter_context(TritonSynthesizer(server.grpc))
        with stages.stage(f"render {len(pairs)} maps at {settings.width}x{settings.height}"):
            options = RenderSettings(
                in_flight=settings.in_flight, style_seed=LOOKS[0], style_of="all"
            )
            results = list(render(client, data, pictures, settings=options))
        with stages.stage(f"render one street in {len(LOOKS)} styles"):
            for seed in LOOKS:
                render_look(client, pairs[0], seed, out / "looks" / str(seed))
    failed = [result for result in results if isinstance(result, Failed)]
    for failure in failed:
        print(f"failed: {failure.reason}", file=sys.stderr)
    rows = [page_row(pair, pictures, out / "page", SCHEMA) for pair in pairs]
    looks = [f"looks/{seed}/{pairs[0].key}.png" for seed in LOOKS]
    command = os.path.relpath(Path(sys.prefix) / "bin" / "sceneloom")
    serve_again = f"{command} serve {repository}"
    page.write(out, rows, looks, stages.seconds, weights=WEIGHTS, serve_again=serve_again)
    report = {
        "page": str(out / "index.html"),
        "repository": str(repository),
        "bundle": exported.contract.bundle_hash,
        "weights": WEIGHTS,
        "pictures": len(results) - len(failed),
        "size": [settings.height, settings.width],
        "parity": exported.parity.to_json(),
        "golden_difference": round(server.golden_difference, 3),
        "seconds": stages.seconds,
    }
    print(f"open {out / 'index.html'}; serve it again with: {serve_again}")
    (out / "report.json").write_text(json.dumps(report) + "\n")
    print(json.dumps(report))
    return 1 if failed else 0


def claim_folder(out: Path) -> None:
    """Make the demo's folder; raises InputError if it has other contents, since it is cleared."""
    mark = out / ".sceneloom-demo"
    try:
        if out.exists() and any(out.iterdir()) and not mark.is_file():
            raise InputError(f"{out}: holds something other than a demo; choose another folder")
        out.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError as error:
        raise InputError(f"{out}: cannot be the demo's folder ({error.strerror})") from None


def draw_data_set(folder: Path, settings: DemoSettings) -> None:
    """Write test streets in pix2pixHD's layout: test_label/ (8-bit), test_inst/ (16-bit), and the
    painter's pictures, test_img/.
    """
    for kind in ("test_label", "test_inst", "test_img"):
        (folder / kind).mkdir(parents=True)
    for number, seed in enumerate(TEST_SEEDS[: settings.maps]):
        street = draw_pair(seed, settings.height, settings.width, labels="cityscapes-markings")
        name = f"street_{number:03}"
        cv2.imwrite(str(folder / "test_label" / f"{name}_labelIds.png"), street.label_map)
        instances = street.instance_map.astype(np.uint16)
        cv2.imwrite(str(folder / "test_inst" / f"{name}_instanceIds.png"), instances)
        write_image(folder / "test_img" / f"{name}.png", street.photo)


def render_look(client: TritonSynthesizer, pair: MapPair, seed: int, folder: Path) -> None:
    """Render one street in the style of a seed, like `sceneloom render --style-seed`."""
    assert pair.instance is not None
    label_map = read_label_map(pair.label, client.contract.schema)
    instance_map = read_instance_map(pair.instance)
    style = styles_by_seed(client.contract, label_map, instance_map, seed, key=pair.key, of="all")
    write_image(folder / f"{pair.key}.png", client.synthesize(label_map, instance_map, style))


def page_row(pair: MapPair, pictures: Path, folder: Path, schema: LabelSchema) -> page.PageRow:
    """Write the page's pictures of one map, and return its row."""
    assert pair.instance is not None
    label_map = cv2.imread(str(pair.label), cv2.IMREAD_UNCHANGED).astype(np.uint8)
    instance_map = cv2.imread(str(pair.instance), cv2.IMREAD_UNCHANGED)
    boundaries = np.where(boundary_map(instance_map), np.uint8(0), np.uint8(255))
    write_image(folder / f"{pair.key}_labels.png", schema.colourise(label_map))
    write_image(folder / f"{pair.key}_boundaries.png", np.repeat(boundaries[..., None], 3, 2))
    name = pair.key.removesuffix("_labelIds")
    return page.PageRow(
        name=name,
        labels=f"page/{pair.key}_labels.png",
        boundaries=f"page/{pair.key}_boundaries.png",
        picture=f"{pictures.name}/{pair.key}.png",
        painted=f"data/test_img/{name}.png",
    )


if __name__ == "__main__":
    try:
        with progress.shown():
            sys.exit(tyro.cli(main))
    except SceneLoomError as error:
        sys.exit(f"demo: {error}")
