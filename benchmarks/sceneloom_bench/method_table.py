"""The method's table in miniature: pix2pixHD (Wang et al., CVPR 2018, section 4.1) on procedural
streets, judged by re-segmentation beside the oracle.

Paints the streets, trains a segmenter on their photographs, and then trains and evaluates a
network for every row and seed (`method_table_rows`), with the commands that users have: `sceneloom
train` and `sceneloom evaluate`. A cell whose evaluation lies in the results is finished and is
skipped, so that the table can be stopped at any moment and continued another day, on another
machine too; a row's training goes on from its last checkpoint.

    python -m sceneloom_bench.method_table --out docs/results/method-table
    make table
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import tyro

from sceneloom.errors import InputError, SceneLoomError
from sceneloom.json_text import parse_json
from sceneloom.pictures import write_image
from sceneloom.schema import load_schema
from sceneloom_bench.commands import CHECKOUT, run_sceneloom
from sceneloom_bench.method_table_report import write_report
from sceneloom_bench.method_table_rows import (
    CONTROL,
    CONTROLS,
    OTHER_STREETS,
    PUBLISHED,
    ROWS,
    Row,
    find_row,
    with_perceptual,
)
from sceneloom_serving.engines import describe_machine
from sceneloom_streets.dataset import TEST_SEEDS, TRAIN_SEEDS, write_streets
from sceneloom_training.checkpoint import load_checkpoint
from sceneloom_training.data import DataSettings, Geometry, open_data_set
from sceneloom_training.evaluation.checkpoint_pictures import checkpoint_synthesizer

CONFIG = CHECKOUT / "training" / "configs" / "streets-256x128.toml"
CLASSES = CHECKOUT / "training" / "configs" / "street-classes.json"
SEGMENTER = CHECKOUT / "examples" / "street_demo" / "segmenter"
HEIGHT, WIDTH = 256, 512
"""Size that the streets are painted at, pixels."""
SHOWN = (0, 1, 2)
"""Test streets whose pictures are kept of every cell."""
SEGMENTER_FLAGS = (
    *("--data.labels", str(CLASSES)),
    *("--network", "unet"),
    *("--width", "16"),
    *("--size", "256x128"),
    *("--epochs", "14"),
    *("--batch", "4"),
    *("--learning-rate", "2e-3"),
    *("--balance", "0.5"),
    *("--precision", "bfloat16"),
    *("--workers", "1"),
    *("--cache", "1500"),
    "--half",
)
"""Of the judge: it must see poles of a pixel's width, and learn from 1,500 photographs.

Its classes are those of Cityscapes' 19 that take up at least a thousandth of the streets: buses,
bicycles and motorcycles are so few and so small at 256x128 that nothing can be said of them, and
there are no trains.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """A row and a seed."""

    row: Row
    """What is trained."""
    seed: int
    """Of weights, order and flips."""

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.row.name}-seed{self.seed}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableSettings:
    """How the table is made."""

    work: Path = Path("runs/table")
    """Folder for streets, segmenter and training runs."""
    jobs: int = 2
    """Cells that are trained side by side; the cores are shared out among them."""
    rows: tuple[str, ...] = ()
    """Names of the rows to make; all without it."""
    new_judge: bool = False
    """Train a judge, instead of taking the one in examples/street_demo/segmenter if it is there, by
    which the committed cells were judged; figures of two judges do not go into one table.
    """
    vgg: Path | None = None
    """torchvision's vgg19 weights file: adds a row with the perceptual loss."""

    def __post_init__(self) -> None:
        """Check what is asked for."""
        names = [row.name for row in self.all_rows]
        for name in self.rows:
            if name not in names:
                raise InputError(f"no row {name!r}; there are {', '.join(names)}")
        if not 1 <= self.jobs <= 64:
            raise InputError(f"jobs is {self.jobs}; it is from 1 to 64")

    @property
    def all_rows(self) -> tuple[Row, ...]:
        """Every row that there is."""
        return (*ROWS, *(with_perceptual(self.vgg) if self.vgg else ()), *CONTROLS)

    @property
    def streets(self) -> Path:
        """Folder of the data set."""
        return self.work / "streets"


