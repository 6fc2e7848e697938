"""The method's table in miniature: pix2pixHD (Wang et al., CVPR 2018, section 4.1) on procedural
streets, evaluated by re-segmentation beside the oracle.

Paints the streets, trains a segmenter on their photographs, and trains and evaluates a network for
every row and seed with `sceneloom train` and `sceneloom evaluate`. A row is flags of `sceneloom
train`. A cell with an evaluation in the results is skipped; a row's training resumes from its last
checkpoint.

Intervals are percentiles of a bootstrap in two stages: each draw takes seeds of a row with
replacement, then pictures with replacement, the same pictures for every row, so that differences
between rows are paired.

    python benchmarks/experiments/method_table.py --out docs/results/method-table
    make table
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import tyro

from sceneloom.errors import InputError, SceneLoomError, TrainingError
from sceneloom.pictures import write_image
from sceneloom.schema import load_schema
from sceneloom.text import parse_json
from sceneloom_bench.harness import CHECKOUT
from sceneloom_serving.engines import describe_machine
from sceneloom_streets.dataset import TEST_SEEDS, TRAIN_SEEDS, write_streets
from sceneloom_training.checkpoint import load_checkpoint
from sceneloom_training.data import DataSettings, Geometry, open_data_set
from sceneloom_training.evaluation.scores import SCORES, ClassCounts, score_columns
from sceneloom_training.torch_synthesizer import TorchSynthesizer


def flags_of(text: str) -> tuple[str, ...]:
    """Words of a command line."""
    return tuple(text.split())


CONFIG = CHECKOUT / "training" / "configs" / "streets-256x128.toml"
CLASSES = CHECKOUT / "training" / "configs" / "street-classes.json"
SEGMENTER = CHECKOUT / "examples" / "street_demo" / "segmenter"
HEIGHT, WIDTH = 256, 512
"""Size of the painted streets."""
SHOWN = (0, 1, 2)
"""Test streets whose pictures every cell keeps."""
SEGMENTER_FLAGS = (
    *("--data.labels", str(CLASSES)),
    *flags_of("--network unet --width 16 --size 256x128 --epochs 14 --batch 4"),
    *flags_of("--learning-rate 2e-3 --balance 0.5 --precision bfloat16 --workers 1"),
    *flags_of("--cache 1500 --half"),
)
"""Flags of the segmenter, which must see poles of a pixel's width and learn from 1,500 photographs.

Its classes are those of Cityscapes' 19 with at least a thousandth of the streets' pixels. Buses,
bicycles and motorcycles are too few and too small at 256x128; the streets have no trains.
"""
_DRAWS, _SEED = 2000, 0
_COLUMNS = ("pixel accuracy", "mean IoU", "frequency-weighted IoU")
_Values = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table."""

    name: str
    """Name of its files."""
    title: str
    flags: tuple[str, ...] = ()
    """Flags after those of the base."""
    seeds: tuple[int, ...] = (0, 1)
    """A training run each."""
    starts_from: str = ""
    """Name of the row whose network of the same seed this one contains and starts from."""
    size: str = "256x128"
    """WIDTHxHEIGHT of training and rendering."""


PUBLISHED = "three-discriminators"
"""The row of comparison: pix2pixHD's global generator as published."""
WHOLE = "coarse-to-fine"
"""The whole method: global generator and enhancer."""
WHOLE_MODERN = "coarse-to-fine-modern"
"""The whole method with proven upgrades of later work."""
BASELINE = "pix2pix"

