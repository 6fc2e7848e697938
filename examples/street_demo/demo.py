"""The whole path on this machine: draw streets, export a trained generator, serve it, render.

Draws label and instance maps of 2048x1024 streets outside the generator's training set, exports
the generator to a Triton repository, starts the bundled Triton server, renders the maps through it,
and writes a page with maps, pictures, looks and the seconds of each stage, shown on stderr while it
runs.
The repository can be served again. The last line is one JSON document, also in report.json.

    make demo
    python examples/street_demo/demo.py --out build/demo --maps 6
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt
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
from sceneloom.style import clusters_by_seed, list_instances, styles_by_cluster, styles_by_seed
from sceneloom_export.bundle import export_bundle
from sceneloom_export.settings import ExportSettings
from sceneloom_serving.embedded import EmbeddedServer, ServerSettings
from sceneloom_streets import draw_pair
from sceneloom_streets.dataset import TEST_SEEDS

SCHEMA = load_schema("cityscapes-markings")
CHECKOUT = Path(__file__).resolve().parents[2]
GENERATOR = Path(__file__).resolve().parent / "generator"
"""The checkpoint bundle; see MODEL_CARD.md beside it."""
WEIGHTS = "trained on procedural streets only (examples/street_demo/MODEL_CARD.md)"
EVALUATION = CHECKOUT / "docs" / "results" / "demo-weights" / "default.json"
LOOKS = (1, 2, 3, 4, 5, 6)
"""Style seeds of the first street. The other pictures have the first of them."""
THING = "car"
"""Class of the thing whose looks are shown."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Number and size of the streets."""

    maps: int = 6
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
        with stages.stage(f"render one street in {len(LOOKS)} looks"):
            looks = [render_look(client, pairs[0], seed, out) for seed in LOOKS]
        with stages.stage(f"render one {THING} in its looks"):
            thing_looks = render_thing(client, pairs, out)
    failed = [result for result in results if isinstance(result, Failed)]
    for failure in failed:
        print(f"failed: {failure.reason}", file=sys.stderr)
    command = os.path.relpath(Path(sys.prefix) / "bin" / "sceneloom")
    serve_again, paint = f"{command} serve {repository}", f"{command} studio {repository} --open"
    page.Page(
        rows=[page_row(pair, pictures, out / "page", SCHEMA) for pair in pairs],
        looks=looks,
        thing=THING if thing_looks else "",
        thing_looks=thing_looks,
        seconds=stages.seconds,
        size=f"{settings.width}x{settings.height}",
        score=score_sentence(),
        weights=WEIGHTS,
        serve_again=serve_again,
        paint=paint,
        checkout=os.path.relpath(CHECKOUT, out),
    ).write(out)
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
    print(f"paint a street of your own with: {paint}")
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


def render_look(client: TritonSynthesizer, pair: MapPair, seed: int, out: Path) -> page.Look:
    """Render one street in the style of a seed, like `sceneloom render --style-seed`."""
    label_map, instance_map = read_maps(client, pair)
    style = styles_by_seed(client.contract, label_map, instance_map, seed, key=pair.key, of="all")
    picture = client.synthesize(label_map, instance_map, style)
    return write_look(picture, out, f"{seed}/{pair.key}", f"style seed {seed}")


def render_thing(client: TritonSynthesizer, pairs: Sequence[MapPair], out: Path) -> list[page.Look]:
    """Render the largest `THING` of all streets that is wholly in its picture, and what is around
    it, in every look of its class; no look without such a thing.
    """
    found = []
    for pair in pairs:
        label_map, instance_map = read_maps(client, pair)
        height, width = label_map.shape
        for thing in list_instances(client.contract, label_map, instance_map):
            right, bottom = thing.left + thing.width, thing.top + thing.height
            whole = min(thing.left, thing.top, width - right, height - bottom) > 0
            if thing.name == THING and whole:
                found.append((thing.pixels, pair, thing))
    if not found:
        return []
    _, pair, thing = max(found, key=lambda each: each[0])
    label_map, instance_map = read_maps(client, pair)
    multiple = client.contract.size_multiple
    starts = (thing.top, thing.height), (thing.left, thing.width)
    parts = []  # half of the picture, around the thing
    for (start, length), side in zip(starts, label_map.shape, strict=True):
        half = side // 2 // multiple * multiple
        first = min(max(start + length // 2 - half // 2, 0), side - half)
        parts.append(slice(first, first + half))
    window = tuple(parts)
    label_map, instance_map = label_map[window].copy(), instance_map[window].copy()
    drawn = clusters_by_seed(
        client.contract, label_map, instance_map, LOOKS[0], key=pair.key, of="all"
    )
    assert thing.label_id is not None
    looks = []
    for cluster in range(len(client.contract.style_clusters[thing.label_id])):
        style = styles_by_cluster(
            client.contract, label_map, instance_map, {**drawn, thing.id: cluster}
        )
        picture = client.synthesize(label_map, instance_map, style)
        looks.append(write_look(picture, out, f"{THING}/{cluster}", f"cluster {cluster}"))
    return looks


def read_maps(
    client: TritonSynthesizer, pair: MapPair
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Label map in channels, and instance map, of a street."""
    assert pair.instance is not None
    assert client.contract.schema is not None
    return read_label_map(pair.label, client.contract.schema), read_instance_map(pair.instance)


def write_look(picture: npt.NDArray[np.uint8], out: Path, name: str, caption: str) -> page.Look:
    """Write a picture as looks/NAME.png, and as JPEG for the page."""
    for suffix in (".png", ".jpg"):
        write_image(out / "looks" / f"{name}{suffix}", picture)
    return page.Look(caption=caption, shown=f"looks/{name}.jpg", full=f"looks/{name}.png")


def score_sentence() -> str:
    """Say what the generator's evaluation found."""
    evaluation = json.loads(EVALUATION.read_text("utf-8"))
    ours, oracle = (
        100 * evaluation["scores"][of]["mean_iou"]["value"] for of in ("pictures", "oracle")
    )
    return (
        f"On {evaluation['data']['pictures']} other streets a segmentation network finds again "
        f"{ours:.1f} % (mean IoU) of what the maps asked for, and {oracle:.1f} % in the painted "
        "pictures themselves."
    )


def page_row(pair: MapPair, pictures: Path, folder: Path, schema: LabelSchema) -> page.Street:
    """Write the page's pictures of one map, and return its row."""
    assert pair.instance is not None
    label_map = cv2.imread(str(pair.label), cv2.IMREAD_UNCHANGED).astype(np.uint8)
    instance_map = cv2.imread(str(pair.instance), cv2.IMREAD_UNCHANGED)
    boundaries = np.where(boundary_map(instance_map), np.uint8(0), np.uint8(255))
    write_image(folder / f"{pair.key}_labels.png", schema.colourise(label_map))
    write_image(folder / f"{pair.key}_boundaries.png", np.repeat(boundaries[..., None], 3, 2))
    picture = cv2.imread(str(pictures / f"{pair.key}.png"))
    write_image(folder / f"{pair.key}.jpg", np.ascontiguousarray(picture[..., ::-1]))
    name = pair.key.removesuffix("_labelIds")
    return page.Street(
        name=name.replace("_", " "),
        labels=f"page/{pair.key}_labels.png",
        boundaries=f"page/{pair.key}_boundaries.png",
        picture=f"page/{pair.key}.jpg",
        painted=f"data/test_img/{name}.png",
    )


if __name__ == "__main__":
    try:
        with progress.shown():
            sys.exit(tyro.cli(main))
    except SceneLoomError as error:
        sys.exit(f"demo: {error}")