def main(
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    settings: Annotated[TableSettings, tyro.conf.OmitArgPrefixes] = TableSettings(),
) -> int:
    """Make the table, or go on making it.

    Args:
        out: folder of the results: finished cells, and the table of those that are there.
        settings: how.
    """
    for split, seeds in (("train", TRAIN_SEEDS), ("test", TEST_SEEDS)):
        processes = os.cpu_count() or 1
        write_streets(
            settings.streets, split, seeds, height=HEIGHT, width=WIDTH, processes=processes
        )
    save_streets(settings, out)
    shipped = SEGMENTER.is_dir() and not settings.new_judge
    segmenter = SEGMENTER if shipped else train_judge(settings)
    chosen = [r for r in settings.all_rows if not settings.rows or r.name in settings.rows]
    for wave in waves(chosen):
        missing = [cell for cell in wave if not (out / "cells" / cell.name).is_dir()]
        with ThreadPoolExecutor(settings.jobs) as pool:
            for _ in pool.map(lambda cell: make_cell(cell, settings, segmenter, out), missing):
                pass
    write_report(out, settings.all_rows)
    print(f"wrote {out / 'README.md'}")
    return 0


def waves(rows: Sequence[Row]) -> list[list[Cell]]:
    """Cells in the order they are made: those that others start from first, seed by seed."""
    first = [row for row in rows if not row.starts_from and row not in CONTROLS]
    later = [row for row in rows if row.starts_from or row in CONTROLS]
    waves = []
    for part in (first, later):
        seeds = sorted({seed for row in part for seed in row.seeds})
        waves.append([Cell(row=r, seed=s) for s in seeds for r in part if s in r.seeds])
    return waves


def save_streets(settings: TableSettings, out: Path) -> None:
    """Label maps and photographs of the test streets that are shown, as JPEG."""
    streets = open_data_set(DataSettings(layout="pix2pixhd", root=settings.streets, split="test"))
    assert streets.schema is not None
    for kind in ("label-maps", "photographs"):
        (out / "streets" / kind).mkdir(parents=True, exist_ok=True)
    for index in SHOWN:
        sample, name = streets.read(index), f"{streets.keys[index]}.jpg"
        assert sample.label_map is not None
        colours = streets.schema.colourise(sample.label_map)
        write_image(out / "streets" / "label-maps" / name, colours)
        write_image(out / "streets" / "photographs" / name, sample.photo)


def train_judge(settings: TableSettings) -> Path:
    """Train the segmenter, unless it is there."""
    run = settings.work / "segmenter"
    if not (run / "segmenter" / "segmenter.json").is_file():
        data = ("--data.layout", "pix2pixhd", "--data.root", str(settings.streets))
        run_sceneloom("train-segmenter", "--out", str(run), *data, *SEGMENTER_FLAGS)
    return run / "segmenter"


