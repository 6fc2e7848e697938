"""The rows of the method's table: what each one changes of training/configs/streets-256x128.toml.

A row is flags of `sceneloom train`, nothing else; whoever wants to know what a figure was trained
with reads it here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table."""

    name: str
    """Short name, which its files have."""
    title: str
    """What the table calls it."""
    flags: tuple[str, ...] = ()
    """Added to the command line of the base."""
    seeds: tuple[int, ...] = (0, 1)
    """One training run for each."""
    starts_from: str = ""
    """Name of the row whose network of the same seed is inside this one; it is trained first."""
    size: str = "256x128"
    """WIDTHxHEIGHT that it is trained at and renders at."""


PUBLISHED = "three-discriminators"
"""The row that the others are compared with: pix2pixHD's global generator as published."""
WHOLE = "coarse-to-fine"
"""The whole method: global generator and enhancer."""
WHOLE_MODERN = "coarse-to-fine-modern"
"""The whole method with what later work has proven."""
BASELINE = "pix2pix"

MODERN = (
    *("--loss.gan", "hinge"),
    "--discriminator.spectral-norm",
    *("--optimizer.ema", "0.999"),
    *("--generator.padding", "zeros"),
)
"""What later work has proven."""
_ENHANCED = (
    *("--generator.enhancers", "1"),
    *("--generator.ngf", "8"),
    *("--geometry.size", "512x256"),
    *("--schedule.enhancer-only-epochs", "1"),
)

ROWS = (
    Row(
        name=BASELINE,
        title="pix2pix: U-Net, one PatchGAN, L1",
        flags=(
            *("--generator.network", "unet"),
            *("--generator.unet-downsamplings", "7"),
            "--generator.no-boundaries",
            *("--discriminator.scales", "1"),
            *("--discriminator.padding", "1"),
            "--discriminator.affine-norm",
            *("--loss.gan", "vanilla"),
            *("--loss.feature-matching", "0"),
            *("--loss.l1", "100"),
        ),
    ),
    Row(
        name="one-discriminator",
        title="G1, one discriminator",
        flags=("--discriminator.scales", "1"),
    ),
    Row(name=PUBLISHED, title="G1, three discriminators (pix2pixHD's global generator)"),
    Row(
        name="no-feature-matching",
        title="G1, three discriminators, no feature matching",
        flags=("--loss.feature-matching", "0"),
    ),
    Row(
        name="no-boundary",
        title="G1, three discriminators, no boundary channel",
        flags=("--generator.no-boundaries",),
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
"""Not trained: what a wrong model scores, to be near chance."""
OTHER_STREETS = Row(
    name="other-streets",
    title="control: real photographs of other streets",
    seeds=(0,),
)
"""Not trained: chance for a judge that knows how streets are laid out, whatever it is shown."""
CONTROLS = (CONTROL, OTHER_STREETS)


def with_perceptual(vgg: Path) -> tuple[Row, ...]:
    """The rows that are added where a VGG19 weights file is at hand."""
    flags = ("--loss.vgg", str(vgg), "--loss.perceptual", "10", "--loss.l1", "0")
    return (
        Row(
            name="perceptual",
            title="G1, three discriminators, perceptual loss (pix2pixHD)",
            flags=flags,
        ),
    )


def find_row(rows: Sequence[Row], name: str) -> Row:
    """The row of a name."""
    return next(row for row in rows if row.name == name)