MODERN = flags_of(
    "--loss.gan hinge --discriminator.spectral-norm --optimizer.ema 0.999 --generator.padding zeros"
)
"""Proven upgrades of later work."""
_ENHANCED = flags_of(
    "--generator.enhancers 1 --generator.ngf 8 --geometry.size 512x256"
    " --schedule.enhancer-only-epochs 1"
)
ROWS = (
    Row(
        name=BASELINE,
        title="pix2pix: U-Net, one PatchGAN, L1",
        flags=flags_of(
            "--generator.network unet --generator.unet-downsamplings 7 --generator.no-boundaries"
            " --discriminator.scales 1 --discriminator.padding 1 --discriminator.affine-norm"
            " --loss.gan vanilla --loss.feature-matching 0 --loss.l1 100"
        ),
    ),
    Row(
        name="one-discriminator",
        title="G1, one discriminator",
        flags=flags_of("--discriminator.scales 1"),
    ),
    Row(name=PUBLISHED, title="G1, three discriminators (pix2pixHD's global generator)"),
    Row(
        name="no-feature-matching",
        title="G1, three discriminators, no feature matching",
        flags=flags_of("--loss.feature-matching 0"),
    ),
    Row(
        name="no-boundary",
        title="G1, three discriminators, no boundary channel",
        flags=flags_of("--generator.no-boundaries"),
    ),
    Row(
        name="modern",
        title="G1, modernised: hinge, spectral norm, EMA, zero padding",
        flags=MODERN,
    ),
    Row(
        name=WHOLE,
        title="G1+G2 at 512x256, three discriminators (pix2pixHD)",
        flags=_ENHANCED,
        seeds=(0,),
        starts_from=PUBLISHED,
        size="512x256",
    ),
    Row(
        name=WHOLE_MODERN,
        title="G1+G2 at 512x256, modernised (pix2pixHD with later work's upgrades)",
        flags=(*_ENHANCED, *MODERN),
        seeds=(0,),
        starts_from="modern",
        size="512x256",
    ),
)
CONTROL = Row(
    name="control",
    title="control: pix2pixHD's pictures of maps whose classes were shuffled",
    seeds=(0,),
)
"""Untrained: the score of a wrong model, near chance."""
OTHER_STREETS = Row(
    name="other-streets",
    title="control: real photographs of other streets",
    seeds=(0,),
)
"""Untrained: chance for a segmenter that knows the layout of streets only."""
CONTROLS = (CONTROL, OTHER_STREETS)


def with_perceptual(vgg: Path) -> tuple[Row, ...]:
    """The row with the perceptual loss of a weights file."""
    flags = ("--loss.vgg", str(vgg), "--loss.perceptual", "10", "--loss.l1", "0")
    title = "G1, three discriminators, perceptual loss (pix2pixHD)"
    return (Row(name="perceptual", title=title, flags=flags),)


def find_row(rows: Sequence[Row], name: str) -> Row:
    """The row with a name."""
    return next(row for row in rows if row.name == name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """A row and a seed."""

    row: Row
    seed: int
    """Seed of weights, order and flips."""

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.row.name}-seed{self.seed}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableSettings:
    """Folders, rows and the segmenter."""

    work: Path = Path("runs/table")
    """Folder for streets, segmenter and training runs."""
    jobs: int = 2
    """Cells trained in parallel; they share the cores."""
    rows: tuple[str, ...] = ()
    """Names of the rows to make; by default all."""
    new_judge: bool = False
    """Train a segmenter in place of examples/street_demo/segmenter, which evaluated the committed
    cells; a table has one segmenter.
    """
    vgg: Path | None = None
    """Weights file of `loss.vgg`, for a row with the perceptual loss."""

    def __post_init__(self) -> None:
        names = [row.name for row in self.all_rows]
        for name in self.rows:
            if name not in names:
                raise InputError(f"no row {name!r}; there are {', '.join(names)}")
        if not 1 <= self.jobs <= 64:
            raise InputError(f"jobs is {self.jobs}; it is from 1 to 64")

    @property
    def all_rows(self) -> tuple[Row, ...]:
        """All rows."""
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
    """Make the table, or resume it.

    Args:
        out: folder of the results: finished cells and their table.
        settings: folders, rows and the segmenter.
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


def run_sceneloom(*arguments: str, threads: int | None = None, quiet: bool = False) -> None:
    """Run ``sceneloom ...`` with OpenMP's `threads`; raises TrainingError if it fails."""
    environment = dict(os.environ)
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, "-m", "sceneloom.cli", *arguments]
    where = subprocess.DEVNULL if quiet else None
    done = subprocess.run(command, env=environment, stdout=where, check=False)
    if done.returncode:
        said = " ".join(["sceneloom", *arguments])
        raise TrainingError(f"ended with code {done.returncode}: {said}")


def waves(rows: Sequence[Row]) -> list[list[Cell]]:
    """Cells in order: those that others start from first, seed by seed."""
    first = [row for row in rows if not row.starts_from and row not in CONTROLS]
    later = [row for row in rows if row.starts_from or row in CONTROLS]
    waves = []
    for part in (first, later):
        seeds = sorted({seed for row in part for seed in row.seeds})
        waves.append([Cell(row=r, seed=s) for s in seeds for r in part if s in r.seeds])
    return waves