def make_cell(cell: Cell, settings: TableSettings, segmenter: Path, out: Path) -> None:
    """Train and evaluate one cell; its folder in the results appears whole."""
    threads = max(1, (os.cpu_count() or 1) // settings.jobs)
    print(f"{cell.name}: training", flush=True)
    run = train_cell(cell, settings, threads)
    print(f"{cell.name}: evaluating", flush=True)
    judged = ["--checkpoint", str(run / "model")]
    if cell.row in CONTROLS:
        judged = ["--pictures", str(draw_wrong_pictures(cell.row, run / "model", settings))]
    evaluated = settings.work / "evaluated" / cell.name
    where = ["--out", str(evaluated), "--size", cell.row.size, "--segmenter", str(segmenter)]
    data = ("--data.layout", "pix2pixhd", "--data.root", str(settings.streets))
    test = ("--data.split", "test")
    run_sceneloom("evaluate", *where, *judged, *data, *test, threads=threads, quiet=True)
    fresh = out / "cells" / f".{cell.name}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name in ("evaluation.json", "counts.npz"):
        shutil.copyfile(evaluated / name, fresh / name)
    (fresh / "training.json").write_text(json.dumps(_training(cell, run), indent=1) + "\n", "utf-8")
    for key, picture in _draw(cell.row, run / "model", settings, SHOWN):
        write_image(fresh / f"{key}.jpg", picture)
    fresh.rename(out / "cells" / cell.name)


def train_cell(cell: Cell, settings: TableSettings, threads: int) -> Path:
    """Train a cell, or go on, and what it starts from before; the run's folder."""
    row = find_row(settings.all_rows, PUBLISHED) if cell.row in CONTROLS else cell.row
    cell = Cell(row=row, seed=cell.seed)
    run = settings.work / "cells" / cell.name
    if row.starts_from:
        inner = Cell(row=find_row(settings.all_rows, row.starts_from), seed=cell.seed)
        train_cell(inner, settings, threads)
    training = ["train", str(CONFIG), "--out", str(run), *_flags(cell, settings)]
    run_sceneloom(*training, threads=threads, quiet=True)
    return run


def draw_wrong_pictures(row: Row, model: Path, settings: TableSettings) -> Path:
    """A picture for every test street that is not of it; their folder.

    Args:
        row: one of the controls.
        model: checkpoint bundle that is made to draw other classes.
        settings: where the streets are.
    """
    folder = settings.work / row.name
    folder.mkdir(exist_ok=True)
    for key, picture in _draw(row, model, settings, range(len(TEST_SEEDS))):
        write_image(folder / f"{key}.png", picture)
    return folder


def _draw(
    row: Row, model: Path, settings: TableSettings, indices: Iterable[int]
) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    if row != OTHER_STREETS:
        return draw_pictures(model, row.size, settings, indices, row == CONTROL)
    return photographs_of_others(row.size, settings, indices)


def photographs_of_others(
    size: str, settings: TableSettings, indices: Iterable[int]
) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """Keys of test streets, each with the photograph of the street after it."""
    streets = open_data_set(DataSettings(layout="pix2pixhd", root=settings.streets, split="test"))
    still = Geometry(mode="resize", size=size, flip=False)
    for index in indices:
        other = streets.read((index + 1) % len(streets.keys))
        sample = still.apply(other, np.random.default_rng(0), multiple=1)
        yield streets.keys[index], sample.photo


def draw_pictures(
    model: Path, size: str, settings: TableSettings, indices: Iterable[int], shuffle: bool
) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """Keys and pictures (uint8 [H, W, 3]) of test streets.

    Args:
        model: checkpoint bundle.
        size: WIDTHxHEIGHT to render at.
        settings: where the streets are.
        indices: which.
        shuffle: make every class another one before.
    """
    checkpoint = load_checkpoint(model)
    streets = open_data_set(DataSettings(layout="pix2pixhd", root=settings.streets, split="test"))
    still = Geometry(mode="resize", size=size, flip=False)
    with checkpoint_synthesizer(checkpoint, model) as synthesizer:
        table = wrong_classes(synthesizer.contract.schema.channels)
        for index in indices:
            sample = still.apply(streets.read(index), np.random.default_rng(0), multiple=1)
            assert sample.label_map is not None
            label_map = table[sample.label_map] if shuffle else sample.label_map
            instances = sample.instance_map if synthesizer.contract.boundaries else None
            yield streets.keys[index], synthesizer.synthesize(label_map, instances)


def wrong_classes(channels: int) -> npt.NDArray[np.uint8]:
    """A table from every class of the streets to another one, and from no channel to itself; uint8
    [256].
    """
    schema = load_schema(CLASSES)
    mine = {label.name for label in load_schema("cityscapes").labels} & {
        label.name for label in schema.labels
    }
    ids = np.array([x.id for x in load_schema("cityscapes").labels if x.name in mine], np.uint8)
    assert ids.max() < channels
    table = np.arange(256, dtype=np.uint8)
    # Half the list further: no class stays, and neighbours in meaning are neighbours in the list.
    table[ids] = np.roll(ids, len(ids) // 2)
    return table


def _flags(cell: Cell, settings: TableSettings) -> list[str]:
    flags = ["--data.root", str(settings.streets), "--compute.seed", str(cell.seed)]
    if cell.row.starts_from:
        inner = settings.work / "cells" / f"{cell.row.starts_from}-seed{cell.seed}" / "model"
        flags += ["--generator.start-from", str(inner)]
    return [*flags, *cell.row.flags]


def _training(cell: Cell, run: Path) -> dict[str, Any]:
    """What was trained, on what, and for how long, from the run's own record and log."""
    record = parse_json((run / "run.json").read_text("utf-8"))
    entries = [parse_json(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    timed = [entry for entry in entries if "images_per_second" in entry]
    seconds = before = 0.0
    for entry in timed:
        seconds += (entry["step"] - before) / entry["images_per_second"]
        before = entry["step"]
    settings = record["settings"]
    settings["data"]["root"] = Path(settings["data"]["root"]).name
    settings["generator"]["start_from"] = cell.row.starts_from or None
    return {
        "row": cell.row.name,
        "title": cell.row.title,
        "seed": cell.seed,
        "flags": None if cell.row in CONTROLS else list(cell.row.flags),
        "steps": 0 if cell.row in CONTROLS else int(before),
        "hours": 0.0 if cell.row in CONTROLS else round(seconds / 3600, 3),
        "parameters": record["parameters"],
        "perceptual_loss": record["perceptual_loss"],
        "settings": settings,
        "versions": record["versions"],
        "machine": describe_machine(),
    }


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main))
    except SceneLoomError as error:
        sys.exit(f"method table: {error}")
