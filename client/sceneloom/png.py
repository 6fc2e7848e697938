"""Whether a PNG file is whole.

Pillow does not check the pixels' own checksums, takes a file that stops short of its end, and
leaves rows zero that are not there: of flipped bits in a small file, one in six that it took came
out as other ids. Everything is checked here before it decodes.
"""

from __future__ import annotations

import zlib

from sceneloom.errors import ImageReadError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Colour type -> values per pixel: grey, RGB, palette, grey and alpha, RGB and alpha.
_VALUES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Interlaced PNGs: first column, first row, step across and step down of the seven passes.
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def check_png(data: bytes, name: str) -> None:
    """Check that a PNG's chunks, checksums and rows of pixels are all there.

    Args:
        data: the file; its size is known to be within the caller's limit.
        name: what to call it in errors.

    Raises:
        ImageReadError: it is truncated or damaged.
    """
    at, kind, pixels = len(SIGNATURE), b"", []
    while kind != b"IEND":
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body_end = at + 8 + size
        if body_end + 4 > len(data):
            raise ImageReadError(f"{name}: truncated or damaged (it ends before its last chunk)")
        if zlib.crc32(data[at + 4 : body_end]).to_bytes(4, "big") != data[body_end : body_end + 4]:
            raise ImageReadError(f"{name}: damaged (checksum of the chunk {kind!r})")
        if at == len(SIGNATURE) and (kind, size) != (b"IHDR", 13):
            raise ImageReadError(f"{name}: damaged header (no IHDR)")
        if kind == b"IDAT":
            pixels.append(data[at + 8 : body_end])
        at = body_end + 4
    wanted = _png_scan_bytes(data)
    try:
        there = len(zlib.decompressobj().decompress(b"".join(pixels), wanted))
    except zlib.error as error:
        raise ImageReadError(f"{name}: damaged ({error})") from None
    if there < wanted:
        raise ImageReadError(f"{name}: truncated or damaged (rows of pixels are missing)")


def _png_scan_bytes(data: bytes) -> int:
    """Bytes of the unpacked pixels of a PNG, a filter byte in each row."""
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    bits, interlaced = data[24] * _VALUES.get(data[25], 1), data[28]
    total = 0
    for x, y, right, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // right), -(-(height - y) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total