def save_streets(settings: TableSettings, out: Path) -> None:
    """Write label maps and photographs of the shown test streets as JPEG."""
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
    """Train the segmenter unless it exists."""
    run = settings.work / "segmenter"
    if not (run / "segmenter" / "segmenter.json").is_file():
        data = ("--data.layout", "pix2pixhd", "--data.root", str(settings.streets))
        run_sceneloom("train-segmenter", "--out", str(run), *data, *SEGMENTER_FLAGS)
    return run / "segmenter"


def make_cell(cell: Cell, settings: TableSettings, segmenter: Path, out: Path) -> None:
    """Train and evaluate one cell. Its folder in the results appears whole."""
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
    (fresh / "training.json").write_text(
        json.dumps(training_record(cell, run), indent=1) + "\n", "utf-8"
    )
    for key, picture in draw_row(cell.row, run / "model", settings, SHOWN):
        write_image(fresh / f"{key}.jpg", picture)
    fresh.rename(out / "cells" / cell.name)


def train_cell(cell: Cell, settings: TableSettings, threads: int) -> Path:
    """Train or resume a cell, after the cell that it starts from; returns the run's folder."""
    row = find_row(settings.all_rows, PUBLISHED) if cell.row in CONTROLS else cell.row
    cell = Cell(row=row, seed=cell.seed)
    run = settings.work / "cells" / cell.name
    if row.starts_from:
        inner = Cell(row=find_row(settings.all_rows, row.starts_from), seed=cell.seed)
        train_cell(inner, settings, threads)
    flags = ["--data.root", str(settings.streets), "--compute.seed", str(cell.seed)]
    if row.starts_from:
        start = settings.work / "cells" / f"{row.starts_from}-seed{cell.seed}" / "model"
        flags += ["--generator.start-from", str(start)]
    training = ["train", str(CONFIG), "--out", str(run), *flags, *row.flags]
    run_sceneloom(*training, threads=threads, quiet=True)
    return run


def draw_wrong_pictures(row: Row, model: Path, settings: TableSettings) -> Path:
    """Write a control's wrong picture for every test street; returns their folder."""
    folder = settings.work / row.name
    folder.mkdir(exist_ok=True)
    for key, picture in draw_row(row, model, settings, range(len(TEST_SEEDS))):
        write_image(folder / f"{key}.png", picture)
    return folder


def draw_row(
    row: Row, model: Path, settings: TableSettings, indices: Iterable[int]
) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """Keys and pictures of test streets, drawn by a row."""
    if row != OTHER_STREETS:
        return draw_pictures(model, row.size, settings, indices, row == CONTROL)
    return photographs_of_others(row.size, settings, indices)


def photographs_of_others(
    size: str, settings: TableSettings, indices: Iterable[int]
) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """Keys of test streets, each with the photograph of the next street."""
    streets = open_data_set(DataSettings(layout="pix2pixhd", root=settings.streets, split="test"))
    still = Geometry(mode="resize", size=size, flip=False)
    for index in indices:
        other = streets.read((index + 1) % len(streets.keys))
        sample = still.apply(other, np.random.default_rng(0), multiple=1)
        yield streets.keys[index], sample.photo


def draw_pictures(
    model: Path, size: str, settings: TableSettings, indices: Iterable[int], shuffle: bool
) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """Keys and pictures (uint8 [H, W, 3]) of test streets, `shuffle` with permuted classes."""
    checkpoint = load_checkpoint(model)
    streets = open_data_set(DataSettings(layout="pix2pixhd", root=settings.streets, split="test"))
    still = Geometry(mode="resize", size=size, flip=False)
    contract = checkpoint.contract
    assert contract.schema is not None
    with TorchSynthesizer(checkpoint.generator, contract) as synthesizer:
        table = wrong_classes(contract.schema.channels)
        for index in indices:
            sample = still.apply(streets.read(index), np.random.default_rng(0), multiple=1)
            assert sample.label_map is not None
            label_map = table[sample.label_map] if shuffle else sample.label_map
            instances = sample.instance_map if synthesizer.contract.boundaries else None
            yield streets.keys[index], synthesizer.synthesize(label_map, instances)


