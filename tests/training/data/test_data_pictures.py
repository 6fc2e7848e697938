"""Photographs are read exactly, or refused with the file's name."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from sceneloom.errors import ImageReadError, ImageTooLargeError
from sceneloom.photographs import read_picture
from sceneloom_training.data.pictures import read_mask


def png(*, rows: int, bits: int = 8, kind: int = 2, values: int = 3, tail: bytes = b"") -> bytes:
    """A PNG that says 4x4 pixels and has `rows` rows, with right checksums."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    scan = rows * (b"\0" + bytes([200]) * (4 * values * bits // 8))
    header = struct.pack(">IIBBBBB", 4, 4, bits, kind, 0, 0, 0)
    whole = chunk(b"IHDR", header) + tail + chunk(b"IDAT", zlib.compress(scan))
    return b"\x89PNG\r\n\x1a\n" + whole + chunk(b"IEND", b"")


def test_rgb_is_read_exactly(tmp_path: Path, save, photo) -> None:
    written = photo(6, 8)
    read = read_picture(save(tmp_path / "a.png", written))
    assert read.dtype == np.uint8
    assert (read == written).all()


def test_a_jpeg_is_found_by_its_bytes_and_not_by_its_name(tmp_path: Path, photo) -> None:
    Image.fromarray(photo(16, 16)).save(tmp_path / "a.png", format="jpeg")
    assert read_picture(tmp_path / "a.png").shape == (16, 16, 3)


@pytest.mark.parametrize("name", ["grey.png", "grey.jpg"])
def test_grey_becomes_rgb(tmp_path: Path, save, name: str) -> None:
    read = read_picture(save(tmp_path / name, np.full((8, 8), 77, np.uint8)))
    assert read.shape == (8, 8, 3)
    assert (read == 77).all()


def test_orientation_in_exif_data_is_not_applied(tmp_path: Path, photo) -> None:
    image = Image.fromarray(photo(16, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to show
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_picture(tmp_path / "a.jpg").shape == (16, 32, 3)


@pytest.mark.parametrize(
    ("mode", "name", "reason"),
    [
        ("RGBA", "a.png", "8-bit RGB with alpha"),
        ("LA", "a.png", "8-bit grey with alpha"),
        ("P", "a.png", "palette"),
        ("1", "a.png", "1-bit grey"),
        ("I;16", "a.png", "16-bit grey"),
        ("CMYK", "a.jpg", "kind CMYK"),
    ],
)
def test_other_kinds_are_refused(tmp_path: Path, mode: str, name: str, reason: str) -> None:
    Image.new(mode, (8, 8)).save(tmp_path / name)
    with pytest.raises(ImageReadError, match=f"{name}: .*{reason}.*; photographs are 8-bit RGB"):
        read_picture(tmp_path / name)


def test_16_bit_rgb_and_a_transparent_colour_are_refused(tmp_path: Path) -> None:
    (tmp_path / "deep.png").write_bytes(png(rows=4, bits=16))
    with pytest.raises(ImageReadError, match=r"deep\.png: a 16-bit RGB PNG"):
        read_picture(tmp_path / "deep.png")
    colour = b"tRNS" + bytes(6)
    tail = struct.pack(">I", 6) + colour + struct.pack(">I", zlib.crc32(colour))
    (tmp_path / "clear.png").write_bytes(png(rows=4, tail=tail))
    with pytest.raises(ImageReadError, match="with a transparent colour"):
        read_picture(tmp_path / "clear.png")


def test_missing_rows_are_noticed_though_every_checksum_is_right(tmp_path: Path) -> None:
    path = tmp_path / "short.png"
    path.write_bytes(png(rows=4))
    assert (read_picture(path) == 200).all()
    for rows in (0, 1, 2, 3):
        path.write_bytes(png(rows=rows))
        with pytest.raises(ImageReadError, match=r"short\.png: .*missing"):
            read_picture(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_truncated_files_are_refused(tmp_path: Path, save, photo, name: str) -> None:
    path = save(tmp_path / name, photo(32, 32))
    data = path.read_bytes()
    for end in (0, 4, 20, len(data) // 2, len(data) - 20):
        path.write_bytes(data[:end])
        with pytest.raises(ImageReadError, match=name):
            read_picture(path)


def test_flipped_bits_in_a_png_are_noticed(tmp_path: Path, save, photo) -> None:
    path = save(tmp_path / "a.png", photo())
    data = path.read_bytes()
    for at in range(29, len(data) - 12, 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        with pytest.raises(ImageReadError, match=r"a\.png"):
            read_picture(path)


@pytest.mark.parametrize("density", [None, (72, 72)])
def test_damaged_exif_data_is_neither_an_error_nor_a_warning(
    tmp_path: Path, photo, density: tuple[int, int] | None
) -> None:
    damaged = b"Exif\0\0II*\0\x08\0\0\0\x09\0" + bytes(range(7))
    path = tmp_path / "a.jpg"
    Image.fromarray(photo(16, 16)).save(path, exif=damaged, **({"dpi": density} if density else {}))
    plain = Image.fromarray(photo(16, 16))
    plain.save(tmp_path / "plain.jpg")
    if density is None:
        with pytest.warns(UserWarning, match="Corrupt EXIF"):
            JpegImagePlugin.JpegImageFile(io.BytesIO(path.read_bytes()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (read_picture(path) == read_picture(tmp_path / "plain.jpg")).all()


def test_fill_bytes_between_the_segments_of_a_jpeg(tmp_path: Path, save, photo) -> None:
    path = save(tmp_path / "a.jpg", photo(16, 16))
    expected, data = read_picture(path), path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xff" + data[2:])
    assert (read_picture(path) == expected).all()


def test_animated_pngs_are_refused(tmp_path: Path, photo) -> None:
    frames = [Image.fromarray(photo(seed=seed)) for seed in (0, 1)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageReadError, match=r"a\.png: an animated PNG"):
        read_picture(tmp_path / "a.png")


def test_no_file_no_picture_and_too_many_pixels(tmp_path: Path, save, photo) -> None:
    with pytest.raises(ImageReadError, match=r"none\.png: cannot be read"):
        read_picture(tmp_path / "none.png")
    with pytest.raises(ImageReadError, match="not a file"):
        read_picture(tmp_path)
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ImageReadError, match=r"text\.png: not a PNG, JPEG, BMP, TIFF or WebP file"):
        read_picture(tmp_path / "text.png")
    with pytest.raises(ImageTooLargeError, match="8x6 is 48 pixels; the limit is 47"):
        read_picture(save(tmp_path / "a.png", photo(6, 8)), max_pixels=47)


def test_a_mask_may_be_rgb_but_not_coloured(tmp_path: Path, save, photo) -> None:
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    assert (read_mask(save(tmp_path / "grey.png", grey)) == grey).all()
    assert (read_mask(save(tmp_path / "rgb.png", np.stack([grey] * 3, axis=-1))) == grey).all()
    with pytest.raises(ImageReadError, match="has colours; a mask is grey"):
        read_mask(save(tmp_path / "colour.png", photo()))
