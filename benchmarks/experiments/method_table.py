"""The method's tables, evaluated by re-segmentation beside the oracle: on procedural streets, and
on the real photographs of CamVid.

Trains and evaluates a network for every row and seed with `sceneloom train` and `sceneloom
evaluate`, and a segmenter as their judge. A cell with an evaluation in the results is skipped; a
training that was stopped resumes from its last checkpoint.

    python benchmarks/experiments/method_table.py streets
    python benchmarks/experiments/method_table.py camvid --camvid datasets/camvid
    make table
    make camvid-table CAMVID=datasets/camvid
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import tyro

from method_report import write_report
from method_rows import CONTROL, CONTROLS, FEATURES, OTHERS, TABLES, VGG, Cell, Row, Table, waves
from sceneloom.errors import InputError, SceneLoomError, TrainingError
from sceneloom.pictures import write_image
from sceneloom.schema import LabelSchema, load_schema
from sceneloom.text import parse_json
from sceneloom_bench.harness import CHECKOUT
from sceneloom_serving.engines import describe_machine
from sceneloom_streets.dataset import TEST_SEEDS, TRAIN_SEEDS, write_streets
from sceneloom_training.checkpoint import load_checkpoint
from sceneloom_training.data import DataSet, DataSettings, Geometry, open_data_set
from sceneloom_training.torch_synthesizer import TorchSynthesizer

HEIGHT, WIDTH = 256, 512
"""Size of the painted streets."""
SHOWN = (0, 1, 2)
"""Test streets whose pictures every cell keeps."""
CURVE_POINTS = 80
_JUDGE = Lock()
"""Held while the judge is trained, by the first cell that needs it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableSettings:
    """Folders, rows and the segmenter."""

    out: Path | None = None
    """Folder of the results: finished cells and their table. By default docs/results/method-table,
    with the table's name where it is not of streets.
    """
    work: Path | None = None
    """Folder for streets, segmenter and training runs, by default runs/table or runs/camvid."""
    camvid: Path | None = None
    """CamVid as the tutorial of SegNet lays it out, in folders train_img, train_label, test_img and
    test_label.
    """
    jobs: int = 2
    """Cells trained in parallel; they share the cores."""
    rows: tuple[str, ...] = ()
    """Names of the rows to make; by default all."""
    new_judge: bool = False
    """Train a segmenter in place of examples/street_demo/segmenter, which evaluated the committed
    cells of streets; a table has one segmenter.
    """

    def __post_init__(self) -> None:
        if not 1 <= self.jobs <= 64:
            raise InputError(f"jobs is {self.jobs}; it is from 1 to 64")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """A table, and where it is made."""

    table: Table
    out: Path
    work: Path
    root: Path
    """Folder of the photographs and label maps."""
    threads: int
    """Threads of each training."""
    committed_judge: bool
    """Evaluate by the table's own judge, without training one."""

    def data_flags(self, **changes: str) -> list[str]:
        """Flags of the data set, with some fields of `DataSettings` changed."""
        fields = {**self.table.data, "root": self.root, **changes}
        return [part for key, value in fields.items() for part in (f"--data.{key}", str(value))]

    def open_test_split(self) -> DataSet:
        """The test photographs and maps."""
        return open_data_set(DataSettings(root=self.root, split="test", **self.table.data))

    def run(self, cell: Cell) -> Path:
        """Folder of a cell's training."""
        return self.work / "cells" / cell.name

    def size(self, row: Row) -> str:
        """WIDTHxHEIGHT of a row."""
        return row.size or self.table.size


def main(
    name: Annotated[Literal["streets", "camvid"], tyro.conf.Positional],
    settings: Annotated[TableSettings, tyro.conf.OmitArgPrefixes] = TableSettings(),
) -> int:
    """Make a table, or resume it.

    Args:
        name: the table.
        settings: folders, rows and the segmenter.
    """
    table = TABLES[name]
    for row_name in settings.rows:
        if row_name not in [row.name for row in table.rows]:
            names = ", ".join(row.name for row in table.rows)
            raise InputError(f"no row {row_name!r}; there are {names}")
    chosen = [r for r in table.rows if not settings.rows or r.name in settings.rows]
    place = prepare(name, table, settings, chosen)
    for wave in waves(chosen):
        missing = [cell for cell in wave if not (place.out / "cells" / cell.name).is_dir()]
        with ThreadPoolExecutor(settings.jobs) as pool:
            for _ in pool.map(lambda cell: make_cell(cell, place), missing):
                pass
    write_report(place.out, table)
    print(f"wrote {place.out / 'README.md'}")
    return 0