def wrong_classes(channels: int) -> npt.NDArray[np.uint8]:
    """A table, uint8 [256], from every class of the streets to another one."""
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


def training_record(cell: Cell, run: Path) -> dict[str, Any]:
    """Settings, machine and hours of a training, from the run's own record and log."""
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


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Figures:
    """Figures of one row."""

    values: _Values
    """Mean over the seeds, [3]: pixel accuracy, mean IoU, frequency-weighted IoU."""
    draws: _Values
    """Scores of every draw, [draws, 3]."""
    per_seed: _Values
    """Scores of every seed, [seeds, 3]."""

    def interval(self, column: int) -> tuple[float, float]:
        """95 % interval of a column."""
        low, high = np.quantile(self.draws[:, column], [0.025, 0.975])
        return float(low), float(high)


def read_cells(out: Path, rows: Sequence[Row]) -> dict[str, list[Path]]:
    """Folders of the finished cells of each row, in the order of the rows."""
    found = {
        row.name: [
            folder
            for seed in row.seeds
            if (folder := out / "cells" / f"{row.name}-seed{seed}").is_dir()
        ]
        for row in rows
    }
    return {name: folders for name, folders in found.items() if folders}


def read_counts(folder: Path, of: str) -> ClassCounts:
    """Counts of a cell: `of` is pictures or oracle."""
    with np.load(folder / "counts.npz", allow_pickle=False) as arrays:
        return ClassCounts(
            **{
                field.name: arrays[f"{of}_{field.name}"]
                for field in dataclasses.fields(ClassCounts)
            }
        )


def compute(counts: Sequence[ClassCounts], row: int = 0) -> Figures:
    """Figures of one row from the counts of its seeds.

    All rows draw the same pictures, and each (by its number) its own seeds.
    """
    pictures = len(counts[0])
    rng = np.random.default_rng(_SEED)
    weights = rng.multinomial(pictures, np.full(pictures, 1 / pictures), _DRAWS).astype(np.float64)
    chosen = np.random.default_rng((_SEED, 1, row)).multinomial(
        len(counts), np.full(len(counts), 1 / len(counts)), _DRAWS
    )

    def columns(weights: Any) -> npt.NDArray[np.float64]:  # [seeds, draws, scores]
        found = (score_columns(each, weights) for each in counts)
        return np.stack([np.column_stack([each[name] for name in SCORES]) for each in found])

    of_seeds, per_seed = columns(weights), columns(None)[:, 0]
    draws = np.einsum("sdk,ds->dk", of_seeds, chosen / len(counts))
    return Figures(values=per_seed.mean(0), draws=draws, per_seed=per_seed)


def chance(counts: ClassCounts) -> float:
    """Mean IoU of random predictions with the same class frequencies."""
    true, predicted = (x.sum(0) / counts.true.sum() for x in (counts.true, counts.predicted))
    both = true * predicted
    there = true > 0
    return float((both[there] / (true + predicted - both)[there]).mean())


def write_report(out: Path, rows: Sequence[Row]) -> None:
    """Write README.md, table.json and pictures.jpg of the finished cells."""
    cells = read_cells(out, rows)
    if not cells:
        return
    figures = {
        name: compute([read_counts(f, "pictures") for f in folders], row)
        for row, (name, folders) in enumerate(cells.items())
    }
    anyone = next(iter(cells.values()))[0]
    figures["oracle"] = compute([read_counts(anyone, "oracle")])
    trained = {
        name: [parse_json((f / "training.json").read_text("utf-8")) for f in folders]
        for name, folders in cells.items()
    }
    judged = parse_json((anyone / "evaluation.json").read_text("utf-8"))
    for folder in [folder for folders in cells.values() for folder in folders]:
        other = parse_json((folder / "evaluation.json").read_text("utf-8"))
        for key in ("segmenter", "segmented_size"):
            assert other[key] == judged[key], f"{folder.name} was judged by another segmenter"
    titles = {row.name: row.title for row in rows} | {"oracle": "real photographs (oracle)"}
    chances = {name: chance(read_counts(f[0], "pictures")) for name, f in cells.items()}
    report = table_json(figures, trained, judged, titles, chances)
    text = json.dumps(report, indent=1, allow_nan=False)
    (out / "table.json").write_text(text + "\n", "utf-8")
    shown = stack_pictures(out, cells)
    (out / "README.md").write_text(describe(report, shown, titles), "utf-8")


