"""The rows of the method's tables (pix2pixHD, Wang et al., CVPR 2018, section 4.1), on procedural
streets and on CamVid. A row is flags of `sceneloom train`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sceneloom_bench.harness import CHECKOUT


def flags_of(text: str) -> tuple[str, ...]:
    """Words of a command line."""
    return tuple(text.split())


CONFIGS = CHECKOUT / "training" / "configs"
VGG = "vgg16-hed"
"""The network of the perceptual loss, by `sceneloom weights`; in flags it stands for its file."""
FEATURES = "efficientnet-lite0"
"""The network of the Frechet distance, by `sceneloom weights`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table."""

    name: str
    """Name of its files."""
    title: str
    flags: tuple[str, ...] = ()
    """Flags after those of the base."""
    seeds: tuple[int, ...] = (0, 1)
    """A training run each."""
    starts_from: str = ""
    """Name of the row whose network of the same seed this one contains and starts from."""
    size: str = ""
    """WIDTHxHEIGHT of training and rendering, if another than the table's."""

    @property
    def has_boundaries(self) -> bool:
        """The network takes instance boundaries."""
        return "--generator.no-boundaries" not in self.flags


CONTROL = Row(
    name="control",
    title="control: pix2pixHD's pictures of maps whose classes were shuffled",
    seeds=(0,),
)
"""Untrained: the score of a wrong model, near chance."""
OTHERS = Row(name="other-streets", title="control: real photographs of other streets", seeds=(0,))
"""Untrained: chance for a segmenter that knows the layout of streets only."""
CONTROLS = (CONTROL, OTHERS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A data set, a judge, and the rows that are compared."""

    title: str
    notes: str
    """Sentences on data set and settings, for the page."""
    config: Path
    """The base of every row."""
    data: dict[str, Any]
    """Fields of `DataSettings` besides root and split."""
    size: str
    """WIDTHxHEIGHT of training, rendering and judging."""
    classes: Path
    """The judge's label schema."""
    judge_flags: tuple[str, ...]
    """Flags of `sceneloom train-segmenter`."""
    judge: Path | None
    """The committed judge; None to train one in the work folder."""
    trained_rows: tuple[Row, ...]
    published: str
    """Name of the row of comparison, pix2pixHD's global generator, which the control shuffles."""
    compared: tuple[str, ...]
    """Names of pix2pixHD's rows, for the comparison with pix2pix."""
    has_distance: bool
    """Measure the Frechet distance."""
    shows_pictures: bool
    """The licence of the photographs lets pictures into the results."""

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows."""
        return (*self.trained_rows, *CONTROLS)

    def row(self, name: str) -> Row:
        """The row with a name."""
        return next(row for row in self.rows if row.name == name)


JUDGE = CHECKOUT / "examples" / "street_demo" / "segmenter"
"""The judge of streets."""
BASELINE = "pix2pix"
WHOLE_MODERN = "coarse-to-fine-modern"
"""The whole method with proven upgrades of later work."""

_SEGMENTS = flags_of("--discriminator.kind segmenting --loss.feature-matching 0")
MODERN = flags_of(
    "--loss.gan hinge --discriminator.spectral-norm --optimizer.ema 0.999 --generator.padding zeros"
)
_ENHANCED = flags_of(
    "--generator.enhancers 1 --generator.ngf 8 --geometry.size 512x256"
    " --schedule.enhancer-only-epochs 1"
)
_PERCEPTUAL = flags_of(f"--loss.vgg {VGG} --loss.perceptual 10 --loss.l1 0")

STREETS = Table(
    title="The method's table in miniature: procedural streets",
    notes=(
        "The photographs are painted streets. A row without the perceptual loss has pix2pix's L1 "
        "of weight 100 in its place; hours are of one training run while others ran beside it."
    ),
    config=CONFIGS / "streets-256x128.toml",
    data={"layout": "pix2pixhd"},
    size="256x128",
    classes=CONFIGS / "street-classes.json",
    judge_flags=flags_of(
        "--network unet --width 16 --size 256x128 --epochs 14 --batch 4 --learning-rate 2e-3"
        " --balance 0.5 --precision auto --workers 1 --cache 1500 --half"
    ),
    judge=JUDGE,
    trained_rows=(
        Row(
            name=BASELINE,
            title="pix2pix: U-Net, one PatchGAN, L1",
            flags=flags_of(
                "--generator.network unet --generator.unet-downsamplings 7"
                " --generator.no-boundaries --discriminator.scales 1 --discriminator.padding 1"
                " --discriminator.affine-norm --loss.gan vanilla --loss.feature-matching 0"
                " --loss.l1 100"
            ),
        ),
        Row(
            name="one-discriminator",
            title="G1, one discriminator",
            flags=flags_of("--discriminator.scales 1"),
        ),
        Row(
            name="three-discriminators",
            title="G1, three discriminators (pix2pixHD's global generator)",
        ),
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
            name="perceptual",
            title="G1, three discriminators, perceptual loss (pix2pixHD's global generator)",
            flags=_PERCEPTUAL,
        ),
        Row(
            name="segmenting",
            title="G1, segmenting discriminator, perceptual loss",
            flags=(*_SEGMENTS, *_PERCEPTUAL),
        ),
        Row(
            name="coarse-to-fine",
            title="G1+G2 at 512x256, three discriminators (pix2pixHD)",
            flags=_ENHANCED,
            seeds=(0,),
            starts_from="three-discriminators",
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
    ),
    published="three-discriminators",
    compared=("three-discriminators", "perceptual", "segmenting", "coarse-to-fine", WHOLE_MODERN),
    has_distance=False,
    shows_pictures=True,
)
"""The judge must see poles of a pixel's width and learn from 1,500 photographs. Its classes are
those of Cityscapes' 19 with at least a thousandth of the streets' pixels: buses, bicycles and
motorcycles are too few and too small at 256x128, and the streets have no trains.
"""

CAMVID = Table(
    title="The method's table on real photographs: CamVid",
    notes=(
        "CamVid is for research only: its figures may be published, its pictures and weights "
        "trained on it may not, so there are none here. It has no instance maps; each connected "
        "component of a label is an instance. Every row has about the same time, so that cheap "
        "rows have more steps; hours are a core's."
    ),
    config=CONFIGS / "camvid-256x192.toml",
    data={"layout": "pix2pixhd", "labels": "camvid", "boundaries": "components"},
    size="256x192",
    classes=CONFIGS / "camvid-classes.json",
    judge_flags=flags_of(
        "--network unet --width 24 --size 256x192 --epochs 60 --batch 4 --learning-rate 2e-3"
        " --balance 0.5 --precision auto --workers 1 --cache 400"
    ),
    judge=None,
    trained_rows=(
        Row(
            name=BASELINE,
            title="pix2pix: U-Net, one PatchGAN, L1",
            flags=flags_of(
                "--loss.perceptual 0 --generator.network unet --generator.ngf 64"
                " --generator.unet-downsamplings 6 --generator.no-boundaries"
                " --data.boundaries instances --discriminator.scales 1 --discriminator.ndf 64"
                " --discriminator.padding 1 --discriminator.affine-norm --loss.gan vanilla"
                " --loss.feature-matching 0 --loss.l1 100"
                " --schedule.epochs 9 --schedule.decay-epochs 9"
            ),
        ),
        Row(
            name="one-discriminator",
            title="G1, one discriminator",
            flags=flags_of(
                "--loss.perceptual 0 --discriminator.scales 1"
                " --schedule.epochs 11 --schedule.decay-epochs 11"
            ),
        ),
        Row(
            name="no-perceptual",
            title="G1, three discriminators",
            flags=flags_of("--loss.perceptual 0 --schedule.epochs 9 --schedule.decay-epochs 9"),
        ),
        Row(
            name="perceptual",
            title="G1, three discriminators, perceptual loss (pix2pixHD's global generator)",
            flags=flags_of(f"--loss.vgg {VGG}"),
        ),
        Row(
            name="segmenting",
            title="G1, segmenting discriminator, perceptual loss",
            flags=(
                *flags_of(f"--loss.vgg {VGG}"),
                *_SEGMENTS,
                *flags_of("--discriminator.ndf 16 --schedule.epochs 4 --schedule.decay-epochs 3"),
            ),
        ),
    ),
    published="perceptual",
    compared=("perceptual", "no-perceptual", "segmenting"),
    has_distance=True,
    shows_pictures=False,
)

TABLES = {"streets": STREETS, "camvid": CAMVID}


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


def waves(rows: Sequence[Row]) -> list[list[Cell]]:
    """Cells in order: those that others start from first, seed by seed."""
    first = [row for row in rows if not row.starts_from and row not in CONTROLS]
    later = [row for row in rows if row.starts_from or row in CONTROLS]
    waves = []
    for part in (first, later):
        seeds = sorted({seed for row in part for seed in row.seeds})
        waves.append([Cell(row=r, seed=s) for s in seeds for r in part if s in r.seeds])
    return waves