def prepare(name: str, table: Table, settings: TableSettings, rows: Sequence[Row]) -> Place:
    """Paint the streets, and get the weights that some rows need."""
    work = settings.work or CHECKOUT / "runs" / ("table" if name == "streets" else name)
    stem = "method-table" + ("" if name == "streets" else f"-{name}")
    out = settings.out or CHECKOUT / "docs" / "results" / stem
    root = work / "streets"
    processes = os.cpu_count() or 1
    if name == "camvid":
        if settings.camvid is None:
            raise InputError("camvid is not given; --camvid takes the folder of CamVid")
        root = settings.camvid
    else:
        for split, seeds in (("train", TRAIN_SEEDS), ("test", TEST_SEEDS)):
            write_streets(root, split, seeds, height=HEIGHT, width=WIDTH, processes=processes)
    place = Place(
        table=table,
        out=out,
        work=work,
        root=root,
        threads=max(1, processes // settings.jobs),
        committed_judge=table.judge is not None and not settings.new_judge,
    )
    if table.shows_pictures:
        save_streets(place)
    wanted = {VGG} if any(VGG in row.flags for row in rows) else set()
    for network in sorted(wanted | ({FEATURES} if table.has_distance else set())):
        if not (work / network).is_file():
            run_sceneloom("weights", network, "--to", str(work / network))
    return place


def run_sceneloom(*arguments: str, threads: int | None = None, quiet: bool = False) -> float:
    """Run ``sceneloom ...`` with OpenMP's `threads`. Returns the seconds of a core that it took;
    raises TrainingError if it fails.
    """
    environment = dict(os.environ)
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, "-m", "sceneloom.cli", *arguments]
    where = subprocess.DEVNULL if quiet else None
    process = subprocess.Popen(command, env=environment, stdout=where)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        said = " ".join(["sceneloom", *arguments])
        raise TrainingError(f"ended with code {process.returncode}: {said}")
    return used.ru_utime + used.ru_stime


def save_streets(place: Place) -> None:
    """Write label maps and photographs of the shown test streets as JPEG."""
    streets = place.open_test_split()
    assert streets.schema is not None
    for kind in ("label-maps", "photographs"):
        (place.out / "streets" / kind).mkdir(parents=True, exist_ok=True)
    for index in SHOWN:
        sample, name = streets.read(index), f"{streets.keys[index]}.jpg"
        assert sample.label_map is not None
        colours = streets.schema.colourise(sample.label_map)
        write_image(place.out / "streets" / "label-maps" / name, colours)
        write_image(place.out / "streets" / "photographs" / name, sample.photo)


def train_judge(place: Place) -> Path:
    """Train the segmenter unless it exists."""
    run = place.work / "segmenter"
    with _JUDGE:
        if not (run / "segmenter" / "segmenter.json").is_file():
            flags = place.data_flags(labels=str(place.table.classes), boundaries="instances")
            flags += place.table.judge_flags
            run_sceneloom("train-segmenter", "--out", str(run), *flags, threads=place.threads)
    return run / "segmenter"


def make_cell(cell: Cell, place: Place) -> None:
    """Train and evaluate one cell. Its folder in the results appears whole."""
    print(f"{cell.name}: training", flush=True)
    run = train_cell(cell, place)
    print(f"{cell.name}: evaluating", flush=True)
    judge = place.table.judge if place.committed_judge else train_judge(place)
    judged = ["--checkpoint", str(run / "model")]
    if cell.row in CONTROLS:
        judged = ["--pictures", str(draw_wrong_pictures(cell.row, run / "model", place))]
    if place.table.has_distance:
        judged += ["--features", str(place.work / FEATURES), "--features-kind", FEATURES]
    evaluated = place.work / "evaluated" / cell.name
    where = ["--out", str(evaluated), "--size", place.size(cell.row), "--segmenter", str(judge)]
    # Boundaries are refused for a model without them.
    edges = {} if cell.row.has_boundaries else {"boundaries": "instances"}
    data = place.data_flags(split="test", **edges)
    run_sceneloom("evaluate", *where, *judged, *data, threads=place.threads, quiet=True)
    fresh = place.out / "cells" / f".{cell.name}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name in ("evaluation.json", "counts.npz"):
        shutil.copyfile(evaluated / name, fresh / name)
    (fresh / "training.json").write_text(
        json.dumps(training_record(cell, place, run), indent=1) + "\n", "utf-8"
    )
    if place.table.shows_pictures:
        for key, picture in draw_row(cell.row, run / "model", place, SHOWN):
            write_image(fresh / f"{key}.jpg", picture)
    fresh.rename(place.out / "cells" / cell.name)