def table_json(
    figures: Mapping[str, Figures],
    trained: Mapping[str, list[dict[str, Any]]],
    judged: dict[str, Any],
    titles: Mapping[str, str],
    chances: Mapping[str, float],
) -> dict[str, Any]:
    """The table as JSON."""
    return {
        "segmenter": judged["segmenter"],
        "segmented_size": judged["segmented_size"],
        "test_pictures": judged["data"]["pictures"],
        "draws": _DRAWS,
        "chance_mean_IoU": {name: round(value, 4) for name, value in chances.items()},
        "rows": [
            {
                "name": name,
                "title": titles[name],
                **{
                    column.replace(" ", "_").replace("-", "_"): {
                        "value": round(float(f.values[k]), 4),
                        "low": round(f.interval(k)[0], 4),
                        "high": round(f.interval(k)[1], 4),
                        "per_seed": [round(float(v), 4) for v in f.per_seed[:, k]],
                    }
                    for k, column in enumerate(_COLUMNS)
                },
                "hours": [cell["hours"] for cell in trained.get(name, [])],
                "steps": [cell["steps"] for cell in trained.get(name, [])],
                "parameters": trained[name][0]["parameters"] if name in trained else None,
                "flags": trained[name][0]["flags"] if name in trained else None,
            }
            for name, f in figures.items()
        ],
        "differences": {
            name: _difference(other, figures[PUBLISHED], 1)
            for name, other in figures.items()
            if name != PUBLISHED and PUBLISHED in figures
        },
        "above_pix2pix": {
            name: {
                column.replace(" ", "_"): _difference(figures[name], figures[BASELINE], k)
                for k, column in enumerate(_COLUMNS[:2])
            }
            for name in (PUBLISHED, WHOLE, WHOLE_MODERN, "oracle")
            if name in figures and BASELINE in figures
        },
        "perceptual_loss": any(
            not cell["perceptual_loss"].startswith("off")
            for cells in trained.values()
            for cell in cells
        ),
        "l1": min(
            float(cell["settings"]["loss"]["l1"]) for cells in trained.values() for cell in cells
        ),
        "machine": next(iter(trained.values()))[0]["machine"],
    }


