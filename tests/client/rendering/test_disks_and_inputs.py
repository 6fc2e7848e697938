"""Full and read-only disks, inputs of every broken kind: each is named, the rest is rendered."""

from __future__ import annotations

import struct
import subprocess
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from rendering_fakes import QUICK, map_pair, pictures_below, png, render_folders

from sceneloom.contract import Contract
from sceneloom.errors import (
    ImageReadError,
    ImageTooLargeError,
    InputError,
    NotALabelMapError,
)
from sceneloom.pictures import decode_picture
from sceneloom.png import SIGNATURE
from sceneloom.rendering import render
from sceneloom.rendering.items import Failed, Rendered, Skipped
from sceneloom.rendering.manifest import FILE_NAME, Manifest
from sceneloom.rendering.settings import RenderSettings
from sceneloom.schema import load_schema
from sceneloom.testing import FakeTransport
from sceneloom.triton.client import TritonSynthesizer

CONTRACT = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("cannot mount a tmpfs here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def write_set(folder: Path, count: int) -> None:
    for number in range(count):
        for name, values in zip(("test_label", "test_inst"), map_pair(number), strict=True):
            path = folder / name / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(values))


def big_header(width: int, height: int) -> bytes:
    """A PNG file that says it is so large, and has no pixel."""
    chunks = b""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        crc = struct.pack(">I", zlib.crc32(kind + body))
        chunks += struct.pack(">I", len(body)) + kind + body + crc
    return SIGNATURE + chunks


def test_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    write_set(tmp_path / "data", 30)
    (small_disk / "ballast").write_bytes(bytes(800_000))
    output = small_disk / "out"
    noise = np.random.default_rng(0).integers(0, 34, (128, 256)).astype(np.uint8)
    for number in range(30):  # pictures that do not compress
        (tmp_path / "data" / "test_label" / f"{number:03d}.png").write_bytes(png(noise))
        (tmp_path / "data" / "test_inst" / f"{number:03d}.png").write_bytes(png(noise))
    with TritonSynthesizer("fake", transport=FakeTransport(CONTRACT)) as client:
        run = render(client, tmp_path / "data", output, settings=RenderSettings(retry=QUICK))
        with pytest.raises(OSError, match=r"No space left on device|disk is full"), run:
            for _ in run:
                pass
        assert not [p for p in output.rglob("*") if p.name.endswith(".part")]
        whole = list(output.glob("*.png"))
        assert 1 <= len(whole) < 30
        for path in whole:
            assert decode_picture(path.read_bytes()).shape == (128, 256, 3)
        (small_disk / "ballast").unlink()
        (small_disk / "out" / "manifest.jsonl").unlink(missing_ok=True)
        subprocess.run(
            ["mount", "-o", "remount,size=20m", str(small_disk)], check=True, capture_output=True
        )
        with render(client, tmp_path / "data", output) as run:
            rest = list(run)
    assert {type(result) for result in rest} <= {Rendered, Skipped}
    assert len(rest) == 30
    assert len(list(output.glob("*.png"))) == 30
    with Manifest(output / FILE_NAME) as manifest:
        assert Counter(row.status for row in manifest.rows()) == {"done": 30}


def test_a_disk_that_is_read_only(tmp_path: Path, small_disk: Path) -> None:
    write_set(tmp_path / "data", 2)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True, capture_output=True)
    transport = FakeTransport(CONTRACT)
    with (
        TritonSynthesizer("fake", transport=transport) as client,
        render(client, tmp_path / "data", small_disk / "out") as run,
        pytest.raises(InputError, match=r"out: cannot be the folder .*Read-only file system"),
    ):
        next(run)
    assert transport.requests == []


def test_inputs_of_every_kind(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_set(data, 9)
    labels, instances = data / "test_label", data / "test_inst"
    grey, ids = map_pair(1)
    palette = Image.fromarray(grey, mode="L").convert("P")
    palette.putdata(grey.ravel().tolist())
    palette.save(labels / "001.png")
    cv2.imwrite(str(labels / "002.png"), map_pair(2)[0].astype(np.uint16))
    cv2.imwrite(str(labels / "003.png"), np.zeros((32, 64, 3), np.uint8))
    (labels / "004.png").write_bytes(b"")
    (labels / "005.png").write_bytes((labels / "005.png").read_bytes()[:-20])
    (labels / "006.png").write_bytes(big_header(100_000, 100_000))
    (labels / "007.png").unlink()
    (labels / "007.png").symlink_to(tmp_path / "nowhere.png")
    (instances / "008.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with TritonSynthesizer("fake", transport=FakeTransport(CONTRACT)) as client:
        results = render_folders(client, labels, instances, tmp_path / "out")
        expected = client.synthesize(grey, ids)
    failed = {result.key: result for result in results if isinstance(result, Failed)}
    assert {key: type(one.error) for key, one in failed.items()} == {
        "003": NotALabelMapError,
        "004": ImageReadError,
        "005": ImageReadError,
        "006": ImageTooLargeError,
        "007": ImageReadError,
        "008": ImageReadError,
    }
    for key, one in failed.items():
        assert f"{key}.png" in one.reason
    assert pictures_below(tmp_path / "out") == ["000.png", "001.png", "002.png"]
    found = decode_picture((tmp_path / "out" / "001.png").read_bytes())
    assert np.array_equal(found, expected)