def train_cell(cell: Cell, place: Place) -> Path:
    """Train or resume a cell, after the cell that it starts from; returns the run's folder. The
    seconds of a core of each start go to a file beside it.
    """
    row = place.table.row(place.table.published) if cell.row in CONTROLS else cell.row
    cell = Cell(row=row, seed=cell.seed)
    run = place.run(cell)
    flags = ["--data.root", str(place.root), "--compute.seed", str(cell.seed)]
    if row.starts_from:
        inner = Cell(row=place.table.row(row.starts_from), seed=cell.seed)
        flags += ["--generator.start-from", str(train_cell(inner, place) / "model")]
    flags += [str(place.work / VGG) if flag == VGG else flag for flag in row.flags]
    before = last_step(run)
    seconds = run_sceneloom(
        *("train", str(place.table.config), "--out", str(run), *flags),
        threads=place.threads,
        quiet=True,
    )
    if (steps := last_step(run) - before) > 0:
        with run.with_suffix(".jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"steps": steps, "core_seconds": round(seconds, 1)}) + "\n")
    return run


def read_log(run: Path) -> list[dict[str, Any]]:
    """Entries of a training's log."""
    path = run / "log.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return [parse_json(line) for line in lines]


def last_step(run: Path) -> int:
    """Last step in a training's log."""
    return max((int(entry.get("step", 0)) for entry in read_log(run)), default=0)


def draw_wrong_pictures(row: Row, model: Path, place: Place) -> Path:
    """Write a control's wrong picture for every test street; returns their folder."""
    folder = place.work / row.name
    folder.mkdir(exist_ok=True)
    for key, picture in draw_row(row, model, place, None):
        write_image(folder / f"{key}.png", picture)
    return folder


def draw_row(
    row: Row, model: Path, place: Place, indices: Iterable[int] | None
) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """Keys and pictures, uint8 [H, W, 3], of test streets, by default all, drawn by a row."""
    streets = place.open_test_split()
    still = Geometry(mode="resize", size=place.size(row), flip=False)
    indices = range(len(streets)) if indices is None else indices
    if row == OTHERS:
        for index in indices:
            other = streets.read((index + 1) % len(streets))
            sample = still.apply(other, np.random.default_rng(0), multiple=1)
            yield streets.keys[index], sample.photo
        return
    checkpoint = load_checkpoint(model)
    contract = checkpoint.contract
    assert contract.schema is not None
    with TorchSynthesizer(checkpoint.generator, contract) as synthesizer:
        table = wrong_classes(contract.schema, load_schema(place.table.classes))
        for index in indices:
            sample = still.apply(streets.read(index), np.random.default_rng(0), multiple=1)
            assert sample.label_map is not None
            label_map = table[sample.label_map] if row == CONTROL else sample.label_map
            instances = sample.instance_map if contract.boundaries else None
            yield streets.keys[index], synthesizer.synthesize(label_map, instances)


def wrong_classes(schema: LabelSchema, judged: LabelSchema) -> npt.NDArray[np.uint8]:
    """A table, uint8 [256], from the channel of every class that is judged to another one's."""
    names = {label.name for label in judged.labels}
    channels = [n for n, label in enumerate(schema.labels) if label.name in names]
    table = np.arange(256, dtype=np.uint8)
    # Half the list further: no class stays, and neighbours in meaning are neighbours in the list.
    table[channels] = np.roll(channels, len(channels) // 2)
    return table


def training_record(cell: Cell, place: Place, run: Path) -> dict[str, Any]:
    """Settings, machine, hours and curves of a training, from the run's own record and log."""
    record = parse_json((run / "run.json").read_text("utf-8"))
    timed = [entry for entry in read_log(run) if "images_per_second" in entry]
    seconds = before = 0.0
    for entry in timed:
        seconds += (entry["step"] - before) / entry["images_per_second"]
        before = entry["step"]
    settings = record["settings"]
    settings["data"]["root"] = Path(settings["data"]["root"]).name
    settings["generator"]["start_from"] = cell.row.starts_from or None
    if settings["loss"]["vgg"]:
        settings["loss"]["vgg"] = Path(settings["loss"]["vgg"]).name
    found = {
        "row": cell.row.name,
        "title": cell.row.title,
        "seed": cell.seed,
        "flags": None,
        "steps": 0,
        "hours": 0.0,
        "parameters": record["parameters"],
        "perceptual_loss": record["perceptual_loss"],
        "settings": settings,
        "precision": record["precision"],
        "versions": record["versions"],
        "machine": describe_machine(),
    }
    if cell.row in CONTROLS:
        return found
    starts = [
        parse_json(line) for line in run.with_suffix(".jsonl").read_text("utf-8").splitlines()
    ]
    core = sum(s["core_seconds"] for s in starts) / sum(s["steps"] for s in starts) * before
    return found | {
        "flags": list(cell.row.flags),
        "steps": int(before),
        "hours": round(seconds / 3600, 3),
        "core_hours": round(core / 3600, 3),
        "curves": thin_curves(timed),
    }


def thin_curves(entries: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Means of each loss over at most `CURVE_POINTS` equal parts of a log, and their last steps."""
    parts = np.array_split(np.arange(len(entries)), min(CURVE_POINTS, len(entries)))
    losses = entries[0].keys() - {"step", "epoch", "learning_rate", "images_per_second"}
    curves = {
        loss: [round(float(np.mean([entries[i][loss] for i in part])), 4) for part in parts]
        for loss in sorted(losses)
    }
    return {"step": [entries[part[-1]]["step"] for part in parts], **curves}


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main))
    except SceneLoomError as error:
        sys.exit(f"method table: {error}")