def _difference(first: Figures, second: Figures, column: int) -> dict[str, float]:
    """Difference of a column of two rows, paired, with its interval."""
    low, high = np.quantile(first.draws[:, column] - second.draws[:, column], [0.025, 0.975])
    return {
        "value": round(float(first.values[column] - second.values[column]), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


def stack_pictures(out: Path, cells: Mapping[str, list[Path]]) -> list[str]:
    """Draw a column per street, a line per row below maps and photographs; returns line names."""
    lines, names = [], []
    for name in ("label maps", "photographs"):
        folder = out / "streets" / name.replace(" ", "-")
        if folder.is_dir():
            lines.append([cv2.imread(str(path)) for path in sorted(folder.glob("*.jpg"))])
            names.append(name)
    for name, folders in cells.items():
        lines.append([cv2.imread(str(path)) for path in sorted(folders[0].glob("*.jpg"))])
        names.append(name)
    height, width = 128, 256
    sheet = [
        np.concatenate(
            [cv2.resize(p, (width, height), interpolation=cv2.INTER_AREA) for p in line], 1
        )
        for line in lines
    ]
    cv2.imwrite(str(out / "pictures.jpg"), np.concatenate(sheet), [cv2.IMWRITE_JPEG_QUALITY, 92])
    return names


def describe(report: dict[str, Any], shown: Sequence[str], titles: Mapping[str, str]) -> str:
    """The table in Markdown."""
    machine, segmenter = report["machine"], report["segmenter"]
    vgg = "" if report["perceptual_loss"] else ", without the perceptual loss"
    if report["l1"] and not report["perceptual_loss"]:
        vgg += f" (L1 of weight {report['l1']:g} in its place)"
    lines = [
        f"# The method's table in miniature: procedural streets{vgg}",
        "",
        f"Pictures of {report['test_pictures']} test streets that no network was trained on are "
        f"segmented at {report['segmented_size']} by {segmenter['name']} (weights "
        f"{segmenter['weights_sha256'][:12]}), which was trained on the photographs of the "
        "training streets, and compared with the label maps they were made from; classes: "
        f"{segmenter['schema']}. The oracle is the same segmenter on the real photographs of the "
        "same streets at the same size. Figures in percent with 95 % intervals (bootstrap over "
        "seeds and pictures), the seeds' own mean IoU behind.",
        "",
        "| row | pixel accuracy | mean IoU | seeds | frequency-weighted IoU | mean IoU against "
        f"{PUBLISHED} | steps | hours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        accuracy, mean, weighted = (
            row[name] for name in ("pixel_accuracy", "mean_IoU", "frequency_weighted_IoU")
        )
        seeds = ", ".join(f"{100 * v:.1f}" for v in mean["per_seed"])
        difference = report["differences"].get(row["name"])
        against = _percent(difference, sign=True) if difference else ""
        steps = " ".join(sorted({str(s) for s in row["steps"]}))
        hours = ", ".join(f"{h:.2f}" for h in row["hours"])
        lines.append(
            f"| {row['title']} | {_percent(accuracy)} | {_percent(mean)} | {seeds} | "
            f"{_percent(weighted)} | {against} | {steps} | {hours} |"
        )
    lines += [
        "",
        verdict(report),
        "",
        f"![pictures](pictures.jpg)\n\nFrom top to bottom: {', '.join(shown)}.",
        "",
        "Every row is `training/configs/streets-256x128.toml` and these flags:",
        "",
        *(
            f"- {titles[row['name']]}: `{' '.join(row['flags']) or '(none)'}`"
            for row in report["rows"]
            if row["flags"] is not None
        ),
        "",
        f"Machine: {machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, "
        f"GPUs: {', '.join(machine['gpus']) or 'none'}, torch {machine['versions']['torch']}. "
        "Hours are of one training run while others ran beside it. `make table` makes the table "
        "again; cells whose folder lies in `cells/` are finished and are not trained again.",
        "",
    ]
    return "\n".join(lines)


def _percent(entry: dict[str, float], *, sign: bool = False) -> str:
    value, low, high = (100 * entry[k] for k in ("value", "low", "high"))
    return (
        f"{value:+.1f} ({low:+.1f} to {high:+.1f})"
        if sign
        else f"{value:.1f} ({low:.1f} to {high:.1f})"
    )


def verdict(report: dict[str, Any]) -> str:
    """Sentences from the figures: whether the order is the paper's."""
    compared = report["above_pix2pix"]
    if BASELINE not in {row["name"] for row in report["rows"]} or len(compared) < 2:
        return f"Not both of {BASELINE} and a row of pix2pixHD are finished."
    titles = {row["name"]: row["title"] for row in report["rows"]}
    said = [
        f"**{titles[name]}**: {_place(found['mean_IoU'], 'mean IoU')}; "
        f"{_place(found['pixel_accuracy'], 'pixel accuracy')}."
        for name, found in compared.items()
        if name != "oracle"
    ]
    best = max(
        (row for row in report["rows"] if row["name"] != "oracle"),
        key=lambda row: float(row["mean_IoU"]["value"]),
    )
    oracle = next(row for row in report["rows"] if row["name"] == "oracle")
    apart = oracle["mean_IoU"]["low"] > best["mean_IoU"]["high"]
    said.append(
        f"The oracle's interval is {'above' if apart else 'not above'} that of every other row."
    )
    score = {row["name"]: 100 * row["mean_IoU"]["value"] for row in report["rows"]}
    if CONTROL.name in score:
        chance = 100 * report["chance_mean_IoU"][CONTROL.name]
        said.append(
            f"The control's mean IoU is {score[CONTROL.name]:.1f}; predictions as frequent as its "
            f"own that knew nothing of the maps would have {chance:.1f}"
        )
        if OTHER_STREETS.name in score:
            said[-1] += (
                f", and real photographs of other streets have {score[OTHER_STREETS.name]:.1f}: "
                "streets are laid out alike, and the judge knows it"
            )
        said[-1] += "."
    return " ".join(said)


def _place(difference: dict[str, float], what: str) -> str:
    """Above or below pix2pix or neither, by points with an interval."""
    where = "not to be told from"
    if difference["low"] > 0:
        where = "above"
    elif difference["high"] < 0:
        where = "below"
    return f"{what} {where} pix2pix's ({_percent(difference, sign=True)} points)"


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main))
    except SceneLoomError as error:
        sys.exit(f"method table: {error}")
